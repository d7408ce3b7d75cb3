"""Stored teacher features: `image.npy`, `text.npy` and `index.json` in a folder, written and read here alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rvlr import arrays, files, provenance
from rvlr.data.records import Split
from rvlr.errors import UserError

PARTS = ("image", "text")


@dataclass(frozen=True)
class Features:
    """Stored teacher features: image (images, D_image) and text (captions, D_text), read-only memory maps."""

    image: np.ndarray
    text: np.ndarray


def write_index(folder: Path, split: Split, **about: Any) -> None:
    """Write `index.json`, by which `read_features` knows the rows and what they hold; it is written last, when the rows
    are complete."""
    files.write_json(
        folder / "index.json",
        {
            "split": split.name,
            "split_checksum": split.checksum,
            "image_ids": [record.image_id for record in split.records],
            "captions_per_image": np.diff(split.offsets).tolist(),
            "files": {name: arrays.describe(folder / f"{name}.npy") for name in PARTS},
            **about,
            "provenance": provenance.collect(),
        },
    )


def read_features(folder: Path, split: Split) -> Features:
    """Open stored features, (images, D_image) and (captions, D_text). Raises UserError if they do not belong to this
    split, or hold something else than what was written."""
    advice = "extract the features again from this data set"
    try:
        index = files.read_json(folder / "index.json")
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    ids = [record.image_id for record in split.records]
    found = index.get("image_ids")
    if not isinstance(found, list) or not isinstance(index.get("files"), dict):
        raise UserError(f"{folder / 'index.json'}: not an index of features, or of an older version; {advice}")
    if found != ids:
        differs = next(
            (row for row, (have, want) in enumerate(zip(found, ids, strict=False)) if have != want),
            min(len(ids), len(found)),
        )
        raise UserError(
            f"{folder}: features of {len(found)} images, the {split.name} split has {len(ids)}; the ids differ from "
            f"row {differs} on; {advice}"
        )
    if index.get("captions_per_image") != np.diff(split.offsets).tolist():
        raise UserError(f"{folder}: the number of captions per image differs from the {split.name} split; {advice}")
    if index.get("split_checksum") != split.checksum:
        raise UserError(f"{folder}: made from other captions or image files than the {split.name} split; {advice}")
    try:
        image, text = (
            arrays.load(folder / f"{name}.npy", (count, None), index["files"].get(name))
            for name, count in zip(PARTS, (len(ids), len(split.captions)), strict=True)
        )
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    return Features(image, text)
