"""The authors' annotations, teacher features and relevance matrices, read and written.

METHOD.md, "The authors' files". Features: theirs have one row per training caption, in the order of the annotation
files, images repeated; ours are those of `rvlr.extraction`. Relevance: theirs is flattened, captions x images; ours is
that of `rvlr.relevance`.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from rvlr import arrays, config, files, provenance, relevance
from rvlr.data.features import read_features, write_index
from rvlr.data.records import Split
from rvlr.errors import UserError, show
from rvlr.log import logger

CAPTIONS_PER_IMAGE = 5
IMAGE_FILE, TEXT_FILE = "train_image_embed_regu.npy", "train_text_embed_regu.npy"
SAMPLED = 200
MOST_WITHIN = 0.5  # of the variance that rows of one image, or of equal captions, have in random order
LEAST_REPEATED, MOST_REPEATED = 20, 5000  # rows of captions that occur more than once: fewer prove nothing
_SCORERS = [("rouge-score", False), ("rouge-score", True), ("coco-caption", False)]

Row = tuple[str, str]
"""The path of an image and one of its captions."""


def read_rows(annotations: Sequence[Path]) -> list[Row]:
    """What the rows of the authors' features stand for, given their annotation files in order.

    An image's captions beyond the fifth have no row, as in the authors' training set; only where one file alone gives
    one caption a record (COCO), all have one.
    """
    rows: list[Row] = []
    for path in annotations:
        seen: Counter[str] = Counter()
        for entry in relevance.read_entries(path):
            for caption in entry.captions[:CAPTIONS_PER_IMAGE]:
                seen[entry.image] += 1
                if len(annotations) == 1 or seen[entry.image] <= CAPTIONS_PER_IMAGE:
                    rows.append((entry.image, caption))
    return rows


def import_features(image: Path, text: Path, annotations: Sequence[Path], split: Split, output: Path) -> None:
    """Write the features of a split, as `rvlr.extraction` does, from the authors' two files.

    The rows of an image are averaged. Raises UserError if the files do not fit the annotations, lack a caption of the
    split or hold NaN or infinity, if the rows of one image or of equal captions are not alike, or if the disk is too
    small; nothing is written then.
    """
    if os.path.realpath(image) == os.path.realpath(text):
        raise UserError(f"{image}: given for images and for text; the authors have {IMAGE_FILE} and {TEXT_FILE}")
    theirs, ours = read_rows(annotations), _rows(split)
    images, texts = _open_features(image, len(theirs)), _open_features(text, len(theirs))
    order = _match(ours, theirs, f"the split {split.name!r}", ", ".join(map(str, annotations)))
    if len(theirs) > len(ours):
        logger.info("%d rows belong to captions that the split does not have; left out", len(theirs) - len(ours))
    _check_texts(text, texts, order, split)
    _check_shift(image, images, order, split)
    spread, offsets = _Spread(images.shape[1]), split.offsets

    def average(first: int, last: int) -> np.ndarray:
        rows = _finite(images, order[offsets[first] : offsets[last]], image)
        return spread.add(rows, np.diff(offsets[first : last + 1]))

    with files.atomic_file(output / "text.npy") as text_file, files.atomic_file(output / "image.npy") as image_file:
        arrays.write_rows(image_file, (len(split.records), images.shape[1]), "image features", average)
        _check_spread(spread, image, "one image")
        arrays.write_rows(
            text_file,
            (len(ours), texts.shape[1]),
            "text features",
            lambda first, last: _finite(texts, order[first:last], text),
        )
        (output / "index.json").unlink(missing_ok=True)  # never an old index beside new rows
    logger.info("rows of one image differ from their mean by up to %g", spread.largest)
    made_from = {"image": _identify(image), "text": _identify(text), "annotations": list(map(_identify, annotations))}
    write_index(output, split, imported={**made_from, "largest_deviation": spread.largest})
    logger.info("features of %d images and %d captions in %s", len(split.records), len(ours), output)


def export_features(folder: Path, split: Split, annotations: Sequence[Path], output: Path) -> None:
    """Write the features of a split as the authors' two files, in the order of their annotation files or, without any,
    in that of the split. Raises UserError if the annotations name a caption that the split lacks."""
    features, ours = read_features(folder, split), _rows(split)
    order = np.arange(len(ours))
    if annotations:
        order = _match(read_rows(annotations), ours, ", ".join(map(str, annotations)), f"the split {split.name!r}")
    parts = ((IMAGE_FILE, features.image, split.caption_image[order]), (TEXT_FILE, features.text, order))
    with ExitStack() as stack:  # both or none
        for name, rows, index in parts:
            file, shape = stack.enter_context(files.atomic_file(output / name)), (len(index), rows.shape[1])
            arrays.write_rows(file, shape, name, lambda first, last, rows=rows, index=index: rows[index[first:last]])
    logger.info("%s and %s, one row for each of %d captions, in %s", IMAGE_FILE, TEXT_FILE, len(order), output)


def import_relevance(path: Path, split: Split, section: config.Relevance, output: Path) -> None:
    """Write the relevance of a split, as `rvlr.relevance` does, from the authors' flattened file.

    Raises UserError if the size, the range, the relevance of captions to their own image or one of `SAMPLED` values,
    which are computed anew, is not what the scorer gives.
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
    made_from = {**_identify(path), "sampled": SAMPLED, "agreeing": agreeing}
    with files.atomic_file(output) as temporary:
        arrays.write_rows(temporary, (captions, images), "relevance", lambda first, last: theirs[first:last])
        relevance.clear(output)
    relevance.describe(split, section, output, imported=made_from)


