"""Features from elsewhere: rows with names of their own, brought into the order of a split.

Enters: a folder with `image.npy`, one row an image, `text.npy`, one row a caption, and `index.json`. In that, `images`
names each image by its `image_id` or its path below the folder of images, and `captions` has the text of each caption:
a text feature depends on the text alone. `store` writes such a folder. Rows may come in any order, and there may be
more of them than the split needs. A folder that `rvlr extract` or `rvlr import-features` made will do as well, for the
split that it was made of. Leaves: the files of `rvlr.data.features`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rvlr import arrays, files, provenance
from rvlr.data.features import PARTS, read_features, write_index
from rvlr.data.records import Record, Split
from rvlr.errors import UserError, show
from rvlr.log import logger, result

FILES = (*(f"{part}.npy" for part in PARTS), "index.json")
_NAMES = {"image": "images", "text": "captions"}
_HELP = "rvlr.store_features writes such a folder"


def store(
    folder: str | Path, image: np.ndarray, images: Sequence[str], text: np.ndarray, captions: Sequence[str]
) -> None:
    """Write features for a teacher of kind `stored`.

    image (rows, D_image) with `images`, the `image_id` or the path of each; text (rows, D_text) with `captions`, their
    texts; numbers of any kind, written as float32. Raises UserError for rows and names that do not fit together, or a
    row that is not finite or all zeros.
    """
    folder = Path(folder)
    names = {"image": list(images), "text": list(captions)}
    rows = {"image": np.asarray(image), "text": np.asarray(text)}
    for part, array in rows.items():
        if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
            raise UserError(f"{part}: {array.dtype} of shape {array.shape} found, numbers (rows, width) expected")
        _check_names(names[part], _NAMES[part], len(array), f"{part} features", "call it again with one name a row")
    described = {_NAMES[part]: names[part] for part in PARTS}
    with files.atomic_file(folder / "text.npy") as text_file, files.atomic_file(folder / "image.npy") as image_file:
        for part, file in (("image", image_file), ("text", text_file)):
            with file.open("wb") as stream:
                np.save(stream, _checked(rows[part], np.arange(len(rows[part])), f"{part} features"))
        (folder / "index.json").unlink(missing_ok=True)  # never an old index beside new rows
    files.write_json(folder / "index.json", described)


def copy(folder: Path, split: Split, output: Path) -> None:
    """Write the features of a split, as `rvlr extract` does, from a folder of features from elsewhere.

    Raises UserError naming file, row or item if the folder has no such files, lacks an image or a caption of the split,
    names an image twice, or if a row that is needed is not finite or all zeros; nothing is written then.
    """
    index = files.read_json(folder / "index.json")
    ours = "split_checksum" in index
    arrays_of, orders = _in_order(folder, index, split) if ours else _by_name(folder, index, split)
    with files.atomic_file(output / "text.npy") as text_file, files.atomic_file(output / "image.npy") as image_file:
        for part, file in (("image", image_file), ("text", text_file)):
            _write(file, arrays_of[part], orders[part], folder / f"{part}.npy", part)
        (output / "index.json").unlink(missing_ok=True)  # never an old index beside new rows
    write_index(output, split, stored=digests(folder))
    result("features of %d images and %d captions", len(split.records), len(split.captions))


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a folder of features from elsewhere, which the index of their copy keeps as
    `stored`."""
    return {name: provenance.sha256(folder / name) for name in FILES}


Rows = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
"""The arrays of both parts, and the row of each image and of each caption of the split."""


def _in_order(folder: Path, index: Mapping[str, Any], split: Split) -> Rows:
    if index["split_checksum"] != split.checksum:
        raise UserError(
            f"{folder}: made of the split {show(index.get('split'))} of other captions or images than the split "
            f"{split.name!r} here; extract the features of this split, or give a folder with names of its own: {_HELP}"
        )
    found = read_features(folder, split)
    counts = {"image": len(split.records), "text": len(split.captions)}
    return {"image": found.image, "text": found.text}, {part: np.arange(count) for part, count in counts.items()}


