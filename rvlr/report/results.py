"""Evaluations as read from their files: checked, ordered, averaged over seeds.

Enters: the `eval/test.json` of every run and seed. Leaves: `Results`, from which tables and figures are made.
Evaluations of different data are refused, not averaged, and so is one that does not agree with what lies around it
(see `rvlr.report.records`).
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from rvlr import faults
from rvlr.config import runs
from rvlr.errors import UserError
from rvlr.report import compare, records

PROTOCOL = "corrected"  # the one whose values are kept query by query
SETTINGS = ("candidates", "subsets")  # those of an evaluation that change its numbers
RANKS = ("i2t_median_rank", "t2i_median_rank")
REQUIRED = list(compare.REPORTED)


class _Counts(BaseModel):
    images: int
    captions: int


class _Inputs(BaseModel):
    split_checksum: str
    relevance_sha256: str


class _Provenance(BaseModel):
    commit: str | None


class _Evaluation(BaseModel):
    """What the tables need of an evaluation's JSON."""

    run: Annotated[str, Field(pattern=f"^{runs.PATTERN.pattern}$")]
    seed: int
    split: str
    counts: _Counts
    notes: list[str]
    config: dict[str, Any]
    inputs: _Inputs
    protocols: Annotated[dict[str, dict[str, FiniteFloat]], Field(min_length=1)]
    provenance: _Provenance


@dataclass(frozen=True)
class Score:
    """A metric over seeds; `std` is the sample standard deviation, None for one seed."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} ± {self.std:.1f}"


@dataclass(frozen=True)
class Results:
    """The scores of every run, `scores[protocol][run][metric]`. Runs are in the order of `runs.KINDS`.

    sources: of every run and seed, the file of per-query values and the numbers of `PROTOCOL`, {} if it has none.
    """

    split: str
    counts: _Counts
    notes: list[str]
    sources: compare.Sources
    commits: list[str | None]
    scores: dict[str, dict[str, dict[str, Score]]]

    @property
    def seeds(self) -> dict[str, list[int]]:
        """The seeds of each run."""
        return {run: sorted(seeds) for run, seeds in self.sources.items()}

    @property
    def runs(self) -> list[str]:
        """All runs, in order."""
        return list(self.seeds)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of all runs together."""
        return sorted({seed for seeds in self.seeds.values() for seed in seeds})


def read(evaluations: Sequence[Path]) -> Results:
    """Read evaluations and average them over seeds.

    Raises UserError naming the files if one is not an evaluation or does not agree with what lies around it, if two are
    of the same run and seed, or if they disagree in split, counts, data, settings or metrics.
    """
    if not evaluations:
        raise UserError("no evaluations given; name at least one eval/test.json")
    read = [(path, _read(path)) for path in evaluations]
    _check_comparable(read)
    members: dict[str, list[_Evaluation]] = {}
    sources: dict[str, dict[int, tuple[Path, dict[str, float]]]] = {}
    for path, evaluation in sorted(read, key=lambda item: runs.KINDS.index(runs.kind(item[1].run))):
        members.setdefault(evaluation.run, []).append(evaluation)
        source = path.with_name("rankings.npz"), evaluation.protocols.get(PROTOCOL, {})
        sources.setdefault(evaluation.run, {})[evaluation.seed] = source
    first = read[0][1]
    return Results(
        split=first.split,
        counts=first.counts,
        notes=first.notes,
        sources=sources,
        commits=list(dict.fromkeys(evaluation.provenance.commit for _, evaluation in read)),
        scores={
            protocol: {run: _average([one.protocols[protocol] for one in group]) for run, group in members.items()}
            for protocol in first.protocols
        },
    )


def _read(path: Path) -> _Evaluation:
    record = records.read_evaluation(path)
    try:
        evaluation = _Evaluation.model_validate(record)
    except ValidationError as error:
        fault = faults.describe(error, _Evaluation, 1)[0]
        raise UserError(f"{path}: not an evaluation: {fault}; run the evaluate stage again") from None
    for protocol, metrics in evaluation.protocols.items():
        missing = [metric for metric in REQUIRED if metric not in metrics]
        if missing:
            raise UserError(f"{path}: protocol {protocol!r} lacks {', '.join(missing)}; run the evaluate stage again")
    records.check_evaluation(path, record)
    return evaluation


def _check_comparable(read: Sequence[tuple[Path, _Evaluation]]) -> None:
    first_path, first = read[0]
    seen: dict[tuple[str, int], Path] = {}
    for path, evaluation in read:
        for what, have, want in (
            ("split", evaluation.split, first.split),
            ("counts.images", evaluation.counts.images, first.counts.images),
            ("counts.captions", evaluation.counts.captions, first.counts.captions),
            *((f"config.{key}", evaluation.config.get(key), first.config.get(key)) for key in SETTINGS),
            ("inputs.split_checksum", evaluation.inputs.split_checksum, first.inputs.split_checksum),
            ("inputs.relevance_sha256", evaluation.inputs.relevance_sha256, first.inputs.relevance_sha256),
            ("protocols and metrics", _metrics(evaluation), _metrics(first)),
        ):
            if have != want:
                raise UserError(
                    f"{path} and {first_path} do not belong in one table: {what} is {have} in the one and "
                    f"{want} in the other; evaluate both on the same data in the same way"
                )
        twin = seen.setdefault((evaluation.run, evaluation.seed), path)
        if twin is not path:
            raise UserError(f"{path} and {twin} are both run {evaluation.run!r}, seed {evaluation.seed}; give one")


def _metrics(evaluation: _Evaluation) -> dict[str, list[str]]:
    return {protocol: sorted(metrics) for protocol, metrics in evaluation.protocols.items()}


def _average(seeds: list[dict[str, float]]) -> dict[str, Score]:
    """The metrics of one run's seeds as mean and standard deviation."""
    scores = {}
    for metric in seeds[0]:
        values = [metrics[metric] for metrics in seeds]
        scores[metric] = Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
    return scores
