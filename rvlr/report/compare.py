"""Differences between models: how large they are, and how certain, given the images of the test set.

Input: per-query values of runs, protocol `corrected`, from `eval/rankings.npz`. Output: difference, 95 % interval and
p-value of every metric that is a mean over queries, or a combination of such means. An image and its captions are
queries that depend on each other, so an image is resampled with all its queries. The gallery is not resampled. N
images, M per-query metrics (`PER_QUERY`), K reported metrics (`REPORTED`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rvlr.config.runs import is_trained, student
from rvlr.errors import UserError
from rvlr.evaluation import rankings
from rvlr.evaluation.inputs import PER_QUERY, RECALLS
from rvlr.log import track

BASELINE = student("continued")
RESAMPLES = 10_000
AT_ONCE = 100  # resamples drawn together, a divisor of RESAMPLES
SEED = 0

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

# run -> seed -> its rankings.npz, and its numbers of protocol `corrected`
Sources = Mapping[str, Mapping[int, tuple[Path, Mapping[str, float]]]]
Floats = NDArray[np.float64]


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
    """A metric's difference and its 95 % interval, in percentage points, and its two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """A run minus its reference: the seeds averaged of each, the number of images, the difference of each metric."""

    run: str
    reference: str
    seeds: list[int]
    reference_seeds: list[int]
    images: int
    differences: dict[str, Difference]


def compare_runs(sources: Sources) -> list[Comparison]:
    """Compare every trained run with the reference: `student-continued` if it exists, else the first trained run.

    The values of a query are first averaged over seeds: over the seeds that both runs have or, if they have none in
    common, over each run's own seeds. Raw features, which lack most metrics, are left out. Fewer than two trained runs
    give no comparison. Raises UserError as `read`, and if two files contain the values of different queries.
    """
    trained = [run for run in sources if is_trained(run) and not _are_features(sources[run])]
    if len(trained) < 2:
        return []
    reference = BASELINE if BASELINE in trained else trained[0]
    values = {run: {seed: read(*source) for seed, source in sources[run].items()} for run in trained}
    first, *others = (one for seeds in values.values() for one in seeds.values())
    for one in others:
        _check_same_queries(one, first)
    comparisons = []
    for run in track([run for run in trained if run != reference], "compare", len(trained) - 1, "runs"):
        common = sorted(values[run].keys() & values[reference].keys())
        seeds, reference_seeds = common or sorted(values[run]), common or sorted(values[reference])
        sums = _mean(values[run][seed] for seed in seeds) - _mean(values[reference][seed] for seed in reference_seeds)
        low, high = bootstrap(sums, first.counts, MIX)
        p = permutation(sums, first.counts, MIX)
        found = zip(difference(sums, first.counts, MIX), low, high, p, strict=True)
        differences = {name: Difference(*map(float, row)) for name, row in zip(REPORTED, found, strict=True)}
        comparisons.append(Comparison(run, reference, seeds, reference_seeds, len(sums), differences))
    return comparisons


def _are_features(seeds: Mapping[int, tuple[Path, Mapping[str, float]]]) -> bool:
    return any(numbers and not REPORTED.keys() <= numbers.keys() for _, numbers in seeds.values())


def read(path: Path, numbers: Mapping[str, float]) -> PerImage:
    """The per-query values in `rankings.npz` of a run, summed image by image; arguments and errors are those of
    `rankings.read_values`."""
    found = rankings.read_values(path, numbers)
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


def _mean(seeds: Iterable[PerImage]) -> Floats:
    means: Floats = np.mean([one.sums for one in seeds], axis=0)
    return means


# --- statistics ---------------------------------------------------------------------------------------------


def difference(sums: Floats, counts: Floats, mix: Floats) -> Floats:
    """The mean differences (K,).

    sums (N, M): the differences of an image's queries, added up. counts (N, M): the number of these queries.
    mix (M, K): the weight of each per-query metric's mean in each reported metric.
    """
    means: Floats = sums.sum(axis=0) / counts.sum(axis=0) @ mix
    return means


def bootstrap(sums: Floats, counts: Floats, mix: Floats) -> tuple[Floats, Floats]:
    """The 95 % percentile intervals (K,), (K,) of `difference`, with the same arguments.

    10,000 times, N images are drawn with replacement, the same for all metrics, each with all its queries, so that the
    number of queries varies too. Cluster bootstrap: Field and Welsh, "Bootstrapping clustered data", JRSS B 69 (2007);
    percentile interval: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. A resample that
    contains no query of some metric is left out.
    """
    generator = np.random.default_rng(SEED)
    images, metrics = sums.shape
    both = np.hstack([sums, counts])
    resampled = []
    for _ in range(RESAMPLES // AT_ONCE):
        drawn = generator.integers(images, size=(AT_ONCE, images)) + images * np.arange(AT_ONCE)[:, None]
        times = np.bincount(drawn.ravel(), minlength=AT_ONCE * images).reshape(AT_ONCE, images)
        totals = times.astype(np.float64) @ both
        totals = totals[(totals[:, metrics:] > 0).all(axis=1)]
        resampled.append(totals[:, :metrics] / totals[:, metrics:] @ mix)
    low, high = np.percentile(np.concatenate(resampled), (2.5, 97.5), axis=0)
    return low, high


def permutation(sums: Floats, counts: Floats, mix: Floats) -> Floats:
    """The two-sided p-values (K,) of `difference`, with the same arguments.

    If the models were alike, the values of an image could be exchanged between them: 10,000 times, each image's
    differences get a random sign, the same for all metrics. p = (1 + number of differences as large as the observed
    one, or larger) / (1 + 10,000). Paired randomisation test: Smucker, Allan and Carterette, "A comparison of
    statistical significance tests for information retrieval evaluation", CIKM 2007; p: Phipson and Smyth, "Permutation
    p-values should never be zero" (2010).
    """
    generator = np.random.default_rng(SEED)
    parts: Floats = sums / counts.sum(axis=0) @ mix  # (N, K): what each image adds to the difference
    rounding = 1e-9 * np.abs(parts).sum(axis=0)  # equal sums may differ in their last digits
    observed = np.abs(parts.sum(axis=0)) - rounding
    larger = np.zeros(mix.shape[1], dtype=np.int64)
    for _ in range(RESAMPLES // AT_ONCE):
        signs = 2 * generator.integers(2, size=(AT_ONCE, len(sums)), dtype=np.int8) - 1
        larger += (np.abs(signs.astype(np.float64) @ parts) >= observed).sum(axis=0)
    return (1 + larger) / (1 + RESAMPLES)
