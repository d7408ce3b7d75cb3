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
_ROWS_AT_ONCE = 4096


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
    """Write the features of a split. Each process writes its own rows to a file of its own, since two machines must not
    write to one page of a file; the main process joins these files.

    blocks: for `image` and `text` the rows of this process, see `share`, as arrays (rows, width). about: what made
    them, for `index.json`. Raises UserError naming the image or caption of a feature that is NaN or infinite.
    """
    counts = {"image": len(split.records), "text": len(split.captions)}
    with _clean(folder, group):
        group.meet("writing features")
        for name in PARTS:
            _write_part(_part(folder, name, group.accelerator.process_index), blocks[name], name, split, group)
        group.meet("joining the features")
        if group.is_main:
            (folder / "index.json").unlink(missing_ok=True)  # never an old index beside new rows
            for name in PARTS:
                parts = [_part(folder, name, rank) for rank in range(group.accelerator.num_processes)]
                with files.atomic_file(folder / f"{name}.npy") as temporary:
                    _join(parts, temporary, counts[name])
            write_index(folder, split, **about)


@contextmanager
def _clean(folder: Path, group: "Processes") -> Iterator[None]:
    """Without files of parts at the beginning, those of a run that was killed, and at the end."""
    if not group.is_main:
        yield
        return
    with files.folder_of(folder / "index.json"):
        try:
            _remove_parts(folder)
            yield
        finally:
            _remove_parts(folder)


def _remove_parts(folder: Path) -> None:
    for name in PARTS:
        for path in folder.glob(_part(folder, name, "*").name):
            path.unlink(missing_ok=True)


def _part(folder: Path, name: str, rank: int | str) -> Path:
    return files.unfinished(folder / f"{name}-{rank}.npy")


def _write_part(path: Path, blocks: Iterable[np.ndarray], name: str, split: Split, group: "Processes") -> None:
    """Write the rows of this process, and flush them to the disk."""
    first, last = share(len(split.records if name == "image" else split.captions), group)
    begin, rows = first, None
    for block in blocks:
        if rows is None:
            rows = arrays.create(path, (last - first, block.shape[1]))
        _check_finite(block, name, split, first)
        rows[first - begin : first - begin + len(block)] = block
        first += len(block)
    assert rows is not None  # no process is without rows
    rows.flush()
    del rows  # closed, so that other machines see it
    files.sync(path)


def _join(parts: list[Path], path: Path, count: int) -> None:
    """Write the rows of all parts, `count` together, to one file."""
    if len(parts) == 1:
        parts[0].replace(path)
        return
    first, joined = 0, None
    for part in parts:
        rows = arrays.open_array(part, (None, None))
        if joined is None:
            joined = arrays.create(path, (count, rows.shape[1]))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            block = rows[start : start + _ROWS_AT_ONCE]
            joined[first : first + len(block)] = block
            first += len(block)
        part.unlink()
    assert joined is not None
    assert first == count
    joined.flush()


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
