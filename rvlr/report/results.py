"""Evaluations of all runs and seeds, averaged over seeds, and over splits of the data if there are several.

Input: the `eval/test.json` of every run and seed. Output: `Results`, from which tables and figures are made.
Evaluations of different data are refused, and so is an evaluation that does not agree with the files around it (see
`rvlr.report.consistency`).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from rvlr.config import runs
from rvlr.errors import UserError
from rvlr.evaluation import rankings
from rvlr.evaluation.headlines import HEADLINES
from rvlr.evaluation.inputs import OF_FEATURES
from rvlr.evaluation.protocols import SCENES
from rvlr.report import compare, consistency
from rvlr.report.compare import Comparison
from rvlr.report.consistency import RANKINGS, Counts, Evaluation

PROTOCOL = "corrected"  # the protocol whose values are kept for every query
SETTINGS = ("candidates", "subsets", "judgements")  # the settings of an evaluation that change its numbers
JUDGEMENTS = ("cxc_sha256", "eccv_sha256")  # the digests of people's judgements
HEADLINE_METRICS = [metric for columns in HEADLINES for metric in columns.values()]
LIST_HEADLINE_METRICS = [metric for columns in HEADLINES[1:] for metric in columns.values()]
"""Those that depend on relevance."""


@dataclass(frozen=True)
class Score:
    """A metric over trainings. std: the sample standard deviation, None for one training."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return self.digits(1)

    def digits(self, after: int) -> str:
        """Mean and deviation with so many digits after the point."""
        return f"{self.mean:.{after}f}" if self.std is None else f"{self.mean:.{after}f} ± {self.std:.{after}f}"


@dataclass(frozen=True)
class Results:
    """The scores of every run, `scores[protocol][run][metric]`. Runs are in the order of `runs.KINDS`.

    diagnostics: run -> name -> score, see `rvlr.evaluation.diagnostics`; no names in evaluations of older versions.
    judgements: those of people -> run -> metric -> score, see `rvlr.evaluation.judged`.
    features: the runs that are raw features, which no training made; they have the single-modal metrics alone, and are
    not in `diagnostics`.
    sources: one for each split of the data, usually one; run -> seed -> its rankings and its numbers of `PROTOCOL`, {}
    if the evaluations lack that protocol. scene_sources: the same of protocol `SCENES`. folders: where the results of
    several splits were pooled from, else empty.
    """

    split: str
    counts: Counts
    notes: list[str]
    features: frozenset[str]
    sources: Sequence[compare.Sources]
    commits: list[str | None]
    scores: dict[str, dict[str, dict[str, Score]]]
    diagnostics: dict[str, dict[str, Score]]
    folders: Sequence[Path] = ()
    scene_sources: Sequence[compare.Sources] = ()
    judgements: Mapping[str, dict[str, dict[str, Score]]] = field(default_factory=dict)

    @property
    def seeds(self) -> dict[str, list[int]]:
        """The seeds of each run."""
        return {run: sorted(seeds) for run, seeds in self.sources[0].items()}

    @property
    def runs(self) -> list[str]:
        """The names of all runs, in order."""
        return list(self.sources[0])

    def is_trained(self, run: str) -> bool:
        """Whether a run is the result of a training."""
        return runs.is_trained(run) and run not in self.features

    @property
    def where(self) -> str:
        """What was evaluated, in words."""
        return f"{len(self.sources)} {self.split} splits" if len(self.sources) > 1 else f"the {self.split} split"

    @property
    def averaged(self) -> str:
        """What means and standard deviations are over, in words; empty for a single seed and split."""
        several = {"splits": len(self.sources) > 1, "seeds": len(self.all_seeds) > 1}
        return " and ".join(what for what, more in several.items() if more)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of all runs together."""
        return sorted({seed for seeds in self.sources[0].values() for seed in seeds})

    @property
    def missing(self) -> dict[str, list[int]]:
        """The seeds that other runs have and a run has not, of the runs that lack some. Raw features, which are the
        same with every seed, lack none."""
        lacking = {run: [seed for seed in self.all_seeds if seed not in seeds] for run, seeds in self.seeds.items()}
        return {run: seeds for run, seeds in lacking.items() if seeds and run not in self.features}

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The differences between trained runs; none without the protocol `PROTOCOL`. Raises UserError as
        `compare.compare_runs`, which reads the rankings if there is more than one trained run."""
        return self._compare(self.sources, HEADLINE_METRICS) if PROTOCOL in self.scores else []

    @cached_property
    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """run -> metric of the protocol `PROTOCOL` -> its 95 % interval, see `compare.intervals_of`; not of raw
        features. Raises UserError as `comparisons`."""
        found = self.scores.get(PROTOCOL, {})
        return {run: compare.intervals_of(self.sources, run) for run in found if run not in self.features}

    @cached_property
    def scene_comparisons(self) -> list[Comparison]:
        """The same by scenes; none without the protocol `SCENES`. Recalls, which do not differ, are not counted."""
        if SCENES not in self.scores:
            return []
        return self._compare(self.scene_sources, LIST_HEADLINE_METRICS, rankings.SCENES)

    def _compare(self, splits: Sequence[compare.Sources], shown: list[str], prefix: str = "") -> list[Comparison]:
        """`compare.compare_runs` of all runs but raw features, which lack most metrics."""
        models = [{run: seeds for run, seeds in split.items() if run not in self.features} for split in splits]
        return compare.compare_runs(models, shown, prefix)


