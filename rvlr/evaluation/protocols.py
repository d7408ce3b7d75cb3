"""Protocols: which queries rank which gallery by which score, and the numbers that come out.

Enters: embeddings, match logits and relevance of a split, see `Inputs`. Leaves: a `Result`. `paper` gives the numbers
of METHOD.md "Evaluation, the paper's protocol" with everything that section and "Where the published code differs"
name; `corrected` mends what is wrong with them. N images, C captions, E the width of the shared embedding space.

Directions: i2t and t2i are cross-modal, i2i and t2t single-modal, i2it and t2it mixed. In a mixed list, index j < N is
image j and index N + c is caption c.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rvlr.errors import UserError
from rvlr.evaluation import metrics
from rvlr.log import track

NOT_A_CANDIDATE = -100.0
RECALL_CUTOFFS = (1, 5, 10)
NDCG_CUTOFFS = (10, 20, 50)
RANKING_DEPTH = 100
QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Inputs:
    """What a model and the captions say about a split.

    image_embeds (N, E) and text_embeds (C, E): of any length above 0; cosines are taken. scores_i2t (N, C) and
    scores_t2i (C, N): match logits of each query's candidates, `NOT_A_CANDIDATE` elsewhere. relevance (C, N): see
    `rvlr.relevance`, may be memory-mapped. caption_image (C,): the image each caption belongs to, in ascending order,
    each image at least once. All float32 but the last. Raises ValueError if they do not fit together, UserError for
    fewer than two images.
    """

    image_embeds: np.ndarray
    text_embeds: np.ndarray
    scores_i2t: np.ndarray
    scores_t2i: np.ndarray
    relevance: np.ndarray
    caption_image: np.ndarray

    def __post_init__(self) -> None:
        images, captions = len(self.image_embeds), len(self.text_embeds)
        if images < 2:
            raise UserError(f"the split has {images} image(s); retrieval needs at least 2")
        shapes = {"scores_i2t": (images, captions), "scores_t2i": (captions, images), "relevance": (captions, images)}
        shapes |= {"caption_image": (captions,), "text_embeds": (captions, self.image_embeds.shape[1])}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: shape {getattr(self, name).shape} found, {shape} expected")
        if not np.array_equal(np.unique(self.caption_image), np.arange(images)):
            raise ValueError("caption_image: every image needs a caption, and every caption one of the images")
        if (np.diff(self.caption_image) < 0).any():
            raise ValueError("caption_image: captions must come in the order of their images")

    @cached_property
    def image_units(self) -> np.ndarray:
        """(N, E) float32, length 1."""
        return _unit(self.image_embeds, "image_embeds")

    @cached_property
    def text_units(self) -> np.ndarray:
        """(C, E) float32, length 1."""
        return _unit(self.text_embeds, "text_embeds")

    @cached_property
    def first_captions(self) -> np.ndarray:
        """(N,) the index of each image's first caption."""
        return np.searchsorted(self.caption_image, np.arange(len(self.image_embeds)))

    @cached_property
    def image_relevance(self) -> np.ndarray:
        """(N, N) relevance of image j to image q: the mean of relevance[c, j] over the captions c of q."""
        counts = np.bincount(self.caption_image).astype(np.float32)
        return np.add.reduceat(self.relevance, self.first_captions, axis=0) / counts[:, None]

    def caption_relevance(self, images: np.ndarray) -> np.ndarray:
        """(len(images), C) relevance of caption d to image i: relevance[d, i]. `images` is in ascending order."""
        first, last = images[0], images[-1]
        return np.ascontiguousarray(self.relevance[:, first : last + 1].T)[images - first]


