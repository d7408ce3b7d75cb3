"""Where the user's files lie, checked before Snakemake deletes anything.

Snakemake deletes the outputs of a job before the job runs, folders with all their content. So no file of the user may
lie in the results of the data set, under any spelling or link, and no results are written into a folder of others.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rvlr import ownership
from rvlr.config import Study, refuse
from rvlr.config.checks import weights_of
from rvlr.config.sources import SOURCES
from rvlr.errors import UserError
from rvlr.workflow import frozen

FOLDERS = ("images", "cache", "seed*/*/model", "seed*/*/tensorboard")  # outputs that are folders


def check(settings: Study, results: Path, source: str) -> None:
    """Raise UserError listing each of the user's paths, by its key, that lies in `results`, or if the workflow did not
    make `results`. source: what the message names first."""
    faults = _foreign(results, frozen.sections(settings))
    for key, path in _user_paths(settings).items():
        faults += [f"{key}: {fault}" for fault in _path_faults(key, path, results)]
    refuse(faults, source)


def check_folders(results: Path) -> None:
    """Raise UserError if a folder that Snakemake replaces as a whole contains something that `rvlr` did not make. The
    message names one file of each such folder."""
    found = (path for pattern in FOLDERS for path in sorted(results.glob(pattern)))
    # of a link, only the link itself would be deleted
    folders = (path for path in found if not path.is_symlink())
    faults = [
        f"{mine}: rvlr did not make it, and the workflow deletes {folder} with all that is in it when it makes it "
        "again; move it elsewhere, or delete it"
        for folder in folders
        if (mine := ownership.foreign(folder)) is not None
    ]
    if faults:
        raise UserError("\n".join(faults))


def _user_paths(settings: Study) -> dict[str, Path]:
    """Every path of the configuration by its key."""
    paths = {"downloads": settings.downloads}
    paths |= {f"dataset.{key}": path for key, path in settings.dataset.own_files.items()}
    existing = {name: source.existing for name, source in settings.sources.items() if source.existing is not None}
    paths |= {f"sources.{name}.existing": path for name, path in existing.items()}
    for teacher, folders in settings.stored_features().items():
        paths |= {f"teachers.{teacher}.features.{split}": folder for split, folder in folders.items()}
    return paths | {key: Path(weights) for key, weights in weights_of(settings)}


def _path_faults(key: str, path: Path, results: Path) -> Iterator[str]:
    # of the downloads, what the workflow puts there counts, which may lie in the results while the folder does not
    places = [path / known.file for known in SOURCES.values()] if key == "downloads" else []
    if any(_inside(place, results) for place in (path, *places)):
        yield (
            f"{path} lies in {results}, which the workflow writes and deletes from; move it elsewhere, or choose "
            "another dataset.name"
        )
    elif key == "dataset.images" and _inside(results, path):
        yield (
            f"{path} holds {results}, but what is read and what is written must be apart; move the images to a folder "
            "of their own, or run in another folder (--directory)"
        )


def _inside(path: Path, folder: Path) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, root]) == root


def _foreign(results: Path, sections: Iterable[str]) -> list[str]:
    """What is wrong with the place of the results. The workflow's own have frozen sections; after a run that was killed
    or failed before it wrote any, they have only logs and what sources were asked for."""
    if os.path.lexists(results.parent) and not results.parent.is_dir():
        return [f"{results.parent.absolute()} is no folder, but results are written there; move it away"]
    if not os.path.lexists(results) or any((results / f"config/{name}.yaml").is_file() for name in sections):
        return []
    begun = (results / "logs", results / "config/sources")
    if results.is_dir() and all(any(map(path.is_relative_to, begun)) for path in _files(results)):
        return []
    what = "a folder" if results.is_dir() else "a link to nothing" if results.is_symlink() else "a file"
    return [
        f"dataset.name: {results} is {what} that this workflow did not make (it has no config/dataset.yaml); "
        "move it away, or choose another dataset.name"
    ]


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not itself a folder."""
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
