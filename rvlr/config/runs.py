"""The names of runs: `initial-MODEL`, `teacher-NAME` and `student-NAME`, in folders, sections and results alike."""

import re

KINDS = ("initial", "teacher", "student")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
PATTERN = re.compile(rf"(?:{'|'.join(KINDS)})-{NAME}")
ALLOWED = "initial-, teacher- or student- and a name"


def initial(model: str) -> str:
    """The run of an untrained model."""
    return f"initial-{model}"


def teacher(name: str) -> str:
    """The run of a teacher."""
    return f"teacher-{name}"


def student(name: str) -> str:
    """The run of a student."""
    return f"student-{name}"


def kind(run: str) -> str:
    """The kind of a run, one of `KINDS`."""
    return run.partition("-")[0]


def name(run: str) -> str:
    """The name of a run's model, teacher or student."""
    return run.partition("-")[2]


def is_trained(run: str) -> bool:
    """Whether a run is the result of a training."""
    return kind(run) != "initial"
