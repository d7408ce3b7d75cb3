"""The configuration: one YAML file, validated as a whole before anything runs.

Enters: the YAML. Leaves: a `Config` whose sections are handed to the stages one by one, so that a stage is stale only
when its own section changed. Unknown keys are errors, and all faults are reported together.

This package imports no torch: a `snakemake -n` must answer at once.
"""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from rvlr import io
from rvlr.config.base import Section, UserPath
from rvlr.config.sections import (
    Augmentation,
    Cache,
    Coco,
    Custom,
    Dataset,
    Evaluation,
    Flickr30K,
    Model,
    Name,
    PublicSet,
    Relevance,
    Scoring,
    Shapes,
    SingleModalTeacher,
    SplitRatio,
    Student,
    StudentWeights,
    Teacher,
    TeacherWeights,
    Text,
    TrainedTeacher,
    Training,
    Triple,
    Vision,
    VizWiz,
)
from rvlr.config.sources import KNOWN, Source
from rvlr.errors import UserError

__all__ = [
    "DOWNLOADS",
    "Augmentation",
    "Cache",
    "Coco",
    "Config",
    "Custom",
    "Dataset",
    "Evaluation",
    "Flickr30K",
    "Model",
    "PublicSet",
    "Relevance",
    "Scoring",
    "Section",
    "Shapes",
    "SingleModalTeacher",
    "Source",
    "SplitRatio",
    "Student",
    "StudentWeights",
    "Teacher",
    "TeacherWeights",
    "Text",
    "TrainedTeacher",
    "Training",
    "Triple",
    "Vision",
    "VizWiz",
    "load",
    "parse",
    "to_yaml",
]


# where pydantic puts the chosen kind into a fault's path, and the kinds: users know keys only
_KINDS = {
    "dataset": (1, ("shapes", "custom", "coco", "flickr30k", "vizwiz")),
    "teachers": (2, ("retrieval", "single-modal")),
}
DOWNLOADS = Path("downloads")


class Config(Section):
    """The whole file. `training` holds defaults for every teacher and student, which may override single keys."""

    dataset: Dataset
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)] = [0]
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    training: Training = Training()
    teachers: Annotated[dict[Name, Teacher], Field(min_length=1)]
    students: dict[Name, Student] = {}
    evaluation: Evaluation = Evaluation()
    downloads: UserPath = DOWNLOADS
    sources: dict[str, Source] = {}

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} names a seed twice")
        return value

    def teacher_model(self, teacher: str) -> str:
        """The name of the model a trained teacher starts from."""
        return self.teachers[teacher].model or next(iter(self.models))

    def start_of(self, student: str) -> str:
        """The run a student starts from: `teacher-NAME` or `initial-NAME`."""
        section = self.students[student]
        if section.start is None:
            trained = self.teachers[section.teacher].kind == "retrieval"
            return f"teacher-{section.teacher}" if trained else f"initial-{next(iter(self.models))}"
        return f"{'initial' if section.start in self.models else 'teacher'}-{section.start}"


def parse(data: Any, source: str, section: Any = Config) -> Any:
    """Validate `data` as the whole configuration or one section of it.

    Raises UserError listing every fault with the path of its key; `source` names the file in that message.
    """
    if section is Config:
        if not isinstance(data, dict):
            raise UserError(f"{source}: the file must hold a mapping with the sections dataset, models, teachers, ...")
        data = _fill_in(data)
    faults, found = [], None
    try:
        found = TypeAdapter(section).validate_python(data)
    except ValidationError as error:
        faults = _describe(error)
    if section is Config:
        faults += _reference_faults(data) + _source_faults(data)
        faults += _late_faults(found) if found is not None else []
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise UserError("\n  ".join([f"{source}: {count} in the configuration", *faults]))
    return found


def load(path: Path, section: Any = Config) -> Any:
    """Read and validate a YAML file."""
    return parse(io.read_yaml(path), str(path), section)


