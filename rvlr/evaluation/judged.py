"""A model measured by people's judgements of the COCO test images; docs/METHOD.md, "People's judgements".

Enters: the scores of a split and the judgements of its items (`rvlr.judgements`). Leaves: numbers by name. Image to
text and text to image are ranked as protocol `corrected` ranks them, everything else by cosine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np

from rvlr import config
from rvlr.data.records import Split
from rvlr.errors import UserError
from rvlr.evaluation import corrected
from rvlr.evaluation.inputs import CROSS_MODAL, Inputs
from rvlr.evaluation.metrics import HIT_METRICS, average_precision_at_r, r_precision, top_k
from rvlr.evaluation.queries import Batch, Judge, judge_hits, judge_queries, set_column
from rvlr.judgements import coco, correlation, cxc, eccv

POSITIVE = {"sis": 2.5, "sts": 3.0, "sits": 3.0}
"""The least rating of pairs that belong together, by the kind of pair, as in the CxC paper."""

Positives = Mapping[int, Sequence[int] | np.ndarray]
"""The right items of every query that has any, both by their places in the split."""


@dataclass(frozen=True)
class Judged:
    """The judgements that an evaluation asks for, None where it does not, and digests of their files by name."""

    by_cxc: cxc.Judgements | None = None
    by_eccv: eccv.Judgements | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


def read(section: config.Judgements, split: Split, ratings: Path | None) -> Judged:
    """Read what `section` asks for. ratings: the folder with the files of CxC.

    Raises UserError if judgements are missing, damaged or of other images, or if ratings are given that `section` does
    not ask for.
    """
    digests = {}
    if ratings is not None and not section.cxc:
        raise UserError("--cxc: evaluation.judgements.cxc is false, so no ratings are read; leave it out, or set it")
    if section.cxc:
        if ratings is None:
            raise UserError("evaluation.judgements.cxc is true, but no ratings are given; name their folder with --cxc")
        digests["cxc_sha256"] = cxc.sha256(ratings)
    if section.eccv:
        digests["eccv_sha256"] = eccv.sha256()
    return Judged(
        cxc.read(ratings, split) if section.cxc and ratings is not None else None,
        eccv.read(split) if section.eccv else None,
        digests,
    )


def measure(judged: Judged, inputs: Inputs, across: bool = True) -> dict[str, dict[str, float]]:
    """Judgements -> metric -> number. across: False for features of two encoders, which share no space."""
    numbers = {}
    if judged.by_cxc is not None:
        numbers["cxc"] = by_cxc(inputs, judged.by_cxc, across)
    if judged.by_eccv is not None and across:
        numbers["eccv"] = by_eccv(inputs, judged.by_eccv)
    return numbers


def by_cxc(inputs: Inputs, ratings: cxc.Judgements, across: bool = True) -> dict[str, float]:
    """`recalls` and `correlations` by Crisscrossed Captions. across: whether both modalities share a space; else i2t,
    t2i and sits are left out."""
    return recalls(inputs, ratings, across) | correlations(inputs, ratings, across)


def recalls(inputs: Inputs, ratings: cxc.Judgements, across: bool = True) -> dict[str, float]:
    """`WAY_r@K` in percent for i2t, t2i, i2i and t2t: whether a right item is among the first K of the list.

    The list has all images, or the first `rvlr.judgements.coco.CAPTIONS` captions of every image, but not the query.
    Right are pairs rated at least `POSITIVE`, in either order, and pairs that COCO joins: an image and its captions,
    captions of one image. `t2t_rated_r@K`: rated pairs alone. `WAY_queries`: how many have a right item; others are
    left out. Raises UserError if none has.
    """
    captions = np.flatnonzero(_gallery(inputs))
    own = np.stack([captions, inputs.caption_image[captions]])
    of_one_image = np.split(captions, np.flatnonzero(np.diff(own[1])) + 1)
    mates = np.array([pair for group in of_one_image for pair in permutations(group.tolist(), 2)]).reshape(-1, 2).T
    sits, sis, sts = (_right(getattr(ratings, kind), POSITIVE[kind]) for kind in ("sits", "sis", "sts"))
    ways: dict[str, tuple[Batch, np.ndarray]] = {
        "i2t": (corrected.i2t, np.hstack([sits, own])[::-1]),
        "t2i": (corrected.t2i, np.hstack([sits, own])),
        "i2i": (_i2i, np.hstack([sis, sis[::-1]])),
        "t2t": (_t2t, np.hstack([sts, sts[::-1], mates])),
        "t2t_rated": (_t2t, np.hstack([sts, sts[::-1]])),
    }
    numbers: dict[str, float] = {}
    for way, (batch, pairs) in ways.items():
        if not across and way in CROSS_MODAL:
            continue
        positives = _by_query(pairs)
        if not positives:
            raise UserError(f"cxc: {way}: no pair is rated as one that belongs together; give complete ratings")
        (ranks,) = _judge(inputs, "cxc", way, batch, positives, judge_hits)
        numbers |= {f"{way}_{name}": 100 * float(metric(ranks).mean()) for name, metric in HIT_METRICS.items()}
        numbers[f"{way}_queries"] = float(len(ranks))
    return numbers


def correlations(inputs: Inputs, ratings: cxc.Judgements, across: bool = True) -> dict[str, float]:
    """`KIND_spearman` and `KIND_spearman_std`, times 100, for sis, sts and sits: cosines against ratings, see
    `rvlr.judgements.correlation.sampled_spearman`. Queries are images, in sts captions."""
    numbers: dict[str, float] = {}
    images, texts = inputs.image_units, inputs.text_units
    for kind, first, second in (("sis", images, images), ("sts", texts, texts), ("sits", texts, images)):
        if not across and kind == "sits":
            continue
        rated: cxc.Pairs = getattr(ratings, kind)
        cosines = np.array([one @ other for one, other in zip(first[rated.first], second[rated.second], strict=True)])
        queries = [rated.second] if kind == "sits" else [rated.first, rated.second]
        mean, deviation = correlation.sampled_spearman(queries, rated.ratings, cosines)
        numbers |= {f"{kind}_spearman": 100 * mean, f"{kind}_spearman_std": 100 * deviation}
    return numbers


def by_eccv(inputs: Inputs, judgements: eccv.Judgements) -> dict[str, float]:
    """`WAY_map@r`, `WAY_r-precision` and `WAY_r@1` in percent for i2t and t2i by ECCV Caption, of its queries alone,
    and how many those are, `WAY_queries`. Lists as in `by_cxc`."""
    numbers: dict[str, float] = {}
    for way, batch, positives in (("i2t", corrected.i2t, judgements.i2t), ("t2i", corrected.t2i, judgements.t2i)):
        counts = np.array([positives.counts[query] for query in sorted(positives.items)])
        (hits,) = _judge(inputs, "eccv", way, batch, positives.items, _first(int(counts.max())))
        values = {
            "map@r": average_precision_at_r(hits, counts),
            "r-precision": r_precision(hits, counts),
            "r@1": hits[:, 0],
        }
        numbers |= {f"{way}_{name}": 100 * float(value.mean()) for name, value in values.items()}
        numbers[f"{way}_queries"] = float(len(hits))
    return numbers


def _judge(
    inputs: Inputs, name: str, way: str, batch: Batch, positives: Positives, judge: Judge
) -> tuple[np.ndarray, ...]:
    """What `judge` keeps of every query of `positives`, in ascending order."""
    gallery = _gallery(inputs) if way[2] == "t" else np.ones(len(inputs.image_embeds), dtype=bool)

    def judged(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, _ = batch(inputs, rows)
        right = np.zeros(scores.shape, dtype=bool)
        for row, query in enumerate(rows.tolist()):
            right[row, positives[query]] = True
        return np.where(gallery, scores, -np.inf), right

    return judge_queries(inputs, name, way, judged, judge, np.array(sorted(positives)))


def _first(depth: int) -> Judge:
    """Keeps which of the first `depth` items are right, (Q, depth) bool."""

    def judge(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.take_along_axis(right, top_k(scores, right, depth), axis=1),)

    return judge


def _i2i(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (Q, N) of images `rows` and all images but the query itself."""
    return _alike(inputs.image_units, rows)


def _t2t(inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (Q, C) of captions `rows` and all captions but the query itself."""
    return _alike(inputs.text_units, rows)


def _alike(units: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = set_column(units[rows] @ units.T, rows, -np.inf)
    return scores, scores


def _gallery(inputs: Inputs) -> np.ndarray:
    """(C,) bool: the first captions of every image, those that were judged."""
    place = np.arange(len(inputs.caption_image)) - inputs.first_captions[inputs.caption_image]
    among: np.ndarray = place < coco.CAPTIONS
    return among


def _right(pairs: cxc.Pairs, least: float) -> np.ndarray:
    """(2, P): the pairs that are rated at least so."""
    return np.stack([pairs.first, pairs.second])[:, pairs.ratings >= least]


def _by_query(pairs: np.ndarray) -> Positives:
    """pairs (2, P): queries and their right items."""
    found: dict[int, list[int]] = {}
    for query, item in pairs.T.tolist():
        found.setdefault(query, []).append(item)
    return found
