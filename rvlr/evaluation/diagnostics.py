"""Diagnostics: how a model's embeddings lie in the shared space, and what is left of a teacher's structure in them.

Enters: embeddings of unit length and a teacher's features. Leaves: numbers by name. They judge no ranking and need no
relevance; docs/METHOD.md, "Diagnostics". N images, C captions, E the width of the embeddings, D that of features.
"""

import numpy as np

from rvlr.errors import UserError
from rvlr.evaluation.metrics import top_k

NEIGHBOURS = 10
FEWEST_IMAGES = 4  # of which the debiased CKA is defined
_ROWS = 256  # compared at once
_SAME = 1e-5  # cosines that differ by less are equal: float32 keeps no more


def measure(images: np.ndarray, texts: np.ndarray, caption_image: np.ndarray) -> dict[str, float]:
    """The geometry of image embeddings (N, E) and text embeddings (C, E), of unit length; caption_image (C,): the image
    of each caption.

    - `modality_gap`: ||mean of u - mean of v||, from 0 to 2. Liang et al., "Mind the Gap", NeurIPS 2022.
    - `mmd2`: the squared maximum mean discrepancy of the two distributions, E k(u, u') + E k(v, v') - 2 E k(u, v), with
      the Gaussian kernel of `uniformity`; the unbiased estimate, which may fall a little below 0. Gretton et al., "A
      Kernel Two-Sample Test", JMLR 13 (2012), Lemma 6.
    - `alignment`: the mean of ||u - v||^2 over captions and their images; lower is closer. Wang and Isola,
      "Understanding Contrastive Representation Learning through Alignment and Uniformity", ICML 2020, alpha = 2.
    - `uniformity_image`, `uniformity_text`: log E k(x, x') over pairs of different items, with k(x, y) =
      exp(-2 ||x - y||^2); from -8 to 0, 0: all embeddings are the same. The same source, t = 2.
    """
    within_images, within_texts = mean_kernel(images), mean_kernel(texts)
    gap = images.mean(axis=0, dtype=np.float64) - texts.mean(axis=0, dtype=np.float64)
    apart = images[caption_image] - texts
    return {
        "modality_gap": float(np.linalg.norm(gap)),
        "mmd2": within_images + within_texts - 2 * mean_kernel(images, texts),
        "alignment": float(np.square(apart).sum(axis=1, dtype=np.float64).mean()),
        "uniformity_image": float(np.log(within_images)),
        "uniformity_text": float(np.log(within_texts)),
    }


def structure(
    images: np.ndarray,
    texts: np.ndarray,
    caption_image: np.ndarray,
    teacher_images: np.ndarray,
    teacher_texts: np.ndarray,
) -> dict[str, float]:
    """What is left of a teacher's structure: image embeddings (N, E) against its image features (N, D), text embeddings
    (C, E) against its text features (C, D'). Rows of any length: only their directions count, as in rankings.

    - `image_neighbours`, `text_neighbours`: see `neighbour_overlap`. Two captions of one image are no neighbours of
      each other: matching pulls them together whatever the teacher knows, and they would fill most of ten places.
    - `image_cka`, `text_cka`: see `linear_cka`. For the same reason no two captions of one image are compared:
      `text_cka` is the mean over the first captions of all images, the second, and so on as far as every image has one.

    Raises UserError for fewer than `FEWEST_IMAGES` images, and for a row without a direction.
    """
    if len(images) < FEWEST_IMAGES:
        raise UserError(
            f"the split has {len(images)} image(s); a teacher's structure (CKA) is defined for {FEWEST_IMAGES} or more"
        )
    images, texts = _directions(images, "the model's image embeddings"), _directions(texts, "its text embeddings")
    teacher_images = _directions(teacher_images, "the teacher's image features")
    teacher_texts = _directions(teacher_texts, "the teacher's text features")
    first = np.searchsorted(caption_image, np.arange(len(images)))
    numbered = [first + number for number in range(np.bincount(caption_image).min())]
    return {
        "image_neighbours": neighbour_overlap(images, teacher_images, np.arange(len(images))),
        "text_neighbours": neighbour_overlap(texts, teacher_texts, caption_image),
        "image_cka": linear_cka(images, teacher_images),
        "text_cka": float(np.mean([linear_cka(texts[rows], teacher_texts[rows]) for rows in numbered])),
    }


