"""What people see while a run goes on: one line a stage, the progress of trainings, warnings, faults, and no more."""

import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from snakemake.logging import ColorizingTextHandler
from snakemake_interface_logger_plugins.common import LogEvent
from study import SETTINGS, changed, fails

from rvlr import log
from rvlr.evaluation import headlines
from rvlr.workflow.terminal import Lines, install

LOG = "18:00:00 INFO started\n18:00:03 ERROR model: no such file\n18:00:09 RESULT R-mean 66.3\n18:00:09 INFO bye\n"


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(message: str | None = "", level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": level, "levelname": logging.getLevelName(level), **fields})


def started(number: int, rule: str, logs: list[str], **wildcards: str) -> logging.LogRecord:
    fields = {"jobid": number, "rule_name": rule, "log": logs, "wildcards": {"dataset": "d", **wildcards}}
    return record(event=LogEvent.JOB_INFO, **fields)


def shown(lines: Lines, message: logging.LogRecord) -> str | None:
    return lines.format(message) if lines.filter(message) else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock) -> Lines:
    found = Lines(clock)
    stats = {"freeze_config": 9, "train_teacher": 2, "summarise": 1, "all": 1, "total": 13}
    assert shown(found, record("Job stats: ...", event=LogEvent.RUN_INFO, stats=stats)) == (
        "3 stages to run: train_teacher (2), summarise"
    )
    return found


@pytest.fixture
def stage_log(tmp_path: Path) -> str:
    path = tmp_path / "stage.log"
    path.write_text(LOG)
    return str(path)


def test_a_stage_is_one_line_with_model_seed_time_and_result(lines: Lines, clock: Clock, stage_log: str) -> None:
    assert shown(lines, started(7, "train_teacher", [stage_log], seed="0", teacher="itc-itm")) is None
    clock.now = 216.4
    line = shown(lines, record("Finished jobid: 7", event=LogEvent.JOB_FINISHED, job_id=7))
    assert line is not None
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[1/3\] train_teacher itc-itm, seed 0 +3:36  R-mean 66.3", line)


def test_jobs_that_compute_nothing_and_snakemakes_routine_are_not_shown(lines: Lines) -> None:
    assert shown(lines, started(1, "freeze_config", [], section="dataset")) is None
    assert shown(lines, record("Finished jobid: 1", event=LogEvent.JOB_FINISHED, job_id=1)) is None
    for event in (LogEvent.PROGRESS, LogEvent.JOB_STARTED, LogEvent.RESOURCES_INFO):
        assert shown(lines, record("routine", event=event)) is None
    for message in ("Select jobs to execute...", "Building DAG of jobs...", None):
        assert shown(lines, record(message)) is None
    repeated = "RuleException:\nCalledProcessError in file x: Command y"
    for event in (None, LogEvent.ERROR):
        assert shown(lines, record(repeated, logging.ERROR, event=event)) is None


def test_warnings_errors_and_unknown_messages_are_shown_as_they_are(lines: Lines) -> None:
    assert shown(lines, record("Select jobs to execute: a warning", logging.WARNING)) is not None
    assert shown(lines, record("WorkflowError:\ndisk full", logging.ERROR)) is not None
    for message in ("Nothing to be done", "SLURM run ID: 5", "Trying to restart job 3."):
        assert shown(lines, record(message)) == message


def failed(number: int, logs: list[str], **aux: str) -> logging.LogRecord:
    fields = {"jobid": number, "rule_name": "train_teacher", "log": logs, "aux": aux, "msg": "Error in rule"}
    return record(level=logging.ERROR, event=LogEvent.JOB_ERROR, **fields)


def test_a_failed_stage_is_named_with_its_log(lines: Lines, clock: Clock, stage_log: str) -> None:
    lines.filter(started(7, "train_teacher", [stage_log], seed="2", teacher="a"))
    clock.now = 3700
    text = shown(lines, failed(7, [stage_log]))
    assert text is not None
    assert text.splitlines()[0].endswith("train_teacher a, seed 2 failed after 1:01:40")
    assert text.splitlines()[1:] == [f"    log: {stage_log}"]
    far = shown(lines, failed(7, [stage_log], external_jobid="31"))
    assert far is not None
    assert "    model: no such file\n" in far


def test_a_stage_that_ended_without_a_word_is_said_to_have(lines: Lines, tmp_path: Path) -> None:
    text = shown(lines, failed(8, [str(tmp_path / "absent.log")]))
    assert text is not None
    assert "killed" in text
    assert "absent.log" in text


