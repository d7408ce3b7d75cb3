"""The cache: what it holds, and that a build that was killed ends with the same files."""

import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rvlr import config, files
from rvlr.data.images import evaluation_transform, load_image
from rvlr.data.records import Record, Split
from rvlr.datasets import cache
from rvlr.errors import UserError
from rvlr.ownership import LEDGER

SECTION = config.Cache(short_side=48)


def split(root: Path, names: list[str], name: str = "train") -> Split:
    return Split(name, [Record(image, image, ("a dog",)) for image in names], root)


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != LEDGER]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of every kind that the cache treats differently."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    large = Image.radial_gradient("L").convert("RGB").resize((192, 96))
    large.save(folder / "large.jpg")
    large.save(folder / "sub/large.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(folder / "turned.jpg", exif=exif)
    large.resize((60, 40)).save(folder / "small.jpg", quality=70)
    large.resize((60, 40)).save(folder / "small turned.jpg", exif=exif)
    large.convert("L").resize((60, 40)).save(folder / "small grey.jpg")
    large.resize((60, 40)).save(folder / "small.webp")
    return folder


SIZES = {
    "large.jpg": (96, 48),
    "sub/large.png": (96, 48),
    "turned.jpg": (48, 96),
    "small.jpg": (60, 40),
    "small turned.jpg": (40, 60),
    "small grey.jpg": (60, 40),
    "small.webp": (60, 40),
}


@pytest.mark.parametrize(("form", "kept"), [("jpeg", "small.jpg"), ("webp", "small.webp")])
def test_images_are_scaled_once_and_never_enlarged(root: Path, tmp_path: Path, form: str, kept: str) -> None:
    folder = tmp_path / "cache"
    splits = [split(root, list(SIZES)), split(root, ["large.jpg"], "test")]
    cache.build(splits, config.Cache(short_side=48, format=form, quality=90), folder)
    found = contents(folder)
    about = files.read_json(folder / "cache.json")
    assert found.keys() == {*SIZES, "cache.json"}
    for name, size in SIZES.items():
        with Image.open(folder / name) as image:
            assert (image.format, image.mode, image.size) == (form.upper(), "RGB", size)
            assert image.getexif() == {}
    assert [name for name in SIZES if found[name] == (root / name).read_bytes()] == [kept]
    assert about["settings"] == {"short_side": 48, "format": form, "quality": 90}
    assert about["images"] == len(SIZES)
    assert about["bytes"] == sum(len(found[name]) for name in SIZES)
    assert about["splits"] == {part.name: part.checksum for part in splits}
    assert about["provenance"]["rvlr"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "images"]


def test_evaluation_tensors_of_the_cache_are_nearly_those_of_the_originals(shared: Path, tmp_path: Path) -> None:
    photographs = shared / "data/flickr8k-mini/images"
    originals = split(photographs, sorted(path.name for path in photographs.glob("*.jpg"))[:40])
    cache.build([originals], config.Cache(short_side=64), tmp_path / "cache")
    copies = split(tmp_path / "cache", [record.image for record in originals.records])
    transform = evaluation_transform(48, (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
    tensors = [
        torch.stack([transform(load_image(part.path(index))) for index in range(40)]) for part in (originals, copies)
    ]
    levels = (tensors[0] - tensors[1]).abs().mean(dim=(1, 2, 3))
    assert levels.mean() < 1.5
    assert levels.max() < 3


# --- stopped and started again -----------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from rvlr import config
from rvlr.datasets import cache
from rvlr.data.records import read_split
cache.build([read_split(Path(sys.argv[1]))], config.Cache(short_side=200), Path(sys.argv[2]), threads=2)
"""


def noisy(folder: Path, count: int) -> list[str]:
    """Names of new images that take some milliseconds each."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    names = [f"{number % 3}/{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.roll(pixels, number, axis=1)).save(folder / name)
    return names


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_with_the_same_files(tmp_path: Path) -> None:
    from rvlr.data.records import write_splits

    names = noisy(tmp_path / "images", 120)
    records = [Record(name, name, ("a dog",)) for name in names]
    write_splits(tmp_path / "splits", {"train": records, "val": [], "test": []}, str(tmp_path / "images"))
    folder, unfinished = tmp_path / "cache", tmp_path / ".cache.partial/images"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "splits/train.jsonl"), str(folder)]
    process = subprocess.Popen(command)
    while len(list(unfinished.glob("*/*.jpg"))) < 10:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.relative_to(unfinished): path.stat().st_ino for path in unfinished.glob("*/*.jpg")}
    assert 10 <= len(kept) < len(names)
    assert not folder.exists()

    subprocess.run(command, check=True)
    assert {path: (folder / path).stat().st_ino for path in kept} == kept  # not made again
    whole = tmp_path / "elsewhere/cache"
    whole.parent.mkdir()
    cache.build([split(tmp_path / "images", names)], config.Cache(short_side=200), whole, threads=1)
    assert contents(folder) == contents(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "elsewhere", "images", "splits"]