def mean_kernel(one: np.ndarray, other: np.ndarray | None = None) -> float:
    """The mean of exp(-2 ||x - y||^2) over rows x of `one` (n, E) and y of `other` (m, E), all of unit length; without
    `other` over all pairs of different rows of `one`. Kernel values are made a few rows at a time."""
    columns = one if other is None else other
    total = 0.0
    for start in range(0, len(one), _ROWS):
        cosines = one[start : start + _ROWS] @ columns.T
        total += float(np.exp(4 * (cosines - 1)).sum(dtype=np.float64))
    if other is not None:
        return total / (len(one) * len(other))
    return (total - len(one)) / (len(one) * (len(one) - 1))


def neighbour_overlap(one: np.ndarray, other: np.ndarray, owner: np.ndarray) -> float:
    """The mean share, from 0 to 1, of an item's 10 nearest neighbours by cosine that are the same in two spaces.

    one (n, E) and other (n, D): unit length. owner (n,): items of one owner are no neighbours. With fewer than 10
    others, all of them are neighbours, and the overlap is 1; by chance it is 10 / (number of others). Equal cosines
    come in the order of the items in both spaces. Huh et al., "The Platonic Representation Hypothesis", ICML 2024,
    "mutual nearest neighbours".
    """
    nearest = min(NEIGHBOURS, len(owner) - int(np.bincount(owner).max()))
    shared = 0
    for start in range(0, len(owner), _ROWS):
        rows = slice(start, start + _ROWS)
        own = owner[rows, None] == owner
        found = [_nearest(space[rows] @ space.T, own, nearest) for space in (one, other)]
        shared += int((found[0][:, :, None] == found[1][:, None, :]).sum())
    return shared / (nearest * len(owner))


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """The debiased linear CKA of two sets of features (n, E) and (n, D) of the same n >= 4 items: 1 for the same
    similarities up to scale, 0 on average for unrelated ones, whatever n, E and D; it may fall a little below 0.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = X X^T, L = Y Y^T (Kornblith et al., "Similarity of Neural Network
    Representations Revisited", ICML 2019) and the unbiased HSIC of Song et al., "Feature Selection via Dependence
    Maximization", JMLR 13 (2012), equation 5, as Nguyen, Raghu and Kornblith, ICLR 2021, use it. The plain one comes
    near 1 where there are fewer items than features. Computed from the features: nothing as large as n x n is made.
    Features that are all the same, or all equally far from each other, have no structure, and the CKA is 0.
    """
    # the unbiased HSIC does not change with a common shift of all rows; without one, sums stay small
    one, other = (rows - rows.mean(axis=0) for rows in (one.astype(np.float64), other.astype(np.float64)))
    if min(np.abs(one).max(), np.abs(other).max()) < _SAME:
        return 0.0
    own = [_hsic(rows, rows) for rows in (one, other)]
    if any(part < _SAME**2 * np.square(rows.T @ rows).sum() for part, rows in zip(own, (one, other), strict=True)):
        return 0.0
    return float(_hsic(one, other) / np.sqrt(own[0] * own[1]))


def _hsic(one: np.ndarray, other: np.ndarray) -> float:
    """n (n - 3) times the unbiased HSIC of two linear kernels, from features (n, E) and (n, D)."""
    count = len(one)
    diagonals = [np.square(rows).sum(axis=1) for rows in (one, other)]
    # the row sums of both kernels without their diagonals
    sums = [rows @ rows.sum(axis=0) - diagonal for rows, diagonal in zip((one, other), diagonals, strict=True)]
    trace = np.square(one.T @ other).sum() - diagonals[0] @ diagonals[1]
    outer = sums[0].sum() * sums[1].sum() / ((count - 1) * (count - 2))
    return float(trace + outer - 2 / (count - 2) * (sums[0] @ sums[1]))


def _nearest(cosines: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """Indices (Q, count) of the items with the highest cosines (Q, n), without the query's own (Q, n)."""
    rounded = np.round(cosines / _SAME)
    rounded[own] = -np.inf
    return top_k(rounded, rounded, count)


def _directions(rows: np.ndarray, what: str) -> np.ndarray:
    """Rows (n, D) of unit length, float32. Raises UserError naming a row that has no direction."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    faulty = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(faulty):
        raise UserError(f"{what}: row {faulty[0]} has length {lengths[faulty[0], 0]}, so it is like nothing else")
    units: np.ndarray = (rows / lengths).astype(np.float32)
    return units
