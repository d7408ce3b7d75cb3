"""Unpacking archives that mean harm, or are damaged, or are none: each is refused with one message."""

import copy
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import NOISE, make_tar, make_zip

from rvlr.errors import UserError
from rvlr.fetch import unpack

FETCH_AGAIN = "delete the file so that it is fetched again"
REFUSED = "put one from a source you trust there"


def zip_info(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def tar_info(name: str, kind: bytes, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in values.items():
        setattr(info, key, value)
    return info


def patch_table(archive: Path, offset: int, value: int, width: int = 4, name: str = "") -> Path:
    """Overwrite a field of the zip's central directory, in the entry of `name` or in all."""
    content, at = bytearray(archive.read_bytes()), -1
    while (at := content.find(b"PK\1\2", at + 1)) >= 0:
        if content[at + 46 :].startswith(name.encode()):
            content[at + offset : at + offset + width] = value.to_bytes(width, "little")
    archive.write_bytes(content)
    return archive


def overlapping(archive: Path) -> Path:
    """Many names for the same packed bytes."""
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", NOISE)
        for number in range(3):
            info = copy.copy(file.filelist[0])
            info.filename = info.orig_filename = f"{number}.jpg"
            file.filelist.append(info)
    return archive


def huge_zip(archive: Path) -> Path:
    """900 members, declared to be 3 MiB packed and 256 MiB unpacked, in a file of 3 GiB that is nearly all hole."""
    make_zip(archive, [(f"{number}.jpg", b"") for number in range(900)])
    patch_table(patch_table(archive, 20, 3 * 2**20), 24, 2**28)
    table = archive.read_bytes()
    with archive.open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(3 * 2**30)
        file.write(table)
    return archive


def edit(archive: Path, change: Callable[[bytes], bytes]) -> Path:
    archive.write_bytes(change(archive.read_bytes()))
    return archive


def bare_header(archive: Path, kind: bytes, size: int) -> Path:
    """A tar of one header that declares `size` bytes, and zeros."""
    header = tar_info("a.jpg", kind, size=size).tobuf(tarfile.GNU_FORMAT)
    archive.write_bytes(header + bytes(10240 - len(header)))
    return archive


ONE, TWO = ("train/a.jpg", NOISE), ("train/b.jpg", NOISE[::-1])
ZEROS = bytes(3 * 2**20)

# what makes the archive, and what the message must hold besides its path
REFUSALS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "zip, parent": (
        lambda a: make_zip(a, [ONE, ("train/../../x.jpg", b"")]),
        ["'train/../../x.jpg' is unsafe ("],
    ),
    "zip, no image": (lambda a: make_zip(a, [ONE, ("../x.sh", b"")]), ["'../x.sh' is unsafe ("]),
    "zip, absolute": (lambda a: make_zip(a, [ONE, ("/etc/x.jpg", b"")]), ["'/etc/x.jpg' has an absolute name"]),
    "zip, backslash": (lambda a: make_zip(a, [ONE, ("..\\x.jpg", b"")]), [r"'..\\x.jpg' has", "a backslash"]),
    "zip, drive": (lambda a: make_zip(a, [ONE, ("c:x.jpg", b"")]), ["'c:x.jpg' has", "a drive letter"]),
    "zip, link": (
        lambda a: make_zip(a, [ONE, (zip_info("l.jpg", stat.S_IFLNK | 0o777), b"/etc/passwd")]),
        ["'l.jpg' is a link or a device"],
    ),
    "zip, device": (
        lambda a: make_zip(a, [ONE, (zip_info("d.jpg", stat.S_IFBLK | 0o666), b"")]),
        ["'d.jpg' is a link or a device"],
    ),
    "zip, encrypted": (lambda a: patch_table(make_zip(a, [ONE, TWO]), 8, 1, 2, TWO[0]), ["'train/b.jpg' is encrypted"]),
    "zip, method": (lambda a: make_zip(a, [ONE], zipfile.ZIP_BZIP2), ["'train/a.jpg' is packed by method 12"]),
    "zip, bomb": (lambda a: make_zip(a, [ONE, ("z.jpg", ZEROS)]), ["'z.jpg' is packed more than 100-fold"]),
    "zip, large": (
        lambda a: patch_table(make_zip(a, [ONE, TWO]), 24, 2**28 + 1, name=TWO[0]),
        ["'train/b.jpg' declares 268,435,457 bytes, 268,435,456 at most"],
    ),
    "zip, huge": (huge_zip, ["'800.jpg' makes the whole larger than 200 GiB"]),
    "zip, overlap": (overlapping, ["'0.jpg' lies over other members"]),
    "tar, parent": (
        lambda a: make_tar(a, [ONE, ("../x.jpg", b"")]),
        ["'../x.jpg' is unsafe ("],
    ),
    "tar, absolute": (lambda a: make_tar(a, [ONE, ("/etc/x.jpg", b"")]), ["'/etc/x.jpg' has an absolute name"]),
    "tar, backslash": (lambda a: make_tar(a, [ONE, ("a\\x.jpg", b"")]), [r"'a\\x.jpg' has", "a backslash"]),
    "tar, symlink": (
        lambda a: make_tar(a, [ONE, (tar_info("l.jpg", tarfile.SYMTYPE, linkname="a.jpg"), b"")]),
        ["'l.jpg' is a link, a device"],
    ),
    "tar, hard link": (
        lambda a: make_tar(a, [ONE, (tar_info("l.jpg", tarfile.LNKTYPE, linkname="train/a.jpg"), b"")]),
        ["'l.jpg' is a link, a device"],
    ),
    "tar, device": (
        lambda a: make_tar(a, [ONE, (tar_info("d.jpg", tarfile.CHRTYPE, devmajor=1, devminor=5), b"")]),
        ["'d.jpg' is a link, a device"],
    ),
    "tar, pipe": (
        lambda a: make_tar(a, [ONE, (tar_info("p.jpg", tarfile.FIFOTYPE), b"")], ""),
        ["'p.jpg' is a link, a device"],
    ),
    **{
        f"tar, bomb, {packing}": (
            lambda a, packing=packing: make_tar(a, [ONE, ("z.jpg", ZEROS)], packing),
            ["'z.jpg' is packed more than 100-fold"],
        )
        for packing in ("gz", "bz2", "xz")
    },
    "tar, large": (lambda a: bare_header(a, tarfile.REGTYPE, 2**33), ["'a.jpg' declares 8,589,934,592 bytes"]),
    "tar, sparse": (lambda a: bare_header(a, tarfile.GNUTYPE_SPARSE, 0), ["'a.jpg' is a link, a device or a sparse"]),
    "tar, zero byte": (
        lambda a: make_tar(a, [ONE, (tar_info("x", tarfile.REGTYPE, pax_headers={"path": "x.jpg\0y"}), b"")]),
        [r"'x.jpg\x00y' is unsafe (", "null"],
    ),
    "tar, negative": (lambda a: bare_header(a, tarfile.REGTYPE, -512), ["'a.jpg' declares -512 bytes"]),
}

DAMAGED: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "html": (lambda a: a.write_text("<!DOCTYPE html><title>404</title>" * 99) and a, ["no zip or tar at all"]),
    "empty": (lambda a: a.touch() or a, ["no zip or tar at all"]),
    "noise": (lambda a: a.write_bytes(NOISE) and a, ["no zip or tar at all"]),
    "zip, truncated": (lambda a: edit(make_zip(a, [ONE, TWO]), lambda c: c[:-100]), ["incomplete"]),
    "zip, a byte": (
        lambda a: edit(make_zip(a, [ONE, TWO], zipfile.ZIP_STORED), lambda c: c.replace(NOISE[:9], NOISE[1:10])),
        ["'train/a.jpg': damaged (Bad CRC-32"],
    ),
    "zip, deflate": (
        lambda a: edit(make_zip(a, [ONE, TWO]), lambda c: c.replace(NOISE[200:209], NOISE[100:109])),
        ["'train/a.jpg': damaged"],
    ),
    "zip, size too small": (
        lambda a: patch_table(make_zip(a, [ONE, TWO]), 24, 100, name=TWO[0]),
        ["'train/b.jpg': damaged (Bad CRC-32"],
    ),
    "zip, size too large": (
        lambda a: patch_table(make_zip(a, [ONE, TWO]), 24, 10**6, name=TWO[0]),
        ["'train/b.jpg': damaged (size or checksum differ from those declared)"],
    ),
    "zip, name of another": (
        lambda a: edit(make_zip(a, [ONE]), lambda c: c.replace(b"train/a.jpg", b"train/z.jpg", 1)),
        ["'train/a.jpg': damaged (File name in directory"],
    ),
    "tar, truncated at a member": (
        lambda a: edit(make_tar(a, [ONE, TWO], ""), lambda c: c[: 512 + 5120]),
        ["its end is missing"],
    ),
    "tar, truncated in a member": (
        lambda a: edit(make_tar(a, [ONE, TWO], ""), lambda c: c[:8000]),
        ["unexpected end of data"],
    ),
    "tar, header": (
        lambda a: edit(make_tar(a, [ONE, TWO], ""), lambda c: c.replace(b"train/b.jpg", b"train/z.jpg")),
        ["its end is missing"],
    ),
    "tar.gz, truncated": (lambda a: edit(make_tar(a, [ONE, TWO]), lambda c: c[:-3000]), ["incomplete"]),
    "tar.gz, without its end": (lambda a: edit(make_tar(a, [ONE, TWO]), lambda c: c[:-8]), ["incomplete"]),
    "tar.gz, checksum": (lambda a: edit(make_tar(a, [ONE]), lambda c: c[:-8] + b"1234" + c[-4:]), ["CRC"]),
    "tar.bz2, truncated": (lambda a: edit(make_tar(a, [ONE, TWO], "bz2"), lambda c: c[:-3000]), ["incomplete"]),
    "tar.xz, truncated": (lambda a: edit(make_tar(a, [ONE, TWO], "xz"), lambda c: c[:-3000]), ["incomplete"]),
    "tar, long header": (lambda a: bare_header(a, tarfile.XHDTYPE, 2**33), ["larger than sound ones"]),
    "tar, negative header": (lambda a: bare_header(a, tarfile.XHDTYPE, -512), ["larger than sound ones"]),
    "tar, endless end": (
        lambda a: edit(make_tar(a, [ONE], "xz"), lambda c: c + lzma.compress(bytes(2**23))),
        ["the end is larger"],
    ),
    "too few": (lambda a: make_zip(a, [ONE, TWO, ("other/b.jpg", TWO[1])]), ["2 images in it, 3 expected"]),
    "too many": (lambda a: make_tar(a, [(f"{n}.jpg", b"") for n in range(4)]), ["4 images in it, 3 expected"]),
    "other content, zip": (
        lambda a: make_zip(a, [ONE, ("val/a.jpg", TWO[1])]),
        ["'train/a.jpg' and 'val/a.jpg' are different images of the same name"],
    ),
    "other content, tar": (
        lambda a: make_tar(a, [ONE, ("val/a.jpg", TWO[1])]),
        ["'train/a.jpg' and 'val/a.jpg' are different images of the same name"],
    ),
    "no image": (lambda a: make_zip(a, [("results.csv", b""), ("._a.jpg", b"")]), ["no image", "holds 'results.csv';"]),
    "nothing": (lambda a: make_tar(a, []), ["no image", "holds nothing;"]),
}


