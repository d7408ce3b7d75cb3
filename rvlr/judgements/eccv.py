"""ECCV Caption (Chun et al. 2022, arXiv 2204.03359): right captions of 1,261 COCO test images, and right images of
1,332 captions, that models proposed and people confirmed.

The data come from the package `eccv_caption` (MIT), which the extra `eccv` installs. Its code is not run; tests hold
the metrics to it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rvlr import files, provenance
from rvlr.data.records import Split
from rvlr.errors import UserError
from rvlr.judgements import coco

PACKAGE = "eccv_caption"


@dataclass(frozen=True)
class Positives:
    """The right items of the judged queries of one direction. items: query -> its right items (n,) int64; both by their
    places in the split. counts: query -> how many items are right; there are two more right captions than `items` has,
    since two of them are the sixth of their images, which belong to no gallery. They count as not found, as in the
    package."""

    items: Mapping[int, np.ndarray]
    counts: Mapping[int, int]


@dataclass(frozen=True)
class Judgements:
    """i2t: the right captions of judged images; t2i: the right images of judged captions."""

    i2t: Positives
    t2i: Positives


def installed() -> bool:
    """Whether the package is there."""
    return find_spec(PACKAGE) is not None


def read(split: Split) -> Judgements:
    """The right items of the COCO test images.

    Raises UserError if the package is missing or incomplete, or unless the split has exactly the COCO test images, each
    with at least `coco.CAPTIONS` captions.
    """
    listed = sentence_ids()
    index = coco.index(split, listed, PACKAGE)
    if index.images.keys() != listed.keys():
        raise UserError(
            f"evaluation.judgements.eccv: {split.name} has {len(index.images):,} images, of which "
            f"{len(index.images.keys() & listed.keys()):,} are among the {len(listed):,} COCO test images that ECCV "
            "Caption needs, all of them and no others; turn it off for other images"
        )
    return Judgements(
        i2t=_bind("eccv_image_to_caption.json", index.images, index.captions),
        t2i=_bind("eccv_caption_to_image.json", index.captions, index.images),
    )


def sha256() -> str:
    """One digest of the data that `read` uses."""
    names = ("coco_test_ids.npy", "eccv_image_to_caption.json", "eccv_caption_to_image.json")
    return provenance.digest({name: provenance.sha256(_folder() / name) for name in names})


@cache
def sentence_ids() -> coco.SentenceIds:
    """The ids of the captions of every COCO test image, five each in ascending order, which is Karpathy's.

    Raises UserError if the package is missing, or its two lists, of ids and of the captions of images, disagree.
    """
    ids = np.load(_folder() / "coco_test_ids.npy")
    owner = {int(one): int(image) for one, (image,) in _load("original_caption_to_image.json").items()}
    rows = ids.reshape(-1, coco.CAPTIONS).tolist()
    for row in rows:
        if len({owner.get(one, -1) for one in row}) > 1 or row[0] not in owner or sorted(row) != row:
            raise UserError(f"{_folder()}: not COCO's captions, five a row by image; install {PACKAGE} again")
    return {owner[row[0]]: row for row in rows}


def _bind(name: str, queries: Mapping[int, int], items: Mapping[int, int]) -> Positives:
    """The right items of one direction."""
    found, counts = {}, {}
    for query, listed in _load(name).items():
        right = [items[one] for one in map(int, listed) if one in items]
        if int(query) not in queries or not right:
            raise UserError(f"{_folder() / name}: {query} is not of COCO test; install {PACKAGE} again")
        found[queries[int(query)]] = np.unique(right)
        counts[queries[int(query)]] = len(set(listed))
    return Positives(dict(sorted(found.items())), counts)


def _load(name: str) -> Mapping[str, list[int]]:
    found: Mapping[str, list[int]] = json.loads(files.read_text(_folder() / name))
    return found


def _folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"evaluation.judgements.eccv: the package {PACKAGE} is not installed; run `pip install {PACKAGE}`, or "
            "install rvlr with its extra: pip install -e '.[eccv]'"
        )
    return Path(spec.origin).parent / "data"
