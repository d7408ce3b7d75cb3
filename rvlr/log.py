"""Logging and progress: what a stage says, on the terminal and in its log file.

A stage alone writes the same lines to both. A stage of the workflow shares its terminal with others, so there it shows
its progress, warnings and errors alone, each with the name of its log file; its result is the last line of that file,
which the workflow shows (`rvlr.workflow.terminal`).

Progress is written as log lines with rate and remaining time, not as a redrawn bar, because several stages may
share one terminal and the same lines must be readable in a file and on a cluster.
"""

import contextlib
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO, TypeVar

from tqdm import tqdm

from rvlr import environment
from rvlr.errors import UserError

T = TypeVar("T")
logger = logging.getLogger("rvlr")
RESULT = 25
"""The level of a stage's result in one line, between INFO and WARNING."""
SHARED = "RVLR_SHARED_TERMINAL"
"""The environment variable that says, with any value, that the workflow shows the results of stages."""
_LINE = re.compile(rb"\d\d:\d\d:\d\d ([A-Z]+) ")  # how every line of a log begins
_LAUNCHER_SEES = 1.0
"""Seconds within which the launcher notices that a process ended."""


def setup(log_file: Path | None = None) -> None:
    """Send the package's messages, and the warnings of libraries, to stderr and, if given, to the end of `log_file`.
    Raises UserError if that file contains something else than a log."""
    logging.addLevelName(RESULT, "RESULT")
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(_Formatter())
    handlers: list[logging.Handler] = [terminal]
    if log_file is not None:
        _check_log(log_file)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(log_file))
        handlers[1].setFormatter(_Formatter())
        if SHARED in os.environ:
            terminal.setFormatter(_Formatter(_label(log_file)))
            terminal.addFilter(_concerns_everybody)
    logger.handlers = handlers
    place = environment.place()
    # of several processes of one stage the first logs everything, the others only errors, and only one error is logged
    logger.setLevel(logging.INFO if place is None or place.rank == 0 else logging.ERROR)
    logger.filters = [] if place is None else [partial(_first_fault, place)]
    logger.propagate = False
    warnings.showwarning = _log_warning
    if removed := environment.removed():
        logger.info("ignored, because results must not depend on it: %s", ", ".join(removed))


class _Formatter(logging.Formatter):
    """Time, level and message. With a label, that of a stage among others, there is no level where all is well."""

    def __init__(self, label: str | None = None) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self.label = label

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - named by logging
        level = [] if self.label is not None and record.levelno <= logging.INFO else [record.levelname]
        label = [] if self.label is None else [f"{self.label}:"]
        return " ".join([self.formatTime(record, self.datefmt), *level, *label, record.message])


def _label(log_file: Path) -> str:
    """What a stage is called among others: its log file, and the seed whose folder that is in."""
    seed = re.fullmatch(r"seed(\d+)", log_file.absolute().parent.name)
    return log_file.stem + (f", seed {seed[1]}" if seed else "")


def _concerns_everybody(record: logging.LogRecord) -> bool:
    """Whether a message is shown on a terminal that stages share."""
    return record.levelno >= logging.WARNING or getattr(record, "is_progress", False)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of Python or of a library, as one line."""
    text = " ".join(str(message).split())
    logger.warning("%s: %s (%s, line %d)", category.__name__, text, filename, lineno)


def progress(message: str, *arguments: object) -> None:
    """Log how far a stage is; shown on every terminal."""
    logger.info(message, *arguments, extra={"is_progress": True})


def result(message: str, *arguments: object) -> None:
    """Log what a stage found, in one short line; a stage does so once, at its end."""
    logger.log(RESULT, message, *arguments)


def last(log_file: Path, level: str) -> str | None:
    """The last message of a level in a log, such as "RESULT" or "ERROR"; None if there is none."""
    try:
        lines = log_file.read_bytes().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if (found := _LINE.match(line)) and found[1] == level.encode():
            return line[found.end() :].decode(errors="replace")
    return None


class _LogFile(logging.FileHandler):
    """A log file that may become impossible to write, on a full disk for example: messages then go to the terminal."""

    def __init__(self, path: Path) -> None:
        self.made = None if path.exists() else path
        super().__init__(path, encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - named by logging
        logger.removeHandler(self)
        error = sys.exc_info()[1]
        with contextlib.suppress(OSError):
            self.close()
        logger.warning("--log-file %s: cannot be written (%s); messages are shown here only", self.baseFilename, error)


def forget_file() -> None:
    """Stop writing to the log file, and remove the file if this process made it."""
    for handler in logger.handlers[:]:
        if isinstance(handler, _LogFile):
            logger.removeHandler(handler)
            handler.close()
            if handler.made is not None:
                handler.made.unlink(missing_ok=True)


def _first_fault(place: environment.Place, record: logging.LogRecord) -> bool:
    """Whether a message is to be logged: it is no error, or the first error of all processes of this stage. An
    unexpected error may result from another process that has just ended; the launcher gets the time to notice that."""
    if record.levelno < logging.ERROR:
        return True
    if record.exc_info:
        time.sleep(_LAUNCHER_SEES)
    return place.first_to_fail()


def _check_log(path: Path) -> None:
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    begin = b""
    if path.is_file():
        with path.open("rb") as stream:
            begin = stream.read(64)
    if not _LINE.match(begin):
        raise UserError(f"--log-file {path}: exists and is not a log of rvlr; give another path")


class Progress:
    """Reports the progress of a loop of `total` steps every `interval` seconds; short loops report nothing.

    total: None if the number of steps is not known. start: the step that a resumed loop begins at; the steps before it
    do not count towards the rate. unit: of the steps; "B", bytes, is shown in kB, MB and so on.
    """

    def __init__(self, name: str, total: int | None, unit: str, start: int = 0, interval: float = 10.0) -> None:
        self.name, self.total, self.unit, self.initial, self.interval = name, total, unit, start, interval
        self.begun = self.reported = time.monotonic()

    def update(self, done: int, note: Callable[[], str] | None = None) -> None:
        """Report that `done` steps of the total are complete, with the text that `note` returns after the rate. `note`
        is called only when a line is due, since reading a value from a GPU makes the GPU wait."""
        now = time.monotonic()
        if now - self.reported < self.interval and (done != self.total or self.reported == self.begun):
            return
        self.reported = now
        meter = tqdm.format_meter(
            done,
            self.total,  # type: ignore[arg-type]  # the stubs do not allow None, tqdm does
            now - self.begun,
            prefix=self.name,
            unit=f" {self.unit}" if self.unit != "B" else "B",
            unit_scale=self.unit == "B",
            initial=self.initial,
            bar_format="{desc} {n_fmt}/{total_fmt} ({percentage:.0f} %) {rate_fmt}, {elapsed} gone, {remaining} left",
        )
        progress("%s%s", meter, f", {note()}" if note is not None else "")


def track(items: Iterable[T], name: str, total: int, unit: str) -> Iterator[T]:
    """Iterate over `items` and report progress."""
    progress = Progress(name, total, unit)
    for done, item in enumerate(items, 1):
        yield item
        progress.update(done)
