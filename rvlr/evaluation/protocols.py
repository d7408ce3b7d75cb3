"""Protocols: which queries rank which gallery by which score, and the numbers that come out.

Enters: embeddings, match logits and relevance of a split, see `Inputs`. Leaves: a `Result`. `paper` gives the numbers
of METHOD.md "Evaluation, the paper's protocol", with the accidents named under "Where the published code differs";
`corrected` mends them. N images, C captions, E the width of the embedding space, Q queries, G items. Directions: i2t
and t2i are cross-modal, i2i and t2t single-modal, i2it and t2it mixed; there, in `corrected`, item j < N is image j
and item N + c is caption c. Queries go in batches, so that nothing as large as a score matrix is made.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

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
    `rvlr.relevance`, may be memory-mapped. caption_image (C,): the image of each caption, ascending, each image at
    least once. All float32 but the last. Raises ValueError if they do not fit together, UserError for less than two
    images.
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
        shapes = {
            "text_embeds": (captions, self.image_embeds.shape[1]),
            "scores_i2t": (images, captions),
            "scores_t2i": (captions, images),
            "relevance": (captions, images),
            "caption_image": (captions,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: shape {getattr(self, name).shape} found, {shape} expected")
        if not np.array_equal(np.unique(self.caption_image), np.arange(images)):
            raise ValueError("caption_image: every image needs a caption, every caption one of the images")
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
    relevant item. queries: direction -> the queries these values belong to. rankings: direction -> `Ranking`, of all
    queries; only from `corrected`.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    per_query: dict[str, np.ndarray] = field(default_factory=dict)
    queries: dict[str, np.ndarray] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)


# Scores and relevance of a batch of queries over their gallery, both (queries, gallery), -inf for what is not in it.
Batch = Callable[[Inputs, np.ndarray], tuple[np.ndarray, np.ndarray]]


# --- the paper's -------------------------------------------------------------------------------------------------


def paper(inputs: Inputs) -> Result:
    """The paper's numbers, accidents included: those of the published code, to its rounding and its order of ties.

    - i2t, t2i: match logits.
    - i2i, t2t: cosines. The query stays in its list with similarity 0 and relevance 0.
    - i2it: cosines of images beside match logits of captions, as they are; the query is not excluded.
    - t2it: cosines of captions beside, for image j and the query of image q, the logit of image q for *j's* first
      caption, and its relevance: both matrices are read the wrong way round.

    Text queries are the first captions only. A query without a relevant item counts as 0. Equal scores stay in the
    order in which NumPy's sort leaves them, which may depend on the CPU.
    """
    result = Result()
    for direction, batch in {"i2t": _paper_i2t, "t2i": _paper_t2i}.items():
        _add_recall(result, direction, *_walk(inputs, "paper", direction, batch, _judge_hits))
    _add_recall_means(result)
    lists = {"i2i": _paper_i2i, "t2t": _paper_t2t, "i2it": _paper_i2it, "t2it": _paper_t2it}
    for direction, batch in lists.items():
        queries = np.arange(len(inputs.image_embeds))
        gains, ideal = _walk(inputs, "paper", direction, batch, _judge_as_published, queries)
        defined = ideal[:, 0] > 0
        for k in NDCG_CUTOFFS:
            values = np.zeros(len(queries))
            values[defined] = metrics.ndcg_at_k(gains[defined], ideal[defined], k)
            _add(result, f"{direction}_ndcg@{k}", 100 * values)
        result.queries[direction] = queries if direction[0] == "i" else inputs.first_captions
    return result


def _paper_i2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return inputs.scores_i2t[rows], rows[:, None] == inputs.caption_image


def _paper_t2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return inputs.scores_t2i[rows], inputs.caption_image[rows, None] == np.arange(len(inputs.image_embeds))


def _paper_i2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = _published_cosines(inputs.image_embeds[rows], inputs.image_embeds)
    relevance = inputs.relevance[inputs.first_captions[rows]]
    return _put(scores, rows, 0), _put(relevance, rows, 0)


def _paper_t2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    own = inputs.first_captions[rows]
    scores = _published_cosines(inputs.text_embeds[own], inputs.text_embeds)
    return _put(scores, own, 0), _put(inputs.caption_relevance(rows), own, 0)


def _paper_i2it(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = _published_cosines(inputs.image_embeds[rows], inputs.image_embeds)
    relevance = [inputs.relevance[inputs.first_captions[rows]], inputs.caption_relevance(rows)]
    return np.hstack([images, inputs.scores_i2t[rows]]), np.hstack(relevance)


def _paper_t2it(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Captions come before images here, which matters for ties alone."""
    first = inputs.first_captions
    texts = _published_cosines(inputs.text_embeds[first[rows]], inputs.text_embeds)
    relevance = inputs.caption_relevance(rows)
    images = inputs.scores_t2i[first][:, rows].T
    return np.hstack([texts, images]), np.hstack([relevance, relevance[:, first]])