@pytest.mark.parametrize("options", [{"dryrun": True}, {"verbose": True}])
def test_dry_runs_and_verbose_runs_stay_as_they_are(options: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    logger = logging.Logger("snakemake")
    handler = ColorizingTextHandler()
    logger.addHandler(handler)
    install(logger, SimpleNamespace(**{"dryrun": False, "verbose": False, **options}))
    assert not isinstance(handler.formatter, Lines)
    assert log.SHARED not in os.environ
    install(logger, SimpleNamespace(dryrun=False, verbose=False))
    assert isinstance(handler.formatter, Lines)
    assert log.SHARED in os.environ


def test_snakemakes_log_file_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    logger = logging.Logger("snakemake")
    kept = logging.FileHandler(tmp_path / "all.log")
    logger.addHandler(kept)
    install(logger, SimpleNamespace(dryrun=False, verbose=False))
    logger.info("Select jobs to execute...")
    kept.close()
    assert (tmp_path / "all.log").read_text() == "Select jobs to execute...\n"


# --- stages ---------------------------------------------------------------------------------------------------


def say(log_file: Path | None) -> None:
    log.setup(log_file)
    log.logger.info("a detail")
    log.progress("step %d", 3)
    log.logger.warning("odd")
    log.result("R-mean %.1f", 5)


def test_on_a_shared_terminal_a_stage_shows_progress_and_warnings_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(log.SHARED, "1")
    path = tmp_path / "seed2" / "student-a.log"
    say(path)
    plain = re.sub(r"^\d\d:\d\d:\d\d ", "", capsys.readouterr().err, flags=re.MULTILINE)
    assert plain == "student-a, seed 2: step 3\nWARNING student-a, seed 2: odd\n"
    kept = re.sub(r"^\d\d:\d\d:\d\d ", "", path.read_text(), flags=re.MULTILINE)
    assert kept == "INFO a detail\nINFO step 3\nWARNING odd\nRESULT R-mean 5.0\n"
    assert log.last(path, "RESULT") == "R-mean 5.0"
    assert log.last(path, "ERROR") is None


def test_alone_a_stage_shows_all_that_its_log_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(log.SHARED, raising=False)
    say(tmp_path / "stage.log")
    assert capsys.readouterr().err == (tmp_path / "stage.log").read_text()


def test_a_warning_of_a_library_is_one_line_of_the_log(tmp_path: Path) -> None:
    log.setup(tmp_path / "stage.log")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = log._log_warning
        warnings.warn("two\n  lines", FutureWarning, stacklevel=1)
    assert re.search(
        r" WARNING FutureWarning: two lines \(.*test_terminal.py, line \d+\)\n", (tmp_path / "stage.log").read_text()
    )


def test_the_headline_numbers_are_few_and_named() -> None:
    numbers = {"i2t_r@1": 47.25, "t2i_r@1": 28.7, "r_mean": 66.3, "i2t_r@5": 80.0, "i2i_ndcg@10": 89.0}
    assert headlines.line(numbers) == "I→T R@1 47.2, T→I R@1 28.7, R-mean 66.3; NDCG@10 I→I 89.0"
    assert headlines.line({"t2t_ndcg@10": 63.8}) == "NDCG@10 T→T 63.8"
    assert headlines.line({}) == ""


# --- a run ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_fails_shows_the_stage_its_log_and_no_block_of_snakemake(tmp_path: Path) -> None:
    said = fails(tmp_path, changed(training={**SETTINGS["training"], "learning_rate": 1e30}))
    assert re.search(r"^\d\d:\d\d:\d\d ERROR teacher-t, seed 0: step \d+: .*learning rate", said, re.MULTILINE), said
    assert re.search(r"^\d\d:\d\d:\d\d train_teacher t, seed 0 failed after 0:\d\d$", said, re.MULTILINE)
    assert "    log: results/shapes/logs/seed0/teacher-t.log\n" in said
    assert not re.search(r"^    (jobid|input|output|shell|resources|wildcards):|^(local)?rule ", said, re.MULTILINE)
    assert "CalledProcessError" not in said
    assert len(said.splitlines()) < 40


def test_help_of_a_stage_needs_no_snakemake() -> None:
    program = [sys.executable, "-c", "import sys; sys.modules['snakemake'] = None; from rvlr.cli import main; main()"]
    done = subprocess.run([*program, "freeze", "--help"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