@pytest.mark.parametrize("case", [*REFUSALS, *DAMAGED])
def test_unsound_archives(case: str, tmp_path: Path) -> None:
    """One message with archive, member and what to do; no folder. What means harm has nothing of it written."""
    make, fragments = (REFUSALS | DAMAGED)[case]
    archive = make(tmp_path / "train.zip")
    images = 3 if case.startswith("too") else None
    with pytest.raises(UserError) as caught:
        unpack.unpack_images(archive, tmp_path / "out" / "train", images)
    for fragment in (f"{archive}: ", REFUSED if case in REFUSALS else FETCH_AGAIN, *fragments):
        assert fragment in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"train.zip", "out"}
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= ({".train.lock"} if case in REFUSALS else {".train.lock", ".train.partial"})


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_MOST_MEMBERS", 3)
    archive = make_tar(tmp_path / "a.tar.gz", [(f"{n}.jpg", b"") for n in range(4)])
    with pytest.raises(UserError, match=r"a.tar.gz: '3.jpg' is one of more than 3 members; nothing is unpacked"):
        unpack.unpack_images(archive, tmp_path / "train")


@pytest.mark.parametrize("case", [case for case in REFUSALS | DAMAGED if "zip, " in case or case in ("html", "empty")])
def test_one_member_of_an_unsound_zip(case: str, tmp_path: Path) -> None:
    make, fragments = (REFUSALS | DAMAGED)[case]
    archive = make(tmp_path / "captions.zip")
    name = "b.jpg" if "'train/b.jpg'" in str(fragments) else "a.jpg"
    with pytest.raises(UserError) as caught:
        unpack.read_member(archive, name, 10**9)
    for fragment in (f"{archive}: ", REFUSED if case in REFUSALS else FETCH_AGAIN, *fragments):
        assert fragment in str(caught.value)


@pytest.mark.parametrize("case", ["zip, parent", "too few", "empty", "no image"])
def test_the_users_own_archive_is_neither_deleted_nor_fetched(case: str, tmp_path: Path) -> None:
    make, _ = (REFUSALS | DAMAGED)[case]
    own = make(tmp_path / "own.zip")
    (tmp_path / "train.zip").symlink_to(own)
    with pytest.raises(UserError, match=rf"it is your own file {own}: give .* as `existing` instead") as caught:
        unpack.unpack_images(tmp_path / "train.zip", tmp_path / "out" / "train", 3 if case == "too few" else None)
    assert "delete" not in str(caught.value).lower()