def test_faults_are_listed_and_the_rest_is_kept(root: Path, tmp_path: Path) -> None:
    folder, names = tmp_path / "cache", list(SIZES)
    sound = (root / "large.jpg").read_bytes()
    (root / "large.jpg").write_bytes(sound[:-100])
    (root / "small.jpg").unlink()
    with pytest.raises(UserError) as caught:
        cache.build([split(root, names)], SECTION, folder)
    title, *lines = str(caught.value).splitlines()
    assert title == f"{root}: 2 faults; nothing was written"
    assert lines[0].startswith("  image 'large.jpg' cannot be read: ")
    assert lines[1].startswith(f"  image 'small.jpg' is not in {root}; ")
    assert not folder.exists()

    (root / "large.jpg").write_bytes(sound)
    shutil.copy(root / "turned.jpg", root / "small.jpg")
    kept = (tmp_path / ".cache.partial/images/turned.jpg").stat().st_ino
    cache.build([split(root, names)], SECTION, folder)
    assert (folder / "turned.jpg").stat().st_ino == kept
    assert len(contents(folder)) == len(names) + 1


def test_other_settings_begin_anew_and_replace_the_cache(root: Path, tmp_path: Path) -> None:
    folder, names = tmp_path / "cache", list(SIZES)
    cache.build([split(root, names)], SECTION, folder)
    before = contents(folder)
    with pytest.raises(UserError, match="1 fault"):
        cache.build([split(root, [*names, "missing.jpg"])], config.Cache(short_side=24), folder)
    assert contents(folder) == before
    cache.build([split(root, names[1:])], config.Cache(short_side=32), folder)
    assert load_image(folder / "turned.jpg").size == (32, 64)
    assert contents(folder).keys() == {*names[1:], "cache.json"}


def test_too_small_a_disk_is_told_before_it_is_full(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SAMPLE", 2)
    disk = namedtuple("disk", "total used free")(10**6, 10**6 - 5000, 5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    with pytest.raises(UserError, match=r"4 images more need about .* GB \(estimated from 3\), 0.0 GB are free"):
        cache.build([split(root, list(SIZES))], SECTION, tmp_path / "cache")
    assert len(list((tmp_path / ".cache.partial/images").rglob("*.*"))) == 3


def test_image_that_the_format_cannot_hold(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (17_000, 20)).save(root / "long.png")
    with pytest.raises(UserError, match=r"image 'long.png' cannot be saved as webp: .*; scale or cut it"):
        cache.build([split(root, ["long.png"])], config.Cache(format="webp"), tmp_path / "cache")


@pytest.mark.parametrize("name", ["../outside.jpg", "sub/../../outside.jpg", "/outside.jpg"])
def test_nothing_is_written_outside_the_folder(root: Path, tmp_path: Path, name: str) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "outside.jpg")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="leaves this folder"):
        cache.build([split(root, ["large.jpg", name])], SECTION, tmp_path / "cache")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("cache.json", "a file of that name itself"),
        ("cache.json/a.jpg", "itself"),
        (".", "not a file"),
        ("sub", "not a"),
    ],
)
def test_names_that_the_cache_cannot_hold(root: Path, tmp_path: Path, name: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        cache.build([split(root, ["sub/large.png", name])], SECTION, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written: .*; fix that and run again to resume"):
        cache.build([split(root, ["large.jpg"])], SECTION, tmp_path / "file/cache")
