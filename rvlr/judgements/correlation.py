"""Rank correlation of similarities with people's ratings; docs/METHOD.md, "People's judgements"."""

from collections.abc import Sequence

import numpy as np

from rvlr.errors import UserError

SAMPLES = 1_000
SEED = 0


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two arrays (P,), from -1 to 1: Pearson's of their ranks, equal values sharing the
    mean of theirs. Raises UserError if all values of an array are equal, for which it is not defined."""
    ranks = [_ranks(first), _ranks(second)]
    deviations = [each - each.mean() for each in ranks]
    lengths = [float(np.sqrt(each @ each)) for each in deviations]
    if not all(lengths):
        raise UserError(
            "a rank correlation is not defined where all values are equal: give more ratings; or, if all similarities "
            "are equal, the model has collapsed"
        )
    return float(deviations[0] @ deviations[1]) / (lengths[0] * lengths[1])


def sampled_spearman(
    queries: Sequence[np.ndarray],
    ratings: np.ndarray,
    similarities: np.ndarray,
    samples: int = SAMPLES,
) -> tuple[float, float]:
    """The mean and the standard deviation of `spearman` over samples drawn with `SEED`, as in the CxC paper.

    One item is in many pairs, so that pairs are not independent. Each sample therefore takes half of the queries,
    rounded up, without replacement, and one random pair of each. queries: for each pair (P,) the ids of the items that
    have it as a query, one array a side of the pair that counts. ratings, similarities: (P,).
    """
    items = np.concatenate(queries)
    pairs = np.tile(np.arange(len(ratings)), len(queries))[np.argsort(items, kind="stable")]
    counts = np.unique(items, return_counts=True)[1]
    begins = np.cumsum(counts) - counts
    draw = np.random.default_rng(SEED)
    found = np.empty(samples)
    for number in range(samples):
        half = draw.permutation(len(counts))[: (len(counts) + 1) // 2]
        chosen = pairs[begins[half] + draw.integers(counts[half])]
        found[number] = spearman(ratings[chosen], similarities[chosen])
    return float(found.mean()), float(found.std())


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks (P,) from 1; equal values have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
    return means[inverse]
