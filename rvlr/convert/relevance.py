"""Relevance matrices of the reference implementation, read and written.

docs/METHOD.md, "The authors' files": its file is flattened, captions x images. Ours is that of `rvlr.relevance`.
"""

from pathlib import Path

import numpy as np

from rvlr import arrays, config, files, provenance, relevance
from rvlr.convert.rows import CAPTIONS_PER_IMAGE
from rvlr.data.records import Split
from rvlr.errors import UserError, show
from rvlr.log import logger

SAMPLED = 200
_SCORERS = [("rouge-score", False), ("rouge-score", True), ("coco-caption", False)]


def import_relevance(path: Path, split: Split, section: config.Relevance, output: Path) -> None:
    """Write the relevance of a split, as `rvlr.relevance` does, from the reference implementation's flattened file.

    Raises UserError if the size, the range, the relevance of captions to their own image or one of `SAMPLED` values,
    which are computed again, is not what the scorer gives.
    """
    captions, images = len(split.captions), len(split.records)
    because = (
        f": {captions} captions x {images} images of {split.name!r}, flattened; the authors take the first "
        f"{CAPTIONS_PER_IMAGE} captions of each image"
    )
    flat = arrays.open_array(path, (captions * images,), because)
    if flat.dtype.kind != "f":
        raise UserError(f"{path}: {flat.dtype} found; floating-point numbers expected")
    relevance.check_words(split, section)
    theirs = flat.reshape(captions, images)
    tolerance = max(1e-5, 2 * float(np.finfo(flat.dtype).eps))
    _check_range(path, theirs, tolerance)
    agreeing = _check_sample(path, theirs, split, section, tolerance)
    _check_own(path, theirs, split, section, tolerance)
    made_from = {**provenance.identify(path), "sampled": SAMPLED, "agreeing": agreeing}
    with files.atomic_file(output) as temporary:
        arrays.write_rows(temporary, (captions, images), "relevance", lambda first, last: theirs[first:last])
        relevance.clear(output)
    relevance.describe(split, section, output, imported=made_from)


def export_relevance(path: Path, split: Split, output: Path) -> None:
    """Write the relevance matrix of a split as `<data>-rougeL.npy` of the reference implementation: captions x images,
    flattened."""
    flat = relevance.read(path, split).reshape(-1)
    with files.atomic_file(output) as temporary:
        arrays.write_rows(temporary, flat.shape, "relevance", lambda first, last: flat[first:last])


def _check_range(path: Path, theirs: np.ndarray, tolerance: float) -> None:
    for caption, row in enumerate(theirs):
        if not (row.min() >= 0 and row.max() <= 1 + tolerance):  # also false for NaN
            raise UserError(
                f"{path}: values from {row.min():g} to {row.max():g} for caption {caption} (counted from 0); a "
                "relevance lies between 0 and 1"
            )


def _check_sample(path: Path, theirs: np.ndarray, split: Split, section: config.Relevance, tolerance: float) -> int:
    """The number of sampled values that agree with the scorer. Raises UserError unless it is all."""
    rng = np.random.default_rng(0)
    pairs = list(
        zip(rng.integers(theirs.shape[0], size=SAMPLED), rng.integers(theirs.shape[1], size=SAMPLED), strict=True)
    )

    def agreeing(scorer: str, stemmer: bool) -> int:
        computed = [
            relevance.compute_pair(split.captions[caption], split.records[image].captions, scorer, stemmer)
            for caption, image in pairs
        ]
        found = [float(theirs[pair]) for pair in pairs]
        return int(np.isclose(found, computed, rtol=0, atol=tolerance).sum())

    count = agreeing(section.scorer, section.stemmer)
    logger.info("%d of %d sampled values agree with %s", count, SAMPLED, _name(section.scorer, section.stemmer))
    if count < SAMPLED:
        others = ", ".join(f"{agreeing(*other)} with {_name(*other)}" for other in _SCORERS)
        raise UserError(
            f"{path}: of {SAMPLED} sampled values agree: {others}; all must agree with the scorer given; name another "
            f"one, or captions and images are not in the order of {split.name!r}"
        )
    return count


def _check_own(path: Path, theirs: np.ndarray, split: Split, section: config.Relevance, tolerance: float) -> None:
    """A caption with a word is as relevant to its own image as can be."""
    own = theirs[np.arange(len(split.captions)), split.caption_image]
    words = np.array(
        [len(tokens) > 0 for tokens in relevance.tokenise(split.captions, section.scorer, section.stemmer)]
    )
    wrong = np.flatnonzero(words & ~(np.abs(own - 1) <= tolerance))
    if len(wrong):
        raise UserError(
            f"{path}: {len(wrong)} captions have a relevance other than 1 to their own image, the first being "
            f"{show(split.captions[wrong[0]])} with {own[wrong[0]]:g}; captions and images are not in the order of "
            f"{split.name!r}"
        )


def _name(scorer: str, stemmer: bool) -> str:
    return f"{scorer} and stemmer" if stemmer else scorer
