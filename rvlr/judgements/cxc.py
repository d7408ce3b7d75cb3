"""Crisscrossed Captions (CxC, Parekh et al. 2021, arXiv 2004.15020): people's ratings, 0 to 5, of how similar two items
of the COCO test (or val) images are.

Enters: a folder with the three files of aggregated ratings, of one part of CxC, `test` or `val`, as published:
`sis_PART.csv` (two images), `sts_PART.csv` (two captions) and `sits_PART.csv` (a caption and an image). Each line names
two items, their mean rating and how the pair was sampled. Leaves: `Judgements`, the pairs by their places in a split.
The files come from outside and may contain anything; any number of rows is accepted.
"""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rvlr import files, provenance
from rvlr.data.records import Split
from rvlr.errors import UserError, show
from rvlr.faults import Faults, Place
from rvlr.judgements import coco, eccv

KINDS = ("sis", "sts", "sits")
PARTS = ("test", "val")
HIGHEST = 5.0
ORIGINAL = "c2i_original"
"""How pairs of an image and one of its own captions were sampled; there is one for each caption."""
_COLUMNS = {
    "sis": ("image1", "image2", "agg_score", "sampling_method"),
    "sts": ("caption1", "caption2", "agg_score", "sampling_method"),
    "sits": ("caption", "image", "agg_score", "sampling_method"),
}
_BYTES = 2**28  # of a file; the largest published one has 3.4 million
_CAPTION = re.compile(r"COCO_(?:train|val|test)20\d\d:sentid:(\d{1,12})", re.ASCII)
_IMAGE = re.compile(r"COCO_(?:train|val|test)20\d\d_\d{12}\.jpg", re.ASCII)
_RATING = re.compile(r"\d+(\.\d*)?([eE]-?\d+)?", re.ASCII)
_METHOD = re.compile(r"\w+", re.ASCII)


