"""Whether results are what they say they are: the record of each against the files that it was made from.

A run lies in `ROOT/seed{n}/{run}/`. Its evaluation, `eval/test.json`, records run and seed, settings, and digests of
the model, the split, the relevance, the rankings and its own numbers; its training, `config.yaml`, records seed,
settings, and digests of the model and `metrics.jsonl`. What a record is compared with lies around it: the names of its
folders, the frozen sections in `ROOT/config`, `ROOT/splits`, `ROOT/relevance`, the model beside it. What is not there
is not checked.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rvlr import files, provenance
from rvlr.config import runs
from rvlr.data.records import read_split
from rvlr.errors import UserError
from rvlr.evaluation.record import MEASURED, numbers_sha256

SEED = re.compile(r"seed(\d+)")
RANKINGS = "rankings.npz"


@dataclass(frozen=True)
class Mismatch:
    """A record that does not agree with what lies around it; `cause` is the file that says otherwise, if one does."""

    path: Path
    what: str
    cause: Path | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"

    @property
    def outdated(self) -> bool:
        """Whether `cause` was written after the record, as when a run was interrupted: the record is to be made again.
        A record that is newer was changed or copied."""
        return self.cause is not None and self.cause.stat().st_mtime > self.path.stat().st_mtime


@dataclass(frozen=True)
class Place:
    """Where a run lies; what its folders are not named for is None."""

    folder: Path
    run: str | None
    seed: int | None

    @classmethod
    def of(cls, folder: Path) -> "Place":
        """The place of a run's folder."""
        folder = folder.absolute()
        run, seed = runs.PATTERN.fullmatch(folder.name), SEED.fullmatch(folder.parent.name)
        return cls(folder, run and run[0], int(seed[1]) if run and seed else None)

    def frozen(self, section: str) -> Path | None:
        """The file of a section that these results were made from, if there is one."""
        path = self.folder.parent.parent / "config" / f"{section}.yaml"
        return path if self.seed is not None and path.is_file() else None

    def own(self, name: str) -> Path | None:
        """A file of this run, if there is one."""
        path = self.folder / name
        return path if self.run is not None and path.is_file() else None

    def beside(self, *parts: str) -> Path | None:
        """A file of the whole data set, if there is one."""
        path = self.folder.parent.parent.joinpath(*parts)
        return path if self.seed is not None and path.is_file() else None


def check_evaluation(path: Path, record: Mapping[str, Any]) -> None:
    """Raise UserError naming the file and what differs if an evaluation does not agree with what lies around it."""
    _raise(*evaluation_mismatches(path, record))


def check_metrics(path: Path) -> None:
    """Raise UserError as `check_evaluation` if `metrics.jsonl` does not belong to the training beside it."""
    _raise(*training_mismatches(path.parent))


def check_rankings(path: Path, run: str, checksum: str) -> None:
    """Raise UserError if rankings are not those of `run` on the split with this checksum, by the evaluations beside."""
    for file in sorted(path.parent.glob("*.json")):
        record = read_evaluation(file)
        _raise(*evaluation_mismatches(file, record))
        for what, have, want in (("run", record["run"], run), ("split", record["inputs"]["split_checksum"], checksum)):
            if have != want:
                raise UserError(f"{path}: rankings of {what} {have}, not of {want}; run the evaluate stage again")


def read_evaluation(path: Path) -> dict[str, Any]:
    """The JSON of an evaluation, or UserError naming the first key that is missing or of the wrong type."""
    record = files.read_json(path)
    needed: dict[tuple[str, ...], type] = {
        ("run",): str,
        ("seed",): int,
        ("split",): str,
        ("config",): dict,
        ("inputs", "split_checksum"): str,
        ("inputs", "relevance_sha256"): str,
        ("inputs", "model_sha256"): str,
        ("outputs", "rankings_sha256"): str,
        ("outputs", "numbers_sha256"): str,
    }
    for keys, kind in needed.items():
        found = record
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if type(found) is not kind:
            raise UserError(f"{path}: not an evaluation: {'.'.join(keys)} is {found!r}; run the evaluate stage again")
    return record


