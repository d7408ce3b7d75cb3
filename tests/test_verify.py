"""Verification: every image is opened, all faults come at once, and only a sound data set gets a stamp."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvlr import files, log
from rvlr.data.records import Record, Split
from rvlr.datasets.verify import verify
from rvlr.errors import UserError
from rvlr.faults import FAULTS_SHOWN

NAMES = [f"train/{number}.jpg" for number in range(40)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """40 noisy JPEGs of 64 x 48 in a folder `train`."""
    folder = tmp_path / "images"
    (folder / "train").mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(numbers.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / name)
    return folder


def split(root: Path, names: list[str], name: str = "train") -> Split:
    return Split(name, [Record(image, image, ("a dog",)) for image in names], root)


def message(splits: list[Split], stamp: Path, threads: int = 8) -> str:
    """What the user reads. There must be no stamp then."""
    with pytest.raises(UserError) as caught:
        verify(splits, stamp, threads)
    assert not stamp.exists()
    return str(caught.value)


def test_stamp_says_what_was_checked(root: Path, tmp_path: Path) -> None:
    Image.new("L", (16, 16)).save(root / "grey.png")
    Image.new("CMYK", (16, 16)).save(root / "cmyk.jpg")
    Image.fromarray(np.zeros((16, 16), dtype=np.uint16)).save(root / "16 bits.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 16)).save(root / "turned.jpg", exif=exif)
    train = split(root, [*NAMES, "grey.png", "turned.jpg"])
    test = split(root, ["cmyk.jpg", "16 bits.png", "./turned.jpg", NAMES[0]], "test")  # two are in train too
    verify([train, test], tmp_path / "stamp.json")
    found = files.read_json(tmp_path / "stamp.json")
    assert found.pop("provenance")["rvlr"]
    assert found == {
        "images": 44,
        "bytes": sum(path.stat().st_size for path in root.rglob("*.*")),
        "formats": {"JPEG": 42, "PNG": 2},
        "modes": {"CMYK": 1, "I;16": 1, "L": 1, "RGB": 41},
        "turned_by_exif": 1,
        "splits": {"train": train.checksum, "test": test.checksum},
    }
    verify([train, test], tmp_path / "again.json", threads=1)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "stamp.json").read_bytes()


def damage(root: Path) -> list[str]:
    """Damage images in every way; what the message says of each, in the order of NAMES."""
    content = (root / NAMES[2]).read_bytes()
    (root / NAMES[2]).write_bytes(content[: len(content) // 2])
    (root / NAMES[5]).write_bytes(b"")
    (root / NAMES[9]).unlink()
    (root / NAMES[11]).write_text("<html>404")
    (root / NAMES[13]).unlink()
    (root / NAMES[13]).mkdir()
    Image.new("1", (9500, 9500)).save(root / NAMES[17], "PNG")
    (root / NAMES[19]).write_bytes(content[:-2])  # not even the end marker may be missing
    return [
        f"image '{NAMES[2]}' cannot be read: ",
        f"image '{NAMES[5]}' is an empty file (0 bytes); replace it",
        f"image '{NAMES[9]}' is not in {root}/train; ",
        f"image '{NAMES[11]}' is not an image in a known format",
        f"image '{NAMES[13]}' is not a file; ",
        f"image '{NAMES[17]}' has more than 89,478,485 pixels; scale it down",
        f"image '{NAMES[19]}' cannot be read: ",
    ]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_all_faults_come_at_once_and_the_old_stamp_goes(root: Path, tmp_path: Path) -> None:
    verify([split(root, NAMES)], tmp_path / "stamp.json")
    expected = damage(root)
    title, *lines = message([split(root, NAMES)], tmp_path / "stamp.json").splitlines()
    assert title == f"{root}: {len(expected)} faults; nothing was written"
    assert [line.strip().startswith(start) for line, start in zip(lines, expected, strict=True)] == [True] * 7
    backwards = message([split(root, NAMES[::-1])], tmp_path / "stamp.json", threads=1).splitlines()
    assert backwards == [title, *lines[::-1]]


def test_twenty_faults_are_shown_and_all_are_listed(root: Path, tmp_path: Path) -> None:
    listing = tmp_path / "image-faults.txt"
    lines = message([split(root, [f"{number}.jpg" for number in range(30)])], tmp_path / "stamp.json").splitlines()
    assert lines[0] == f"{root}: 30 faults; nothing was written"
    assert lines[-1] == f"  ... and 10 more; all are in {listing}"
    assert len(lines) == FAULTS_SHOWN + 2
    assert [line.split()[1] for line in listing.read_text().splitlines()] == [f"'{n}.jpg'" for n in range(30)]
    message([split(root, ["0.jpg"])], tmp_path / "stamp.json")
    assert not listing.exists()


def test_paths_that_leave_the_folder_are_refused_unopened(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.jpg")
    names = [*NAMES, "../outside.jpg", str(tmp_path / "outside.jpg"), "train/../../outside.jpg"]
    title, *lines = message([split(root, names)], tmp_path / "stamp.json").splitlines()
    assert title.startswith(f"{root}: 3 faults")
    assert [f"image '{name}' leaves this folder; " in line for name, line in zip(names[-3:], lines, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize("name", ["a\0.jpg", "\ud83d.jpg", "", "."])
def test_names_that_no_file_can_have(root: Path, tmp_path: Path, name: str) -> None:
    assert f"{root}: 1 fault; " in message([split(root, [name])], tmp_path / "stamp.json")


def test_folders_may_be_links(root: Path, tmp_path: Path) -> None:
    (root / "train").rename(tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    verify([split(root, NAMES)], tmp_path / "stamp.json")
    assert files.read_json(tmp_path / "stamp.json")["images"] == len(NAMES)


def test_splits_of_two_folders_are_refused(root: Path, tmp_path: Path) -> None:
    splits = [split(root, NAMES), split(tmp_path, ["a.jpg"], "test")]
    assert f"their images lie in {root} and {tmp_path}" in message(splits, tmp_path / "stamp.json")


def test_progress_has_rate_and_remaining_time(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("rvlr"), "propagate", True)  # log.setup, if a test ran it, ends it
    monkeypatch.setattr(log, "Progress", partial(log.Progress, interval=0))  # short loops say nothing
    with caplog.at_level(logging.INFO, "rvlr"):
        verify([split(root, NAMES)], tmp_path / "stamp.json")
    assert "verify images 20/40 (50 %)" in caplog.text
    assert "images/s" in caplog.text
    assert " left" in caplog.text
    assert f"{root}: all 40 images can be read, 0.00 GB" in caplog.text
