"""Copies of a data set's images, scaled down once, so that training need not decode large photographs every epoch.

Enters: splits and a `Cache` section. Leaves: a folder with every image of the splits under the same path as below
their image root, upright, RGB, its short side `short_side` pixels or less, and `cache.json`, which says what made it.
The codec follows from the content: a file may still be called .png. An image that is small enough, upright, RGB and of
the wanted format already is copied byte for byte.

A build that was stopped leaves its finished images in `.FOLDER.partial` beside the folder. The next build with the same
splits and settings resumes from there. Paths inside splits are not trusted: nothing is written outside the folder.
"""

import shutil
import threading
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from os import fsync
from pathlib import Path
from typing import Any

import PIL
from PIL import Image

from rvlr import config, files, ownership, provenance
from rvlr.data.images import ImageError, decode
from rvlr.data.records import Split
from rvlr.datasets.verify import LISTING, THREADS, distinct_images, in_threads
from rvlr.errors import UserError, show
from rvlr.faults import Faults
from rvlr.log import result

_ABOUT = "cache.json"
_SAMPLE = 256  # images scaled first, to estimate the space of all


def build(splits: Sequence[Split], section: config.Cache, folder: Path, threads: int = THREADS) -> None:
    """Make `folder`, complete or not at all.

    Raises UserError with the images that are at fault, as `verify` does, or if the disk is too small. `folder` is left
    as it was then, and what is finished is kept for the next try.
    """
    root, names = distinct_images(splits)
    if any(name.split("/")[0] == _ABOUT for name in names):
        raise UserError(f"{root / _ABOUT}: the cache has a file of that name itself; rename the image")
    about: dict[str, Any] = {
        "settings": section.model_dump(),
        "image_root": str(root),
        "splits": {split.name: split.checksum for split in splits},
        "pillow": PIL.__version__,
    }
    unfinished = files.unfinished(folder)
    found: dict[str, ImageError | None] = {}
    try:
        images, writing = _resume(unfinished, about)
        scale = partial(_scale, root=root, images=images, writing=writing, section=section)
        sample = names[:: max(1, len(names) // _SAMPLE)]
        found.update(zip(sample, in_threads(scale, sample, threads, "cache: sample"), strict=True))
        rest = [name for name in names if name not in found and not (images / name).is_file()]
        _check_space(images, sample, len(rest))
        found.update(zip(rest, in_threads(scale, rest, threads, "cache images"), strict=True))
    except OSError as error:
        raise UserError(f"{unfinished}: cannot be written: {error}; fix that and run again to resume") from error
    faults = Faults(root)
    for name in names:
        if found.get(name) is not None:
            faults.add(f"image {show(name)} {found[name]}")
    faults.check(folder.with_name(LISTING))

    size = sum((images / name).stat().st_size for name in names)
    about |= {"images": len(names), "bytes": size, "provenance": provenance.collect()}
    files.write_json(images / _ABOUT, about)
    ownership.record_folder(images)
    ownership.check(folder)
    files.put(images, folder)
    shutil.rmtree(unfinished)
    result("%s images, %.2f GB", f"{len(names):,}", size / 1e9)


def _resume(unfinished: Path, made_from: dict[str, Any]) -> tuple[Path, Path]:
    """The folder of finished images, empty unless it was `made_from` the same, and an empty one to write in."""
    state, images, writing = (unfinished / name for name in ("made_from.json", "images", "writing"))
    if not state.exists() or files.read_json(state) != made_from:
        shutil.rmtree(unfinished, ignore_errors=True)
        images.mkdir(parents=True)
        files.write_json(state, made_from)
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    return images, writing


def _scale(image: str, root: Path, images: Path, writing: Path, section: config.Cache) -> None:
    """Write one image, complete or not at all, unless that has been done. Raises ImageError."""
    target = images / image
    if target.is_file():
        return
    picture, stored = decode(root / image, at_least=2 * section.short_side)
    small = min(picture.size) <= section.short_side
    if small and stored[:3] == (section.format.upper(), "RGB", False):
        content = (root / image).read_bytes()
    else:
        content = _encode(picture if small else _shrink(picture, section.short_side), section)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = writing / str(threading.get_ident())
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        fsync(stream.fileno())
    temporary.replace(target)


def _shrink(picture: Image.Image, short_side: int) -> Image.Image:
    size = [round(side * short_side / min(picture.size)) for side in picture.size]
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _encode(picture: Image.Image, section: config.Cache) -> bytes:
    stream = BytesIO()
    try:
        # JPEG's usual halved colour would be halved again where the image is resized
        picture.save(stream, section.format, quality=section.quality, subsampling="4:4:4")
    except (OSError, ValueError) as error:  # longer than the format allows
        raise ImageError(f"cannot be saved as {section.format}: {error}; scale or cut it") from error
    return stream.getvalue()


def _check_space(images: Path, sample: Sequence[str], remaining: int) -> None:
    """Raise UserError if `remaining` images like those of the sample will not fit on the disk."""
    statuses = [path.stat() for path in (images / name for name in sample) if path.is_file()]
    if not statuses:
        return
    mean = sum(max(status.st_size, 512 * status.st_blocks) for status in statuses) / len(statuses)
    needed, free = 1.05 * mean * remaining, shutil.disk_usage(images).free
    if needed > free:
        raise UserError(
            f"{images}: {remaining:,} images more need about {needed / 1e9:.1f} GB (estimated from {len(statuses)}), "
            f"{free / 1e9:.1f} GB are free; make room, or lower dataset.cache short_side or quality"
        )
