"""Results of one study on several splits of the data, pooled, as cross-validation needs it.

Input: folders of results, `results/{dataset}`, with the same runs, seeds and settings on different data. Output:
`Results` over all of them. Their test sets count as different images, and each is ranked on its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from rvlr import faults, files
from rvlr.config import runs
from rvlr.data.records import Split, read_split
from rvlr.errors import UserError
from rvlr.log import logger
from rvlr.report import consistency, results
from rvlr.report.results import Results

TEST = "test"
SHARED = ("report", "relevance", "evaluation")  # the frozen sections that all runs depend on, but for the data
REMEDY = "pool results of one study, with the same runs, seeds and settings on different data"


class Report(BaseModel, strict=True, extra="forbid"):
    """The frozen section `report`: the runs and seeds that a study shows."""

    runs: Annotated[list[Annotated[str, Field(pattern=f"^{runs.PATTERN.pattern}$")]], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def read(folders: Sequence[Path]) -> Results:
    """Read the results in folders and pool them.

    Raises UserError naming the files as `results.read`, if there are less than two folders, if a folder is no folder of
    results or is given twice, if two studies differ in runs, seeds, settings or kind of data, or if two test sets are
    the same. Test sets with some images in common are pooled with a warning, which is also a note of the results.
    """
    if len(folders) < 2:
        raise UserError(f"{len(folders)} folder of results given; give two or more, such as results/photos-0")
    check_distinct(folders)
    report = read_report(folders[0])
    for folder in folders[1:]:
        _check_settings(folders[0], folder, report.runs)
    splits = [read_split(folder / f"splits/{TEST}.jsonl", originals=True) for folder in folders]
    notes = _check_apart(folders, splits)
    pooled = results.read_splits(
        {
            folder: [folder / f"seed{seed}/{run}/eval/{TEST}.json" for run in report.runs for seed in report.seeds]
            for folder in folders
        }
    )
    return replace(pooled, notes=[*pooled.notes, *notes])


def check_distinct(folders: Sequence[Path]) -> None:
    """Raise UserError if a folder is given twice, by whatever names."""
    for one, other in combinations(folders, 2):
        if one.resolve() == other.resolve():
            raise UserError(f"{one} and {other} are the same folder; give each once")


def read_report(folder: Path) -> Report:
    """The runs and seeds of a folder of results. Raises UserError if it is none."""
    path = folder / "config/report.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: no folder of results, since it has no config/report.yaml; give results/NAME")
    try:
        return Report.model_validate(files.read_yaml(path))
    except ValidationError as error:
        fault = faults.describe(error, Report, 1)[0]
        raise UserError(f"{path}: {fault}; run the workflow again, which writes this file") from None


def _check_settings(first: Path, other: Path, names: Sequence[str]) -> None:
    """Raise UserError if two studies differ in more than their data, or in the kind of data."""
    models = {path.stem for folder in (first, other) for path in (folder / "config").glob(f"{runs.initial('*')}.yaml")}
    for name in (*SHARED, *dict.fromkeys([*sorted(models), *names])):
        paths = [folder / f"config/{name}.yaml" for folder in (first, other)]
        there = [path.is_file() for path in paths]
        if name in models and not all(there):
            continue  # of a model that the one study had earlier, or its settings would differ
        if name not in SHARED and not any(there):
            continue  # of a teacher of kind `stored`: its files say what it is
        wanted, found = map(_section, paths)
        if found != wanted:
            raise UserError(f"{paths[1]}: {consistency.difference(found, wanted, paths[0])}; {REMEDY}")
    kinds = [_section(folder / "config/dataset.yaml").get("kind") for folder in (first, other)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{other}: data of kind {kinds[1]!r}, {first} has {kinds[0]!r}; {REMEDY}")


def _section(path: Path) -> dict[str, Any]:
    section: Any = files.read_yaml(path)
    if not isinstance(section, dict):
        raise UserError(f"{path}: not a section of the configuration; run the workflow again, which writes this file")
    return section


def _check_apart(folders: Sequence[Path], splits: Sequence[Split]) -> list[str]:
    """What readers should know of images that are in several test sets. Raises UserError if two sets are the same."""
    notes = []
    for (folder, one), (other_folder, other) in combinations(zip(folders, splits, strict=True), 2):
        known = {key for keys in _keys(one) for key in keys}
        common = sum(not known.isdisjoint(keys) for keys in _keys(other))
        if common == len(one.records) == len(other.records):
            raise UserError(f"{folder} and {other_folder} have the same test images; {REMEDY}")
        if common:
            note = (
                f"{common} of the {len(other.records)} test images of {other_folder} are also test images of {folder}; "
                "intervals take them for different images, so they are too narrow"
            )
            logger.warning("%s", note)
            notes.append(note)
    return notes


def _keys(split: Split) -> list[set[object]]:
    """What each image is recognised by in another split: its path, or its id with its captions, as in a copy."""
    return [{split.path(index), (record.image_id, record.captions)} for index, record in enumerate(split.records)]