def export_relevance(path: Path, split: Split, output: Path) -> None:
    """Write the relevance matrix of a split as the authors' `<data>-rougeL.npy`: captions x images, flattened."""
    flat = relevance.read(path, split).reshape(-1)
    with files.atomic_file(output) as temporary:
        arrays.write_rows(temporary, flat.shape, "relevance", lambda first, last: flat[first:last])


def _rows(split: Split) -> list[Row]:
    return [(record.image, caption) for record in split.records for caption in record.captions]


def _match(wanted: Sequence[Row], given: Sequence[Row], wants: str, gives: str) -> np.ndarray:
    """Where each wanted row is among the given: the first with the first of the same image and caption, and so on."""
    places: defaultdict[Row, list[int]] = defaultdict(list)
    for place in reversed(range(len(given))):
        places[given[place]].append(place)
    found = np.array([places[row].pop() if places[row] else -1 for row in wanted])
    lost = np.flatnonzero(found < 0)
    if len(lost):
        image, caption = wanted[lost[0]]
        known = any(image == other for other, _ in given)
        about = "the image has other captions there" if known else f"the first image there is {show(given[0][0])}"
        raise UserError(
            f"{gives}: {len(lost)} of the {len(wanted)} captions of {wants} not found, the first being {show(caption)} "
            f"of image {show(image)}; {about}; give files of the same images and captions"
        )
    return found


def _open_features(path: Path, rows: int) -> np.ndarray:
    array = arrays.open_array(path, (rows, None), f": the annotation files have {rows} captions, and each has a row")
    if array.dtype != np.float32:
        raise UserError(
            f"{path}: {array.dtype} found, float32 expected; convert it, "
            "numpy.save(NEW, numpy.load(OLD).astype('float32'))"
        )
    return array


def _finite(rows: np.ndarray, index: np.ndarray, path: Path) -> np.ndarray:
    """The rows `index`. Raises UserError naming one that holds NaN or infinity."""
    picked = rows[index]
    wrong = arrays.first_not_finite(picked)
    if wrong is not None:
        raise UserError(
            f"{path}: row {index[wrong]} (counted from 0) holds NaN or infinity; extract the features again"
        )
    return picked


