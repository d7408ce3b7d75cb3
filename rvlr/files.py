"""Files between stages: complete or absent, and each says what made it.

Everything is written under a temporary name beside its target, flushed to disk and renamed. What `rvlr` did not make is
never replaced, see `rvlr.ownership`.
"""

import errno
import glob
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rvlr import documents, ownership
from rvlr.errors import UserError
from rvlr.log import logger


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; a path has one writer at a time."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def folder_of(path: Path) -> Iterator[None]:
    """Make the folder of `path` and those above it; on failure those that were made and are empty are removed again."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder to be made, whose folder is made if need be; wait for it, and say so, while
    another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("%s: another process is making it; waiting", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is fsynced and renamed to `path`, otherwise removed. Raises UserError if
    there is a file at `path` that `rvlr` did not make."""
    ownership.check(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with folder_of(path):
        _clear_leftovers(path)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.tmp-", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            sync(temporary)
            ownership.record(path)
            temporary.replace(path)
            sync(path.parent)
        except OSError as error:
            if error.filename is None:  # the system does not name the file that it could not write to
                error.filename = str(path)
            raise
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success its files are fsynced and it takes the place of `path`. Raises UserError if
    there is something at `path` that `rvlr` did not make."""
    ownership.check(path)
    with folder_of(path):
        _clear_leftovers(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            ownership.record_folder(temporary)
            for file in temporary.rglob("*"):
                sync(file)
            replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(made: Path, path: Path) -> None:
    """Let a complete folder take the place of `path`. Raises UserError if that holds something that `rvlr` did not
    make."""
    ownership.check(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    made.replace(path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, as `to_json` gives it."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """JSON as files hold it: indented, keys in the order given; NaN and infinity are refused."""
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
    """Read JSON that holds an object, or with `kind=list` a list; or raise UserError naming the file and the fault."""
    return documents.parse_json(read_text(path, documents.JSON_BYTES), str(path), kind)


def read_yaml(path: Path) -> Any:
    """Read one YAML document, or raise UserError naming the file and the line of the fault."""
    return documents.parse_yaml(read_text(path, documents.YAML_BYTES), str(path))
