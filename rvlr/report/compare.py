"""Differences between models: how large they are, and how certain.

Input: per-query values of runs, of protocol `corrected` or `corrected/scenes`, from `eval/rankings.npz`. Output:
difference, 95 % interval and p-value of every metric that is a mean over queries, or a combination of such means. An
image and its captions are queries that depend on each other, so they count as one, and so do the trainings of one seed.
`rvlr.report.intervals` has the statistics. N images, M per-query metrics (`PER_QUERY`), K reported ones (`REPORTED`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rvlr.config.runs import is_trained, student
from rvlr.errors import UserError
from rvlr.evaluation import rankings
from rvlr.evaluation.inputs import PER_QUERY, RECALLS
from rvlr.log import track
from rvlr.report import intervals
from rvlr.report.intervals import Estimate, Floats

BASELINE = student("continued")

# reported metric -> the per-query metrics whose means it combines, and their weights
_ALL_RECALLS = [name for names in RECALLS.values() for name in names]
MEANS = {**{f"{way}_mean": names for way, names in RECALLS.items()}, "r_mean": _ALL_RECALLS}
_CROSS_MODAL = [name for name in PER_QUERY if name.partition("_")[0] in RECALLS]
REPORTED: dict[str, dict[str, float]] = {
    **{name: {name: 1.0} for name in _CROSS_MODAL},
    **{name: dict.fromkeys(parts, 1 / len(parts)) for name, parts in MEANS.items()},
    "r_sum": dict.fromkeys(_ALL_RECALLS, 1.0),
    **{name: {name: 1.0} for name in PER_QUERY if name not in _CROSS_MODAL},
}
MIX = np.array([[parts.get(name, 0.0) for parts in REPORTED.values()] for name in PER_QUERY])

# run -> seed -> its rankings.npz, and its numbers of the protocol that is compared
Sources = Mapping[str, Mapping[int, tuple[Path, Mapping[str, float]]]]


@dataclass(frozen=True)
class PerImage:
    """The values of a model, summed over the queries of each image: sums (N, M), over counts (N, M) queries.

    queries: the arrays that define the queries, by name.
    """

    path: Path
    queries: dict[str, np.ndarray]
    sums: Floats
    counts: Floats


@dataclass(frozen=True)
class Difference:
    """A metric's difference and its 95 % interval, in percentage points, and its two-sided p-value.

    by_split: the difference on each split of the data, of which `value` is the mean. holm: the p-value adjusted for the
    number of comparisons shown; None if the metric is not among them.
    """

    value: float
    low: float
    high: float
    p: float
    by_split: tuple[float, ...]
    holm: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A run minus its reference: the seeds averaged of each, the number of images, the difference of each metric.

    covers: what intervals and p-values take as chosen by chance: `images`; `seeds` if there are two or more; `splits`
    if there are two or more.
    """

    run: str
    reference: str
    seeds: list[int]
    reference_seeds: list[int]
    images: int
    covers: list[str]
    differences: dict[str, Difference]


def compare_runs(splits: Sequence[Sources], shown: Collection[str], prefix: str = "") -> list[Comparison]:
    """Compare every trained run with the reference: `student-continued` if it exists, else the first trained run.

    splits: the results of one study on each split of the data, with the same runs and seeds; usually one. The runs are
    compared at the seeds that both have, seed by seed, or, if they have none in common, at each run's own seeds. shown:
    the metrics that readers see; p-values are adjusted for the number of these, of all runs together. prefix: as
    `rankings.read_values` takes it. Fewer than two trained runs give no comparison. Raises UserError as `read`, and if
    two files of a split contain the values of different queries.
    """
    trained = [run for run in splits[0] if is_trained(run)]
    if len(trained) < 2:
        return []
    reference = reference_of(trained)
    values = [_read_split(sources, trained, prefix) for sources in splits]
    comparisons = []
    for run in track([run for run in trained if run != reference], "compare", len(trained) - 1, "runs"):
        own, other = sorted(splits[0][run]), sorted(splits[0][reference])
        common = sorted({*own} & {*other})
        seeds = (common or own, common or other)
        parts = [_estimate(split[run], split[reference], *seeds) for split in values]
        images = sum(len(next(iter(split[run].values())).counts) for split in values)
        comparisons.append(Comparison(run, reference, *seeds, images, *_differences(parts)))
    return _adjust(comparisons, shown)


