"""Where a training may write, a resume folder of its own, and an output that can be written days later; and whether it
has the relevance that it needs. Checked before anything large is loaded."""

import os
import re
from pathlib import Path

from rvlr import config
from rvlr.errors import UserError

MARK = ".rvlr-resume"
TOKENS = "image-tokens.npy"
MARK_TEXT = "rvlr keeps an unfinished training in this folder and deletes its files when the training is complete.\n"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
EVENTS = "events.out.tfevents.0.rvlr"
_FILES = r"(checkpoint\.pt|previous\.pt|best-\d+\.safetensors|metrics\.jsonl|image-tokens\.npy)"
_NAMES = re.compile(rf"{re.escape(MARK)}|{_FILES}|\.{_FILES}\.tmp-.*")  # the last: left by a killed process


def check_resume(folder: Path) -> None:
    """Raise UserError unless `folder` may be used for an unfinished training: it is absent, empty, or was made for one
    and contains nothing else."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"--resume {folder}: not a folder; give a path that does not exist yet, or an empty folder")
    entries = sorted(folder.iterdir())
    if not entries:
        return
    marked = (folder / MARK).is_file()
    foreign = next(filter(None, map(_foreign, entries)), None if marked else entries[0])
    if foreign is None:
        return
    name = foreign.relative_to(folder)
    if marked:
        raise UserError(
            f"--resume {folder}: rvlr keeps an unfinished training in it, but {name} is not part of that; move {name} "
            "to another place, or give another folder"
        )
    raise UserError(
        f"--resume {folder}: contains {name}, and rvlr did not make that folder for a training ({MARK} is not in it); "
        "give a path that does not exist yet, or an empty folder"
    )


def _foreign(path: Path) -> Path | None:
    """`path`, or the first path in it, that is not part of an unfinished training; None if there is none."""
    if path.name.startswith(".nfs"):  # on a network drive, a deleted file that is still open
        return None
    if path.name == TENSORBOARD and path.is_dir() and not path.is_symlink():
        return next((inner for inner in sorted(path.iterdir()) if not _is_events(inner)), None)
    return None if is_part(path) else path


def is_part(path: Path) -> bool:
    """Whether a path in a resume folder is one of the files of an unfinished training."""
    return _NAMES.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _is_events(path: Path) -> bool:
    events = path.name == EVENTS and path.is_file() and not path.is_symlink()
    return events or path.name.startswith(".nfs")


def check_output(folder: Path) -> None:
    """Raise UserError if `folder` cannot be written or made; its files are written when the training is complete."""
    above = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not above.is_dir():
        raise UserError(f"--output {folder}: {above} is not a folder; give another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"--output {folder}: {above} cannot be written; give another path, or allow writing")


def check_relevance(training: config.Training, matrix: Path | None) -> None:
    """Raise UserError unless the relevance matrix of val is given exactly where it selects the weights."""
    needed = training.selected_by == "balanced"
    if needed and matrix is None:
        raise UserError(
            "--relevance is missing: training.selected_by is balanced, so give the relevance matrix of the val split, "
            "made by rvlr relevance"
        )
    if matrix is not None and not needed:
        raise UserError(f"--relevance: training.selected_by is {training.selected_by}, which needs none; leave it out")
