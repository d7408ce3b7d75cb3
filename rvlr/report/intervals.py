"""Intervals and p-values of differences that are uncertain in several ways at once.

Input: values per query of trainings, summed image by image. Output: `Estimate`, means with what each source of
uncertainty makes them vary by, from which 95 % intervals and p-values follow. Pure functions. N images, M per-query
metrics, K reported metrics, S seeds. Formulas and sources: docs/METHOD.md, "Differences between runs".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.05  # of the intervals
LEAST = 1e-30  # smaller p-values are not told apart
HALVINGS = 100  # of the range of p-values, after which nothing of it is left in float64

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Estimates (K,) and how uncertain they are.

    spreads: source of uncertainty, `images`, `seeds` or `splits` -> (K,), the variance of the means of its units, over
    their number. freedom: source -> the degrees of freedom of that spread. shared (K,): the variance that the spreads
    of images and seeds both contain, since each training has its own accidents with each image.
    """

    values: Floats
    spreads: Mapping[str, Floats]
    freedom: Mapping[str, int]
    shared: Floats

    @property
    def variance(self) -> Floats:
        """(K,) the variance of the estimates, from all sources, each counted once."""
        within = self.spreads["images"] + np.maximum(self.spreads.get("seeds", self.shared) - self.shared, 0)
        total: Floats = np.maximum(within, self.spreads.get("splits", within))
        return total

    def interval(self) -> tuple[Floats, Floats]:
        """The 95 % intervals (K,), (K,)."""
        half = self._critical(np.full_like(self.values, LEVEL)) * np.sqrt(self.variance)
        return self.values - half, self.values + half

    def p_values(self) -> Floats:
        """The two-sided p-values (K,) of the hypothesis that the true value is 0: the level whose interval ends at 0.

        Below 0.05 exactly where the 95 % interval is clear of 0. An estimate of 0 has 1; another estimate that does not
        vary at all has `LEAST`, as everything below that has.
        """
        deviation = np.sqrt(self.variance)
        lowest, highest = np.full_like(self.values, np.log(LEAST)), np.zeros_like(self.values)
        for _ in range(HALVINGS):
            middle = (lowest + highest) / 2
            inside = self._critical(np.exp(middle)) * deviation >= np.abs(self.values)
            lowest, highest = np.where(inside, middle, lowest), np.where(inside, highest, middle)
        p: Floats = np.where(self.values == 0, 1.0, np.exp(lowest))
        return p

    def _critical(self, level: Floats) -> Floats:
        """The two-sided quantiles (K,) of a level (K,): those of Student's t for each source, averaged with the spreads
        as weights; for an estimate without any spread, with equal weights."""
        quantiles = np.stack([-stdtrit(float(self.freedom[source]), level / 2) for source in self.spreads])
        weights = np.stack([*self.spreads.values()])
        weights = np.where(weights.sum(axis=0) > 0, weights, 1.0)
        critical: Floats = (quantiles * weights).sum(axis=0) / weights.sum(axis=0)
        return critical


def estimate(groups: Sequence[Floats], counts: Floats, mix: Floats) -> Estimate:
    """The means over queries of one test set, from several trainings.

    groups: the values (S, N, M) of the trainings of each seed, an image's queries added up. The estimate is the sum of
    the groups' means over seeds, and groups are independent of each other: one group of differences if two runs share
    their seeds, else the values of the one run, and the negative values of the other. counts (N, M): the number of
    these queries. mix (M, K): the weight of each per-query metric's mean in each reported metric.

    The source `seeds` is there if every group has two seeds or more.
    """
    images, queries = len(counts), counts.sum(axis=0)
    sums = np.sum([group.mean(axis=0) for group in groups], axis=0)
    values, size = sums.sum(axis=0) / queries @ mix, np.abs(sums).sum(axis=0) / queries @ np.abs(mix)
    values = np.where(np.abs(values) <= 1e-9 * size, 0.0, values)  # what cancels out, but for rounding
    effects = _effects(sums, counts, mix)
    spreads = {"images": images / (images - 1) * (effects**2).sum(axis=0)}
    freedom, shared = {"images": images - 1}, np.zeros_like(values)
    if all(len(group) > 1 for group in groups):
        spreads["seeds"] = np.zeros_like(values)
        freedom["seeds"] = min(len(group) for group in groups) - 1
        for group in groups:
            spreads["seeds"] += (group.sum(axis=1) / queries @ mix).var(axis=0, ddof=1) / len(group)
            each = _effects(group, counts, mix)
            shared += images / (images - 1) * each.var(axis=0, ddof=1).sum(axis=0) / len(group)
    return Estimate(values, spreads, freedom, shared)


def _effects(sums: Floats, counts: Floats, mix: Floats) -> Floats:
    """How far each image pulls the means from where they are, (..., N, K), of sums (..., N, M)."""
    queries = counts.sum(axis=0)
    means = sums.sum(axis=-2, keepdims=True) / queries
    pulls: Floats = (sums - means * counts) / queries @ mix
    return pulls


def average(splits: Sequence[Estimate]) -> Estimate:
    """The mean of estimates from splits of the data whose test sets have no image in common.

    The source `splits` is the spread of the estimates, which images and seeds explain in part. One split stays as it
    is.
    """
    count = len(splits)
    if count == 1:
        return splits[0]
    values, sources = np.stack([one.values for one in splits]), [*splits[0].spreads]
    spreads = {source: np.sum([one.spreads[source] for one in splits], axis=0) / count**2 for source in sources}
    freedom = {source: sum(one.freedom[source] for one in splits) for source in sources}
    spreads["splits"], freedom["splits"] = values.var(axis=0, ddof=1) / count, count - 1
    shared = np.sum([one.shared for one in splits], axis=0) / count**2
    return Estimate(values.mean(axis=0), spreads, freedom, shared)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, so that the chance of any false finding among them stays below the level.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted
