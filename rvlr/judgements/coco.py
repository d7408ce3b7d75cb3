"""The ids by which judgements name COCO's images and captions, in a split.

An image is known by the number in the name of its file: `COCO_val2014_000000391895.jpg` is 391895. A caption is known
by its COCO annotation id, which Karpathy's file calls `sentid`. Splits contain no such ids, but the captions of an
image stand there in Karpathy's order, in which the ids of each image ascend. So the k-th caption of an image has the
k-th smallest of its ids. Only the first `CAPTIONS` captions of an image were judged.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rvlr.data.records import Split
from rvlr.errors import UserError, show

CAPTIONS = 5
_IMAGE = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})", re.ASCII)

SentenceIds = Mapping[int, Sequence[int]]
"""The ids of the captions of every image, by the number of the image."""


@dataclass(frozen=True)
class Index:
    """Where judged items are in a split. images: number of an image -> its index; captions: id of a caption -> its
    index. `split` and `images_in_split` are for messages."""

    images: Mapping[int, int]
    captions: Mapping[int, int]
    split: str


def image_number(name: str) -> int | None:
    """The number of a COCO image from its path; None if that is no COCO image."""
    found = _IMAGE.fullmatch(PurePosixPath(name).stem)
    return None if found is None else int(found[1])


def index(split: Split, sentence_ids: SentenceIds, where: str) -> Index:
    """Find the images of a split, and of those in `sentence_ids` the captions.

    where: what messages call the ids. Raises UserError if an image of the split is none of COCO's, or if an image has
    another number of ids than `CAPTIONS`, or fewer captions than ids.
    """
    images: dict[int, int] = {}
    for position, record in enumerate(split.records):
        number = image_number(record.image)
        if number is None:
            raise UserError(
                f"{split.name}: image {show(record.image)} is none of COCO's, which are named as "
                "COCO_val2014_000000391895.jpg; people judged the images and captions of COCO alone: turn "
                "evaluation.judgements off for other data"
            )
        if images.setdefault(number, position) != position:
            raise UserError(f"{split.name}: image {number} of COCO is in it twice; judgements need each image once")
    captions: dict[int, int] = {}
    for number, position in images.items():
        ids = sorted(sentence_ids.get(number, ()))
        if not ids:
            continue
        found = len(split.records[position].captions)
        if len(ids) != CAPTIONS or found < CAPTIONS:
            raise UserError(
                f"{where}: {len(ids)} captions of image {number} are known by id, and {split.name} has {found} of its "
                f"captions, but people judged the first {CAPTIONS} of every image; give complete files, and keep "
                f"{CAPTIONS} captions of each image (dataset.captions_per_image)"
            )
        captions |= {one: int(split.offsets[position]) + place for place, one in enumerate(ids)}
    return Index(images, captions, split.name)