class _Spread:
    """How much rows vary within groups and as a whole: sums of squared distances from the means."""

    def __init__(self, width: int) -> None:
        self.rows = self.groups = 0
        self.largest = self.within = self.squares = 0.0
        self.sum = np.zeros(width)

    def add(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Add the rows of some groups, group by group of `counts` rows each; returns the means, float64."""
        rows, starts = rows.astype(np.float64), np.cumsum(counts) - counts
        means = np.add.reduceat(rows, starts) / counts[:, None]
        apart = rows - means.repeat(counts, axis=0)
        self.rows, self.groups = self.rows + len(rows), self.groups + len(counts)
        self.largest = max(self.largest, float(np.abs(apart).max()))
        self.within, self.squares = self.within + np.square(apart).sum(), self.squares + np.square(rows).sum()
        self.sum += rows.sum(axis=0)
        return means

    @property
    def total(self) -> float:
        return float(self.squares - np.square(self.sum).sum() / self.rows)

    @property
    def expected(self) -> float:
        """What `within` is on average over all orders of the rows: of `rows` - 1 degrees of freedom, `groups` - 1 lie
        between the groups. It is 0.8 of `total` for five rows a group, half of it for two, 0 for one."""
        return self.total * (self.rows - self.groups) / max(1, self.rows - 1)


def _check_spread(spread: _Spread, path: Path, one: str) -> None:
    """Raise UserError if the rows of `one` image or caption differ as they do in random order; say so if that cannot be
    seen."""
    if spread.groups > 1 and spread.total <= 1e-12 * spread.squares:
        raise UserError(f"{path}: all rows are the same, which says nothing; extract the features again")
    if spread.rows == spread.groups or spread.groups == 1:
        logger.warning("%s: the order of the rows cannot be checked: too few are of %s", path, one)
    elif spread.within > MOST_WITHIN * spread.expected:
        raise UserError(
            f"{path}: rows of {one} differ as much as those of different {one.removeprefix('one ')}s; these are not "
            "the annotations of the rows, or several files of them are in another order"
        )


def _check_texts(path: Path, texts: np.ndarray, order: np.ndarray, split: Split) -> None:
    """`_check_spread` for captions that occur more than once, and others beside them."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, caption in zip(order.tolist(), split.captions, strict=True):
        if len(places[caption]) < MOST_REPEATED:
            places[caption].append(place)
    groups = sorted(places.values(), key=len, reverse=True)
    repeated = sum(len(group) for group in groups if len(group) > 1)
    if repeated < LEAST_REPEATED:
        groups = [[place] for group in groups for place in group]
    sizes = np.cumsum([len(group) for group in groups])
    some = groups[: 1 + int(np.searchsorted(sizes, 2 * min(max(repeated, LEAST_REPEATED), MOST_REPEATED)))]
    spread = _Spread(texts.shape[1])
    rows = np.array([place for group in some for place in group])
    spread.add(_finite(texts, rows, path), np.array([len(group) for group in some]))
    _check_spread(spread, path, "one caption")


def _check_shift(path: Path, images: np.ndarray, order: np.ndarray, split: Split) -> None:
    """Raise UserError if the rows of one image are more alike with every row moved by one. Four of five rows are then
    still those of the right image, which is too few for `_check_spread` to see."""
    offsets = split.offsets[: MOST_REPEATED // CAPTIONS_PER_IMAGE + 1]
    within = {}
    for shift in (-1, 0, 1):
        spread = _Spread(images.shape[1])
        rows = np.clip(order[: offsets[-1]] + shift, 0, len(images) - 1)
        spread.add(_finite(images, rows, path), np.diff(offsets))
        within[shift] = spread.within
    best = min(within, key=lambda shift: within[shift])
    if within[best] < MOST_WITHIN * within[0]:
        raise UserError(
            f"{path}: rows of one image are more alike when every row is moved by one; the rows begin too early or too "
            "late: give the annotations that the features were made of, in that order"
        )


def _identify(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": provenance.sha256(path)}


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