def reference_of(trained: Sequence[str]) -> str:
    """The run that the other trained runs are compared with: `student-continued` if it exists, else the first."""
    return BASELINE if BASELINE in trained else trained[0]


def intervals_of(splits: Sequence[Sources], run: str, prefix: str = "") -> dict[str, tuple[float, float]]:
    """The 95 % interval of every reported metric of one run, in percent, over what `Comparison.covers` lists.

    Arguments and errors are those of `compare_runs`.
    """
    parts = []
    for sources in splits:
        seeds = [read(*source, prefix) for source in sources[run].values()]
        for one in seeds[1:]:
            _check_same_queries(one, seeds[0])
        parts.append(intervals.estimate([np.stack([one.sums for one in seeds])], seeds[0].counts, MIX))
    low, high = intervals.average(parts).interval()
    return dict(zip(REPORTED, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _read_split(sources: Sources, trained: Sequence[str], prefix: str) -> dict[str, dict[int, PerImage]]:
    values = {run: {seed: read(*source, prefix) for seed, source in sources[run].items()} for run in trained}
    first, *others = (one for seeds in values.values() for one in seeds.values())
    for one in others:
        _check_same_queries(one, first)
    return values


def _estimate(
    run: Mapping[int, PerImage], reference: Mapping[int, PerImage], seeds: list[int], reference_seeds: list[int]
) -> Estimate:
    """The difference of a run and its reference on one split, paired by seed where the seeds are the same."""
    own = np.stack([run[seed].sums for seed in seeds])
    other = np.stack([reference[seed].sums for seed in reference_seeds])
    groups = [own - other] if seeds == reference_seeds else [own, -other]
    return intervals.estimate(groups, run[seeds[0]].counts, MIX)


def _differences(parts: Sequence[Estimate]) -> tuple[list[str], dict[str, Difference]]:
    """What the mean over splits is uncertain by, and the difference of each metric."""
    mean = intervals.average(parts)
    rows = np.stack([mean.values, *mean.interval(), mean.p_values()], axis=1).tolist()
    by_split = np.stack([part.values for part in parts], axis=1).tolist()
    found = zip(REPORTED, rows, by_split, strict=True)
    return [*mean.spreads], {
        name: Difference(value, low, high, p, tuple(each)) for name, (value, low, high, p), each in found
    }


def _adjust(comparisons: Sequence[Comparison], shown: Collection[str]) -> list[Comparison]:
    """The comparisons with p-values adjusted for their number: the metrics `shown`, of all runs."""
    family = [(one.run, name) for one in comparisons for name in shown]
    p = [one.differences[name].p for one in comparisons for name in shown]
    adjusted = dict(zip(family, intervals.holm(p), strict=True))
    return [
        replace(
            one,
            differences={
                name: replace(found, holm=adjusted.get((one.run, name))) for name, found in one.differences.items()
            },
        )
        for one in comparisons
    ]


def read(path: Path, numbers: Mapping[str, float], prefix: str = "") -> PerImage:
    """The per-query values in `rankings.npz` of a run, summed image by image; arguments and errors are those of
    `rankings.read_values`."""
    found = rankings.read_values(path, numbers, prefix)
    sums = [np.bincount(found.image_of[name], found.values[name], found.images) for name in PER_QUERY]
    counts = [np.bincount(found.image_of[name], minlength=found.images).astype(np.float64) for name in PER_QUERY]
    return PerImage(path, found.queries, np.stack(sums, axis=1), np.stack(counts, axis=1))


def _check_same_queries(one: PerImage, first: PerImage) -> None:
    for name, array in first.queries.items():
        if not np.array_equal(one.queries[name], array):
            raise UserError(
                f"{one.path} and {first.path} have values of different queries: they differ in {name}; "
                "evaluate both on the same data in the same way"
            )
