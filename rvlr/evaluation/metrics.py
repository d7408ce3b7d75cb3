"""Metrics: rankings and their quality, query by query. Callers take the means.

Enters: scores and relevance of a batch of Q queries over a gallery of G items. Leaves: one value a query. Nothing
here knows images from captions; `rvlr.evaluation.protocols` makes the batches, small enough for memory. METHOD.md,
"Evaluation".

Ties: of two items with equal scores the less relevant one comes first, then the one with the lower index. A model
that cannot tell items apart gains nothing by it, and no number depends on the order of the gallery.
"""

import numpy as np


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
    return item[order[begins[:, None] + np.arange(k)]]


def top_gains(relevance: np.ndarray, k: int) -> np.ndarray:
    """The gains (Q, k) of an ideal ranking: the k highest values of each row of relevance (Q, G), descending."""
    gallery = relevance.shape[1]
    return np.sort(np.partition(relevance, gallery - k, axis=1)[:, gallery - k :], axis=1)[:, ::-1]


def dcg_at_k(gains: np.ndarray, k: int) -> np.ndarray:
    """Discounted cumulative gain (Q,), float64, of ranked gains (Q, R): the sum of gain_r / log2(r + 1) over ranks
    r = 1 .. min(k, R)."""
    gains = gains[:, :k].astype(np.float64)
    return gains @ (1 / np.log2(np.arange(2, gains.shape[1] + 2)))


def ndcg_at_k(gains: np.ndarray, ideal: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain (Q,), float64, between 0 and 1: NDCG@k = DCG@k / ideal DCG@k.

    The gain is linear, i.e. the relevance itself, not 2^relevance - 1. `gains` (Q, R) are the relevances in the
    order of the ranking, `ideal` (Q, R) those of the best ranking of the same admissible items. With fewer than k
    items, both sums run over what there is. Without a relevant item every ranking is as good as any other and NDCG
    is not defined: raises ValueError, so leave such queries out.
    """
    best = dcg_at_k(ideal, k)
    if not (best > 0).all():
        raise ValueError(f"{np.sum(~(best > 0))} queries have no relevant item, so NDCG is not defined for them")
    return dcg_at_k(gains, k) / best


def hit_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Rank (Q,), int64, from 1, of the best relevant item of each query, from scores and relevant (Q, G), bool.

    It is 1 + the number of irrelevant items that score at least as much; other relevant items do not count, so a
    query may have any number of them. Raises ValueError if a query has none.
    """
    _check_numbers(scores)
    best = np.where(relevant, scores, -np.inf).max(axis=1)
    if np.isneginf(best).any():
        raise ValueError("a query has no relevant item among the admissible")
    return 1 + np.count_nonzero((scores >= best[:, None]) & ~relevant, axis=1)


def recall_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """Recall@k (Q,), float64, in the sense of this field, a hit: 1 if a relevant item is among the first k, else 0.
    It is not the fraction of the relevant items that were found."""
    return (ranks <= k).astype(np.float64)


def median_rank(ranks: np.ndarray) -> float:
    """Median of the ranks (Q,) of the best relevant items, from 1; halfway between the middle two if Q is even."""
    return float(np.median(ranks))


def _check_numbers(scores: np.ndarray) -> None:
    if np.isnan(scores.max(axis=1)).any():  # the maximum of a row with a NaN is NaN
        raise ValueError("scores hold NaN; the model has diverged")