def read(evaluations: Sequence[Path]) -> Results:
    """Read evaluations and average them over seeds.

    Raises UserError naming the files if a file is not an evaluation or does not agree with the files around it, if two
    files are of the same run and seed, or if files disagree in split, counts, data, settings or metrics.
    """
    if not evaluations:
        raise UserError("no evaluations given; name at least one eval/test.json")
    return _average_all([_read_comparable(evaluations)])


def read_splits(evaluations: Mapping[Path, Sequence[Path]]) -> Results:
    """Read the evaluations of each split of the data, by the folder of its results, and average them over splits and
    seeds. Each split has the same runs and seeds. Raises UserError as `read`, and if splits differ in metrics."""
    read = [_read_comparable(paths) for paths in evaluations.values()]
    for (path, first), *others in zip(*read, strict=True):
        for other_path, other in others:
            _check_same(other_path, _metrics(other), path, _metrics(first))
    return replace(_average_all(read), folders=[*evaluations])


def _average_all(splits: Sequence[Sequence[tuple[Path, Evaluation]]]) -> Results:
    members: dict[str, list[Evaluation]] = {}
    ordered = [sorted(read, key=lambda item: runs.KINDS.index(runs.kind(item[1].run))) for read in splits]
    for read in ordered:
        own: dict[str, list[Evaluation]] = {}
        for _, one in read:
            own.setdefault(one.run, []).append(one)
        for run, group in own.items():  # features are the same with every seed
            members.setdefault(run, []).extend(group[:1] if group[0].is_of_features else group)
    firsts, every = [read[0][1] for read in splits], [one for read in splits for _, one in read]
    return Results(
        split=firsts[0].split,
        counts=Counts(
            images=sum(one.counts.images for one in firsts), captions=sum(one.counts.captions for one in firsts)
        ),
        notes=list(dict.fromkeys(note for one in firsts for note in one.notes)),
        features=frozenset(one.run for one in every if one.is_of_features),
        sources=_sources(ordered, PROTOCOL),
        commits=list(dict.fromkeys(one.provenance.commit for one in every)),
        scores={
            protocol: {run: _average([one.protocols[protocol] for one in group]) for run, group in members.items()}
            for protocol in firsts[0].protocols
        },
        diagnostics={
            run: _average([one.diagnostics for one in group])
            for run, group in members.items()
            if not group[0].is_of_features
        },
        scene_sources=_sources(ordered, SCENES),
        judgements={
            name: {
                run: _average([one.judgements[name] for one in group])
                for run, group in members.items()
                if name in group[0].judgements
            }
            for name in sorted({name for one in every for name in one.judgements})
        },
    )


