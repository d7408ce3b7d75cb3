"""Stored teacher features: `image.npy`, `text.npy` and `index.json` in a folder, written and read here alone."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rvlr import arrays, files, provenance
from rvlr.data.records import Split
from rvlr.errors import UserError, show

if TYPE_CHECKING:  # imports torch, which the workflow, where it asks for a digest, has no time for
    from rvlr.distributed import Processes

PARTS = ("image", "text")


@dataclass(frozen=True)
class Features:
    """Stored teacher features: image (images, D_image) and text (captions, D_text), read-only memory maps."""

    image: np.ndarray
    text: np.ndarray


def share(count: int, group: "Processes") -> tuple[int, int]:
    """The rows [first, last) of `count` that this process writes."""
    rank, processes = group.accelerator.process_index, group.accelerator.num_processes
    return count * rank // processes, count * (rank + 1) // processes


def write_features(
    folder: Path, split: Split, blocks: Mapping[str, Iterable[np.ndarray]], group: "Processes", **about: Any
) -> None:
    """Write the features of a split; each process writes its own rows of the same files.

    blocks: for `image` and `text` the rows of this process, see `share`, as arrays (rows, width). about: what made
    them, for `index.json`. Raises UserError naming the image or caption of a feature that is NaN or infinite.
    """
    counts = {"image": len(split.records), "text": len(split.captions)}
    with _unfinished(folder, group) as unfinished:
        for name in PARTS:
            first, target = share(counts[name], group)[0], None
            for block in blocks[name]:
                if target is None:
                    target = _open_shared(unfinished[name], (counts[name], block.shape[1]), group)
                _check_finite(block, name, split, first)
                target[first : first + len(block)] = block
                first += len(block)
            if target is not None:
                target.flush()
        group.meet("writing the features")
        if group.is_main:
            (folder / "index.json").unlink(missing_ok=True)  # never an old index beside new rows
            for name in PARTS:
                with files.atomic_file(folder / f"{name}.npy") as temporary:
                    unfinished[name].replace(temporary)
            write_index(folder, split, **about)


@contextmanager
def _unfinished(folder: Path, group: "Processes") -> Iterator[dict[str, Path]]:
    """The files that all processes write rows into; the main process removes them at the end, if they are left."""
    paths = {name: files.unfinished(folder / f"{name}.npy") for name in PARTS}
    if not group.is_main:
        yield paths
        return
    with files.folder_of(folder / "index.json"):
        try:
            yield paths
        finally:
            for path in paths.values():
                path.unlink(missing_ok=True)


def _open_shared(path: Path, shape: tuple[int, int], group: "Processes") -> np.memmap:
    """A writable memory map of a file that the main process creates and all processes open."""
    if group.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays.create(path, shape)
    group.meet(f"opening {path}")
    return np.lib.format.open_memmap(path, mode="r+")


def _check_finite(values: np.ndarray, name: str, split: Split, first: int) -> None:
    row = arrays.first_not_finite(values)
    if row is not None:
        row += first
        of = f"image {show(split.records[row].image)}" if name == "image" else f"caption {show(split.captions[row])}"
        raise UserError(
            f"the teacher's {name} features are not all finite, the first of {of} (row {row}); check the teacher's "
            "weights, its mean and std, and its training log"
        )


def write_index(folder: Path, split: Split, **about: Any) -> None:
    """Write `index.json`, which says whose rows these are and what they contain; written last, when the rows are
    complete."""
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


def checksum(folder: Path) -> str:
    """The digest of the features in a folder, which depends on their rows alone. Raises UserError if there are none."""
    described = files.read_json(folder / "index.json").get("files")
    if not isinstance(described, dict):
        raise UserError(f"{folder / 'index.json'}: not an index of features; make them again")
    return provenance.digest(described)


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
