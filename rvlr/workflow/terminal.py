"""What the terminal shows of a run: one line a stage instead of Snakemake's blocks of ten.

Input: Snakemake's own messages, and the last line of each stage's log, its result. Output: the lines on the terminal.
Snakemake's log file, below `.snakemake/log`, keeps everything, and so does the terminal with `--verbose`.
"""

import logging
import os
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from rvlr import log

WIDTH = 110
UNSEEN = ("freeze_config", "all")
"""The rules whose jobs are not shown unless they fail: those that compute nothing."""
_ROUTINE = frozenset(
    (
        *(LogEvent.WORKFLOW_STARTED, LogEvent.RESOURCES_INFO, LogEvent.JOB_STARTED, LogEvent.PROGRESS),
        LogEvent.GROUP_INFO,
    )
)
_CHATTER = (
    *("Assuming unrestricted shared filesystem", "Building DAG of jobs", "Using shell:", "Conda environments: ignored"),
    *("Singularity containers: ignored", "Group jobs: inactive", "Select jobs to execute", "Updating checkpoint"),
    *("Updating jobs with queue input", "Job rate limit reached", "Complete log(s)", "Elapsed time:"),
    "Removing output files of failed job",
)
"""How the messages begin that say nothing about this run."""
_REPEATED = "RuleException:\nCalledProcessError"
"""How the message begins that a command failed; the message about its job, which follows, is shown."""


@dataclass(frozen=True)
class _Job:
    """A job that was started: what it is called, its logs, and when it was started, in seconds."""

    rule: str
    name: str
    logs: list[str]
    started: float


class Lines(logging.Formatter):
    """Decides which messages are shown, as a filter, and how, as a formatter. `clock`: returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.clock = clock
        self.jobs: dict[int, _Job] = {}
        self.stages = self.done = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is shown."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            job: Any = record
            self.jobs[job.jobid] = _Job(job.rule_name, _name(job.rule_name, job.wildcards), job.log, self.clock())
        if event == LogEvent.JOB_FINISHED:
            return not self._job(record).rule.endswith(UNSEEN)
        if str(record.msg).startswith(_REPEATED):
            return False
        if event is None and record.levelno < logging.WARNING:
            return bool(record.msg) and not str(record.msg).startswith(_CHATTER)
        return event not in _ROUTINE and event != LogEvent.JOB_INFO

    def format(self, record: logging.LogRecord) -> str:
        """The text of a message."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO and hasattr(record, "stats"):
            return self._plan(record.stats)
        if event == LogEvent.JOB_FINISHED:
            return self._finished(self._job(record))
        if event == LogEvent.JOB_ERROR:
            return self._failed(record)
        return str(record.msg or "")

    def _job(self, record: logging.LogRecord) -> _Job:
        """The job that a message is about."""
        number = getattr(record, "job_id", getattr(record, "jobid", None))
        rule = getattr(record, "rule_name", f"job {number}")
        unknown = _Job(rule, rule, getattr(record, "log", []), self.clock())
        return unknown if number is None else self.jobs.get(number, unknown)

    def _plan(self, stats: dict[str, int]) -> str:
        """How many stages will run, of which rules."""
        counts = {rule: count for rule, count in stats.items() if rule != "total" and not rule.endswith(UNSEEN)}
        self.stages, self.done = sum(counts.values()), 0
        rules = ", ".join(f"{rule}\xa0({count})" if count > 1 else rule for rule, count in counts.items())
        text = f"{self.stages} stage{'s' * (self.stages != 1)} to run: {rules}" if counts else "no stage to run"
        return "\n".join(textwrap.wrap(text, WIDTH, break_on_hyphens=False)).replace("\xa0", " ")

    def _finished(self, job: _Job) -> str:
        """The one line of a stage: when it ended, which, for what, how long it took, and its result."""
        self.done += 1
        count = f"[{self.done:>{len(str(self.stages))}}/{self.stages}] " if self.stages >= self.done else ""
        line = f"{time.strftime('%H:%M:%S')} {count}{job.name:<40} {_duration(self.clock() - job.started):>7}"
        found = next(filter(None, (log.last(Path(path), "RESULT") for path in job.logs)), None)
        return f"{line}  {found}" if found else line

    def _failed(self, record: logging.LogRecord) -> str:
        """Which stage failed, and where its log is; what the log says, if the stage ran on another machine, or if it
        ended without a word, as after SIGKILL."""
        job, about = self._job(record), vars(record)
        logs = about.get("log") or job.logs
        said = next(filter(None, (log.last(Path(path), "ERROR") for path in logs)), None)
        lines = [f"{time.strftime('%H:%M:%S')} {job.name} failed after {_duration(self.clock() - job.started)}"]
        if said is None:
            lines.append("    without a message of its own: killed, perhaps for its memory, or never started")
        elif "external_jobid" in about.get("aux", {}):
            lines.append(f"    {said}")
        if logs:
            lines.append(f"    log: {', '.join(map(str, logs))}")
        return "\n".join(lines)


def install(logger: logging.Logger, output: Any) -> None:
    """Have Snakemake's `logger` show a run as `Lines`, and its stages show their progress alone.

    output: Snakemake's settings of what is shown. With its `--dry-run` and `--verbose`, everything stays as it is.
    """
    if output.dryrun or output.verbose:
        return
    os.environ[log.SHARED] = "1"
    lines = Lines()
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(lines.filter)
            handler.setFormatter(lines)


def _name(rule: str, wildcards: Any) -> str:
    """What a job is called: its rule, the model or split it is for, its seed."""
    given = {key: value for key, value in dict(wildcards or {}).items() if key not in ("dataset", "seed")}
    name = " ".join([rule, *map(str, given.values())])
    return f"{name}, seed {wildcards['seed']}" if "seed" in (wildcards or {}) else name


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:02:03, 2:03, 0:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
