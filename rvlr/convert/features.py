"""Teacher features of the reference implementation, read and written.

docs/METHOD.md, "The authors' files": its two files have one row per training caption, in the order of the annotation
files, images repeated. Ours are those of `rvlr.data.features`.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from rvlr import arrays, files, provenance
from rvlr.convert import rows
from rvlr.convert.rows import Scatter
from rvlr.data.features import read_features, write_index
from rvlr.data.records import Split
from rvlr.errors import UserError
from rvlr.log import logger

IMAGE_FILE, TEXT_FILE = "train_image_embed_regu.npy", "train_text_embed_regu.npy"


def import_features(image: Path, text: Path, annotations: Sequence[Path], split: Split, output: Path) -> None:
    """Write the features of a split, as `rvlr.extraction` does, from the two files of the reference implementation.

    The rows of an image are averaged. Raises UserError if the files do not fit the annotations, lack a caption of the
    split or contain NaN or infinity, if the rows of one image or of equal captions are not alike, or if the disk is too
    small; nothing is written then.
    """
    if os.path.realpath(image) == os.path.realpath(text):
        raise UserError(f"{image}: given for images and for text; the authors have {IMAGE_FILE} and {TEXT_FILE}")
    theirs, ours = rows.read_rows(annotations), rows.rows_of(split)
    images, texts = _open_features(image, len(theirs)), _open_features(text, len(theirs))
    order = rows.match(ours, theirs, f"the split {split.name!r}", ", ".join(map(str, annotations)))
    if len(theirs) > len(ours):
        logger.info("%d rows belong to captions that the split does not have; left out", len(theirs) - len(ours))
    rows.check_texts(text, texts, order, split)
    rows.check_shift(image, images, order, split)
    scatter, offsets = Scatter(images.shape[1]), split.offsets

    def average(first: int, last: int) -> np.ndarray:
        several = rows.pick(images, order[offsets[first] : offsets[last]], image)
        return scatter.add(several, np.diff(offsets[first : last + 1]))

    with files.atomic_file(output / "text.npy") as text_file, files.atomic_file(output / "image.npy") as image_file:
        arrays.write_rows(image_file, (len(split.records), images.shape[1]), "image features", average)
        rows.check_scatter(scatter, image, "one image")
        arrays.write_rows(
            text_file,
            (len(ours), texts.shape[1]),
            "text features",
            lambda first, last: rows.pick(texts, order[first:last], text),
        )
        (output / "index.json").unlink(missing_ok=True)  # never an old index beside new rows
    logger.info("rows of one image differ from their mean by up to %g", scatter.largest)
    imported = {
        "image": provenance.identify(image),
        "text": provenance.identify(text),
        "annotations": list(map(provenance.identify, annotations)),
        "largest_deviation": scatter.largest,
    }
    write_index(output, split, imported=imported)
    logger.info("features of %d images and %d captions in %s", len(split.records), len(ours), output)


def export_features(folder: Path, split: Split, annotations: Sequence[Path], output: Path) -> None:
    """Write the features of a split as the two files of the reference implementation, in the order of its annotation
    files or, without any, in that of the split.

    Raises UserError if the annotations name a caption that the split lacks.
    """
    features, ours = read_features(folder, split), rows.rows_of(split)
    order = np.arange(len(ours))
    if annotations:
        named = ", ".join(map(str, annotations))
        order = rows.match(rows.read_rows(annotations), ours, named, f"the split {split.name!r}")
    parts = ((IMAGE_FILE, features.image, split.caption_image[order]), (TEXT_FILE, features.text, order))
    with ExitStack() as stack:  # both or none
        for name, array, index in parts:
            file, shape = stack.enter_context(files.atomic_file(output / name)), (len(index), array.shape[1])
            arrays.write_rows(file, shape, name, partial(_take, array, index))
    logger.info("%s and %s, one row for each of %d captions, in %s", IMAGE_FILE, TEXT_FILE, len(order), output)


def _take(array: np.ndarray, index: np.ndarray, first: int, last: int) -> np.ndarray:
    rows: np.ndarray = array[index[first:last]]
    return rows


def _open_features(path: Path, count: int) -> np.ndarray:
    array = arrays.open_array(path, (count, None), f": the annotation files have {count} captions, and each has a row")
    if array.dtype != np.float32:
        raise UserError(
            f"{path}: {array.dtype} found, float32 expected; convert it, "
            "numpy.save(NEW, numpy.load(OLD).astype('float32'))"
        )
    return array
