"""Files between stages: complete or absent. The only owner of temporary names, of renaming and of locks.

A file or folder is written under a temporary name beside its target, flushed to the disk and renamed. It gets the
permissions that the user's umask gives, even if a library writes it with others. What `rvlr` did not make is never
replaced, see `rvlr.ownership`.

Three ways to write:

- `atomic_file` and `atomic_folder`: written in one go; what a killed process left is removed by the next one;
- `unfinished` and `put`: for work of hours that a later run resumes. The caller writes at `unfinished(path)`, with
  `path` locked (`alone`), and flushes it; then `put` gives it its name;
- `link`: a link in place of a file.
"""

import errno
import fcntl
import glob
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rvlr import documents, ownership
from rvlr.errors import UserError
from rvlr.log import logger


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- locks --------------------------------------------------------------------------------------------------------


def try_lock(file: int | IO[bytes]) -> bool:
    """Lock an open file, or its descriptor, unless another process has locked it. Returns whether this process has the
    lock. The system frees a lock when the file is closed, and so however a process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lock a file or folder that is to be made; while another process has the lock, log that and wait.

    The lock is the file `.NAME.lock` beside `path`, whose folder is made if need be. It contains the process id of its
    owner, and stays. Raises OSError if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a+b", buffering=0) as lock:
        if not try_lock(lock):
            lock.seek(0)
            owner = f"process {number}" if (number := lock.read().decode()) else "another process"
            logger.warning("%s: %s is at work on it; waiting for it to end", path, owner)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        yield


# --- complete or absent -------------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # of a file system that became read-only
            path.unlink(missing_ok=True)


@contextmanager
def folder_of(path: Path) -> Iterator[None]:
    """Make the folder of `path` and those above it. On failure, those that were made and are empty are removed."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}{path.suffix}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder has a temporary name. One that is not being written was left by a killed process."""
    return re.fullmatch(r"\..+\.tmp-[0-9a-f]{8}(\.[^.]+)?", name) is not None


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a new name beside `path`; what is left at it is removed, as is what killed writers of `path` left. A path
    has one writer at a time."""
    with folder_of(path):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
            _remove(leftover)
        temporary = _temporary_name(path)
        try:
            yield temporary
        except OSError as error:
            if error.filename is None:  # the system does not name the file that it could not write to
                error.filename = str(path)
            raise
        finally:
            _remove(temporary)


@contextmanager
def atomic_file(path: Path, ledger: bool = True) -> Iterator[Path]:
    """Yield the path of an empty temporary file, which may be replaced. On success it is flushed to the disk and
    renamed to `path`, otherwise removed.

    ledger: list the file as made by `rvlr`, and raise UserError if there is a file at `path` that `rvlr` did not make.
    """
    if ledger:
        ownership.check(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with _temporary(path) as temporary:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)
        sync(temporary)
        if ledger:
            ownership.record(path)
        put(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield the path of an empty temporary folder. On success its files are flushed to the disk and the folder takes
    the place of `path`. Raises UserError if there is something at `path` that `rvlr` did not make."""
    ownership.check(path)
    with _temporary(path) as temporary:
        temporary.mkdir()
        mode = stat.S_IMODE(temporary.stat().st_mode) & 0o666
        yield temporary
        ownership.record_folder(temporary)
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(mode)
            sync(file)
        ownership.check(path)
        put(temporary, path)


def unfinished(path: Path) -> Path:
    """Where the unfinished content of `path` lies from one run to the next: `.NAME.partial` beside it."""
    return path.with_name(f".{path.name}.partial")


def put(made: Path, path: Path) -> None:
    """Let a file or folder that is complete and on the disk take the place of `path`, which may exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif made.is_dir():  # which cannot replace a file by itself
        path.unlink(missing_ok=True)
    made.replace(path)
    sync(path.parent)


def link(path: Path, target: Path) -> None:
    """Make `path` a link to `target`, in place of a file or another link. Raises OSError if there is a folder."""
    with _temporary(path) as temporary:
        temporary.symlink_to(target)
        temporary.replace(path)
        sync(path.parent)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder, which is gone under its name at once: what a killed process leaves has a
    temporary name. The caller has seen to it that `rvlr` made all of it. Raises OSError."""
    temporary = _temporary_name(path)
    path.rename(temporary)
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary)
    else:
        temporary.unlink()
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, as `to_json` gives it."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """JSON as it is written to files: indented, keys in the order given; NaN and infinity are refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_file(path: Path) -> None:
    """Raise UserError unless `path` is a file: reading a pipe or a terminal may never return, or a device."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        missing = f"a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file"
        raise UserError(f"{path}: {missing}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}; correct the path") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'} found, a file expected")


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The content of a file. Raises UserError if it cannot be read, or has more than `limit` bytes."""
    check_file(path)
    size = path.stat().st_size
    if limit is not None and size > limit:
        raise UserError(f"{path}: {size:,} bytes; such a file has at most {limit:,}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check its permissions") from None


def read_text(path: Path, limit: int | None = None) -> str:
    """The content of a UTF-8 file. Raises UserError if it cannot be read, or has more than `limit` bytes."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line}: not UTF-8 at byte {error.start} (0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None


def read_json(path: Path, kind: type = dict) -> Any:
    """Read JSON that is an object, or with `kind=list` a list; or raise UserError naming the file and the fault."""
    return documents.parse_json(read_text(path, documents.JSON_BYTES), str(path), kind)


def read_yaml(path: Path) -> Any:
    """Read one YAML document, or raise UserError naming the file and the line of the fault."""
    return documents.parse_yaml(read_text(path, documents.YAML_BYTES), str(path))