@dataclass(frozen=True)
class Ratings:
    """The rows of one file. first, second (P,) int64: COCO's ids of the two items; ratings (P,) float64, 0 to 5;
    sampling (P,): how each pair was sampled; lines (P,) int64: the line of each row."""

    path: Path
    first: np.ndarray
    second: np.ndarray
    ratings: np.ndarray
    sampling: np.ndarray
    lines: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Rated pairs by the places of their items in a split. first, second (P,) int64; ratings (P,) float64; sampling
    (P,) str."""

    first: np.ndarray
    second: np.ndarray
    ratings: np.ndarray
    sampling: np.ndarray


@dataclass(frozen=True)
class Judgements:
    """The pairs of two images (sis), of two captions (sts) and of a caption and an image (sits)."""

    sis: Pairs
    sts: Pairs
    sits: Pairs


def paths(folder: Path, part: str | None = None) -> dict[str, Path]:
    """The file of each of `KINDS` in `folder`. part: of `PARTS`, None for the one that is there.

    Raises UserError if there is none, or both and no `part`.
    """
    there = [name for name in PARTS if any((folder / f"{kind}_{name}.csv").exists() for kind in KINDS)]
    if part not in (None, *PARTS):
        raise UserError(f"--part: found {show(part)}; {' or '.join(PARTS)} allowed")
    wanted = [part] if part is not None else there
    names = ", ".join(f"{kind}_{'|'.join(PARTS) if part is None else part}.csv" for kind in KINDS)
    if not wanted:
        raise UserError(f"{folder}: no ratings of CxC in it; it must hold {names}, see `rvlr data fetch cxc-sis`")
    if len(wanted) > 1:
        raise UserError(
            f"{folder}: holds the ratings of {' and '.join(there)}; give a folder with those of one part, or, to "
            "`rvlr agreement`, --part"
        )
    return {kind: folder / f"{kind}_{wanted[0]}.csv" for kind in KINDS}


def sha256(folder: Path) -> str:
    """One digest of the three files."""
    return provenance.digest({kind: provenance.sha256(path) for kind, path in paths(folder).items()})


def read(folder: Path, split: Split, part: str | None = None) -> Judgements:
    """Read the ratings of pairs of items of a split.

    Raises UserError naming file and line for rows that are none, ratings outside 0 to 5 and items that are not in the
    split, and naming the image if the ids of its captions are not known.
    """
    found = {kind: _read(path, kind) for kind, path in paths(folder, part).items()}
    index = coco.index(split, _sentence_ids(found["sits"]), str(found["sits"].path))
    return Judgements(**{kind: _bind(ratings, kind, index) for kind, ratings in found.items()})


def _read(path: Path, kind: str) -> Ratings:
    """The rows of one file."""
    faults, columns = Faults(path), _COLUMNS[kind]
    reader = csv.reader(io.StringIO(files.read_text(path, _BYTES).removeprefix("\ufeff"), newline=""), strict=True)
    rows: list[tuple[int, int, float, str, int]] = []
    try:
        header = next(reader, [])
        if header != list(columns):
            faults.fail(f"found {show(','.join(header))}, the columns must be {','.join(columns)}", Place(1))
        for row in reader:
            place = Place(reader.line_num)
            fault = _fault(row, columns)
            if fault is not None:
                faults.add(fault, place)
            else:
                first, second = (_id(value, name) for value, name in zip(row, columns[:2], strict=False))
                rows.append((first, second, float(row[2]), row[3], place.line))
    except csv.Error as error:
        faults.fail(f"not sound CSV ({error})", Place(reader.line_num))
    if not rows and not faults:
        faults.add("no ratings in it")
    faults.check()
    first_ids, second_ids, ratings, sampling, lines = zip(*rows, strict=True)
    return Ratings(
        path,
        np.array(first_ids, dtype=np.int64),
        np.array(second_ids, dtype=np.int64),
        np.array(ratings, dtype=np.float64),
        np.array(sampling),
        np.array(lines, dtype=np.int64),
    )


def _fault(row: list[str], columns: tuple[str, ...]) -> str | None:
    """What is wrong with a row, if anything."""
    if len(row) != len(columns):
        return f"{len(row)} values found, {len(columns)} expected ({','.join(columns)})"
    for name, value in zip(columns[:2], row, strict=False):
        image = name.startswith("image")
        if (_IMAGE if image else _CAPTION).fullmatch(value) is None:
            example = "COCO_val2014_000000391895.jpg" if image else "COCO_val2014:sentid:770337"
            return f"{name}: found {show(value)}, an id such as {example} expected"
    if columns[0][:-1] == columns[1][:-1] and row[0] == row[1]:
        return f"{row[0]} is compared with itself; a pair has two items"
    if _RATING.fullmatch(row[2]) is None or not 0 <= float(row[2]) <= HIGHEST:
        return f"agg_score: found {show(row[2])}, a number from 0 to {HIGHEST:g} expected"
    if _METHOD.fullmatch(row[3]) is None:
        return f"sampling_method: found {show(row[3])}, a name such as {ORIGINAL} expected"
    return None


def _id(value: str, column: str) -> int:
    """The number of an image, or the id of a caption."""
    if column.startswith("image"):
        number = coco.image_number(value)
        assert number is not None, "it was checked"
        return number
    return int(value.rpartition(":")[2])


def _sentence_ids(sits: Ratings) -> coco.SentenceIds:
    """The ids of every image's captions: those of ECCV Caption, where its package is installed, and for other images
    those of the pairs of an image and its own caption. Raises UserError if the two disagree."""
    listed = eccv.sentence_ids() if eccv.installed() else {}
    own: dict[int, list[int]] = {}
    for row in np.flatnonzero(sits.sampling == ORIGINAL).tolist():
        caption, image = int(sits.first[row]), int(sits.second[row])
        if caption not in listed.get(image, (caption,)):
            raise UserError(
                f"{sits.path}: line {sits.lines[row]}: caption {caption} is called an original caption of image "
                f"{image}, but {', '.join(map(str, listed[image]))} are, in Karpathy's file; take the published file"
            )
        own.setdefault(image, []).append(caption)
    return {**own, **listed}


def _bind(ratings: Ratings, kind: str, index: coco.Index) -> Pairs:
    """The rows with the places of their items."""
    faults = Faults(ratings.path)
    places = []
    for name, ids in zip(_COLUMNS[kind][:2], (ratings.first, ratings.second), strict=True):
        known = index.images if name.startswith("image") else index.captions
        found = np.array([known.get(one, -1) for one in ids.tolist()], dtype=np.int64)
        for row in np.flatnonzero(found < 0).tolist():
            faults.add(
                f"{name}: {ids[row]} is none of the items of the split {index.split!r}; give the ratings of its images",
                Place(int(ratings.lines[row])),
            )
        places.append(found)
    faults.check()
    return Pairs(places[0], places[1], ratings.ratings, ratings.sampling)