def evaluation_mismatches(path: Path, record: Mapping[str, Any], large: bool = True) -> Iterator[Mismatch]:
    """What an evaluation, as `read_evaluation` gives it, does not agree with. large: also read files that may be large,
    to compare their digests."""
    place, inputs = Place.of(path.absolute().parent.parent), record["inputs"]
    yield from _names(path, place, record["run"], record["seed"])
    if numbers_sha256(record) != record["outputs"]["numbers_sha256"]:
        yield Mismatch(path, f"{', '.join(MEASURED)} are not as they were measured")
    frozen = place.frozen("evaluation")
    if frozen is not None and (section := files.read_yaml(frozen)) != record["config"]:
        yield Mismatch(path, f"evaluated with {_difference(record['config'], section, frozen)}", frozen)
    sources: list[tuple[str, str, Path | None, Callable[[Path], str], bool]] = [
        ("split", inputs["split_checksum"], place.beside("splits", f"{record['split']}.jsonl"), _checksum, False),
        ("relevance", inputs["relevance_sha256"], place.beside("relevance", f"{record['split']}.npy"), _sha256, True),
        ("model", inputs["model_sha256"], place.own("config.yaml"), _recorded_model, False),
        ("model", inputs["model_sha256"], place.own("model/model.safetensors"), _sha256, True),
        ("rankings", record["outputs"]["rankings_sha256"], path.with_name(RANKINGS), _sha256, True),
    ]
    for what, want, source, digest, reads_much in sources:
        if source is None or (reads_much and not large):
            continue
        if not source.is_file():
            yield Mismatch(path, f"{source} is missing, though there is an evaluation")
        elif (have := digest(source)) not in (want, None):
            yield Mismatch(path, f"made from another {what} than {source} ({want[:12]}…, not {have[:12]}…)", source)
    yield from _data_mismatches(place, record["split"])
    yield from training_mismatches(place.folder)


def _data_mismatches(place: Place, split: str) -> Iterator[Mismatch]:
    """What the records of the data that all runs share do not agree with."""
    for name, folder, file in (("dataset", "splits", "dataset.json"), ("relevance", "relevance", f"{split}.json")):
        path, frozen = place.beside(folder, file), place.frozen(name)
        if path is None or frozen is None:
            continue
        section, record = files.read_yaml(frozen), files.read_json(path)
        if name == "relevance":
            record = {"settings": {key: record.get(key) for key in section}}
        if (settings := record.get("settings", section)) != section:
            yield Mismatch(path, f"made with {_difference(settings, section, frozen)}", frozen)


def training_mismatches(folder: Path) -> Iterator[Mismatch]:
    """What the record of a training does not agree with; nothing where there is none."""
    path, place = folder / "config.yaml", Place.of(folder)
    if not path.is_file():
        return
    record = files.read_yaml(path)
    parts = {"seed": int, "settings": dict, "outputs": dict}
    if not isinstance(record, dict) or any(type(record.get(name)) is not kind for name, kind in parts.items()):
        # anybody may have a file of that name; in the folder of a run it is ours
        if place.run is not None:
            yield Mismatch(path, "not the record of a training, which has seed, settings and outputs")
        return
    yield from _names(path, place, place.run, record["seed"])
    frozen = place.frozen(place.run) if place.run else None
    if frozen is not None and (section := files.read_yaml(frozen)) != record["settings"]:
        yield Mismatch(path, f"trained with {_difference(record['settings'], section, frozen)}", frozen)
    metrics = folder / "metrics.jsonl"
    if metrics.is_file() and _sha256(metrics) != record["outputs"].get("metrics_sha256"):
        # both are written together: neither is older than the other
        yield Mismatch(metrics, f"not the log of the training that {path} records")


def _raise(*mismatches: Mismatch) -> None:
    if mismatches:
        raise UserError("\n".join([*dict.fromkeys(map(str, mismatches)), remedy(mismatches)]))


def remedy(mismatches: Sequence[Mismatch]) -> str:
    """How to make the records again."""
    command = shlex.join(["rm", *dict.fromkeys(str(one.path) for one in mismatches)])
    return f"changed or copied: restore what belongs there, or have it made again: {command}; snakemake"


def _names(path: Path, place: Place, run: str | None, seed: int) -> Iterator[Mismatch]:
    if place.run is not None and run != place.run:
        yield Mismatch(path, f"the record is of run {run}, the folder of {place.run}")
    if place.seed is not None and seed != place.seed:
        yield Mismatch(path, f"the record is of seed {seed}, the folder of {place.seed}")


def _difference(record: Any, section: Any, frozen: Path) -> str:
    """The first setting that differs, in words."""
    keys: list[str] = []
    while isinstance(record, dict) and isinstance(section, dict):
        key = next(key for key in [*record, *section] if record.get(key, ...) != section.get(key, ...))
        keys.append(key)
        record, section = record.get(key, "nothing"), section.get(key, "nothing")
    return f"{'.'.join(keys) or 'other settings:'} {record!r}, {frozen} has {section!r}"


def _checksum(split: Path) -> str:
    return read_split(split).checksum


def _recorded_model(path: Path) -> str | None:
    """The digest of the model in the record of its training; None if it is no such record, which is told elsewhere."""
    record = files.read_yaml(path)
    outputs = record.get("outputs") if isinstance(record, dict) else None
    return outputs.get("model_sha256") if isinstance(outputs, dict) else None


def _sha256(path: Path) -> str:
    status = path.stat()
    return _digest_of(path.resolve(), status.st_mtime_ns, status.st_size)


@cache
def _digest_of(path: Path, modified: int, size: int) -> str:
    """Many evaluations share one relevance matrix, which has gigabytes."""
    return provenance.sha256(path)
