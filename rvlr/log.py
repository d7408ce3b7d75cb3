"""Logging and progress: every stage writes the same lines to the terminal and to its log file.

Progress is written as log lines with rate and remaining time, not as a redrawn bar, because several stages may
share one terminal and the same lines must be readable in a file and on a cluster.
"""

import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from rvlr import environment
from rvlr.errors import UserError

T = TypeVar("T")
logger = logging.getLogger("rvlr")
_LINE = re.compile(rb"\d\d:\d\d:\d\d [A-Z]+ ")  # how every line of a log begins
_LAUNCHER_SEES = 1.0
"""Seconds within which the launcher notices that a process ended."""


def setup(log_file: Path | None = None) -> None:
    """Send the package's messages to stderr and, if given, to the end of `log_file`. Raises UserError if that file
    contains something else than a log."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None:
        _check_log(log_file)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(log_file))
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    for handler in handlers:
        handler.setFormatter(formatter)
    logger.handlers = handlers
    place = environment.place()
    # of several processes of one stage the first logs everything, the others only errors, and only one error is logged
    logger.setLevel(logging.INFO if place is None or place.rank == 0 else logging.ERROR)
    logger.filters = [] if place is None else [partial(_first_fault, place)]
    logger.propagate = False
    if removed := environment.removed():
        logger.info("ignored, because results must not depend on it: %s", ", ".join(removed))


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
        logger.info("%s%s", meter, f", {note()}" if note is not None else "")


def track(items: Iterable[T], name: str, total: int, unit: str) -> Iterator[T]:
    """Iterate over `items` and report progress."""
    progress = Progress(name, total, unit)
    for done, item in enumerate(items, 1):
        yield item
        progress.update(done)
