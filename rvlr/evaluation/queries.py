"""What both protocols share: queries in batches, so that nothing as large as a score matrix is made."""

from collections.abc import Callable

import numpy as np

from rvlr.evaluation.inputs import Inputs
from rvlr.evaluation.metrics import hit_ranks
from rvlr.log import track

QUERIES_AT_ONCE = 256

Batch = Callable[[Inputs, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Scores and relevance (Q, G) of the queries (Q,) over their gallery of G items; -inf: the item is not in it."""
Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]
"""What is kept of scores and relevance (Q, G): arrays with one row a query."""


def judge_queries(
    inputs: Inputs, name: str, direction: str, batch: Batch, judge: Judge, queries: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """The arrays of `judge` for all queries of a direction, by default all images or all captions; `name` is that of
    the protocol, for the progress."""
    if queries is None:
        queries = np.arange(len(inputs.image_embeds if direction[0] == "i" else inputs.text_embeds))
    batches = np.split(queries, range(QUERIES_AT_ONCE, len(queries), QUERIES_AT_ONCE))
    steps = track(batches, f"{name} {direction}", len(batches), "batches")
    return tuple(map(np.concatenate, zip(*(judge(*batch(inputs, rows)) for rows in steps), strict=True)))


def judge_hits(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, ...]:
    """The rank (Q,) of the best relevant item."""
    return (hit_ranks(scores, relevant),)


def match_i2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match logits of images `rows` and all captions, and which captions are theirs."""
    return inputs.scores_i2t[rows], rows[:, None] == inputs.caption_image


def match_t2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match logits of captions `rows` and all images, and which image is theirs."""
    return inputs.scores_t2i[rows], inputs.caption_image[rows, None] == np.arange(len(inputs.image_embeds))


def set_column(values: np.ndarray, columns: np.ndarray, value: float) -> np.ndarray:
    """Set one column of each row (columns: (Q,)) in place; returns `values`."""
    values[np.arange(len(values)), columns] = value
    return values
