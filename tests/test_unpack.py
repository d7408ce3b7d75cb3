"""Archives of images: layouts of the public ones, runs that are killed or run twice, archives that mean harm."""

import io
import logging
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from archives import NOISE, Members, make_tar, make_zip
from PIL import Image

from rvlr import log
from rvlr.errors import UserError
from rvlr.fetch import unpack

CODE = """
import sys
from pathlib import Path
from rvlr import log
from rvlr.fetch.unpack import unpack_images
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
        assert "is at work on it; waiting for it to end" in second.stderr.readline()
        assert second.poll() is None
    finally:
        first.send_signal(signal.SIGCONT)
    said_first, said_second = first.communicate()[1], second.communicate()[1]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "unpacking 1,500 images" in said_first
    assert said_second == ""
    assert len([*folder.iterdir()]) == 1500


# --- room and rights -----------------------------------------------------------------------------------------


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
    archive = make_zip(tmp_path / "a.zip", [("a.jpg", NOISE)])
    with pytest.raises(UserError, match=r"a.zip: cannot be unpacked into .*a.zip/train: .*fix this and run again"):
        unpack.unpack_images(archive, archive / "train")


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
    with pytest.raises(UserError, match=r"data: has no image in it .*and neither has a folder train in it; give the"):
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
        (
            "train.json",
            13,
        ): "annotations.zip: 'annotations/train.json' has 14 bytes, 13 are allowed; put the published archive there",
        ("test.json", 99): "annotations.zip: no test.json in it; it holds 'annotations/train.json', "
        "'annotations/val.json', 'README'; put",
    }
    for (name, limit), fault in faults.items():
        with pytest.raises(UserError) as caught:
            unpack.read_member(archive, name, limit)
        assert fault in str(caught.value)
        assert "delete the file so that it is fetched again" in str(caught.value)


def test_members_of_one_name_and_absent_files(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [(f"{n}/x.json", b"") for n in range(30)])
    with pytest.raises(UserError, match=r"a.zip: more than one x.json in it; it holds '0/x.json', .* and 10 more; put"):
        unpack.read_member(archive, "x.json", 10)
    with pytest.raises(UserError, match=r"gone.zip: No such file or directory; put a readable archive there"):
        unpack.read_member(tmp_path / "gone.zip", "x.json", 10)


@pytest.mark.parametrize(
    ("present", "expected", "sound"), [(3, 3, True), (3, None, True), (2, 3, False), (0, None, False)]
)
def test_a_folder_that_was_there_already_must_be_whole(
    tmp_path: Path, present: int, expected: int | None, sound: bool
) -> None:
    for number in range(present):
        (tmp_path / f"{number}.jpg").touch()
    (tmp_path / "._0.jpg").touch()
    if sound:
        unpack.check_images(tmp_path, expected)
        return
    with pytest.raises(UserError, match=rf"{present} images in it, {expected or 'at least one'} expected"):
        unpack.check_images(tmp_path, expected)
