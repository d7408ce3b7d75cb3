"""Whether a result agrees with the files around it: the record of each run against what the run was made from.

A run is the folder `ROOT/seed{n}/{run}/`. The record of its evaluation, `eval/test.json`, contains run and seed,
settings, and digests of the model, the split, the relevance, the rankings and its own numbers. The record of its
training, `config.yaml`, contains seed, settings, and digests of the model and of `metrics.jsonl`. A record is compared
with the names of its folders, the frozen sections in `ROOT/config`, `ROOT/splits`, `ROOT/relevance`, and the model of
the run. A file that does not exist is not compared.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from rvlr import faults, files, provenance
from rvlr.config import runs
from rvlr.data.features import checksum
from rvlr.data.records import read_split
from rvlr.errors import UserError
from rvlr.evaluation.record import MEASURED, numbers_sha256

T = TypeVar("T")

SEED = re.compile(r"seed(\d+)")
RANKINGS = "rankings.npz"
FEATURES = "features-test/index.json"


class _Record(BaseModel, strict=True):
    """A part of a record. Keys that nothing reads are ignored."""


class Counts(_Record):
    """The size of a split."""

    images: int
    captions: int


class _Inputs(_Record):
    """Of a model its digest, of raw features theirs; of people's judgements those that were asked for. teachers:
    name -> digest of its features of the split, with which a model was compared."""

    split_checksum: str
    relevance_sha256: str
    scenes_sha256: str | None = None
    model_sha256: str | None = None
    features_sha256: str | None = None
    teachers: dict[str, str] = {}
    cxc_sha256: str | None = None
    eccv_sha256: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.model_sha256 is None) == (self.features_sha256 is None):
            raise ValueError("model_sha256 or features_sha256 is needed, and one alone")
        return self


class _Outputs(_Record):
    rankings_sha256: str
    numbers_sha256: str


class _Provenance(_Record):
    commit: str | None


class Evaluation(_Record):
    """The record of an evaluation, `eval/test.json`, and the digest of its counts, notes and numbers as they are now.

    protocols: protocol -> metric -> value. judgements: those of people -> metric -> value. diagnostics: name -> value,
    none in older records.
    """

    run: Annotated[str, Field(pattern=f"^{runs.PATTERN.pattern}$", json_schema_extra={"allowed": runs.ALLOWED})]
    seed: int
    split: str
    counts: Counts
    notes: list[str]
    config: dict[str, Any]
    inputs: _Inputs
    outputs: _Outputs
    protocols: Annotated[dict[str, dict[str, FiniteFloat]], Field(min_length=1)]
    judgements: dict[str, dict[str, FiniteFloat]] = {}
    diagnostics: dict[str, FiniteFloat] = {}
    provenance: _Provenance
    measured_sha256: str

    @property
    def is_of_features(self) -> bool:
        """Whether raw features were evaluated, by a part of the numbers, and no model."""
        return self.inputs.features_sha256 is not None


class _TrainingOutputs(_Record):
    model_sha256: str
    metrics_sha256: str


class _Training(_Record):
    seed: int
    settings: dict[str, Any]
    outputs: _TrainingOutputs


@dataclass(frozen=True)
class Mismatch:
    """A record that does not agree with a file around it. cause: the file that disagrees, if it is a file."""

    path: Path
    what: str
    cause: Path | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"

    @property
    def outdated(self) -> bool:
        """Whether `cause` was written after the record, as after an interrupted run: the record must be made again.
        A record that is newer than `cause` was changed or copied."""
        return self.cause is not None and self.cause.stat().st_mtime > self.path.stat().st_mtime


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run. run, seed: taken from the names of the folders; None if the names have another form."""

    path: Path
    run: str | None
    seed: int | None

    @classmethod
    def of(cls, path: Path) -> "RunFolder":
        """The folder at `path`."""
        path = path.absolute()
        run, seed = runs.PATTERN.fullmatch(path.name), SEED.fullmatch(path.parent.name)
        return cls(path, run and run[0], int(seed[1]) if run and seed else None)

    def own(self, name: str) -> Path | None:
        """A file of this run, if it exists."""
        path = self.path / name
        return path if self.run is not None and path.is_file() else None

    def of_teacher(self, teacher: str, name: str) -> Path | None:
        """A file of a teacher of the same seed, if it exists."""
        path = self.path.parent / runs.teacher(teacher) / name
        return path if self.seed is not None and path.is_file() else None

    def shared(self, name: str) -> Path | None:
        """A file that all runs share, below `ROOT`, if it exists."""
        path = self.path.parent.parent / name
        return path if self.seed is not None and path.is_file() else None

    def name_mismatches(self, record: Path, run: str | None, seed: int) -> Iterator[Mismatch]:
        """Compare the run and the seed in a record with the names of the folders."""
        if self.run is not None and run != self.run:
            yield Mismatch(record, f"the record is of run {run}, the folder of {self.run}")
        if self.seed is not None and seed != self.seed:
            yield Mismatch(record, f"the record is of seed {seed}, the folder of {self.seed}")

    def setting_mismatches(
        self, record: Path, verb: str, section: str, settings: dict[str, Any], only: bool = False
    ) -> Iterator[Mismatch]:
        """Compare the settings in a record with those of the frozen section. only: settings that the section lacks are
        ignored."""
        frozen = self.shared(f"config/{section}.yaml")
        if frozen is None:
            return
        wanted = _once(files.read_yaml, frozen)
        found = {key: settings.get(key) for key in wanted} if only else settings
        if found != wanted:
            yield Mismatch(record, f"{verb} with {difference(found, wanted, frozen)}", frozen)


