"""Splits: the only format of data that other parts of the code read.

`splits/{train,val,test}.jsonl` have one image a line: `image_id`, `image` (path below the image root), `captions`
(one or more). `splits/dataset.json` beside them names the image root (absolute, or relative to the splits folder),
the counts, a checksum of each file, and what made them; with `cache`, stages read the scaled copies in `CACHE` instead.
Splits are made by the prepare stage alone: a file that was edited since is refused.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from rvlr import files, provenance
from rvlr.errors import UserError, show
from rvlr.log import result

SPLITS = ("train", "val", "test")
CACHE = "../cache"  # from the splits folder
FEWEST = {"train": 1, "val": 2, "test": 2}  # retrieval ranks at least two
# Pillow also reads formats that start other programs or read other files, such as EPS
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
    cached: bool = False  # the image root is the cache

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
        return provenance.digest([asdict(record) for record in self.records])

    @property
    def caption_ids(self) -> list[str]:
        """The id of every caption, in the order of the images: `IMAGE_ID#N`, N counted from 0 within its image."""
        return [f"{record.image_id}#{number}" for record in self.records for number in range(len(record.captions))]

    def path(self, index: int) -> Path:
        """Where the image of record `index` lies."""
        return self.image_root / self.records[index].image

    def check_images(self) -> None:
        """Raise UserError unless the folder of images is there."""
        if not self.image_root.is_dir():
            stage = "cache" if self.cached else "prepare"
            raise UserError(
                f"{self.image_root}: no such folder, but the images of the split {self.name!r} must lie there; put it "
                f"there, or run the {stage} stage again"
            )


def image_of_caption(caption_id: str) -> str:
    """The id of the image that a caption belongs to, see `Split.caption_ids`."""
    return caption_id.rpartition("#")[0]


Check = Callable[[Split], None]
"""Raises UserError if the captions of a split cannot be used, see `rvlr.relevance.check_words`."""


def split_counts(images: int, val: float, test: float) -> dict[str, int]:
    """How many images each split gets by ratio: the nearest number, but at least `FEWEST` for val and test."""
    in_val, in_test = (max(FEWEST[name], round(images * share)) for name, share in (("val", val), ("test", test)))
    return {"train": images - in_val - in_test, "val": in_val, "test": in_test}


def shuffled(records: Sequence[Record], seed: int) -> list[Record]:
    """The records in the order of a hash of seed and id, which depends neither on their order here nor on a library's
    random numbers."""

    def draw(record: Record) -> bytes:
        return hashlib.sha256(f"{seed}:{record.image_id}".encode()).digest()

    return sorted(records, key=draw)


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return not any(sign.isprintable() and not sign.isspace() for sign in text)


def split_files(folder: Path) -> list[Path]:
    """The files that `write_splits` makes in `folder`."""
    return [*(folder / f"{name}.jsonl" for name in SPLITS), folder / "dataset.json"]


def write_splits(
    folder: Path, splits: Mapping[str, Iterable[Record]], image_root: str, check: Check | None = None, **about: Any
) -> None:
    """Write the three split files and `dataset.json`, all or none. `about` is stored in the latter; `check` sees the
    test split first."""
    if check is not None:
        check(Split("test", list(splits["test"]), folder))
    counts, checksums = {}, {}
    with ExitStack() as stack:
        # the first to be opened takes its place last
        description = stack.enter_context(files.atomic_file(folder / "dataset.json"))
        for name in SPLITS:
            records = list(splits[name])
            lines = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
            file = stack.enter_context(files.atomic_file(folder / f"{name}.jsonl"))
            file.write_text(lines, encoding="utf-8")
            counts[name] = {"images": len(records), "captions": sum(len(record.captions) for record in records)}
            checksums[name] = provenance.sha256(file)
        content = {"image_root": image_root, "counts": counts, "checksums": checksums, **about}
        description.write_text(files.to_json({**content, "provenance": provenance.collect()}), encoding="utf-8")
    result("%s images", ", ".join(f"{counts[name]['images']:,} {name}" for name in SPLITS))


def read_split(path: Path, originals: bool = False) -> Split:
    """Read one split file; `originals`: with the images that the cache is made from.

    Raises UserError naming file and line if the file or `dataset.json` beside it is missing, is not what the prepare
    stage writes, or was edited since.
    """
    about = _read_about(path)
    try:
        text = files.read_text(path)
        records = _parse(path, text)
        if about["checksums"].get(path.stem) != hashlib.sha256(text.encode()).hexdigest():
            raise UserError(f"{path}: edited or replaced since it was made: {_difference(records, about, path.stem)}")
    except UserError as error:
        raise UserError(f"{error}; {_REMEDY}") from None
    cached = bool(about.get("cache")) and not originals
    return Split(path.stem, records, (path.parent / (CACHE if cached else about["image_root"])).resolve(), cached)


def read_originals(folder: Path) -> list[Split]:
    """The splits of a data set in the order of `SPLITS`, with the images that the cache is made from. Raises as
    `read_split`."""
    return [read_split(folder / f"{name}.jsonl", originals=True) for name in SPLITS]


def _difference(records: list[Record], about: dict[str, Any], name: str) -> str:
    """How a split differs from what `dataset.json` says of it."""
    found = {"images": len(records), "captions": sum(len(record.captions) for record in records)}
    made = about["counts"].get(name)
    counts = f"{found['images']} images found with {found['captions']} captions"
    return f"{counts}, but not those that were written" if found == made else f"{counts}, {made} written"


_REMEDY = (
    "splits are made by the prepare stage, not by hand: bring the old file back, or delete it, or change what it is "
    "made from, and run the stage again (snakemake --forcerun prepare_data)"
)


def _read_about(path: Path) -> dict[str, Any]:
    """What `dataset.json` beside a split says. Raises UserError if it is not what `write_splits` writes."""
    file = path.parent / "dataset.json"
    if path.suffix != ".jsonl" or path.stem not in SPLITS:
        raise UserError(f"{path}: not a split; splits are {', '.join(f'{name}.jsonl' for name in SPLITS)}")
    if not file.exists() and not file.is_symlink():
        raise UserError(f"{path}: not a split that was prepared: there is no {file}; run the prepare stage first")
    about: dict[str, Any] = files.read_json(file)
    for name, kind in {"image_root": str, "counts": dict, "checksums": dict, "cache": dict | None}.items():
        if not isinstance(about.get(name), kind):
            raise UserError(f"{file}: {name} is {show(about.get(name))}, not what the prepare stage writes; {_REMEDY}")
    if not about["image_root"] or "\0" in about["image_root"]:
        raise UserError(f"{file}: image_root is {show(about['image_root'])}, the path of a folder expected; {_REMEDY}")
    return about


def _parse(path: Path, text: str) -> list[Record]:
    """The records of a split file. Raises UserError naming the line of the first fault."""
    records: list[Record] = []
    seen: dict[tuple[str, str], int] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: not valid JSON ({error}): {show(line)}") from None
        fault = _fault(fields)
        if fault is None:
            first = {key: seen.setdefault((key, fields[key]), number) for key in ("image_id", "image")}
            fault = next(
                (f"{key} {show(fields[key])} is that of line {n} too" for key, n in first.items() if n < number), None
            )
        if fault is not None:
            raise UserError(f"{path}: line {number}: {fault}")
        records.append(Record(fields["image_id"], fields["image"], tuple(fields["captions"])))
    if not records:
        raise UserError(f"{path}: no image in it")
    return records


def _fault(fields: Any) -> str | None:
    """What is wrong with the fields of a record, if anything."""
    if not isinstance(fields, dict) or sorted(fields) != ["captions", "image", "image_id"]:
        return f"{show(fields)} found, a record of image_id, image and captions expected"
    for key in ("image_id", "image"):
        if not isinstance(fields[key], str) or not fields[key]:
            return f"{key} is {show(fields[key])}, a string expected"
    captions = fields["captions"]
    if not isinstance(captions, list) or not captions:
        return f"captions is {show(captions)}, a list of one or more strings expected"
    wrong = [caption for caption in captions if not isinstance(caption, str) or not caption.strip()]
    if wrong:
        return f"a caption is {show(wrong[0])}, a string with words expected"
    image = PurePosixPath(fields["image"])
    if image.is_absolute() or ".." in image.parts or "\0" in fields["image"]:
        return f"image {show(fields['image'])} leaves the folder of images"
    return None
