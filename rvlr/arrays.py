"""`.npy` files of float32 numbers, written and read through memory maps since they may be larger than the memory.

A disk that fills up under a memory map ends the process by a signal, without a word: `create` reserves the space first.
`describe` says what a file contains; a stage keeps that beside the file, and `load` refuses a file whose content has
changed.
"""

import errno
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from rvlr import files, provenance
from rvlr.errors import UserError
from rvlr.log import Progress

VALUES_AT_ONCE = 2**20
_TOO_SMALL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def create(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A writable memory map of a new float32 file, all of whose space on the disk is reserved.

    Raises UserError if there is not so much; nothing is left at `path` then.
    """
    needed, free = 4 * math.prod(shape), shutil.disk_usage(path.parent).free
    try:
        if needed > free:  # to reserve it would take all space from other processes before it fails
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        array = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in _TOO_SMALL:
            raise
        raise UserError(
            f"{path.parent}: no room for {_sizes(shape)} numbers: {needed / 1e6:,.1f} MB are needed, "
            f"{free / 1e6:,.1f} MB are free ({error.strerror}); make room there, or give an output on another disk"
        ) from None
    return array


def write_rows(path: Path, shape: tuple[int, ...], name: str, read: Callable[[int, int], np.ndarray]) -> None:
    """Write an array some rows at a time: `read(first, last)` gives the rows `first` to `last` - 1. `name` is what the
    progress is called. Raises UserError if the disk is too small."""
    progress = Progress(name, shape[0], "rows")
    at_once = max(1, VALUES_AT_ONCE // math.prod(shape[1:]))
    array = create(path, shape)
    for first in range(0, shape[0], at_once):
        last = min(first + at_once, shape[0])
        array[first:last] = read(first, last)
        progress.update(last)
    array.flush()


def describe(path: Path) -> dict[str, Any]:
    """What a file contains: its shape and the SHA-256 of all its bytes."""
    return _described(open_memmap(path, mode="r"), path)


def load(path: Path, shape: tuple[int | None, ...], described: Any) -> np.ndarray:
    """Memory-map a file read-only, after checking that it contains what `describe` said of it.

    shape: what is expected; None allows any length but 0. Raises UserError if the file contains
    something else: numbers of another kind, another shape, or other values, in which case the message names the first
    row that is not finite.
    """
    array = open_array(path, shape)
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else ", column by column,"
        raise UserError(f"{path}: {array.dtype.str} numbers{order} found, float32 (<f4) row by row expected")
    if described != _described(array, path):
        raise UserError(f"{path}: changed since it was made{_not_finite(array)}")
    return array


def open_array(path: Path, shape: tuple[int | None, ...], because: str = "") -> np.ndarray:
    """Memory-map a file of any kind of numbers read-only and check its shape; None allows any length but 0. `because`
    ends the message on a wrong shape. Raises UserError if the file is no such array."""
    files.check_file(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # on damaged files the reader raises almost anything
        raise UserError(f"{path}: not a readable .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an archive of arrays (.npz) found, a .npy file expected")
    found = array.shape
    fits = len(found) == len(shape) and all(want in (None, have) for want, have in zip(shape, found, strict=True))
    if not fits or 0 in found:
        expected = _sizes(["any" if size is None else size for size in shape])
        raise UserError(f"{path}: shape {_sizes(found)} found, {expected} expected{because}")
    return array


def first_not_finite(rows: np.ndarray) -> int | None:
    """The first row that contains NaN or infinity; None if there is none."""
    wrong = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
    return int(wrong[0]) if len(wrong) else None


def _described(array: np.ndarray, path: Path) -> dict[str, Any]:
    return {"shape": list(array.shape), "sha256": provenance.sha256(path)}


def _not_finite(array: np.ndarray) -> str:
    at_once = max(1, VALUES_AT_ONCE // math.prod(array.shape[1:]))
    for first in range(0, len(array), at_once):
        row = first_not_finite(array[first : first + at_once])
        if row is not None:
            return f"; row {first + row} (counted from 0) contains NaN or infinity"
    return ""


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "a single number"
