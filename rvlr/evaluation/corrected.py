"""Protocol `corrected`: the same six directions without the accidents of the published code; docs/METHOD.md,
"Evaluation"."""

from collections.abc import Iterable
from functools import partial

import numpy as np

from rvlr.errors import UserError
from rvlr.evaluation.inputs import LISTS, MIXED, NOT_A_CANDIDATE, RANKING_DEPTH, SINGLE_MODAL, Inputs, Ranking, Result
from rvlr.evaluation.metrics import LIST_METRICS, NDCG_CUTOFFS, hit_ranks, top_gains, top_k
from rvlr.evaluation.queries import Batch, judge_hits, judge_queries, match_i2t, match_t2i, set_column


def evaluate(inputs: Inputs) -> Result:
    """All numbers, with rankings.

    - i2t, t2i: candidates by match logit, then everything else by cosine. Ties count against the model.
    - i2i, t2t, i2it, t2it: the query is in neither the list nor the ideal list. Every caption is a text query.
    - Mixed lists are ranked by the cosine in the shared space for either kind of item, after each kind was
      standardised for the query: minus the mean, over the standard deviation, of its cosines with all images, or
      with all captions, itself left out. Cosines across modalities are as a whole lower than those within one (the
      modality gap), so that plain cosines would list one kind after the other. Match logits are on another scale, and
      only candidates have one. Standardised, an item is judged by how much it stands out among its kind, the order
      within a kind stays that of its cosines, and neither kind fills the list because of its scale.
    - Relevance: an image j answers caption c by relevance[c, j], and image q by the mean of that over q's captions.
      A caption d answers image q, and any caption of q, by relevance[d, q]; relevance[c, image of d] would give all
      captions of an image the same gain, and more where there are more of them. Means are less extreme than single
      values, so the ideal list of i2it has far more captions than images.
    - A query without a relevant item has no NDCG and is left out of the mean; `Result.queries` has the others.

    Raises UserError if no query of a direction has a relevant item.
    """
    result = Result()
    for direction, batch in {"i2t": i2t, "t2i": t2i}.items():
        ranks, *ranking = judge_queries(inputs, "corrected", direction, batch, _judge_hits_and_list)
        result.add_hits(direction, ranks)
        result.rankings[direction] = _ranking(*ranking)
    result.add_recall_means()
    result.add_median_ranks()
    _add_lists(result, inputs, LISTS)
    return result


def single_modal(inputs: Inputs) -> Result:
    """The numbers and rankings of i2i and t2t alone, as `evaluate` has them."""
    result = Result()
    _add_lists(result, inputs, SINGLE_MODAL)
    return result


def _add_lists(result: Result, inputs: Inputs, directions: Iterable[str]) -> None:
    for direction in directions:
        indices, scores, gains, ideal = judge_queries(inputs, "corrected", direction, _BATCHES[direction], judge_list)
        result.rankings[direction] = _ranking(indices, scores)
        defined = ideal[:, 0] > 0
        if not defined.any():
            raise UserError(
                f"{direction}: no query has a relevant item among these {len(inputs.image_embeds)} images, whose "
                "captions share no word, so NDCG is not defined; if this is one of evaluation.subsets, name larger ones"
            )
        for name, metric in LIST_METRICS.items():
            result.add(f"{direction}_{name}", metric(gains[defined], ideal[defined]))
        result.queries[direction] = np.flatnonzero(defined)


def recalls(inputs: Inputs) -> dict[str, float]:
    """The cross-modal numbers alone, which need no relevance; `training.selected_by: r_mean` selects by them."""
    result = Result()
    for direction, batch in {"i2t": i2t, "t2i": t2i}.items():
        result.add_hits(direction, *judge_queries(inputs, "corrected", direction, batch, judge_hits))
    result.add_recall_means()
    result.add_median_ranks()
    return result.numbers


