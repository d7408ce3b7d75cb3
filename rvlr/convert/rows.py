"""The rows of the reference implementation's features: which image and caption each belongs to, and whether that is so.

docs/METHOD.md, "The authors' files". Nothing in a file of features names its rows. So rows of one image, which are the
same up to rounding, and rows of equal captions are compared: in another order they differ as all rows do.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rvlr import arrays
from rvlr.data.records import Split
from rvlr.datasets import annotations
from rvlr.errors import UserError, show
from rvlr.log import logger

CAPTIONS_PER_IMAGE = 5
MOST_WITHIN = 0.5  # of the variance that rows of one image, or of equal captions, have in random order
LEAST_REPEATED, MOST_REPEATED = 20, 5000  # rows of captions that occur more than once: fewer prove nothing

Row = tuple[str, str]
"""The path of an image and one of its captions."""


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """The image and the caption of each row, given the annotation files in the order of the rows.

    An image's captions beyond the fifth have no row, as in the training set of the reference implementation; only where
    one file alone gives one caption an entry (COCO), all have one. Blank captions, which no split has, have rows.
    """
    rows: list[Row] = []
    for path in paths:
        seen: Counter[str] = Counter()
        for image, captions in annotations.read_paper(annotations.File(path)).rows:
            for caption in captions[:CAPTIONS_PER_IMAGE]:
                seen[image] += 1
                if len(paths) == 1 or seen[image] <= CAPTIONS_PER_IMAGE:
                    rows.append((image, caption))
    return rows


def rows_of(split: Split) -> list[Row]:
    """The image and the caption of every caption of a split."""
    return [(record.image, caption) for record in split.records for caption in record.captions]


def match(wanted: Sequence[Row], given: Sequence[Row], wants: str, gives: str) -> np.ndarray:
    """Where each wanted row is among the given: the first is the first of the same image and caption, and so on.

    wants, gives: what the message calls the two. Raises UserError if a wanted row is not given.
    """
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


def pick(rows: np.ndarray, index: np.ndarray, path: Path) -> np.ndarray:
    """The rows `index` of the file `path`. Raises UserError naming one that contains NaN or infinity."""
    picked: np.ndarray = rows[index]
    wrong = arrays.first_not_finite(picked)
    if wrong is not None:
        raise UserError(
            f"{path}: row {index[wrong]} (counted from 0) contains NaN or infinity; extract the features again"
        )
    return picked


class Scatter:
    """How much rows vary within groups and as a whole: sums of squared distances from the means.

    rows, groups: their numbers so far. within: the sum of squared distances of rows from the mean of their group.
    largest: the largest absolute distance of a number from its group's mean.
    """

    def __init__(self, width: int) -> None:
        self.rows = self.groups = 0
        self.largest = self.within = self.squares = 0.0
        self.sum = np.zeros(width)

    def add(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Add the rows of some groups, group by group of `counts` rows each; returns the means, float64."""
        rows, starts = rows.astype(np.float64), np.cumsum(counts) - counts
        means: np.ndarray = np.add.reduceat(rows, starts) / counts[:, None]
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


def check_scatter(scatter: Scatter, path: Path, one: str) -> None:
    """Raise UserError if rows of the same image or caption, `one` in words, differ as in random order; log a warning if
    there are too few rows to see that."""
    if scatter.groups > 1 and scatter.total <= 1e-12 * scatter.squares:
        raise UserError(f"{path}: all rows are the same, which says nothing; extract the features again")
    if scatter.rows == scatter.groups or scatter.groups == 1:
        logger.warning("%s: the order of the rows cannot be checked: too few are of %s", path, one)
    elif scatter.within > MOST_WITHIN * scatter.expected:
        raise UserError(
            f"{path}: rows of {one} differ as much as those of different {one.removeprefix('one ')}s; these are not "
            "the annotations of the rows, or several files of them are in another order"
        )


def check_texts(path: Path, texts: np.ndarray, order: np.ndarray, split: Split) -> None:
    """`check_scatter` for captions that occur more than once, and others beside them."""
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
    scatter = Scatter(texts.shape[1])
    rows = np.array([place for group in some for place in group])
    scatter.add(pick(texts, rows, path), np.array([len(group) for group in some]))
    check_scatter(scatter, path, "one caption")


def check_shift(path: Path, images: np.ndarray, order: np.ndarray, split: Split) -> None:
    """Raise UserError if the rows of one image are more alike with every row moved by one. Four of five rows are then
    still those of the right image, which is too few for `check_scatter` to see."""
    offsets = split.offsets[: MOST_REPEATED // CAPTIONS_PER_IMAGE + 1]
    within = {}
    for shift in (-1, 0, 1):
        scatter = Scatter(images.shape[1])
        rows = np.clip(order[: offsets[-1]] + shift, 0, len(images) - 1)
        scatter.add(pick(images, rows, path), np.diff(offsets))
        within[shift] = scatter.within
    best = min(within, key=lambda shift: within[shift])
    if within[best] < MOST_WITHIN * within[0]:
        raise UserError(
            f"{path}: rows of one image are more alike when every row is moved by one; the rows begin too early or too "
            "late: give the annotations that the features were made of, in that order"
        )