def _published_cosines(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Cosines (Q, G) of embeddings (Q, E) and (G, E) in the published order of operations, in torch: among thousands of
    items some scores differ in their last bits only, and which of them comes first shows in the sixth digit."""
    first, second = (torch.from_numpy(np.ascontiguousarray(embeds)) for embeds in (queries, items))
    cosines = first @ second.T
    cosines /= torch.linalg.vector_norm(first, dim=1)[:, None]
    cosines /= torch.linalg.vector_norm(second, dim=1)
    return cosines.numpy()


def _judge_as_published(scores: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, ...]:
    """The gains of lists in the order of a reversed argsort, and of ideal lists, (Q, depth)."""
    depth = min(NDCG_CUTOFFS[-1], scores.shape[1])
    order = metrics.top_k(scores, relevance, depth)
    following = np.sort(np.partition(scores, -min(depth + 1, scores.shape[1]), axis=1)[:, -depth - 1 :], axis=1)
    for query in np.flatnonzero((np.diff(following, axis=1) == 0).any(axis=1)):  # without ties there is one order only
        order[query] = np.argsort(scores[query])[::-1][:depth]
    return np.take_along_axis(relevance, order, axis=1), metrics.top_gains(relevance, depth)


# --- corrected ---------------------------------------------------------------------------------------------------


def corrected(inputs: Inputs) -> Result:
    """The same six directions without the accidents.

    - i2t, t2i: candidates by match logit, then everything else by cosine. Ties count against the model.
    - i2i, t2t, i2it, t2it: the query is in neither the list nor the ideal list. Every caption is a text query.
    - Mixed lists are ranked by the cosine in the shared space for either kind of item, after each kind was
      standardised for the query: minus the mean, over the standard deviation, of its cosines with all images, or
      with all captions, itself left out. Cosines across modalities are as a whole lower than those within one (the
      modality gap), so that plain cosines would list one kind after the other; match logits are on another scale
      altogether, and known of candidates only. Standardised, an item is judged by how much it stands out among its
      kind, the order within a kind stays that of its cosines, and neither kind fills the list for being itself.
    - Relevance: an image j answers caption c by relevance[c, j], and image q by the mean of that over q's captions.
      A caption d answers image q, and any caption of q, by relevance[d, q]; relevance[c, image of d] would give all
      captions of an image the same gain, and more where there are more of them. Means are less extreme than single
      values, so that the ideal list of i2it holds far more captions than images.
    - A query without a relevant item has no NDCG and is left out of the mean; `Result.queries` has the others.

    Raises UserError if no query of a direction has a relevant item.
    """
    result = Result()
    for direction, batch in {"i2t": _corrected_i2t, "t2i": _corrected_t2i}.items():
        ranks, indices, scores, _, _ = _walk(inputs, "corrected", direction, batch, _judge_both)
        _add_recall(result, direction, ranks)
        result.rankings[direction] = _ranking(indices, scores)
    _add_recall_means(result)
    _add_median_ranks(result)
    lists = {"i2i": _corrected_i2i, "t2t": _corrected_t2t, "i2it": _corrected_i2it, "t2it": _corrected_t2it}
    for direction, batch in lists.items():
        indices, scores, gains, ideal = _walk(inputs, "corrected", direction, batch, _judge_list)
        result.rankings[direction] = _ranking(indices, scores)
        defined = ideal[:, 0] > 0
        if not defined.any():
            raise UserError(
                f"{direction}: no query has a relevant item among these {len(inputs.image_embeds)} images, whose "
                "captions share no word, so NDCG is not defined; if this is one of evaluation.subsets, name larger ones"
            )
        for k in NDCG_CUTOFFS:
            values = metrics.ndcg_at_k(gains[defined], ideal[defined], k)
            _add(result, f"{direction}_ndcg@{k}", 100 * values)
        result.queries[direction] = np.flatnonzero(defined)
    return result


def recalls(inputs: Inputs) -> dict[str, float]:
    """The cross-modal numbers of `corrected` alone, which need no relevance; training selects its weights by them."""
    result = Result()
    for direction, batch in {"i2t": _corrected_i2t, "t2i": _corrected_t2i}.items():
        _add_recall(result, direction, *_walk(inputs, "corrected", direction, batch, _judge_hits))
    _add_recall_means(result)
    _add_median_ranks(result)
    return result.numbers


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


def _walk(
    inputs: Inputs,
    protocol: str,
    direction: str,
    batch: Batch,
    judge: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]],
    queries: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """What `judge` says of scores and relevance, batch by batch, joined; of all images or captions by default."""
    if queries is None:
        queries = np.arange(len(inputs.image_embeds if direction[0] == "i" else inputs.text_embeds))
    batches = np.split(queries, range(QUERIES_AT_ONCE, len(queries), QUERIES_AT_ONCE))
    steps = track(batches, f"{protocol} {direction}", len(batches), "batches")
    return tuple(map(np.concatenate, zip(*(judge(*batch(inputs, rows)) for rows in steps), strict=True)))


def _judge_hits(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rank of the best relevant item, (Q,)."""
    return (metrics.hit_ranks(scores, relevant),)


def _judge_list(scores: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, ...]:
    """The list as indices, scores and gains (Q, depth), and the gains of the ideal list (Q, depth)."""
    depth = min(RANKING_DEPTH, int(np.isfinite(scores[0]).sum()))
    order = metrics.top_k(scores, relevance, depth)
    gains = np.take_along_axis(relevance, order, axis=1)
    ideal = metrics.top_gains(relevance, min(depth, NDCG_CUTOFFS[-1]))
    return order.astype(np.int32), np.take_along_axis(scores, order, axis=1), gains, ideal


def _judge_both(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, ...]:
    return *_judge_hits(scores, relevant), *_judge_list(scores, relevant)


def _ranking(indices: np.ndarray, scores: np.ndarray) -> Ranking:
    return Ranking(np.arange(len(indices), dtype=np.int32), indices, scores)


def _add_recall(result: Result, direction: str, ranks: np.ndarray) -> None:
    result.queries[direction] = np.arange(len(ranks))
    result.per_query[f"{direction}_rank"] = ranks.astype(np.float32)
    for k in RECALL_CUTOFFS:
        _add(result, f"{direction}_r@{k}", 100 * metrics.recall_at_k(ranks, k))


def _add_recall_means(result: Result) -> None:
    """`*_mean` over the cut-offs, `r_mean` over the two directions, `r_sum` over all six."""
    numbers = result.numbers
    recalled = {way: [numbers[f"{way}_r@{k}"] for k in RECALL_CUTOFFS] for way in ("i2t", "t2i")}
    for way, values in recalled.items():
        numbers[f"{way}_mean"] = sum(values) / len(values)
    numbers["r_mean"] = (numbers["i2t_mean"] + numbers["t2i_mean"]) / 2
    numbers["r_sum"] = sum(map(sum, recalled.values()))


def _add_median_ranks(result: Result) -> None:
    for way in ("i2t", "t2i"):
        result.numbers[f"{way}_median_rank"] = metrics.median_rank(result.per_query[f"{way}_rank"])


def _add(result: Result, name: str, values: np.ndarray) -> None:
    result.numbers[name] = float(values.mean())
    result.per_query[name] = values.astype(np.float32)


def _put(values: np.ndarray, columns: np.ndarray, value: float) -> np.ndarray:
    """Set one column a row, in place."""
    values[np.arange(len(values)), columns] = value
    return values


def _unit(embeds: np.ndarray, name: str) -> np.ndarray:
    lengths = np.linalg.norm(embeds, axis=1, keepdims=True)
    faulty = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(faulty):
        raise UserError(
            f"{name}: row {faulty[0]} has length {lengths[faulty[0], 0]}; the model has diverged: train it again with "
            "a lower training.learning_rate, or with training.clip_norm"
        )
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
