"""From an archive of images to a flat folder of images, or from an existing folder to a link.

Enters: a zip or a tar (plain, gz, bz2, xz), recognised by its content. Leaves: every image in it, under its base name,
directly in one folder that is complete or absent. Archives are not trusted: all members are checked before anything is
written, no path of an archive is ever used as a path here, and no member may contain more than it declares.
`tarfile.data_filter` refuses paths that leave the folder, for zip files too; the rest of the checks are what it lacks.
"""

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from rvlr import files
from rvlr.errors import UserError, show
from rvlr.log import Progress, logger, result

SUFFIXES = (".jpg", ".jpeg", ".png")
_THREADS = 4  # zlib lets other threads run; each has one member in memory
_MIB, _GIB = 2**20, 2**30
_LARGEST_MEMBER = 256 * _MIB
_LARGEST_TOTAL = 200 * _GIB
_LARGEST_RATIO = 100  # of unpacked to packed bytes, once more than _MIB is unpacked; photographs have about 1
_MOST_MEMBERS = 1_000_000  # of a tar, whose headers shrink to almost nothing when packed but take memory here
_BLOCK = 4096  # what file systems round sizes up to
_NAMES_SHOWN = 20
_MAGIC: dict[bytes, Callable[[IO[bytes]], BufferedIOBase]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


@dataclass(frozen=True)
class _Member:
    """A file in an archive: its path there, its declared size in bytes, CRC-32, and how to open it."""

    path: str
    size: int
    crc: int
    open: Callable[[], IO[bytes]]

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def is_junk(self) -> bool:
        """Whether macOS added it."""
        return "__MACOSX" in PurePosixPath(self.path).parts or self.name.startswith("._")

    @property
    def is_image(self) -> bool:
        return not self.is_junk and _is_image(self.name)


def unpack_images(archive: Path, folder: Path, images: int | None = None) -> None:
    """Put the images of `archive`, `images` of them (None: any number), directly into `folder`, unless that is there.

    A second run resumes where a killed one stopped; of several processes one works and the others wait. Raises
    UserError if the archive is damaged, hostile or has another number of images, or the disk is too small.
    """
    try:
        with files.alone(folder):
            if folder.exists():
                return
            with _reading(archive):
                file = archive.open("rb")
            with file:
                _unpack(archive, file, folder, images)
    except OSError as error:
        raise UserError(
            f"{archive}: cannot be unpacked into {folder}: {error}; fix this and run again, which resumes from here"
        ) from error


def link_images(existing: Path, folder: Path) -> None:
    """Make `folder` a link to `existing`, or to the folder in it that has the same name as `folder` and images in it.

    Raises UserError if `existing` does not exist or has no image in it, or `folder` is no link but a folder.
    """
    target = existing.resolve()
    inner = (target / folder.name).resolve()
    try:
        if inner.is_dir() and any(_images_in(inner)):
            target = inner
        elif not any(_images_in(target)):
            raise UserError(
                f"{existing}: has no image in it ({', '.join(SUFFIXES)}), and neither has a folder {folder.name} "
                "in it; give the folder that the images lie in"
            )
    except OSError as error:
        raise UserError(f"{existing}: {error.strerror}; give the folder that the images lie in") from error
    with files.alone(folder):
        if folder.resolve() == target:
            return
        if folder.exists() and not folder.is_symlink():
            raise UserError(f"{folder}: is there already and is no link; delete it to use the images in {target}")
        files.link(folder, target)


def check_images(folder: Path, images: int | None) -> None:
    """Raise UserError unless a folder that existed before has `images` images in it (None: any number above 0)."""
    found = sum(1 for _ in _images_in(folder))
    if found == 0 or found != (images or found):
        wanted = f"{images:,}" if images else "at least one"
        raise UserError(
            f"{folder}: {found:,} images in it, {wanted} expected; add those that are missing, or delete the folder so "
            "that the images are fetched again"
        )


def read_member(archive: Path, name: str, limit: int) -> bytes:
    """The one file with the base name `name` in any folder of a zip.

    Raises UserError if there is none or more than one, it has more than `limit` bytes, or the zip is damaged or unsafe.
    """
    with _reading(archive), zipfile.ZipFile(archive) as file:
        members = [member for member in _zip_members(archive, file) if not member.is_junk]
        found = [member for member in members if member.name == name]
        if len(found) != 1:
            what = f"{'more than one' if found else 'no'} {name} in it; it holds {_names(found or members)}"
            raise _fault(archive, what, "an archive with exactly one")
        if found[0].size > limit:
            what = f"{show(found[0].path)} has {found[0].size:,} bytes, {limit:,} are allowed"
            raise _fault(archive, what, "the published archive")
        return _content(archive, found[0])


# --- from members to files ----------------------------------------------------------------------------------


def _unpack(archive: Path, file: IO[bytes], folder: Path, images: int | None) -> None:
    """Check all members, then write those that an earlier run did not, and give the folder its name."""
    unfinished = files.unfinished(folder)
    with _reading(archive):
        is_zip = file.read(4) in (b"PK\3\4", b"PK\5\6")
        file.seek(0)
        found = _zip_members(archive, zipfile.ZipFile(file)) if is_zip else _tar_members(archive, file)
        members = _images(archive, found, images)
    kept = _keep(unfinished, members)
    missing = [member for name, member in members.items() if name not in kept]
    needed, free = sum(member.size + _BLOCK for member in missing), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"{archive}: unpacking takes {needed / _GIB:,.2f} GiB, {free / _GIB:,.2f} GiB are free in {folder.parent}; "
            "make room, or unpack it elsewhere and give that folder as `existing`"
        )
    said = f", {len(kept):,} are there already" if kept else ""
    logger.info("%s: unpacking %s images into %s%s", archive, f"{len(members):,}", folder, said)
    unfinished.mkdir(exist_ok=True)
    progress = Progress(f"unpack {archive.name}", len(members), "images", start=len(kept))
    pool = ThreadPoolExecutor(_THREADS if is_zip else 1)  # a tar is read from its beginning to its end
    try:
        for done, _ in enumerate(pool.map(partial(_write, archive, unfinished), missing), len(kept) + 1):
            progress.update(done)
    finally:
        pool.shutdown(cancel_futures=True)
    os.sync()  # one for all: flushing 80,000 files one by one can take an hour
    files.put(unfinished, folder)
    result("%s: %s images", folder, f"{len(members):,}")