def _sources(splits: Sequence[Sequence[tuple[Path, Evaluation]]], protocol: str) -> list[compare.Sources]:
    """Where the values of every query of a protocol are, and its numbers."""
    found: list[compare.Sources] = []
    for read in splits:
        sources: dict[str, dict[int, tuple[Path, dict[str, float]]]] = {}
        for path, one in read:
            sources.setdefault(one.run, {})[one.seed] = path.with_name(RANKINGS), one.protocols.get(protocol, {})
        found.append(sources)
    return found


def _read_comparable(evaluations: Sequence[Path]) -> list[tuple[Path, Evaluation]]:
    read = [(path, _read(path)) for path in evaluations]
    _check_comparable(read)
    return read


def _read(path: Path) -> Evaluation:
    evaluation = consistency.read_evaluation(path)
    for protocol, metrics in evaluation.protocols.items():
        wanted = OF_FEATURES if evaluation.is_of_features else compare.REPORTED
        missing = [metric for metric in wanted if metric not in metrics]
        if missing:
            raise UserError(f"{path}: protocol {protocol!r} lacks {', '.join(missing)}; run the evaluate stage again")
    consistency.check_evaluation(path, evaluation)
    return evaluation


def _check_comparable(read: Sequence[tuple[Path, Evaluation]]) -> None:
    seen: dict[tuple[str, int], Path] = {}
    metrics: dict[bool, tuple[Path, dict[str, object]]] = {}
    for path, evaluation in read:
        own = _metrics(evaluation)
        _check_same(path, own, *metrics.setdefault(evaluation.is_of_features, (path, own)))
        _check_same(path, _comparable(evaluation), read[0][0], _comparable(read[0][1]))
        twin = seen.setdefault((evaluation.run, evaluation.seed), path)
        if twin is not path:
            raise UserError(f"{path} and {twin} are both run {evaluation.run!r}, seed {evaluation.seed}; give one")


def _metrics(evaluation: Evaluation) -> dict[str, object]:
    """What must be the same in all evaluations of a kind."""
    return {
        "protocols and metrics": {protocol: sorted(names) for protocol, names in evaluation.protocols.items()},
        "judgements": {name: sorted(numbers) for name, numbers in evaluation.judgements.items()},
        "diagnostics": sorted(evaluation.diagnostics),
    }


def _comparable(evaluation: Evaluation) -> dict[str, object]:
    """What must be the same in all evaluations of a table."""
    return {
        "split": evaluation.split,
        "counts.images": evaluation.counts.images,
        "counts.captions": evaluation.counts.captions,
        **{f"config.{key}": evaluation.config.get(key) for key in SETTINGS},
        "inputs.split_checksum": evaluation.inputs.split_checksum,
        "inputs.relevance_sha256": evaluation.inputs.relevance_sha256,
        "inputs.scenes_sha256": evaluation.inputs.scenes_sha256,
        **{f"inputs.{key}": getattr(evaluation.inputs, key) for key in JUDGEMENTS},
        "protocols": sorted(evaluation.protocols),
    }


def _check_same(path: Path, found: dict[str, object], other: Path, wanted: dict[str, object]) -> None:
    for what, have in found.items():
        if have != wanted[what]:
            raise UserError(
                f"{path} and {other} do not belong in one table: {what} is {have} in the one and {wanted[what]} in the "
                "other; evaluate both on the same data in the same way"
            )


def _average(seeds: Sequence[dict[str, float]]) -> dict[str, Score]:
    """The mean and the standard deviation of each metric over the trainings of one run."""
    scores = {}
    for metric in seeds[0]:
        values = [metrics[metric] for metrics in seeds]
        scores[metric] = Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
    return scores
