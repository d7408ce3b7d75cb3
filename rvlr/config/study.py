"""The configuration: one YAML file, validated as a whole before anything runs.

Enters: the YAML. Leaves: a `Study`. Each stage gets its own section, so that a stage runs again only when its own
section has changed. Unknown keys are errors, and all faults are reported together.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, overload

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from rvlr import faults, files
from rvlr.config import checks, runs
from rvlr.config.base import Name, Section, Seed, UserPath
from rvlr.config.checks import DOWNLOADS
from rvlr.config.datasets import AnyDataset, Dataset
from rvlr.config.evaluation import Evaluation, Relevance, Scoring
from rvlr.config.models import Model
from rvlr.config.sources import Sources
from rvlr.config.training import (
    AnyTeacher,
    ExtractedTeacher,
    StoredTeacher,
    Student,
    Teacher,
    TrainedTeacher,
    Training,
)
from rvlr.errors import UserError

T = TypeVar("T")


class Study(Section):
    """The whole file. `training` gives defaults for every teacher and student, which may override single keys."""

    title = "a whole study"
    dataset: AnyDataset
    """The images and captions; `dataset: shapes` is short for `dataset: {kind: shapes}`."""
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1_000)] = [0]
    """Seeds, none twice. Every model is trained once with each, and the tables give mean and deviation over them.
    Loss curves and sheets show the first."""
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    """Models by name: what training starts from."""
    training: Training = Training()
    """Settings of the training loop, for every trained teacher and student."""
    teachers: Annotated[dict[Name, AnyTeacher], Field(min_length=1)]
    """Teachers by name."""
    students: dict[Name, Student] = {}
    """Students by name."""
    evaluation: Evaluation = Evaluation()
    """How models are measured."""
    gpu: Literal["optional", "required"] = "optional"
    """`required`: on a machine without a GPU, stages that run a model fail at once; else they compute on the CPU, and
    say so. Changes no result."""
    downloads: UserPath = DOWNLOADS
    """Folder for everything that is fetched; studies may share one. `vision.weights` and `text.weights` below it
    are fetched too: with another folder, change them in the shipped files as well."""
    sources: Sources = {}
    """Where fetched files come from, by name."""

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} names a seed twice")
        return value

    def teacher_model(self, teacher: str) -> str:
        """The name of the model a trained teacher starts from."""
        section = self.teachers[teacher]
        named = section.model if isinstance(section, TrainedTeacher) else None
        return named or next(iter(self.models))

    def start_of(self, student: str) -> str:
        """The run a student starts from: `teacher-NAME` or `initial-NAME`."""
        section = self.students[student]
        if section.start is None:
            trained = section.teacher in self.trained_teachers()
            return runs.teacher(section.teacher) if trained else runs.initial(next(iter(self.models)))
        return runs.initial(section.start) if section.start in self.models else runs.teacher(section.start)

    def trained_teachers(self) -> list[str]:
        """The names of the teachers that are trained here."""
        return [name for name, section in self.teachers.items() if isinstance(section, TrainedTeacher)]

    def trained_runs(self) -> list[str]:
        """The runs that are trained, in the order of the summary."""
        return [*map(runs.teacher, self.trained_teachers()), *map(runs.student, self.students)]

    def feature_runs(self) -> list[str]:
        """The runs of teachers that are not trained here, and whose raw features of the test split exist."""
        stored = self.stored_features()
        untrained = [name for name in self.teachers if name not in self.trained_teachers()]
        return [runs.teacher(name) for name in untrained if name not in stored or "test" in stored[name]]

    def stored_features(self) -> dict[str, dict[str, Path]]:
        """The folder of each split whose features are given, of every teacher of kind `stored`."""
        stored = {name: one for name, one in self.teachers.items() if isinstance(one, StoredTeacher)}
        return {name: one.folders for name, one in stored.items()}

    def evaluated_runs(self) -> list[str]:
        """The runs that are evaluated: untrained models, if wanted, raw features, teachers, students."""
        evaluated = [*self.feature_runs(), *self.trained_runs()]
        if not self.evaluation.untrained:
            return evaluated
        starts = [runs.initial(self.teacher_model(name)) for name in self.trained_teachers()]
        starts += [start for start in map(self.start_of, self.students) if not runs.is_trained(start)]
        return [*dict.fromkeys(starts), *evaluated]


_UNIONS: dict[Any, Any] = {Dataset: AnyDataset, Teacher: ExtractedTeacher}


def _members(section: Any) -> tuple[Any, ...]:
    """The sections that `section` stands for."""
    return get_args(get_args(_UNIONS[section])[0]) if section in _UNIONS else (section,)


_FILES = (Study, Model, *_members(Teacher), Student, Relevance, Scoring, *_members(Dataset))
"""The sections that have files of their own."""
_SHOWN = 50


@overload
def parse(data: object, source: str) -> Study: ...
@overload
def parse(data: object, source: str, section: type[T]) -> T: ...
def parse(data: object, source: str, section: Any = Study) -> Any:
    """Validate `data` as the whole configuration or one section of it; `Dataset` stands for every kind, and
    `Teacher` for those whose features are extracted here.

    Raises UserError listing every fault with the path of its key; `source` names the file in that message.
    """
    if not isinstance(data, dict):
        keys = ", ".join(list(Study.model_fields)[:4]) if section is Study else "its keys"
        raise UserError(f"{source}: found {faults.found(data)}; the file must contain a mapping with {keys}, ...")
    allowed = _UNIONS.get(section, section)
    other = checks.other_kind(data, _members(section), _FILES)
    if other is not None:
        raise UserError(f"{source}: {other}{_where_to_find(section)}")
    if section is Study:
        data = _fill_in(data)
    lines, found = [], None
    try:
        found = TypeAdapter(allowed).validate_python(data)
    except ValidationError as error:
        lines = _once(faults.describe(error, allowed))
    if section is Study:
        lines += checks.references(data)
        lines += checks.late(found) if found is not None else []
    refuse(lines, source)
    return found


def refuse(lines: list[str], source: str) -> None:
    """Raise UserError with these faults, if there are any."""
    if lines:
        count = f"{len(lines):,} fault{'s' if len(lines) > 1 else ''}"
        more = [f"... and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
        raise UserError("\n  ".join([f"{source}: {count} in the configuration", *lines[:_SHOWN], *more]))


def _where_to_find(section: Any) -> str:
    if section is Study:
        return "; give the file that `snakemake --configfile` takes"
    return "; the workflow writes each section of a study to results/NAME/config"


def _once(lines: list[str]) -> list[str]:
    """Drop the repetitions of faults in the shared `training`, which is part of every teacher and student."""
    shared = tuple(f".{line}" for line in lines if line.startswith(("training.", "training:")))
    return [line for line in lines if not (line.startswith(("teachers.", "students.")) and line.endswith(shared))]


@overload
def load(path: Path) -> Study: ...
@overload
def load(path: Path, section: type[T]) -> T: ...
def load(path: Path, section: Any = Study) -> Any:
    """Read a YAML file, a study laid over its `base`, and validate it as `parse` does."""
    data, source = files.read_yaml(path), str(path)
    if section is Study and isinstance(data, dict):
        data, source = lay_over_bases(data, [path])
    return parse(data, source, section)


def lay_over_bases(data: Mapping[str, Any], paths: Iterable[Path]) -> tuple[dict[str, Any], str]:
    """`data`, read from these files, laid over what they name by the key `base`; and what messages call all of them.

    Raises UserError naming the file and the line of what only strict readers refuse, a key that is given twice for
    example, or the file whose `base` cannot be read or names a base itself.
    """
    below: dict[str, Any] = {}
    names, bases = [], []
    for path in paths:
        found = files.read_json(path) if path.suffix == ".json" else files.read_yaml(path)
        names.append(str(path))
        if isinstance(found, dict) and "base" in found:
            file, settings = _read_base(found["base"], path)
            below = merge(below, settings)
            names[-1] += f" over {file}"
            bases.append(found["base"])
    if "base" in data and data["base"] not in bases:
        raise UserError(f"base: found {faults.found(data['base'])} outside of a file; write base into a file")
    return merge(below, {key: value for key, value in data.items() if key != "base"}), ", ".join(names)


def _read_base(name: Any, path: Path) -> tuple[Path, dict[str, Any]]:
    """The file that the key `base` of the file `path` names, and its settings."""
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{path}: base: found {faults.found(name)}; give the path of a YAML file from this one")
    file = path.parent / name
    try:
        found = files.read_yaml(file)
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: base: {file}: found {faults.found(found)}; the file must contain a mapping")
    if "base" in found:
        raise UserError(f"{path}: base: {file} has a base itself; name that one, or copy its settings into {file}")
    return file, found


def to_yaml(section: Section) -> str:
    """YAML with every default filled in."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _fill_in(data: dict[str, Any]) -> dict[str, Any]:
    """Replace `dataset: NAME` by `dataset: {kind: NAME}`, fill in the teacher kind `retrieval`, and lay the `training`
    of each teacher and student over the shared one. Malformed parts are left to the validation."""
    data = dict(data)
    if isinstance(data.get("dataset"), str):
        data["dataset"] = {"kind": data["dataset"]}
    shared = data.get("training") or {}
    for group in ("teachers", "students"):
        if not isinstance(data.get(group), dict):
            continue
        data[group] = {name: {} if member is None else member for name, member in data[group].items()}
        for name, member in data[group].items():
            if not isinstance(member, dict):
                continue
            filled = {"kind": "retrieval", **member} if group == "teachers" else dict(member)
            own = filled.get("training") or {}
            if filled.get("kind", "retrieval") == "retrieval" and isinstance(own, dict) and isinstance(shared, dict):
                filled["training"] = merge(shared, own)
            data[group][name] = filled
    return data


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if nested else value
    return merged