def _images(archive: Path, members: Iterable[_Member], expected: int | None) -> dict[str, _Member]:
    """The images among `members` by base name; UserError unless they are `expected` (None: any number of) different."""
    images: dict[str, _Member] = {}
    others = []
    for member in members:
        if member.is_image:
            first = images.setdefault(member.name, member)
            if (first.size, first.crc) != (member.size, member.crc):
                what = f"{show(first.path)} and {show(member.path)} are different images of the same name"
                raise _fault(archive, what, "an archive in which names are unique")
        elif not member.is_junk:
            others.append(member)
    if not images:
        what = f"no image ({', '.join(SUFFIXES)}) in it; it holds {_names(others)}"
        raise _fault(archive, what, "the archive of the images")
    if expected not in (None, len(images)):
        raise _fault(archive, f"{len(images):,} images in it, {expected:,} expected", "the whole archive")
    return images


def _keep(unfinished: Path, members: dict[str, _Member]) -> set[str]:
    """The names of members that an earlier run has written; anything else in the folder is removed."""
    kept = set()
    for file in unfinished.iterdir() if unfinished.exists() else ():
        if file.name in members and file.stat().st_size == members[file.name].size:
            kept.add(file.name)
        else:
            file.unlink()
    return kept


def _write(archive: Path, folder: Path, member: _Member) -> None:
    temporary = folder / f"{member.name}.part"  # no image ends like this
    temporary.write_bytes(_content(archive, member))
    temporary.replace(folder / member.name)


def _content(archive: Path, member: _Member) -> bytes:
    """The bytes of a member, never more than it declares."""
    with _reading(archive, member.path):
        with member.open() as stream:
            content = stream.read(member.size)
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise zipfile.BadZipFile("size or checksum differ from those declared")
    return content


# --- from archives to members -------------------------------------------------------------------------------


@contextmanager
def _reading(archive: Path, path: str | None = None) -> Iterator[None]:
    """Say what is wrong when reading the archive, or `path` in it, fails."""
    what = "damaged, incomplete or no zip or tar at all" if path is None else f"{show(path)}: damaged"
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # on damaged files the readers raise almost anything
        if isinstance(error, OSError) and error.filename is not None:  # it could not even be opened
            raise UserError(f"{archive}: {error.strerror}; put a readable archive there") from error
        raise _fault(archive, f"{what} ({str(error) or type(error).__name__})", "a sound archive") from error


