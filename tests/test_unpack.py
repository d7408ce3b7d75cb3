"""Archives of images: layouts of the public ones, runs that are killed or run twice, archives that mean harm."""

import copy
import io
import logging
import lzma
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from rvlr import log
from rvlr.data import unpack
from rvlr.errors import UserError

FETCH_AGAIN = "delete the file so that it is fetched again"
REFUSED = "fetch it from a source you trust"
NOISE = random.Random(0).randbytes(5000)  # cannot be packed any further
CODE = """
import sys
from pathlib import Path
from rvlr import log
from rvlr.data.unpack import unpack_images
log.setup()
unpack_images(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="session")
def photographs() -> dict[str, bytes]:
    """Real small images by the names of MS-COCO, one with another suffix, one PNG."""
    made = {}
    for number, suffix in enumerate(("jpg", "jpg", "JPG", "jpeg", "png")):
        stream = io.BytesIO()
        picture = Image.radial_gradient("L").convert("RGB").rotate(30 * number).resize((60, 40))
        picture.save(stream, "PNG" if suffix == "png" else "JPEG")
        made[f"COCO_train2014_{number:012d}.{suffix}"] = stream.getvalue()
    return made


Members = list[tuple[str | zipfile.ZipInfo | tarfile.TarInfo, bytes]]


def make_zip(path: Path, members: Members, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for member, content in members:
            file.writestr(member, content, method)
    return path


def make_tar(path: Path, members: Members, packing: str = "gz") -> Path:
    with tarfile.open(path, f"w:{packing}") as file:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if isinstance(member, str):
                info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def read_folder(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# --- layouts ------------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[Path, Members], Path]] = {
    "zip": make_zip,
    "stored zip": partial(make_zip, method=zipfile.ZIP_STORED),
    **{f"tar {packing}": partial(make_tar, packing=packing) for packing in ("", "gz", "bz2", "xz")},
}
LAYOUTS = (  # the folders within MS-COCO, VizWiz, Flickr30K and mirrors of it
    ("zip", "train2014/"),
    ("zip", "flickr30k_images/flickr30k_images/"),
    ("stored zip", "train/"),
    ("tar ", "./"),
    ("tar gz", "flickr30k-images/"),
    ("tar bz2", ""),
    ("tar xz", "./flickr30k/images/"),
)


@pytest.mark.parametrize(("maker", "top"), LAYOUTS)
def test_images_of_any_layout_come_into_one_folder(
    maker: str, top: str, photographs: dict[str, bytes], tmp_path: Path
) -> None:
    """The file's name says nothing of what it is; what is no image stays behind."""
    members: Members = [(top + name, content) for name, content in photographs.items()]
    members += [("flickr30k_images/results.csv", b"image_name| comment\n" * 1000), (f"{top}._a.jpg", b"macOS")]
    members += [(f"__MACOSX/{top}b.jpg", b"macOS"), (f"again/{members[0][0]}", members[0][1])]
    archive = MAKERS[maker](tmp_path / "images.dat", members)
    unpack.unpack_images(archive, tmp_path / "out" / "train", len(photographs))
    assert read_folder(tmp_path / "out" / "train") == photographs
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"train", ".train.lock"}
    archive.unlink()
    unpack.unpack_images(archive, tmp_path / "out" / "train")  # what is there is left alone


def test_progress(
    photographs: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("rvlr"), "propagate", True)
    monkeypatch.setattr(unpack, "Progress", partial(log.Progress, interval=0))
    archive = make_tar(tmp_path / "a.tar.gz", [*photographs.items()])
    (tmp_path / ".train.partial").mkdir()
    first = next(iter(photographs))
    (tmp_path / ".train.partial" / first).write_bytes(photographs[first])
    with caplog.at_level(logging.INFO, "rvlr"):
        unpack.unpack_images(archive, tmp_path / "train")
    assert "unpacking 5 images into" in caplog.text
    assert ", 1 are there already" in caplog.text
    assert "check a.tar.gz" in caplog.text
    assert "unpack a.tar.gz 5/5 (100 %)" in caplog.text