@dataclass(frozen=True)
class Ranking:
    """The first items of every query's list: queries (Q,) int32, indices (Q, <= 100) int32 best first, scores alike
    float32."""

    queries: np.ndarray
    indices: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Result:
    """What a protocol gives.

    numbers: name -> value, in percent; but `*_median_rank` are ranks, and `r_sum` adds up six percentages.
    per_query: name -> float32, one value a query, whose mean is the number; `*_rank` is the rank of the best
    relevant item. queries: direction -> which queries those values belong to. rankings: direction -> `Ranking`, of
    all queries; only from `corrected`.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    per_query: dict[str, np.ndarray] = field(default_factory=dict)
    queries: dict[str, np.ndarray] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)


# Scores and relevance of a batch of queries over their gallery, both (queries, gallery), -inf for what is not in it.
Batch = Callable[[Inputs, np.ndarray], tuple[np.ndarray, np.ndarray]]


# --- the paper's -------------------------------------------------------------------------------------------------


def paper(inputs: Inputs) -> Result:
    """The paper's numbers, accidents included; equal to the published code's but for ties, which it leaves to chance.

    - i2t, t2i: match logits.
    - i2i, t2t: cosines. The query stays in its list with similarity 0 and relevance 0.
    - i2it: cosines of images beside match logits of captions, as they are; the query is not excluded.
    - t2it: cosines of captions beside, for image j and the query of image q, the logit of image q for *j's* first
      caption, and its relevance: both matrices are read the wrong way round.

    Text queries are the first captions only. A query without a relevant item counts as 0.
    """
    result = Result()
    _add_recall(result, inputs, {"i2t": _paper_i2t, "t2i": _paper_t2i})
    queries = np.arange(len(inputs.image_embeds))
    batches = {"i2i": _paper_i2i, "t2t": _paper_t2t, "i2it": _paper_i2it, "t2it": _paper_t2it}
    for direction, batch in batches.items():
        listed = _rank(inputs, direction, queries, batch)
        defined = listed.ideal[:, 0] > 0
        for k in NDCG_CUTOFFS:
            values = np.zeros(len(queries))
            values[defined] = metrics.ndcg_at_k(listed.gains[defined], listed.ideal[defined], k)
            _add(result, f"{direction}_ndcg@{k}", 100 * values)
        result.queries[direction] = queries if direction[0] == "i" else inputs.first_captions
    return result


def _paper_i2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return inputs.scores_i2t[rows], rows[:, None] == inputs.caption_image


def _paper_t2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return inputs.scores_t2i[rows], inputs.caption_image[rows, None] == np.arange(len(inputs.image_embeds))


def _paper_i2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = inputs.image_units[rows] @ inputs.image_units.T
    relevance = inputs.relevance[inputs.first_captions[rows]]
    return _put(scores, rows, 0), _put(relevance, rows, 0)


def _paper_t2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    own = inputs.first_captions[rows]
    scores = inputs.text_units[own] @ inputs.text_units.T
    return _put(scores, own, 0), _put(inputs.caption_relevance(rows), own, 0)


def _paper_i2it(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = np.hstack([inputs.image_units[rows] @ inputs.image_units.T, inputs.scores_i2t[rows]])
    relevance = [inputs.relevance[inputs.first_captions[rows]], inputs.caption_relevance(rows)]
    return scores, np.hstack(relevance)


def _paper_t2it(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = inputs.first_captions
    texts = inputs.text_units[first[rows]] @ inputs.text_units.T
    relevance = inputs.caption_relevance(rows)
    return np.hstack([inputs.scores_t2i[first][:, rows].T, texts]), np.hstack([relevance[:, first], relevance])


# --- corrected ---------------------------------------------------------------------------------------------------


def corrected(inputs: Inputs) -> Result:
    """The same six directions without the accidents.

    - i2t, t2i: candidates by match logit, then everything else by cosine; ties count against the model.
    - i2i, t2t, i2it, t2it: the query is in neither the list nor the ideal list. Every caption is a text query.
    - Mixed lists are ranked by cosine in the shared space, for either kind of item, after both kinds are standardised
      for the query: minus the mean, over the standard deviation, of its cosines with all images, or all captions,
      but itself. Cosines with the other modality are as a whole far lower than those with the own (the modality
      gap), so that plain cosines would list one kind after the other and measure the gap alone, and match logits are
      another scale altogether and known of candidates only. Standardising asks how much an item stands out among its
      kind. It leaves the order within a kind as it is, so a mixed list has the order of i2i (or t2t) in it.
    - Relevance always takes the best of the *query's* captions or an average over them, so that it does not favour
      images with many captions: caption d answers image q by relevance[d, q], and a caption of q alike (i.e. how well
      d fits the image that the query describes); image j answers caption c by relevance[c, j], and image q by the
      mean of that over q's captions.
    - A query without a relevant item has no NDCG, so it is left out of the mean; `Result.queries` lists the others.

    Raises UserError if no query of a direction has a relevant item.
    """
    result = Result()
    images, captions = (np.arange(len(embeds)) for embeds in (inputs.image_embeds, inputs.text_embeds))
    cross_modal = {"i2t": _corrected_i2t, "t2i": _corrected_t2i}
    _add_recall(result, inputs, cross_modal)
    for direction in cross_modal:
        result.numbers[f"{direction}_median_rank"] = metrics.median_rank(result.per_query[f"{direction}_rank"])
    lists = {"i2i": _corrected_i2i, "t2t": _corrected_t2t, "i2it": _corrected_i2it, "t2it": _corrected_t2it}
    for direction, batch in (cross_modal | lists).items():
        queries = images if direction[0] == "i" else captions
        listed = _rank(inputs, direction, queries, batch)
        result.rankings[direction] = listed.ranking
        if direction in lists:
            defined = listed.ideal[:, 0] > 0
            if not defined.any():
                raise UserError(f"{direction}: no query has a relevant item, NDCG is not defined; check the relevance")
            for k in NDCG_CUTOFFS:
                values = metrics.ndcg_at_k(listed.gains[defined], listed.ideal[defined], k)
                _add(result, f"{direction}_ndcg@{k}", 100 * values)
            result.queries[direction] = queries[defined]
    return result


def _corrected_i2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, relevant = _paper_i2t(inputs, rows)
    return _complete(scores, inputs.image_units[rows] @ inputs.text_units.T), relevant


def _corrected_t2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, relevant = _paper_t2i(inputs, rows)
    return _complete(scores, inputs.text_units[rows] @ inputs.image_units.T), relevant


def _corrected_i2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = inputs.image_units[rows] @ inputs.image_units.T
    return _put(scores, rows, -np.inf), _put(inputs.image_relevance[rows], rows, -np.inf)


def _corrected_t2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = inputs.text_units[rows] @ inputs.text_units.T
    relevance = inputs.caption_relevance(inputs.caption_image[rows])
    return _put(scores, rows, -np.inf), _put(relevance, rows, -np.inf)


def _corrected_i2it(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, image_relevance = _corrected_i2i(inputs, rows)
    texts = inputs.image_units[rows] @ inputs.text_units.T
    return (
        np.hstack([_standardise(images), _standardise(texts)]),
        np.hstack([image_relevance, inputs.caption_relevance(rows)]),
    )


def _corrected_t2it(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    texts, text_relevance = _corrected_t2t(inputs, rows)
    images = inputs.text_units[rows] @ inputs.image_units.T
    return (
        np.hstack([_standardise(images), _standardise(texts)]),
        np.hstack([inputs.relevance[rows], text_relevance]),
    )


# --- both --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    """Rankings with the relevance of their items, and of those of an ideal ranking, both (Q, depth) float32."""

    ranking: Ranking
    gains: np.ndarray
    ideal: np.ndarray


def _rank(inputs: Inputs, direction: str, queries: np.ndarray, batch: Batch) -> _Listed:
    indices, kept, gains, ideal = [], [], [], []
    for rows in _batches(direction, queries):
        scores, relevance = batch(inputs, rows)
        depth = min(RANKING_DEPTH, int(np.isfinite(scores[0]).sum()))
        order = metrics.top_k(scores, relevance, depth)
        indices.append(order.astype(np.int32))
        kept.append(np.take_along_axis(scores, order, axis=1))
        gains.append(np.take_along_axis(relevance, order, axis=1).astype(np.float32))
        ideal.append(metrics.top_gains(relevance, min(depth, NDCG_CUTOFFS[-1])).astype(np.float32))
    ranking = Ranking(queries.astype(np.int32), np.concatenate(indices), np.concatenate(kept))
    return _Listed(ranking, np.concatenate(gains), np.concatenate(ideal))


def _add_recall(result: Result, inputs: Inputs, directions: dict[str, Batch]) -> None:
    """Put the cross-modal recalls, their means and their sum into the result."""
    numbers = result.numbers
    for direction, batch in directions.items():
        queries = np.arange(len(inputs.image_embeds if direction == "i2t" else inputs.text_embeds))
        ranks = [metrics.hit_ranks(*batch(inputs, rows)) for rows in _batches(direction, queries)]
        result.per_query[f"{direction}_rank"] = np.concatenate(ranks).astype(np.float32)
        result.queries[direction] = queries
        for k in RECALL_CUTOFFS:
            _add(result, f"{direction}_r@{k}", 100 * metrics.recall_at_k(np.concatenate(ranks), k))
        numbers[f"{direction}_mean"] = sum(numbers[f"{direction}_r@{k}"] for k in RECALL_CUTOFFS) / len(RECALL_CUTOFFS)
    numbers["r_mean"] = sum(numbers[f"{direction}_mean"] for direction in directions) / len(directions)
    numbers["r_sum"] = sum(numbers[f"{direction}_r@{k}"] for direction in directions for k in RECALL_CUTOFFS)


def _add(result: Result, name: str, values: np.ndarray) -> None:
    result.numbers[name] = float(values.mean())
    result.per_query[name] = values.astype(np.float32)


def _batches(direction: str, queries: np.ndarray) -> Iterator[np.ndarray]:
    batches = np.split(queries, range(QUERIES_AT_ONCE, len(queries), QUERIES_AT_ONCE))
    return track(batches, direction, len(batches), "batches")


def _put(values: np.ndarray, columns: np.ndarray, value: float) -> np.ndarray:
    """Set one column a row, in place."""
    values[np.arange(len(values)), columns] = value
    return values


def _unit(embeds: np.ndarray, name: str) -> np.ndarray:
    lengths = np.linalg.norm(embeds, axis=1, keepdims=True)
    faulty = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(faulty):
        raise UserError(f"{name}: row {faulty[0]} has length {lengths[faulty[0], 0]}; the model has diverged")
    return (embeds / lengths).astype(np.float32)


def _complete(scores: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Match logits of the candidates; what is none follows at least 1 below the last candidate, by cosine."""
    candidate = scores > NOT_A_CANDIDATE
    if not candidate.any(axis=1).all():
        raise ValueError("a query has no candidate, or scores that are not numbers")
    lowest = np.where(candidate, scores, np.inf).min(axis=1, keepdims=True)
    return np.where(candidate, scores, lowest + cosines - 2)


def _standardise(scores: np.ndarray) -> np.ndarray:
    """Scores (Q, G) with mean 0 and standard deviation 1 in each row, in place; -inf stays and does not count. Equal
    scores become 0."""
    out = np.isneginf(scores)
    count = scores.shape[1] - out.sum(axis=1, keepdims=True)
    scores[out] = 0
    scores -= scores.sum(axis=1, keepdims=True, dtype=np.float64) / count
    scores[out] = 0
    deviation = np.sqrt(np.square(scores).sum(axis=1, keepdims=True, dtype=np.float64) / count)
    scores /= np.where(deviation > 0, deviation, 1)
    scores[out] = -np.inf
    return scores