def _by_name(folder: Path, index: Mapping[str, Any], split: Split) -> Rows:
    opened, places = {}, {}
    for part, key, same in (("image", "images", str), ("text", "captions", _flat)):
        path = folder / f"{part}.npy"
        opened[part] = arrays.open_array(path, (None, None), ", one row each")
        if opened[part].dtype.kind != "f":
            raise UserError(f"{path}: {opened[part].dtype} found, floating-point numbers expected; convert them")
        where = str(folder / "index.json")
        names = _check_names(index.get(key), key, len(opened[part]), str(path), f"give one a row; {_HELP}", where)
        # equal captions have equal features: the first row is taken
        places[part] = {same(name): row for row, name in reversed(list(enumerate(names)))}
    image = [_place_of(record, places["image"], folder / "index.json") for record in split.records]
    text = [places["text"].get(_flat(caption), -1) for caption in split.captions]
    paths = [record.image for record in split.records]
    for order, part, items in ((image, "image", paths), (text, "text", split.captions)):
        lost = [item for row, item in zip(order, items, strict=True) if row < 0]
        if lost:
            key = _NAMES[part]
            raise UserError(
                f"{folder / 'index.json'}: {key}: {len(lost):,} of the {len(order):,} {key} of the split "
                f"{split.name!r} not found, the first being {show(lost[0])}; the first there is "
                f"{show(index[key][0])}; store the features of all of them"
            )
    logger.info("%s: %d of %d rows are of this split", folder / "image.npy", len(set(image)), len(opened["image"]))
    return opened, {"image": np.array(image), "text": np.array(text)}


def _place_of(record: Record, places: Mapping[str, int], path: Path) -> int:
    """The row of an image by its id or its path, -1 if neither has one. Raises UserError if they have two."""
    found = {places[name] for name in (record.image_id, record.image) if name in places}
    if len(found) > 1:
        raise UserError(
            f"{path}: images: the id {show(record.image_id)} and the path {show(record.image)} are of one image, and "
            "each names a row; name images by their ids alone, or by their paths"
        )
    return found.pop() if found else -1


def _check_names(names: Any, key: str, rows: int, what: str, advice: str, where: str = "") -> list[str]:
    """The names. Raises UserError unless they are as many texts as there are rows, and no image is named twice."""
    place = f"{where}: {key}" if where else key
    if not isinstance(names, list):
        raise UserError(f"{place}: {'missing' if names is None else show(names)}; a list of texts expected; {advice}")
    wrong = [row for row, name in enumerate(names) if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise UserError(f"{place}: entry {wrong[0]} (counted from 0) is {show(names[wrong[0]])}, not a text; {advice}")
    if len(names) != rows:
        raise UserError(f"{place}: {len(names):,} names, but {what} has {rows:,} rows; {advice}")
    if key == "images" and len(set(names)) < len(names):
        seen: dict[str, int] = {}
        row, first = next((row, seen[name]) for row, name in enumerate(names) if seen.setdefault(name, row) != row)
        raise UserError(f"{place}: entries {first} and {row} (counted from 0) are both {show(names[row])}; {advice}")
    return names


def _flat(text: str) -> str:
    """A text with single spaces, as preparations of data sets differ in no more."""
    return " ".join(text.split())


def _write(file: Path, rows: np.ndarray, order: np.ndarray, source: Path, part: str) -> None:
    arrays.write_rows(
        file,
        (len(order), rows.shape[1]),
        f"{part} features",
        lambda first, last: _checked(rows, order[first:last], str(source)),
    )


def _checked(rows: np.ndarray, order: np.ndarray, what: str) -> np.ndarray:
    """The rows `order` as float32. Raises UserError naming one that is not finite or all zeros."""
    with np.errstate(over="ignore"):  # infinity is found below
        picked: np.ndarray = rows[order].astype(np.float32)
    wrong = arrays.first_not_finite(picked)
    if wrong is not None:
        raise UserError(
            f"{what}: row {order[wrong]} (counted from 0) contains NaN, infinity, or numbers beyond float32; make the "
            "features again"
        )
    zero = np.flatnonzero(~picked.any(axis=1))
    if len(zero):
        raise UserError(f"{what}: row {order[zero[0]]} (counted from 0) is all zeros, a row that was never filled")
    return picked
