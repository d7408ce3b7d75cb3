"""The public data sets MS-COCO, Flickr30K and VizWiz-Captions in the splits of the paper.

Enters: a `Coco`, `Flickr30K` or `VizWiz` section and the annotation files (`rvlr.datasets.annotations`). Leaves:
`splits/` as `rvlr.data.records` describes it; the images need not be there yet. An image is known by its path
without extension. docs/METHOD.md, "The authors' files", "Training", "Evaluation".

- COCO: train is Karpathy's train and restval with all captions; val and test have the first
  `captions_per_image`.
- Flickr30K: all three splits have the first `captions_per_image`. `train_on_val` adds the val images to train,
  as published; val stays as it is.
- VizWiz: train has all captions, val and test the first `captions_per_image`. The published val and test are
  one file, so val is drawn from train, or with `val: published` the test images again. With `annotations:
  official`, test is all of VizWiz's val.json.

Splits share no image, except as said above, and must have as many as `counts` says; with `annotations:
official` a `counts.test` of 1,000, the default, is that of the authors' file and is not asked for. What
departs from the published splits is logged and kept as `notes` in `dataset.json`.

Imports neither torch nor Pillow, since the workflow asks here which files it must have.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rvlr.config import DOWNLOADS, Coco, Flickr30K, VizWiz
from rvlr.config.datasets import Counts
from rvlr.config.sources import SOURCES
from rvlr.data.records import FEWEST, SPLITS, Check, Record, shuffled, write_splits
from rvlr.datasets import annotations
from rvlr.datasets.annotations import File, Part, some_ids
from rvlr.errors import UserError
from rvlr.log import logger

_KARPATHY, _VIZWIZ = "karpathy-captions", "vizwiz-official-captions"

PublicSection = Coco | Flickr30K | VizWiz
Splits = dict[str, list[Record]]


class Notes(list[str]):
    """What `dataset.json` keeps of how the splits depart from the published ones; all is logged too."""

    def add(self, note: str, level: int = logging.INFO) -> None:
        self.append(note)
        logger.log(level, "%s", note)


def prepare(section: PublicSection, folder: Path, downloads: Path = DOWNLOADS, check: Check | None = None) -> None:
    """Write `folder/splits`, see `make_splits`; everything that is fetched lies below `downloads`."""
    files = {name: downloads / SOURCES[name].file for name in section.annotation_sources.values()}
    make_splits(section, files, str((downloads / section.kind / "images").absolute()), folder, check)


def make_splits(
    section: PublicSection, files: Mapping[str, Path], image_root: str, folder: Path, check: Check | None = None
) -> None:
    """Read the annotations and write `folder/splits`.

    files: where the files lie that `section.annotation_sources` names. image_root: written to `dataset.json` as it is;
    absolute, or relative to `folder/splits`. check: sees the test split before anything is written. Raises
    UserError if a file is damaged, splits share images or have another number than expected; nothing is written
    then.
    """
    parts = _read(section, files)
    notes = Notes()
    for part in parts.values():
        for note in part.notes:
            notes.add(note)
    splits = {name: list(part.records) for name, part in parts.items()}
    if isinstance(section, Flickr30K) and section.annotations == "authors":
        _take_val_out(section, splits, notes)
    _check_disjoint(splits, parts)
    val_from: dict[str, Any] = {"source": "file"}
    if isinstance(section, VizWiz):
        val_from = _make_val(section, splits, parts, notes)
    if section.annotations == "official":
        notes.add(
            f"Test is all {len(splits['test']):,} images of VizWiz's val.json that have captions; which of them the "
            "paper drew, only the authors' file says (dataset.annotations: authors)."
        )
    _check_counts(section, splits, parts, notes)
    if isinstance(section, Flickr30K) and section.train_on_val:
        splits["train"] += splits["val"]
        notes.add(
            f"Train contains the {len(splits['val']):,} val images too, as published: val is seen data, and the epoch "
            "chosen on it may be one that overfits.",
            logging.WARNING,
        )
    _cut_captions(section, splits, notes)

    write_splits(
        folder / "splits",
        splits,
        image_root,
        check,
        name=section.name,
        cache=section.cache and section.cache.model_dump(),
        annotations=section.annotations,
        captions_per_image=section.captions_per_image,
        files={
            name: {"source": part.file.source, "path": str(part.file.place), "sha256": part.sha256}
            for name, part in parts.items()
        },
        val_from=val_from,
        notes=notes,
    )
    logger.info("%s: annotations: %s", section.name, section.annotations)


def _read(section: PublicSection, files: Mapping[str, Path]) -> dict[str, Part]:
    """The splits as their files have them, in the order of SPLITS."""
    folders = list(section.image_sources)
    karpathy: dict[str, Part] = {}
    parts = {}
    for name, source in section.annotation_sources.items():
        path = files[source]
        if source == _KARPATHY:
            member = f"dataset_{section.kind}.json"
            karpathy = karpathy or annotations.read_karpathy(File(path, source, member), folders)
            parts[name] = karpathy[name]
        elif source == _VIZWIZ:
            published = "train" if name == "train" else "val"
            parts[name] = annotations.read_vizwiz(File(path, source, f"{published}.json"), published)
        else:
            parts[name] = annotations.read_paper(File(path, source), folders, name)
    return parts


def _take_val_out(section: Flickr30K, splits: Splits, notes: Notes) -> None:
    """Take val images that are in the train file out of train: there they are an option, not an accident."""
    val = {record.image_id for record in splits["val"]}
    train = [record for record in splits["train"] if record.image_id not in val]
    taken = len(splits["train"]) - len(train)
    splits["train"] = train
    if taken and not section.train_on_val:
        notes.add(f"The train file contains {taken:,} val images; they were taken out of train.")


def _check_disjoint(splits: Splits, parts: Mapping[str, Part]) -> None:
    """Raise UserError if an image is in two splits."""
    faults = []
    ids = {name: dict.fromkeys(record.image_id for record in records) for name, records in splits.items()}
    for one, other in combinations(splits, 2):
        shared = [image_id for image_id in ids[other] if image_id in ids[one]]
        if shared:
            file, before = parts[other].file, parts[one].file
            faults.append(
                f"{file.place}: {other} holds {some_ids(shared)} that {one} ({before.place}) holds too, but splits "
                f"must share no image; {file.remedy}"
            )
    if faults:
        raise UserError("\n".join(faults))


def _make_val(section: VizWiz, splits: Splits, parts: dict[str, Part], notes: Notes) -> dict[str, Any]:
    """Give VizWiz a val split; returns how it was made."""
    if section.val == "published":
        splits["val"], parts["val"] = list(splits["test"]), parts["test"]
        same = "Val and test are the same images, as published: the epoch is chosen on the test images."
        notes.add(same, logging.WARNING)
        return {"source": "test"}

    train, wanted = splits["train"], section.val_images
    if wanted >= len(train):
        raise UserError(
            f"{section.name}: dataset.val_images is {wanted:,}, but {parts['train'].file.place} holds {len(train):,} "
            f"images, of which some must be left to train on; lower it below {len(train):,}"
        )
    drawn = {record.image_id for record in shuffled(train, section.val_seed)[:wanted]}
    splits["val"] = [record for record in train if record.image_id in drawn]
    splits["train"] = [record for record in train if record.image_id not in drawn]
    parts["val"] = parts["train"]
    notes.add(
        f"Val is {wanted:,} images drawn from train with seed {section.val_seed}, since the published val is the test "
        f"split; {len(splits['train']):,} are left to train on."
    )
    return {"source": "train", "images": wanted, "seed": section.val_seed}


def _check_counts(section: PublicSection, splits: Splits, parts: Mapping[str, Part], notes: Notes) -> None:
    """Raise UserError if a split has another number of images than it must; note where that is another
    number than the published."""
    faults = []
    official = section.annotations == "official"
    published: Counts = type(section).model_fields["counts"].default
    for name in SPLITS:
        found, expected, paper = len(splits[name]), getattr(section.counts, name), getattr(published, name)
        place = parts[name].file.place
        if official and name == "test" and expected == paper:
            expected = None
        if found < FEWEST[name]:
            faults.append(
                f"{section.name}: {name}: {found} image{'' if found == 1 else 's'} found in {place}, at least "
                f"{FEWEST[name]} needed; {parts[name].file.remedy}"
            )
        elif expected not in (None, found):
            faults.append(
                f"{section.name}: {name}: {expected:,} images expected, {found:,} found in {place}; "
                f"{parts[name].file.remedy}, or set dataset.counts.{name} to {found} if that is what you want to use"
            )
        elif paper not in (None, found) and not official:
            notes.add(f"The split {name} holds {found:,} images, the published one {paper:,}.")
    if faults:
        raise UserError("\n".join(faults))


def _cut_captions(section: PublicSection, splits: Splits, notes: Notes) -> None:
    """Keep the first `captions_per_image` captions of each image, in train for Flickr30K only."""
    limit, published = section.captions_per_image, type(section).model_fields["captions_per_image"].default
    names = SPLITS if isinstance(section, Flickr30K) else ("val", "test")
    for name in names:
        splits[name] = [replace(record, captions=record.captions[:limit]) for record in splits[name]]
    if limit != published:
        kept = "all captions" if limit is None else f"the first {limit:,} captions"
        notes.add(f"Images of {', '.join(names)} keep {kept}, in the published splits the first {published}.")