def _zip_members(archive: Path, file: zipfile.ZipFile) -> Iterator[_Member]:
    """Every file of a zip, after checks that need no unpacking."""
    total, packed, size = 0, 0, archive.stat().st_size
    for info in file.infolist():
        path = info.filename
        total, packed = total + info.file_size, packed + info.compress_size
        _check_member(archive, path, info.file_size, total)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(archive, path, "is a link or a device")
        if info.flag_bits & 1:
            raise _refusal(archive, path, "is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refusal(archive, path, f"is packed by method {info.compress_type}; only 0 and 8 (deflate) are read")
        if info.file_size > max(_MIB, _LARGEST_RATIO * info.compress_size):
            raise _refusal(archive, path, f"is packed more than {_LARGEST_RATIO}-fold")
        if packed > size:
            raise _refusal(archive, path, "lies over other members")
        if not info.is_dir():
            yield _Member(path, info.file_size, info.CRC, partial(file.open, info))


def _tar_members(archive: Path, file: IO[bytes]) -> Iterator[_Member]:
    """Every file of a tar, after a pass over the whole of it: a tar has no table of its members, nor checksums."""
    packed = archive.stat().st_size
    most = max(_MIB, _LARGEST_RATIO * packed)
    head = file.read(max(map(len, _MAGIC)))
    file.seek(0)
    unpacked = next((opener(file) for magic, opener in _MAGIC.items() if head.startswith(magic)), file)
    stream = _TarStream(unpacked, most)
    tar = tarfile.TarFile(fileobj=stream)  # type: ignore[arg-type]  # wants to write, too, but only reads here
    progress = Progress(f"check {archive.name}", packed // _MIB, "MiB")
    total = 0
    for number, info in enumerate(tar, 1):
        total += info.size
        _check_member(archive, info.name, info.size, total)
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise _refusal(archive, info.name, "is a link, a device or a sparse file")
        if info.offset_data + info.size > most:
            raise _refusal(archive, info.name, f"is packed more than {_LARGEST_RATIO}-fold")
        if number > _MOST_MEMBERS:
            raise _refusal(archive, info.name, f"is one of more than {_MOST_MEMBERS:,} members")
        if info.isreg():
            member_file = partial(tarfile.ExFileObject, tar, info)
            yield _Member(info.name, info.size, zlib.crc32(member_file().read()), member_file)
        progress.update(file.tell() // _MIB)
    if stream.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
        raise tarfile.ReadError("its end is missing")
    while stream.read(_MIB):  # to the checksum of the packed whole
        pass


class _TarStream:
    """The bytes of a tar as `tarfile` reads them, with limits of its own: it would read headers of any length.

    last: what was read last. most: the position beyond which nothing is read.
    """

    def __init__(self, stream: BufferedIOBase | IO[bytes], most: int) -> None:
        self.stream, self.most, self.last = stream, most, b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_MEMBER or self.stream.tell() > self.most:
            raise tarfile.ReadError("a header or the end is larger than sound ones are")
        self.last = self.stream.read(size)
        return self.last

    def seek(self, position: int) -> None:
        self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()


def _check_member(archive: Path, path: str, size: int, total: int) -> None:
    """Raise UserError unless the path of a member stays inside the folder and the sizes are sound."""
    if path.startswith("/") or "\\" in path or PureWindowsPath(path).drive:  # `data_filter` would strip or ignore these
        raise _refusal(archive, path, "has an absolute name, a drive letter or a backslash")
    try:
        tarfile.data_filter(tarfile.TarInfo(path), str(archive.parent))
    except (tarfile.FilterError, ValueError) as error:  # ValueError: a zero byte in the name
        raise _refusal(archive, path, f"is unsafe ({error})") from error
    if not 0 <= size <= _LARGEST_MEMBER:
        raise _refusal(archive, path, f"declares {size:,} bytes, {_LARGEST_MEMBER:,} at most are allowed")
    if total > _LARGEST_TOTAL:
        raise _refusal(archive, path, f"makes the whole larger than {_LARGEST_TOTAL // _GIB} GiB")


def _refusal(archive: Path, path: str, why: str) -> UserError:
    fault = _fault(archive, f"{show(path)} {why}; nothing is unpacked", "one from a source you trust")
    return UserError(f"{fault}, or unpack it yourself and give that folder as `existing`")


def _fault(archive: Path, what: str, wanted: str) -> UserError:
    """What is wrong with an archive, and what to do. A user's own is a link here, see `rvlr.fetch.download`: it is
    neither deleted nor fetched."""
    remedy = (
        f"it is your own file {archive.readlink()}: give {wanted} as `existing` instead"
        if archive.is_symlink()
        else f"put {wanted} there, or delete the file so that it is fetched again, from another address in `sources` "
        "if the same file would come"
    )
    return UserError(f"{archive}: {what}; {remedy}")


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _images_in(folder: Path) -> Iterator[str]:
    """The names of the images directly in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry.name) and not entry.name.startswith("._") and entry.is_file():
                yield entry.name


def _names(members: list[_Member]) -> str:
    """The paths of the first members, for messages."""
    names = ", ".join(show(member.path) for member in members[:_NAMES_SHOWN]) or "nothing"
    return names + (f" and {len(members) - _NAMES_SHOWN:,} more" if len(members) > _NAMES_SHOWN else "")
