"""Metrics against hand-worked examples and slow, obvious versions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvlr.evaluation import metrics


def slow_order(scores: list[float], relevance: list[float]) -> list[int]:
    """The whole ranking of one query: by score, then the less relevant, then the lower index."""
    admissible = [item for item in range(len(scores)) if scores[item] > -math.inf]
    return sorted(admissible, key=lambda item: (-scores[item], relevance[item], item))


def slow_ndcg(scores: list[float], relevance: list[float], k: int) -> float:
    def gain(items: list[int]) -> float:
        return sum(relevance[item] / math.log2(rank + 1) for rank, item in enumerate(items[:k], 1))

    order = slow_order(scores, relevance)
    return gain(order) / gain(sorted(order, key=lambda item: -relevance[item]))


def fast_ndcg(scores: np.ndarray, relevance: np.ndarray, k: int) -> np.ndarray:
    depth = int(np.isfinite(scores[0]).sum())
    gains = np.take_along_axis(relevance, metrics.top_k(scores, relevance, depth), axis=1)
    return metrics.ndcg_at_k(gains, metrics.top_gains(relevance, depth), k)


# few distinct values, so that ties are common
values = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    queries, gallery = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rows = st.lists(st.lists(values, min_size=gallery, max_size=gallery), min_size=queries, max_size=queries)
    return np.array(draw(rows), np.float32), np.abs(np.array(draw(rows), np.float32))


@given(batches(), st.integers(1, 9))
def test_top_k_is_the_head_of_the_sorted_list(batch: tuple[np.ndarray, np.ndarray], k: int) -> None:
    scores, relevance = batch
    k = min(k, scores.shape[1])
    found = metrics.top_k(scores, relevance, k)
    expected = [slow_order(row, gains)[:k] for row, gains in zip(scores.tolist(), relevance.tolist(), strict=True)]
    assert found.tolist() == expected


@given(batches(), st.integers(1, 12))
def test_ndcg_equals_the_slow_version(batch: tuple[np.ndarray, np.ndarray], k: int) -> None:
    scores, relevance = batch
    relevance[:, 0] += 0.125  # so that something is relevant
    expected = [slow_ndcg(row, gains, k) for row, gains in zip(scores.tolist(), relevance.tolist(), strict=True)]
    assert fast_ndcg(scores, relevance, k) == pytest.approx(expected, abs=1e-12)


@given(batches(), st.randoms(use_true_random=False))
def test_order_of_the_gallery_does_not_matter(batch: tuple[np.ndarray, np.ndarray], random: object) -> None:
    scores, relevance = batch
    relevance[:, 0] += 0.125
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    assert fast_ndcg(scores, relevance, 5) == pytest.approx(fast_ndcg(scores[:, order], relevance[:, order], 5))
    relevant = relevance > 0
    ranks = metrics.hit_ranks(scores, relevant)
    assert ranks.tolist() == metrics.hit_ranks(scores[:, order], relevant[:, order]).tolist()


@given(batches())
@settings(max_examples=50)
def test_hit_ranks_equal_the_slow_version(batch: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevance = batch
    relevant = relevance > 0.25
    relevant[:, -1] = True
    expected = []
    for row, hits in zip(scores.tolist(), relevant.tolist(), strict=True):
        irrelevant_first = sorted(range(len(row)), key=lambda item: (-row[item], hits[item]))
        expected.append(1 + sum(not hits[item] for item in irrelevant_first[: first_hit(irrelevant_first, hits)]))
    assert metrics.hit_ranks(scores, relevant).tolist() == expected


def first_hit(order: list[int], hits: list[bool]) -> int:
    return next(rank for rank, item in enumerate(order) if hits[item])


def test_ndcg_by_hand() -> None:
    # ranked 0.5, 1, 0; ideal 1, 0.5, 0: (0.5 + 1 / log2 3) / (1 + 0.5 / log2 3)
    scores = np.array([[0.2, 0.9, 0.5]], np.float32)
    relevance = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert fast_ndcg(scores, relevance, 3) == pytest.approx([1.1309297536 / 1.3154648768])
    assert fast_ndcg(scores, relevance, 1) == pytest.approx([0.5])
    assert metrics.dcg_at_k(np.array([[0.5, 1.0, 0.0]]), 2) == pytest.approx([0.5 + 1 / math.log2(3)])


def test_a_perfect_ranking_has_ndcg_1() -> None:
    relevance = np.random.default_rng(0).random((5, 40), dtype=np.float32)
    for k in (1, 10, 50):
        assert fast_ndcg(relevance * 3 - 7, relevance, k) == pytest.approx([1] * 5)


def test_recall_by_hand() -> None:
    # query 0: relevant 0 and 3, the better one is second; query 1: relevant 1 is last; query 2: relevant 2 is first
    scores = np.array([[0.1, 0.9, 0.2, 0.8], [0.4, 0.1, 0.3, 0.2], [0.0, 0.1, 0.9, 0.8]], np.float32)
    relevant = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1]], bool)
    ranks = metrics.hit_ranks(scores, relevant)
    assert ranks.tolist() == [2, 4, 1]
    assert metrics.recall_at_k(ranks, 1).tolist() == [0, 0, 1]
    assert metrics.recall_at_k(ranks, 2).tolist() == [1, 0, 1]
    assert metrics.median_rank(ranks) == 2
    assert metrics.median_rank(ranks[:2]) == 3


def test_equal_scores_earn_nothing() -> None:
    scores, relevant = np.zeros((1, 20), np.float32), np.zeros((1, 20), bool)
    relevant[0, [0, 7]] = True
    assert metrics.hit_ranks(scores, relevant).tolist() == [19]
    assert metrics.top_k(scores, relevant, 3).tolist() == [[1, 2, 3]]
    assert fast_ndcg(scores, relevant.astype(np.float32), 10).tolist() == [0]


def test_inadmissible_items_are_never_listed() -> None:
    scores = np.array([[0.5, -np.inf, -3.0]], np.float32)
    relevance = np.array([[0.1, -np.inf, 0.4]], np.float32)
    assert metrics.top_k(scores, relevance, 2).tolist() == [[0, 2]]
    assert metrics.top_gains(relevance, 2) == pytest.approx(np.array([[0.4, 0.1]]))
    with pytest.raises(ValueError, match="fewer than 3 admissible"):
        metrics.top_k(scores, relevance, 3)


def test_what_cannot_be_computed_fails() -> None:
    scores, relevance = np.array([[0.5, 0.1]], np.float32), np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="1 queries have no relevant item"):
        metrics.ndcg_at_k(relevance, relevance, 2)
    with pytest.raises(ValueError, match="no relevant item"):
        metrics.hit_ranks(scores, relevance > 0)
    with pytest.raises(ValueError, match="k is 3, the gallery has 2"):
        metrics.top_k(scores, relevance, 3)
    scores[0, 1] = np.nan
    for call in (
        lambda: metrics.top_k(scores, relevance, 1),
        lambda: metrics.hit_ranks(scores, np.array([[True, False]])),
    ):
        with pytest.raises(ValueError, match="NaN"):
            call()
