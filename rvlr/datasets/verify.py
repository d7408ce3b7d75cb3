"""Opening every image of a data set once before anything is trained, since one truncated file would otherwise end a
training after hours.

Enters: splits. Leaves: a stamp, a JSON file that says what was checked; or a list of the faults and no stamp. Paths
inside splits are not trusted: those that lead out of the image root are refused. Links on the disk are followed, since
the folders of public data sets often are links; `rvlr.datasets.custom` refuses those that leave its folder.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from rvlr import environment, files, provenance
from rvlr.data.images import ImageError, Stored, decode
from rvlr.data.records import Split
from rvlr.errors import UserError, show
from rvlr.faults import Faults
from rvlr.log import result, track

T = TypeVar("T")
LISTING = "image-faults.txt"
# each thread may have an image of 89 million pixels, which takes up to 1 GB
THREADS = environment.threads()


def verify(splits: Sequence[Split], stamp: Path, threads: int = THREADS) -> None:
    """Decode every image of the splits and write `stamp`, or raise UserError with the images that are at fault; if they
    are many, all are listed in `LISTING` beside the stamp."""
    for old in (stamp, stamp.with_name(LISTING)):
        old.unlink(missing_ok=True)
    root, names = distinct_images(splits)
    faults = Faults(root)
    formats: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    turned = size = 0
    found = in_threads(partial(inspect, root=root), names, threads, "verify images")
    for name, stored in zip(names, found, strict=True):
        if isinstance(stored, ImageError):
            faults.add(f"image {show(name)} {stored}")
        else:
            formats[stored.format] += 1
            modes[stored.mode] += 1
            turned += stored.turned
            size += stored.size
    faults.check(stamp.with_name(LISTING))
    files.write_json(
        stamp,
        {
            "images": len(names),
            "bytes": size,
            "formats": dict(sorted(formats.items())),
            "modes": dict(sorted(modes.items())),
            "turned_by_exif": turned,
            "splits": {split.name: split.checksum for split in splits},
            "provenance": provenance.collect(),
        },
    )
    result("%s: all %s images can be read, %.2f GB", root, f"{len(names):,}", size / 1e9)


def distinct_images(splits: Sequence[Split]) -> tuple[Path, list[str]]:
    """The image root of the splits, and the path below it of every image, each once, in the order of the splits.

    Raises UserError if a path leads out of the root, the root is not there, or the splits have several roots.
    """
    root, *others = {split.image_root: None for split in splits}
    if others:
        raise UserError(f"splits of one data set are needed, but their images lie in {root} and {others[0]}")
    splits[0].check_images()
    paths = {str(PurePosixPath(record.image)): None for split in splits for record in split.records}
    faults = Faults(root)
    for path in paths:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            faults.add(f"image {show(path)} leaves this folder; correct the captions file and run the prepare stage")
    faults.check()
    return root, list(paths)


def inspect(image: str, root: Path, inside: bool = False) -> Stored:
    """Decode the image `image` below `root` and say how the file stores it. Raises ImageError.

    inside: links that leave `root`, which must be a real path then, are a fault.
    """
    path = root / image
    try:
        stays = not inside or Path(os.path.realpath(path)).is_relative_to(root)
    except ValueError as error:  # characters that no file name can contain
        raise ImageError(f"cannot be a file: {error}; correct the name") from None
    if not stays:
        raise ImageError(f"is a link that leaves {root}; put the file itself into that folder")
    # the pixels are not used, so a JPEG may be reduced as far as possible: all of its data are still decoded
    return decode(path, at_least=1)[1]


def in_threads(look: Callable[[str], T], images: Sequence[str], threads: int, what: str) -> Iterator[T | ImageError]:
    """What `look` returns for each image, or the ImageError it raises, in their order; `what` names the progress."""

    def caught(image: str) -> T | ImageError:
        try:
            return look(image)
        except ImageError as fault:
            return fault

    pool = ThreadPoolExecutor(threads)
    try:
        yield from track(pool.map(caught, images), what, len(images), "images")
    finally:
        pool.shutdown(cancel_futures=True)