# --- killed, and two at once --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["zip", "tar gz"])
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that takes a while: 1,500 files of 0 to 20 kB."""
    chance = random.Random(1)
    members: Members = [(f"train/{n:06d}.jpg", chance.randbytes(chance.randrange(20_000))) for n in range(1500)]
    return MAKERS[request.param](tmp_path_factory.mktemp("many") / "many.zip", members)


def start(archive: Path, folder: Path) -> subprocess.Popen[str]:
    """A process that unpacks, once it has written 20 images."""
    command = [sys.executable, "-c", CODE, str(archive), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    unfinished = folder.with_name(f".{folder.name}.partial")
    while process.poll() is None and not (unfinished.exists() and len([*unfinished.iterdir()]) > 20):
        time.sleep(0.001)
    return process


def test_killed_and_run_again(many: Path, tmp_path: Path) -> None:
    """The same bytes as a run left alone; what was written is not written again, unless it is short."""
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    unpack.unpack_images(many, alone)
    process = start(many, killed)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert not killed.exists()
    unfinished = tmp_path / ".killed.partial"
    before = {path.name: path.stat() for path in unfinished.glob("*.jpg")}
    assert 10 < len(before) < 1500
    short = next(name for name, found in before.items() if found.st_size > 100)
    del before[short]
    (unfinished / short).write_bytes(b"short")
    (unfinished / "999999.jpg").write_bytes(b"of another archive")
    (unfinished / "000001.jpg.part").write_bytes(b"left by a kill")
    unpack.unpack_images(many, killed, 1500)
    assert not unfinished.exists()
    assert read_folder(killed) == read_folder(alone)
    after = {name: (killed / name).stat() for name in before}
    assert [(s.st_ino, s.st_mtime_ns) for s in after.values()] == [(s.st_ino, s.st_mtime_ns) for s in before.values()]


def test_two_at_once(many: Path, tmp_path: Path) -> None:
    """The second waits, says so, and finds the work done."""
    folder = tmp_path / "train"
    first = start(many, folder)
    first.send_signal(signal.SIGSTOP)
    command = [sys.executable, "-c", CODE, str(many), str(folder)]
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert "another process is making it; waiting" in second.stderr.readline()
        assert second.poll() is None
    finally:
        first.send_signal(signal.SIGCONT)
    said_first, said_second = first.communicate()[1], second.communicate()[1]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "unpacking 1,500 images" in said_first
    assert said_second == ""
    assert len([*folder.iterdir()]) == 1500


# --- archives that mean harm, or are none -------------------------------------------------------------------


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
    "zip, parent": (lambda a: make_zip(a, [ONE, ("train/../../x.jpg", b"")]), ["'train/../../x.jpg' has '..'"]),
    "zip, no image": (lambda a: make_zip(a, [ONE, ("../x.sh", b"")]), ["'../x.sh' has '..'"]),
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
    "tar, parent": (lambda a: make_tar(a, [ONE, ("../x.jpg", b"")]), ["'../x.jpg' has '..'"]),
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
        [r"'x.jpg\x00y' has '..' or a zero byte"],
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
    """One message with archive, member and mend; no folder. What means harm has nothing of it written."""
    make, fragments = (REFUSALS | DAMAGED)[case]
    archive = make(tmp_path / "train.zip")
    images = 3 if case.startswith("too") else 0
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


def test_too_small_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The free space is made up; only what is still to be written must fit."""
    content, real = random.Random(2).randbytes(10**7), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=20 * 2**20))
    archive = make_zip(tmp_path / "a.zip", [(f"{n}.jpg", content) for n in range(3)])
    with pytest.raises(UserError) as caught:
        unpack.unpack_images(archive, tmp_path / "train")
    assert f"{archive}: unpacking takes 0.03 GiB, 0.02 GiB are free in {tmp_path}; make room" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.zip", ".train.lock"}
    (tmp_path / ".train.partial").mkdir()
    for number in (0, 1):
        (tmp_path / ".train.partial" / f"{number}.jpg").write_bytes(content)
    unpack.unpack_images(archive, tmp_path / "train")
    assert len(read_folder(tmp_path / "train")) == 3


