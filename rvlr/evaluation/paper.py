"""Protocol `paper`: the published evaluation with its accidents; docs/METHOD.md, "The paper's protocol"."""

from collections.abc import Iterable

import numpy as np
import torch

from rvlr.evaluation.inputs import LISTS, SINGLE_MODAL, Inputs, Result
from rvlr.evaluation.metrics import LIST_METRICS, NDCG_CUTOFFS, top_gains, top_k
from rvlr.evaluation.queries import judge_hits, judge_queries, match_i2t, match_t2i, set_column


def evaluate(inputs: Inputs) -> Result:
    """The paper's numbers, accidents included: those of the published code, to its rounding and its order of ties.

    - i2t, t2i: match logits.
    - i2i, t2t: cosines. The query stays in its list with similarity 0 and relevance 0.
    - i2it: cosines of images beside match logits of captions, as they are; the query is not excluded.
    - t2it: cosines of captions beside, for image j and the query of image q, the logit of image q for *j's* first
      caption, and its relevance: both matrices are read the wrong way round.

    Text queries are the first captions only. A query without a relevant item counts as 0. Equal scores stay in the
    order in which NumPy's sort leaves them, which may depend on the CPU. docs/METHOD.md, "Where the published code
    differs".
    """
    result = Result()
    for direction, batch in {"i2t": match_i2t, "t2i": match_t2i}.items():
        result.add_hits(direction, *judge_queries(inputs, "paper", direction, batch, judge_hits))
    result.add_recall_means()
    _add_lists(result, inputs, LISTS)
    return result


def single_modal(inputs: Inputs) -> Result:
    """The numbers of i2i and t2t alone, as `evaluate` has them."""
    result = Result()
    _add_lists(result, inputs, SINGLE_MODAL)
    return result


def _add_lists(result: Result, inputs: Inputs, directions: Iterable[str]) -> None:
    images = np.arange(len(inputs.image_embeds))
    for direction in directions:
        gains, ideal = judge_queries(inputs, "paper", direction, _BATCHES[direction], _judge, images)
        defined = ideal[:, 0] > 0
        for name, metric in LIST_METRICS.items():
            values = np.zeros(len(images))
            values[defined] = metric(gains[defined], ideal[defined])
            result.add(f"{direction}_{name}", values)
        result.queries[direction] = images if direction[0] == "i" else inputs.first_captions


def _i2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = _cosines(inputs.image_embeds[rows], inputs.image_embeds)
    relevance = inputs.relevance[inputs.first_captions[rows]]
    return set_column(scores, rows, 0), set_column(relevance, rows, 0)


def _t2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    own = inputs.first_captions[rows]
    scores = _cosines(inputs.text_embeds[own], inputs.text_embeds)
    return set_column(scores, own, 0), set_column(inputs.caption_relevance(rows), own, 0)


def _i2it(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = _cosines(inputs.image_embeds[rows], inputs.image_embeds)
    relevance = [inputs.relevance[inputs.first_captions[rows]], inputs.caption_relevance(rows)]
    return np.hstack([images, inputs.scores_i2t[rows]]), np.hstack(relevance)


def _t2it(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Captions come before images here, which matters for ties alone."""
    first = inputs.first_captions
    texts = _cosines(inputs.text_embeds[first[rows]], inputs.text_embeds)
    relevance = inputs.caption_relevance(rows)
    images = inputs.scores_t2i[first][:, rows].T
    return np.hstack([texts, images]), np.hstack([relevance, relevance[:, first]])


_BATCHES = {"i2i": _i2i, "t2t": _t2t, "i2it": _i2it, "t2it": _t2it}


def _cosines(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Cosines (Q, G) of embeddings (Q, E) and (G, E) in the published order of operations, in torch: among thousands of
    items some scores differ in their last bits only, and which of them comes first shows in the sixth digit."""
    first, second = (torch.from_numpy(np.ascontiguousarray(embeds)) for embeds in (queries, items))
    cosines = first @ second.T
    cosines /= torch.linalg.vector_norm(first, dim=1)[:, None]
    cosines /= torch.linalg.vector_norm(second, dim=1)
    result: np.ndarray = cosines.numpy()
    return result


def _judge(scores: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, ...]:
    """The gains of lists in the order of a reversed argsort, and of ideal lists, (Q, depth)."""
    depth = min(NDCG_CUTOFFS[-1], scores.shape[1])
    order = top_k(scores, relevance, depth)
    following = np.sort(np.partition(scores, -min(depth + 1, scores.shape[1]), axis=1)[:, -depth - 1 :], axis=1)
    for query in np.flatnonzero((np.diff(following, axis=1) == 0).any(axis=1)):  # without ties there is one order only
        order[query] = np.argsort(scores[query])[::-1][:depth]
    return np.take_along_axis(relevance, order, axis=1), top_gains(relevance, depth)