def to_yaml(section: Section) -> str:
    """YAML with every default filled in."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _fill_in(data: dict[str, Any]) -> dict[str, Any]:
    """`dataset: NAME` stands for `dataset: {kind: NAME}`; a missing teacher kind is `retrieval`; the shared `training`
    section lies under each teacher's and student's own. What is malformed is left for the validation to find."""
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
            if filled.get("kind") != "single-modal" and isinstance(own, dict) and isinstance(shared, dict):
                filled["training"] = _merge(shared, own)
            data[group][name] = filled
    return data


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if nested else value
    return merged


def _reference_faults(data: dict[str, Any]) -> list[str]:
    """Names that stand for nothing, or for two things. Works on what was read, so that these faults are reported
    together with those of the sections."""
    groups = {
        group: {name: member for name, member in members.items() if isinstance(member, dict)}
        for group in ("models", "teachers", "students")
        if isinstance(members := data.get(group) or {}, dict)
    }
    if len(groups) < 3:
        return []
    models, teachers, students = (groups[group] for group in ("models", "teachers", "students"))
    faults = [
        f"models.{name}: {name!r} stands for a model and a teacher; rename one" for name in models if name in teachers
    ]
    trained = [name for name, member in teachers.items() if member.get("kind") == "retrieval"]
    for name in trained:
        model = teachers[name].get("model")
        if model is None and len(models) > 1:
            faults.append(f"teachers.{name}.model: missing; choose one of {', '.join(models)}")
        elif model is not None and model not in models:
            faults.append(f"teachers.{name}.model: no model {model!r}; defined: {', '.join(models)}")
    if teachers and not trained and not students:
        faults.append("students: none, and no teacher is trained; there is nothing to do")
    starts = [*models, *trained]
    for name, student in students.items():
        teacher, start = student.get("teacher"), student.get("start")
        if teacher is not None and teacher not in teachers:
            faults.append(f"students.{name}.teacher: no teacher {teacher!r}; defined: {', '.join(teachers) or 'none'}")
        elif start is None and teacher in teachers and teacher not in trained and len(models) > 1:
            faults.append(f"students.{name}.start: missing; choose one of {', '.join(starts)}")
        if start is not None and start not in starts:
            faults.append(f"students.{name}.start: {start!r} is none of {', '.join(starts)}")
    return faults


def _source_faults(data: dict[str, Any]) -> list[str]:
    """Sources that are not in the table."""
    given = data.get("sources") or {}
    unknown = [name for name in given if name not in KNOWN] if isinstance(given, dict) else []
    return [f"sources.{name}: no such source; known: {', '.join(KNOWN)}" for name in unknown]


def _late_faults(found: Config) -> list[str]:
    """What would fail only after hours: weights that are not fetched, since they lie below another folder than the
    downloads do, and subsets as large as the test split."""
    faults = []
    holders: dict[str, Any] = {f"models.{name}": model for name, model in found.models.items()}
    holders |= {f"teachers.{name}": pair for name, pair in found.teachers.items() if pair.kind == "single-modal"}
    for key, holder in holders.items():
        for part in ("vision", "text"):
            weights = Path(getattr(holder, part).weights)
            if weights.is_relative_to(DOWNLOADS) and found.downloads != DOWNLOADS and not weights.exists():
                wanted = found.downloads / weights.relative_to(DOWNLOADS)
                faults.append(
                    f"{key}.{part}.weights: {weights} would not be fetched, since downloads is {found.downloads}; "
                    f"write {wanted}"
                )
    dataset = found.dataset
    images = dataset.test if dataset.kind == "shapes" else dataset.counts.test if dataset.kind != "custom" else None
    for subset in found.evaluation.subsets if images is not None else ():
        if int(subset.partition("-")[2]) >= images:
            faults.append(f"evaluation.subsets: {subset!r}, but test has {images:,} images; name fewer than that")
    return faults


def _describe(error: ValidationError) -> list[str]:
    """All faults of a validation, each with the path of its key."""
    faults = []
    for fault in error.errors(include_url=False):
        place = list(fault["loc"])
        depth, kinds = _KINDS.get(place[0] if place else "", (0, ()))
        if len(place) > depth > 0 and place[depth] in kinds:
            del place[depth]
        key = ".".join(map(str, place))
        if fault["type"] == "extra_forbidden":
            message = "unknown key; see config/README.md for the keys of this section"
        elif fault["type"] == "missing":
            message = "missing, and it has no default"
        elif fault["type"] == "value_error":
            message = str(fault["ctx"]["error"])
        else:
            message = f"{fault['msg']}; found {fault.get('input')!r}"
        faults.append(f"{key}: {message}" if key else message)
    shared = {fault for fault in faults if fault.startswith("training.")}
    # the shared section lies under every teacher and student; a fault in it is told once
    told = [fault for fault in faults if fault in shared or fault.split(".", 2)[-1] not in shared]
    return list(dict.fromkeys(told))
