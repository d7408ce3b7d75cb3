"""Differences between models: how large they are, and how sure, given the images they were tested on.

Enters: per-query values of runs, `eval/rankings.npz`, those of protocol `corrected`. Leaves: difference, 95 % interval
and p-value of every metric that is a mean over queries, or made of such means. The queries of one image, itself and its
captions, are not independent, so an image is resampled with all its queries; the gallery stays as it is. N images, Q
queries, M per-query metrics (`PER_QUERY`), K metrics reported (`REPORTED`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rvlr.config.runs import is_trained, student
from rvlr.errors import UserError
from rvlr.evaluation import rankings
from rvlr.evaluation.inputs import PER_QUERY, RECALLS
from rvlr.log import track

BASELINE = student("continued")
RESAMPLES = 10_000
AT_ONCE = 100  # resamples drawn together, a divisor of RESAMPLES
SEED = 0

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


@dataclass(frozen=True)
class PerImage:
    """The values of a model, added up image by image: sums (N, M) of counts (N, M) queries, both float64.

    queries: what says which queries these are, by name.
    """

    path: Path
    queries: dict[str, np.ndarray]
    sums: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Difference:
    """A metric's difference, its 95 % interval and its two-sided p-value; all but the last in percentage points."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """A run minus its reference: the seeds averaged of each, the images resampled, the difference of each metric."""

    run: str
    reference: str
    seeds: list[int]
    reference_seeds: list[int]
    images: int
    differences: dict[str, Difference]


def compare_runs(sources: Sources) -> list[Comparison]:
    """Compare every trained run with the reference: `student-continued` if there is one, else the first trained run.

    The values of a query are averaged over seeds first: those that both runs have or, with none in common, each run's
    own. With fewer than two trained runs there is nothing to compare. Raises UserError as `read`, and if two files
    hold the values of other queries.
    """
    trained = [run for run in sources if is_trained(run)]
    if len(trained) < 2:
        return []
    reference = BASELINE if BASELINE in trained else trained[0]
    values = {run: {seed: read(*source) for seed, source in sources[run].items()} for run in trained}
    files = [one for seeds in values.values() for one in seeds.values()]
    for one in files[1:]:
        _check_same_queries(one, files[0])
    counts = files[0].counts
    comparisons = []
    for run in track([run for run in trained if run != reference], "compare", len(trained) - 1, "runs"):
        common = sorted(values[run].keys() & values[reference].keys())
        seeds, reference_seeds = common or sorted(values[run]), common or sorted(values[reference])
        sums = _mean(values[run][seed] for seed in seeds) - _mean(values[reference][seed] for seed in reference_seeds)
        low, high = bootstrap(sums, counts, MIX)
        found = zip(difference(sums, counts, MIX), low, high, permutation(sums, counts, MIX), strict=True)
        differences = {name: Difference(*map(float, row)) for name, row in zip(REPORTED, found, strict=True)}
        comparisons.append(Comparison(run, reference, seeds, reference_seeds, len(counts), differences))
    return comparisons


def _mean(seeds: Iterable[PerImage]) -> np.ndarray:
    return np.mean([one.sums for one in seeds], axis=0)


# --- statistics ---------------------------------------------------------------------------------------------


def difference(sums: np.ndarray, counts: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """The mean differences (K,), from each image's differences added up, sums (N, M), its queries, counts (N, M), and
    mix (M, K): what a reported metric takes of each per-query metric's mean."""
    return sums.sum(axis=0) / counts.sum(axis=0) @ mix


def bootstrap(sums: np.ndarray, counts: np.ndarray, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile intervals (K,), (K,) of `difference`, whose arguments these are.

    N images are drawn with replacement, 10,000 times, the same for all metrics, each with all its queries, so that the
    number of queries varies too. Cluster bootstrap: Field and Welsh, "Bootstrapping clustered data", JRSS B 69 (2007);
    percentile interval: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Where not every
    image has a query of every metric, a resample without any query of one is left out.
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


def permutation(sums: np.ndarray, counts: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """The two-sided p-values (K,) of `difference`, whose arguments these are.

    If the models were alike, either could have given either's values for an image: 10,000 times, each image's
    differences get a random sign, the same for all metrics. p = (1 + as large or larger) / (1 + 10,000). Paired
    randomisation test: Smucker, Allan and Carterette, "A comparison of statistical significance tests for information
    retrieval evaluation", CIKM 2007; p: Phipson and Smyth, "Permutation p-values should never be zero" (2010).
    """
    generator = np.random.default_rng(SEED)
    parts = sums / counts.sum(axis=0) @ mix  # (N, K): what each image adds to the difference
    rounding = 1e-9 * np.abs(parts).sum(axis=0)  # equal sums may differ in their last digits
    observed = np.abs(parts.sum(axis=0)) - rounding
    larger = np.zeros(mix.shape[1], dtype=np.int64)
    for _ in range(RESAMPLES // AT_ONCE):
        signs = 2 * generator.integers(2, size=(AT_ONCE, len(sums)), dtype=np.int8) - 1
        larger += (np.abs(signs.astype(np.float64) @ parts) >= observed).sum(axis=0)
    return (1 + larger) / (1 + RESAMPLES)


# --- files --------------------------------------------------------------------------------------------------


def read(path: Path, numbers: Mapping[str, float]) -> PerImage:
    """The per-query values of a run's `rankings.npz`, added up image by image; arguments and errors are those of
    `rankings.read_values`."""
    found = rankings.read_values(path, numbers)
    sums = [np.bincount(found.image_of[name], found.values[name], found.images) for name in PER_QUERY]
    counts = [np.bincount(found.image_of[name], minlength=found.images).astype(np.float64) for name in PER_QUERY]
    return PerImage(path, found.queries, np.stack(sums, axis=1), np.stack(counts, axis=1))


def _check_same_queries(one: PerImage, first: PerImage) -> None:
    for name, array in first.queries.items():
        if not np.array_equal(one.queries[name], array):
            raise UserError(
                f"{one.path} and {first.path} hold values of other queries: they differ in {name}; "
                "evaluate both on the same data in the same way"
            )