def check_evaluation(path: Path, record: Evaluation) -> None:
    """Raise UserError naming the file and the difference if an evaluation does not agree with the files around it."""
    _raise(*evaluation_mismatches(path, record))


def check_metrics(path: Path) -> None:
    """Raise UserError as `check_evaluation` if `metrics.jsonl` does not belong to the training beside it."""
    _raise(*training_mismatches(path.parent))


def check_rankings(path: Path, run: str, checksum: str) -> None:
    """Raise UserError if the evaluations beside rankings are not of `run`, or not of the split with this checksum."""
    for file in sorted(path.parent.glob("*.json")):
        record = read_evaluation(file)
        _raise(*evaluation_mismatches(file, record))
        for what, have, want in (("run", record.run, run), ("split", record.inputs.split_checksum, checksum)):
            if have != want:
                raise UserError(f"{path}: rankings of {what} {have}, not of {want}; run the evaluate stage again")


def read_evaluation(path: Path) -> Evaluation:
    """Read the record of an evaluation. Raises UserError naming the first key that is missing or of the wrong type."""
    record = files.read_json(path)
    try:
        return Evaluation.model_validate(record | {"measured_sha256": numbers_sha256(record)})
    except ValidationError as error:
        fault = faults.describe(error, Evaluation, 1)[0]
        raise UserError(f"{path}: not an evaluation: {fault}; run the evaluate stage again") from None


def evaluation_mismatches(path: Path, record: Evaluation, large: bool = True) -> Iterator[Mismatch]:
    """The differences between an evaluation and the files around it. large: also read files that may be large, to
    compare their digests."""
    folder, inputs = RunFolder.of(path.absolute().parent.parent), record.inputs
    yield from folder.name_mismatches(path, record.run, record.seed)
    if record.measured_sha256 != record.outputs.numbers_sha256:
        yield Mismatch(path, f"{', '.join(MEASURED)} are not as they were measured")
    yield from folder.setting_mismatches(path, "evaluated", "evaluation", record.config)
    sources: list[tuple[str, str | None, Path | None, Callable[[Path], str | None], bool]] = [
        ("split", inputs.split_checksum, folder.shared(f"splits/{record.split}.jsonl"), _checksum, False),
        ("relevance", inputs.relevance_sha256, folder.shared(f"relevance/{record.split}.npy"), _sha256, True),
        ("scene relevance", inputs.scenes_sha256, folder.shared(f"relevance/scenes-{record.split}.npy"), _sha256, True),
        ("model", inputs.model_sha256, folder.own("config.yaml"), _recorded_model, False),
        ("model", inputs.model_sha256, folder.own("model/model.safetensors"), _sha256, True),
        ("features", inputs.features_sha256, folder.own(FEATURES), _features, False),
        ("rankings", record.outputs.rankings_sha256, path.with_name(RANKINGS), _sha256, True),
    ]
    for teacher, digest_of_it in inputs.teachers.items():
        sources.append(("teacher", digest_of_it, folder.of_teacher(teacher, FEATURES), _features, False))
    for what, want, source, digest, is_large in sources:
        if want is None or source is None or (is_large and not large):
            continue
        if not source.is_file():
            yield Mismatch(path, f"{source} is missing, though there is an evaluation")
        elif (have := digest(source)) not in (want, None):
            yield Mismatch(path, f"made from another {what} than {source} ({want[:12]}…, not {have[:12]}…)", source)
    if (dataset := folder.shared("splits/dataset.json")) is not None:
        about = _once(files.read_json, dataset)
        if "settings" in about:
            yield from folder.setting_mismatches(dataset, "made", "dataset", about["settings"])
    if (relevance := folder.shared(f"relevance/{record.split}.json")) is not None:
        yield from folder.setting_mismatches(relevance, "made", "relevance", files.read_json(relevance), only=True)
    if not record.is_of_features:  # beside which a training of another teacher of that name may be left
        yield from training_mismatches(folder.path)


