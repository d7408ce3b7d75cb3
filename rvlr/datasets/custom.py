"""The user's own data: a folder of images and a captions file, checked as a whole before anything is trained.

Enters: a `Custom` section. Leaves: `splits/` as `rvlr.data.records` describes it. Records of the same image
are merged; an image without `image_id` is known by its path without extension. Splits are those of the
captions file, in its order, or else drawn over the images by seeded ratio, in the order of the ids.

Every image is decoded, since one truncated file would otherwise end a training after hours. Captions file and
images are not trusted: nothing outside the images folder is opened, and only formats named here are decoded.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from rvlr import files, provenance
from rvlr.config import DOWNLOADS, Custom, SplitRatio
from rvlr.data.images import ImageError
from rvlr.data.records import FEWEST, SPLITS, Check, Record, shuffled, split_counts, write_splits
from rvlr.datasets import captions_file
from rvlr.datasets.captions_file import Entry
from rvlr.datasets.verify import THREADS, in_threads, inspect
from rvlr.errors import UserError, show
from rvlr.faults import Faults, Place
from rvlr.log import logger


@dataclass
class _Image:
    """An image and all that the captions file says of it; `ids` and `splits` map to where each was stated."""

    image: str
    place: Place
    captions: list[str] = field(default_factory=list)
    ids: dict[str, Place] = field(default_factory=dict)
    splits: dict[str, Place] = field(default_factory=dict)

    @property
    def image_id(self) -> str:
        return next(iter(self.ids), PurePosixPath(self.image).with_suffix("").as_posix())

    @property
    def split(self) -> str | None:
        return next(iter(self.splits), None)

    def record(self) -> Record:
        return Record(self.image_id, self.image, tuple(self.captions))


def prepare(section: Custom, folder: Path, downloads: Path = DOWNLOADS, check: Check | None = None) -> None:
    """Check the captions file and every image, then write `folder/splits`; `check` sees the test split before.

    Raises UserError listing what is wrong, with file and line or record; nothing is written then.
    """
    _check_inputs(section)
    entries, faults = captions_file.read(section.captions)
    images = _merge(entries)
    if section.split.redraw:
        for image in images:
            image.splits.clear()
    _check_consistency(images, faults)
    if not faults:  # an image with a misspelt split would be counted as one without a split
        _check_splits(images, section.split, faults)
    root = section.images.resolve()
    _check_files(images, root, faults)
    faults.check()

    if images[0].split:
        made: dict[str, Any] = {"source": "file"}
        splits = {name: [image.record() for image in images if image.split == name] for name in SPLITS}
    else:
        made = {"source": "ratio", **section.split.model_dump()}
        splits = _draw_splits([image.record() for image in images], section.split)
    write_splits(
        folder / "splits",
        splits,
        str(root),
        check,
        name=section.name,
        cache=section.cache and section.cache.model_dump(),
        captions_file=str(section.captions.resolve()),
        captions_sha256=provenance.sha256(section.captions),
        splits_from=made,
    )
    logger.info("%s: splits by %s", section.name, made["source"])


def _check_inputs(section: Custom) -> None:
    """Raise UserError unless the captions file has a known format and the images folder exists."""
    problems = []
    try:
        captions_file.check_ending(section.captions)
        files.check_file(section.captions)
    except UserError as error:
        problems.append(f"{error}; set dataset.captions to your captions file")
    if not section.images.is_dir():
        found = "not a folder" if os.path.lexists(section.images) else "no such folder"
        problems.append(f"{section.images}: {found}; set dataset.images to the folder of images")
    if problems:
        raise UserError("\n".join(problems))


def _merge(entries: Iterable[Entry]) -> list[_Image]:
    """One `_Image` for all entries with the same path, in the order of their first appearance."""
    images: dict[str, _Image] = {}
    for entry in entries:
        image = images.setdefault(entry.image, _Image(entry.image, entry.place))
        image.captions.extend(entry.captions)
        if entry.image_id is not None:
            image.ids.setdefault(entry.image_id, entry.place)
        if entry.split is not None:
            image.splits.setdefault(entry.split, entry.place)
    return list(images.values())


def _check_consistency(images: Iterable[_Image], faults: Faults) -> None:
    """Note images with two ids or splits, and ids of two images."""
    owners: dict[str, _Image] = {}
    for image in images:
        for what, stated in (("id", image.ids), ("split", image.splits)):
            if len(stated) > 1:
                values = ", ".join(f"{show(value)} ({place})" for value, place in stated.items())
                last = list(stated.values())[-1]
                faults.add(f"image {show(image.image)} has more than one {what}: {values}; keep one", last)
        owner = owners.setdefault(image.image_id, image)
        if owner is not image:
            faults.add(
                f"image {show(image.image)} has the id {show(image.image_id)} of {show(owner.image)} "
                f"({owner.place}); give each an image_id of its own (default: the path without extension)",
                next(iter(image.ids.values()), image.place),
            )


def _check_splits(images: Sequence[_Image], ratio: SplitRatio, faults: Faults) -> None:
    """Note splits given for some images only, and splits that would be left empty."""
    without = [image for image in images if image.split is None]
    if len(without) == len(images):
        counts = split_counts(len(images), ratio.val, ratio.test)
        if counts["train"] < FEWEST["train"]:
            faults.add(
                f"images found: {len(images)}; val takes {counts['val']} ({ratio.val:g}) and test "
                f"{counts['test']} ({ratio.test:g}), which leaves no train images; add images, lower "
                "dataset.split, or name the splits in the captions file"
            )
    elif without:
        first = without[0]
        faults.add(
            f"{len(without):,} of {len(images):,} images have no split, the first is {show(first.image)}; "
            "give every image a split, or none to have them drawn by dataset.split",
            first.place,
        )
    elif ratio.fold:
        faults.add(
            f"every image has a split, so dataset.split.fold: {ratio.fold} would change nothing; set "
            "dataset.split.redraw: true to have splits drawn, or leave fold out"
        )
    else:
        counts = Counter(str(image.split) for image in images)
        for name in SPLITS:
            if counts[name] < FEWEST[name]:
                found = ", ".join(f"{counts[split]} {split}" for split in SPLITS if split in counts)
                what = f"{counts[name] or 'no'} {name} image{'' if counts[name] == 1 else 's'}"
                faults.add(
                    f"{what} (found: {found}), at least {FEWEST[name]} needed; mark more with the split {name}, "
                    "or remove all splits to have them drawn by dataset.split"
                )


def _draw_splits(records: Sequence[Record], ratio: SplitRatio) -> dict[str, list[Record]]:
    """Deal the shuffled records out; the test splits of different folds have no image in common."""
    counts, order = split_counts(len(records), ratio.val, ratio.test), shuffled(records, ratio.seed)
    first = ratio.fold * counts["test"]
    if first + counts["test"] > len(order):  # a test split has at least 2 images, whatever its share
        raise UserError(
            f"dataset.split.fold: {ratio.fold} needs more than the {len(order)} images; give a lower number"
        )
    drawn = iter(order[len(order) - first :] + order[: len(order) - first])
    splits = {}
    for name, count in counts.items():
        splits[name] = sorted((next(drawn) for _ in range(count)), key=lambda record: record.image_id)
    return splits


# --- image files --------------------------------------------------------------------------------------------


def _check_files(images: Sequence[_Image], root: Path, faults: Faults) -> None:
    """Open and decode every image below `root` and note those that fail."""
    names = [image.image for image in images]
    found = in_threads(partial(inspect, root=root, inside=True), names, THREADS, "check images")
    for image, stored in zip(images, found, strict=True):
        if isinstance(stored, ImageError):
            faults.add(f"image {show(image.image)} {stored}, or remove its captions", image.place)