def balanced(inputs: Inputs) -> dict[str, float]:
    """The cross-modal numbers, NDCG@10 of the other directions, and the three ways in one: `balanced` is the mean of
    `r_mean`, `single_modal` (mean NDCG@10 of i2i and t2t) and `mixed` (of i2it and t2it). Raises as `evaluate`."""
    found = evaluate(inputs).numbers
    lists = {f"{direction}_ndcg@10": found[f"{direction}_ndcg@10"] for direction in LISTS}
    i2i, t2t, i2it, t2it = lists.values()
    single_modal, mixed = (i2i + t2t) / 2, (i2it + t2it) / 2
    return {
        **{name: value for name, value in found.items() if "ndcg" not in name},
        **lists,
        "single_modal": single_modal,
        "mixed": mixed,
        "balanced": (found["r_mean"] + single_modal + mixed) / 3,
    }


def i2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (Q, C) of images `rows` and all captions, as they are ranked, and which captions are theirs."""
    scores, relevant = match_i2t(inputs, rows)
    return _complete(scores, inputs.image_units[rows] @ inputs.text_units.T), relevant


def t2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (Q, N) of captions `rows` and all images, as they are ranked, and which image is theirs."""
    scores, relevant = match_t2i(inputs, rows)
    return _complete(scores, inputs.text_units[rows] @ inputs.image_units.T), relevant


def _i2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = inputs.image_units[rows] @ inputs.image_units.T
    return set_column(scores, rows, -np.inf), set_column(inputs.image_relevance[rows], rows, -np.inf)


def _t2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = inputs.text_units[rows] @ inputs.text_units.T
    relevance = inputs.caption_relevance(inputs.caption_image[rows])
    return set_column(scores, rows, -np.inf), set_column(relevance, rows, -np.inf)


def _mixed(direction: str, inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, texts = mixed_cosines(direction, inputs.image_units, inputs.text_units, rows)
    return np.hstack([standardise(images), standardise(texts)]), mixed_relevance(direction, inputs, rows)


def mixed_cosines(
    direction: str, images: np.ndarray, texts: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (Q, N) with all images and (Q, C) with all captions of the queries `rows` (Q,), images in direction i2it
    and captions in t2it; images (N, E) and texts (C, E): of unit length. -inf: the query itself."""
    queries, own = (images[rows], 0) if direction == "i2it" else (texts[rows], 1)
    found = queries @ images.T, queries @ texts.T
    set_column(found[own], rows, -np.inf)
    return found


def mixed_relevance(direction: str, inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """Relevance (Q, N + C) of all images and all captions to the queries `rows` (Q,), see `evaluate`; -inf: the query
    itself."""
    if direction == "i2it":
        return np.hstack([set_column(inputs.image_relevance[rows], rows, -np.inf), inputs.caption_relevance(rows)])
    texts = inputs.caption_relevance(inputs.caption_image[rows])
    return np.hstack([inputs.relevance[rows], set_column(texts, rows, -np.inf)])


_BATCHES: dict[str, Batch] = {"i2i": _i2i, "t2t": _t2t, **{name: partial(_mixed, name) for name in MIXED}}


def judge_list(scores: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, ...]:
    """The list as indices, scores and gains (Q, depth), and the gains of the ideal list."""
    depth = min(RANKING_DEPTH, int(np.isfinite(scores[0]).sum()))
    order = top_k(scores, relevance, depth)
    gains = np.take_along_axis(relevance, order, axis=1)
    ideal = top_gains(relevance, min(depth, NDCG_CUTOFFS[-1]))
    return order.astype(np.int32), np.take_along_axis(scores, order, axis=1), gains, ideal


def _judge_hits_and_list(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, ...]:
    """The rank (Q,) of the best relevant item, and the list as indices and scores (Q, depth)."""
    return hit_ranks(scores, relevant), *judge_list(scores, relevant)[:2]


def _ranking(indices: np.ndarray, scores: np.ndarray) -> Ranking:
    return Ranking(np.arange(len(indices), dtype=np.int32), indices, scores)


def _complete(scores: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Match logits of the candidates; all other items follow at least 1 below the last candidate, by cosine."""
    candidate = scores > NOT_A_CANDIDATE
    if not candidate.any(axis=1).all():
        raise ValueError("a query has no candidate, or scores that are not numbers")
    lowest = np.where(candidate, scores, np.inf).min(axis=1, keepdims=True)
    return np.where(candidate, scores, lowest + cosines - 2)


def standardise(scores: np.ndarray) -> np.ndarray:
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