def training_mismatches(path: Path) -> Iterator[Mismatch]:
    """The differences between the record of a training and the files around it; none if there is no record."""
    record, folder = path / "config.yaml", RunFolder.of(path)
    if not record.is_file():
        return
    training = _read_training(record)
    if training is None:
        # any folder may contain a file of this name; in the folder of a run it must be the record
        if folder.run is not None:
            yield Mismatch(record, "not the record of a training, which has seed, settings and outputs")
        return
    yield from folder.name_mismatches(record, folder.run, training.seed)
    if folder.run is not None:
        yield from folder.setting_mismatches(record, "trained", folder.run, training.settings)
    metrics = path / "metrics.jsonl"
    if metrics.is_file() and _sha256(metrics) != training.outputs.metrics_sha256:
        # both files are written together, so neither is outdated
        yield Mismatch(metrics, f"not the log of the training that {record} records")


def remedy(mismatches: Sequence[Mismatch]) -> str:
    """How to make the records again."""
    command = shlex.join(["rm", *dict.fromkeys(str(one.path) for one in mismatches)])
    return f"changed or copied: restore what belongs there, or have it made again: {command}; snakemake"


def _raise(*mismatches: Mismatch) -> None:
    if mismatches:
        raise UserError("\n".join([*dict.fromkeys(map(str, mismatches)), remedy(mismatches)]))


def difference(record: Any, section: Any, frozen: Path) -> str:
    """The first setting of a record that differs from its section in the file `frozen`, in words."""
    keys: list[str] = []
    while isinstance(record, dict) and isinstance(section, dict):
        key = next(key for key in [*record, *section] if record.get(key, ...) != section.get(key, ...))
        keys.append(key)
        record, section = record.get(key, "nothing"), section.get(key, "nothing")
    return f"{'.'.join(keys) or 'other settings:'} {record!r}, {frozen} has {section!r}"


def _read_training(path: Path) -> _Training | None:
    """The record of a training, or None if the file is another one."""
    try:
        return _Training.model_validate(_once(files.read_yaml, path))
    except ValidationError:
        return None


def _recorded_model(path: Path) -> str | None:
    """The digest of the model in the record of its training; None if the file is not such a record, which
    `training_mismatches` reports."""
    training = _read_training(path)
    return None if training is None else training.outputs.model_sha256


def _features(index: Path) -> str:
    return checksum(index.parent)


def _checksum(split: Path) -> str:
    return _once(_read_checksum, split, split.with_name("dataset.json"))


def _read_checksum(split: Path) -> str:
    return read_split(split).checksum


def _sha256(path: Path) -> str:
    return _once(provenance.sha256, path)


def _once(read: Callable[[Path], T], path: Path, *others: Path) -> T:
    """What `read` makes of a file, which is read once as long as the file and `others` stay as they are: hundreds of
    evaluations share a split, and one relevance matrix of some gigabytes."""
    stamps = tuple(_stamp(one) for one in (path, *others))
    found: T = _read_at(read, path.resolve(), stamps)
    return found


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file changes; None if there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


@cache
def _read_at(read: Callable[[Path], Any], path: Path, stamps: tuple[tuple[int, int] | None, ...]) -> Any:
    return read(path)