def test_places_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.zip: No such file or directory; put a readable archive there"):
        unpack.unpack_images(tmp_path / "gone.zip", tmp_path / "train")
    archive = make_zip(tmp_path / "a.zip", [ONE])
    with pytest.raises(UserError, match=r"a.zip: cannot be unpacked into .*a.zip/train: .*mend this and run again"):
        unpack.unpack_images(archive, archive / "train")
    (tmp_path / "train").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"train: links to .*gone, which is gone; put that back or delete the link"):
        unpack.unpack_images(archive, tmp_path / "train")


# --- links --------------------------------------------------------------------------------------------------


def test_links_to_images_at_hand(
    photographs: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder itself, or the one in it with the right name; another link is replaced, one to itself is not made."""
    for place in ("coco/train2014", "plain"):
        (tmp_path / place).mkdir(parents=True)
        for name, content in photographs.items():
            (tmp_path / place / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    folder = Path("out/train2014")
    for existing, place in (("plain", "plain"), ("coco", "coco/train2014"), ("coco/train2014", "coco/train2014")):
        unpack.link_images(Path(existing), folder)
        assert folder.readlink() == tmp_path / place
        assert read_folder(folder) == photographs
    unpack.link_images(Path("out"), folder)
    assert folder.readlink() == tmp_path / "coco/train2014"
    unpack.link_images(Path("coco"), Path("coco/train2014"))
    assert not Path("coco/train2014").is_symlink()
    assert {path.name for path in Path("out").iterdir()} <= {"train2014", ".train2014.lock"}


def test_nothing_to_link_to(photographs: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "out" / "train"
    with pytest.raises(UserError, match="gone: No such file or directory; give the folder that the images lie in"):
        unpack.link_images(tmp_path / "gone", folder)
    deep = tmp_path / "data" / "other" / "deep"
    deep.mkdir(parents=True)
    (deep / "a.jpg").write_bytes(NOISE)
    (tmp_path / "data" / "._a.jpg").write_bytes(b"macOS")
    with pytest.raises(UserError, match=r"data: holds no image .*and neither does a folder train in it; give the"):
        unpack.link_images(tmp_path / "data", folder)
    assert not folder.is_symlink()
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"train: is there already and is no link; delete it to use .*deep"):
        unpack.link_images(deep, folder)


# --- single members -----------------------------------------------------------------------------------------


def test_one_member_of_a_zip(tmp_path: Path) -> None:
    content = b'{"images": []}'
    members: Members = [("annotations/train.json", content), ("__MACOSX/annotations/train.json", b"macOS")]
    archive = make_zip(tmp_path / "annotations.zip", [*members, ("annotations/val.json", b"{}"), ("README", b"")])
    assert unpack.read_member(archive, "train.json", len(content)) == content
    faults = {
        ("train.json", 13): "annotations.zip: 'annotations/train.json' has 14 bytes, 13 are allowed; delete the file",
        ("test.json", 99): "annotations.zip: no test.json in it; it holds 'annotations/train.json', "
        "'annotations/val.json', 'README'; put",
    }
    for (name, limit), fault in faults.items():
        with pytest.raises(UserError) as caught:
            unpack.read_member(archive, name, limit)
        assert fault in str(caught.value)
        assert FETCH_AGAIN in str(caught.value)


@pytest.mark.parametrize("case", [case for case in REFUSALS | DAMAGED if "zip, " in case or case in ("html", "empty")])
def test_one_member_of_an_unsound_zip(case: str, tmp_path: Path) -> None:
    make, fragments = (REFUSALS | DAMAGED)[case]
    archive = make(tmp_path / "captions.zip")
    name = "b.jpg" if "'train/b.jpg'" in str(fragments) else "a.jpg"
    with pytest.raises(UserError) as caught:
        unpack.read_member(archive, name, 10**9)
    for fragment in (f"{archive}: ", REFUSED if case in REFUSALS else FETCH_AGAIN, *fragments):
        assert fragment in str(caught.value)


def test_members_of_one_name_and_absent_files(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [(f"{n}/x.json", b"") for n in range(30)])
    with pytest.raises(UserError, match=r"a.zip: more than one x.json in it; it holds '0/x.json', .* and 10 more; put"):
        unpack.read_member(archive, "x.json", 10)
    with pytest.raises(UserError, match=r"gone.zip: No such file or directory; put a readable archive there"):
        unpack.read_member(tmp_path / "gone.zip", "x.json", 10)
