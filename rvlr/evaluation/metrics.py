"""Metrics: rankings and their quality, query by query; docs/METHOD.md, "Evaluation".

Input: scores and relevance of a batch of Q queries over a gallery of G items, images or captions. Output: one value a
query. Callers make the batches and take the means.

A new metric is a function here and an entry in `HIT_METRICS` or `LIST_METRICS` at the end; both protocols, the file of
rankings and the comparisons of runs take the names from there. Tables and figures show those that `rvlr.report` names.

Ties: of two items with equal scores the less relevant one comes first, then the one with the lower index. A model that
gives items the same score gains nothing by it, and no number depends on the order of the gallery.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

RECALL_CUTOFFS = (1, 5, 10)
NDCG_CUTOFFS = (10, 20, 50)


def top_k(scores: np.ndarray, relevance: np.ndarray, k: int) -> np.ndarray:
    """Indices (Q, k) of the k best items of each query, best first, from scores and relevance (Q, G).

    An item with score -inf is not admissible. Raises ValueError if a query has fewer than k admissible items.
    """
    queries, gallery = scores.shape
    if not 1 <= k <= gallery:
        raise ValueError(f"k is {k}, the gallery has {gallery} items")
    _check_numbers(scores)
    threshold = np.partition(scores, gallery - k, axis=1)[:, gallery - k, None]
    if np.isneginf(threshold).any():
        raise ValueError(f"a query has fewer than {k} admissible items")
    row, item = np.nonzero(scores >= threshold)  # k items, and all that tie with the last of them
    order = np.lexsort((item, relevance[row, item], -scores[row, item], row))
    begins = np.searchsorted(row, np.arange(queries))
    best: np.ndarray = item[order[begins[:, None] + np.arange(k)]]
    return best


def top_gains(relevance: np.ndarray, k: int) -> np.ndarray:
    """The gains (Q, k) of the ideal ranking: the k highest values of each row of relevance (Q, G), descending."""
    gallery = relevance.shape[1]
    return np.sort(np.partition(relevance, gallery - k, axis=1)[:, gallery - k :], axis=1)[:, ::-1]


def dcg_at_k(gains: np.ndarray, k: int) -> np.ndarray:
    """Discounted cumulative gain (Q,), float64, of ranked gains (Q, R): the sum of gain_r / log2(r + 1) over ranks
    r = 1 .. min(k, R)."""
    gains = gains[:, :k].astype(np.float64)
    sums: np.ndarray = gains @ (1 / np.log2(np.arange(2, gains.shape[1] + 2)))
    return sums


def ndcg_at_k(gains: np.ndarray, ideal: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain (Q,), float64, between 0 and 1: NDCG@k = DCG@k / ideal DCG@k.

    The gain is linear, i.e. the relevance itself, not 2^relevance - 1. `gains` (Q, R) are the relevances in the
    order of the ranking, `ideal` (Q, R) those of the best ranking of the same admissible items. With fewer than k
    items, both sums run over all of them. Without a relevant item every ranking is as good as any other and NDCG
    is not defined: raises ValueError, so callers leave such queries out.
    """
    best = dcg_at_k(ideal, k)
    if not (best > 0).all():
        raise ValueError(f"{np.sum(~(best > 0))} queries have no relevant item, so NDCG is not defined for them")
    quotient: np.ndarray = dcg_at_k(gains, k) / best
    return quotient


def hit_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Rank (Q,), int64, from 1, of the best relevant item of each query, from scores and relevant (Q, G), bool.

    It is 1 + the number of irrelevant items that score at least as much; other relevant items do not count, so a
    query may have any number of them. Raises ValueError if a query has none.
    """
    _check_numbers(scores)
    best = np.where(relevant, scores, -np.inf).max(axis=1)
    if np.isneginf(best).any():
        raise ValueError("a query has no relevant item among the admissible")
    above: np.ndarray = np.count_nonzero((scores >= best[:, None]) & ~relevant, axis=1)
    return 1 + above


def recall_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """Recall@k (Q,), float64, in the sense of this field, a hit: 1 if a relevant item is among the first k, else 0.
    It is not the fraction of the relevant items that were found."""
    return (ranks <= k).astype(np.float64)


def r_precision(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """R-precision (Q,), float64: of the R right items of each query, counts (Q,), the share that the first R items
    contain. hits (Q, depth), bool: which items of the ranking are right, depth at least the largest R."""
    first = np.arange(hits.shape[1]) < counts[:, None]
    share: np.ndarray = (hits & first).sum(axis=1) / counts
    return share


def average_precision_at_r(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average precision at R (Q,), float64, whose mean is mAP@R (Musgrave et al. 2020, arXiv 2003.08505): the sum over
    r = 1 .. R of the share of right items among the first r where item r is right, over R. Arguments as
    `r_precision`."""
    first = np.arange(hits.shape[1]) < counts[:, None]
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    average: np.ndarray = (precision * (hits & first)).sum(axis=1) / counts
    return average


def median_rank(ranks: np.ndarray) -> float:
    """Median of the ranks (Q,) of the best relevant items, from 1; halfway between the middle two if Q is even."""
    return float(np.median(ranks))


def _check_numbers(scores: np.ndarray) -> None:
    if np.isnan(scores.max(axis=1)).any():  # the maximum of a row with a NaN is NaN
        raise ValueError("scores contain NaN; the model has diverged")


HIT_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    f"r@{k}": partial(recall_at_k, k=k) for k in RECALL_CUTOFFS
}
"""name -> values (Q,) from 0 to 1, given the ranks (Q,) of the best relevant items: of cross-modal directions."""
LIST_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    f"ndcg@{k}": partial(ndcg_at_k, k=k) for k in NDCG_CUTOFFS
}
"""name -> values (Q,) from 0 to 1, given the gains of rankings and of ideal rankings: of all other directions."""
