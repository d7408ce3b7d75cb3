"""Splits: the only data format the rest of the code knows.

`splits/{train,val,test}.jsonl` hold one image a line: `image_id`, `image` (path below the image root), `captions`
(one or more). `splits/dataset.json` beside them names the image root (absolute, or relative to the splits folder),
the counts, and what made them; with `cache`, stages read the scaled copies in `CACHE` instead.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rvlr import io
from rvlr.errors import UserError

SPLITS = ("train", "val", "test")
CACHE = "../cache"  # from the splits folder
FEWEST = {"train": 1, "val": 2, "test": 2}  # retrieval ranks at least two
# Pillow also knows formats that start other programs or read other files, such as EPS
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


@dataclass(frozen=True)
class Record:
    """One image and its captions."""

    image_id: str
    image: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """The records of one split. Captions are numbered record by record: caption c belongs to image
    `caption_image[c]`, and image i has the captions `offsets[i]` to `offsets[i + 1] - 1`."""

    name: str
    records: Sequence[Record]
    image_root: Path

    @cached_property
    def captions(self) -> list[str]:
        """All captions, in the order of the images."""
        return [caption for record in self.records for caption in record.captions]

    @cached_property
    def offsets(self) -> np.ndarray:
        """(images + 1,) int64: where each image's captions begin."""
        return np.cumsum([0, *(len(record.captions) for record in self.records)], dtype=np.int64)

    @cached_property
    def caption_image(self) -> np.ndarray:
        """(captions,) int64: the index of the image each caption belongs to."""
        return np.repeat(np.arange(len(self.records)), np.diff(self.offsets))

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over ids, paths and captions."""
        return io.digest([asdict(record) for record in self.records])

    def path(self, index: int) -> Path:
        """Where the image of record `index` lies."""
        return self.image_root / self.records[index].image


def shuffled(records: Sequence[Record], seed: int) -> list[Record]:
    """The records in the order of a hash of seed and id, which depends neither on their order here nor on a library's
    random numbers."""

    def draw(record: Record) -> bytes:
        return hashlib.sha256(f"{seed}:{record.image_id}".encode()).digest()

    return sorted(records, key=draw)


def split_files(folder: Path) -> list[Path]:
    """The files that `write_splits` makes in `folder`."""
    return [*(folder / f"{name}.jsonl" for name in SPLITS), folder / "dataset.json"]


def write_splits(folder: Path, splits: Mapping[str, Iterable[Record]], image_root: str, **about: Any) -> None:
    """Write the three split files, then `dataset.json`. `about` is stored in the latter."""
    counts = {}
    for name in SPLITS:
        records = list(splits[name])
        lines = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
        io.write_text(folder / f"{name}.jsonl", lines)
        counts[name] = {"images": len(records), "captions": sum(len(record.captions) for record in records)}
    io.write_json(
        folder / "dataset.json",
        {"image_root": image_root, "counts": counts, **about, "provenance": io.provenance()},
    )


def read_split(path: Path, originals: bool = False) -> Split:
    """Read one split file; `originals`: with the images that the cache is made from. Raises UserError naming file and
    line."""
    about = io.read_json(path.parent / "dataset.json")
    records = []
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    fields = json.loads(line)
                    record = Record(fields["image_id"], fields["image"], tuple(fields["captions"]))
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise UserError(
                        f"{path}: line {number}: not a record with image_id, image and captions ({error!r}); "
                        "run the prepare stage again"
                    ) from None
                records.append(record)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the prepare stage first") from None
    root = CACHE if about.get("cache") and not originals else about["image_root"]
    return Split(path.stem, records, (path.parent / root).resolve())
