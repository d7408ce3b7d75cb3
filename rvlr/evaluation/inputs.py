"""What protocols work on and what they return: `Inputs`, `Result`, and the names of directions and numbers.

N images, C captions, E the width of the embedding space, Q queries. Directions: i2t and t2i are cross-modal, i2i and
t2t single-modal, i2it and t2it mixed. A number is named after its direction and its metric, such as `i2t_r@1`.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rvlr.errors import UserError
from rvlr.evaluation.metrics import HIT_METRICS, LIST_METRICS, RECALL_CUTOFFS, median_rank

NOT_A_CANDIDATE = -100.0
"""The match logit of a pair that was not re-ranked."""
RANKING_DEPTH = 100
CROSS_MODAL = ("i2t", "t2i")
SINGLE_MODAL = ("i2i", "t2t")
MIXED = ("i2it", "t2it")
LISTS = ("i2i", "t2t", "i2it", "t2it")
"""Directions with graded relevance, whose whole lists are judged."""
RECALLS = {way: [f"{way}_r@{k}" for k in RECALL_CUTOFFS] for way in CROSS_MODAL}
PER_QUERY = [
    *(f"{way}_{name}" for way in CROSS_MODAL for name in HIT_METRICS),
    *(f"{way}_{name}" for way in LISTS for name in LIST_METRICS),
]
"""The numbers that are means over queries."""
OF_FEATURES = [f"{way}_{name}" for way in SINGLE_MODAL for name in LIST_METRICS]
"""The numbers that raw features of two encoders have, which share no space."""


@dataclass(frozen=True)
class Inputs:
    """A model's scores of one split, and how relevant its items are.

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

    @classmethod
    def of_features(
        cls, image: np.ndarray, text: np.ndarray, relevance: np.ndarray, caption_image: np.ndarray
    ) -> "Inputs":
        """Raw features (N, D_image) and (C, D_text) of two encoders, for the single-modal directions alone. The
        narrower get zeros at the end, which change no cosine within a modality; cosines across mean nothing."""
        width = max(image.shape[1], text.shape[1])
        images, texts = (np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in (image, text))
        unscored = np.broadcast_to(np.float32(NOT_A_CANDIDATE), relevance.shape)
        return cls(images, texts, unscored.T, unscored, relevance, caption_image)

    @cached_property
    def image_units(self) -> np.ndarray:
        """(N, E) float32, length 1."""
        return unit_length(self.image_embeds, "image_embeds")

    @cached_property
    def text_units(self) -> np.ndarray:
        """(C, E) float32, length 1."""
        return unit_length(self.text_embeds, "text_embeds")

    @cached_property
    def first_captions(self) -> np.ndarray:
        """(N,) the index of each image's first caption."""
        return np.searchsorted(self.caption_image, np.arange(len(self.image_embeds)))

    @cached_property
    def image_relevance(self) -> np.ndarray:
        """(N, N) relevance of image j to image q: the mean of relevance[c, j] over the captions c of q."""
        counts = np.bincount(self.caption_image).astype(np.float32)
        means: np.ndarray = np.add.reduceat(self.relevance, self.first_captions, axis=0) / counts[:, None]
        return means

    def caption_relevance(self, images: np.ndarray) -> np.ndarray:
        """(len(images), C) relevance of caption d to image i: relevance[d, i]. `images` is in ascending order."""
        first, last = images[0], images[-1]
        found: np.ndarray = np.ascontiguousarray(self.relevance[:, first : last + 1].T)[images - first]
        return found


@dataclass(frozen=True)
class Ranking:
    """The first items of every query's list: queries (Q,) int32, indices (Q, depth) int32, best first, and their scores
    (Q, depth) float32; depth is at most `RANKING_DEPTH`. In mixed lists item j < N is image j, item N + c caption c."""

    queries: np.ndarray
    indices: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Result:
    """The numbers of one protocol, and the values behind them.

    numbers: name -> value, in percent; but `*_median_rank` are ranks, and `r_sum` adds up six percentages.
    per_query: name -> (Q,) float32, whose mean is the number of that name; `*_rank` is the rank of the best relevant
    item, from 1. queries: direction -> (Q,), the queries of these values. rankings: direction -> `Ranking` of all
    queries; only of protocol `corrected`.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    per_query: dict[str, np.ndarray] = field(default_factory=dict)
    queries: dict[str, np.ndarray] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray) -> None:
        """Add values (Q,), each from 0 to 1, and their mean; both are kept in percent."""
        percent = 100 * values
        self.numbers[name] = float(percent.mean())
        self.per_query[name] = percent.astype(np.float32)

    def add_hits(self, direction: str, ranks: np.ndarray) -> None:
        """Add every metric of the ranks (Q,) of the best relevant items."""
        self.queries[direction] = np.arange(len(ranks))
        self.per_query[f"{direction}_rank"] = ranks.astype(np.float32)
        for name, metric in HIT_METRICS.items():
            self.add(f"{direction}_{name}", metric(ranks))

    def add_recall_means(self) -> None:
        """Add `*_mean` over the cut-offs, `r_mean` over both directions, and `r_sum`, all six recalls added up."""
        recalled = {way: [self.numbers[name] for name in names] for way, names in RECALLS.items()}
        for way, values in recalled.items():
            self.numbers[f"{way}_mean"] = sum(values) / len(values)
        self.numbers["r_mean"] = (self.numbers["i2t_mean"] + self.numbers["t2i_mean"]) / 2
        self.numbers["r_sum"] = sum(map(sum, recalled.values()))

    def add_median_ranks(self) -> None:
        """Add `*_median_rank`."""
        for way in CROSS_MODAL:
            self.numbers[f"{way}_median_rank"] = median_rank(self.per_query[f"{way}_rank"])


def unit_length(embeds: np.ndarray, name: str) -> np.ndarray:
    """Embeddings (rows, E) of length 1, float32. Raises UserError naming a row that has no direction."""
    lengths = np.linalg.norm(embeds, axis=1, keepdims=True)
    faulty = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(faulty):
        raise UserError(
            f"{name}: row {faulty[0]} has length {lengths[faulty[0], 0]}; the model has diverged: train it again with "
            "a lower training.learning_rate, or with training.clip_norm"
        )
    units: np.ndarray = (embeds / lengths).astype(np.float32)
    return units
