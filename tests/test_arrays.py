"""Arrays in .npy files: only what was written is read, and a full disk is noticed before anything is written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rvlr import arrays, config, relevance
from rvlr.convert import features as converted
from rvlr.convert import relevance as converted_relevance
from rvlr.data.features import write_index
from rvlr.data.records import Record, Split
from rvlr.errors import UserError

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def spoil(rows: np.ndarray) -> np.ndarray:
    changed = rows.copy()
    changed[2, 1] += 1
    return changed


def not_finite(rows: np.ndarray) -> np.ndarray:
    changed = rows.copy()
    changed[2, 1] = np.nan
    return changed


def make(path: Path) -> dict[str, object]:
    arrays.write_rows(path, ROWS.shape, "rows", lambda first, last: ROWS[first:last])
    return arrays.describe(path)


def test_what_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    whole = make(path), path.read_bytes()
    monkeypatch.setattr(arrays, "VALUES_AT_ONCE", 6)
    assert (make(path), path.read_bytes()) == whole
    found = arrays.load(path, (4, None), whole[0])
    assert np.array_equal(found, ROWS)
    assert not found.flags.writeable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[::-1].copy(), r"changed since it was made$"),
        (spoil, r"changed since it was made$"),
        (not_finite, r"changed since it was made; row 2 \(counted from 0\) contains NaN or infinity"),
        (lambda rows: rows[:3], r"shape 3 x 3 found, 4 x any expected"),
        (lambda rows: rows[:, :0], r"shape 4 x 0 found, 4 x any expected"),
        (lambda rows: rows.astype(np.float64), r"<f8 numbers found, float32"),
        (lambda rows: rows.astype(">f4"), r">f4 numbers found, float32"),
        (lambda rows: rows.astype(np.int32), r"<i4 numbers found, float32"),
        (np.asfortranarray, r"<f4 numbers, column by column, found, float32"),
        (lambda rows: rows.astype(object), r"not a readable \.npy file"),
        (lambda rows: rows[0, 0], r"shape a single number found, 4 x any expected"),
    ],
)
def test_what_was_changed_is_refused(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    path = tmp_path / "a.npy"
    described = make(path)
    np.save(path, change(ROWS))
    with pytest.raises(UserError, match=message):
        arrays.load(path, (4, None), described)


@pytest.mark.parametrize("kept", [0, 5, 130, 170])
def test_truncated(tmp_path: Path, kept: int) -> None:
    described = make(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", kept)
    with pytest.raises(UserError, match=r"a\.npy: not a readable \.npy file"):
        arrays.load(tmp_path / "a.npy", (4, None), described)


def test_no_description_or_an_archive(tmp_path: Path) -> None:
    make(tmp_path / "a.npy")
    for described in (None, {}, "x", {"shape": [4, 3]}):
        with pytest.raises(UserError, match="changed since it was made"):
            arrays.load(tmp_path / "a.npy", (4, 3), described)
    np.savez(tmp_path / "b.npz", ROWS)
    with pytest.raises(UserError, match=r"b\.npz: an archive of arrays \(\.npz\) found"):
        arrays.open_array(tmp_path / "b.npz", (4, 3))
    os.mkfifo(tmp_path / "c.npy")
    with pytest.raises(UserError, match=r"c\.npy: a pipe or a device found"):
        arrays.open_array(tmp_path / "c.npy", (4, 3))


# --- a full disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(small_disk: Callable[[str], Path]) -> Path:
    return small_disk("256k")


def large_split(folder: Path) -> Split:
    """300 images of one caption each: a relevance matrix of 360 kB."""
    return Split("train", [Record(f"{n}", f"{n}.jpg", (f"a dog {n}",)) for n in range(300)], folder)


def left(folder: Path) -> list[str]:
    """Files in a folder but for the ledger of what is made there."""
    return [path.name for path in folder.rglob("*") if path.name != ".rvlr-made"]


def test_full_disk_is_noticed_before_writing(disk: Path) -> None:
    with pytest.raises(UserError, match=r"disk: no room for 300 x 300 numbers: 0\.4 MB are needed, 0\.[0-3] MB are"):
        arrays.create(disk / "a.npy", (300, 300))
    assert not left(disk)
    (disk / "filler").write_bytes(bytes(2**18))
    with pytest.raises(UserError, match=r"no room for 1 x 1 numbers: .* 0\.0 MB are free"):
        arrays.create(disk / "a.npy", (1, 1))
    assert left(disk) == ["filler"]


def test_full_disk_under_each_stage_that_writes_arrays(disk: Path, tmp_path: Path) -> None:
    split, section = large_split(tmp_path), config.Relevance()
    matrix, folder = tmp_path / "train.npy", tmp_path / "features"
    relevance.write(split, section, matrix)
    converted_relevance.export_relevance(matrix, split, tmp_path / "flat.npy")
    folder.mkdir()
    rows = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    for name in ("image", "text"):
        np.save(folder / f"{name}.npy", rows)
    write_index(folder, split)
    annotations = tmp_path / "theirs.json"
    annotations.write_text(json.dumps([{"image": f"{n}.jpg", "caption": f"a dog {n}"} for n in range(300)]))
    there = disk / "out"
    stages = {
        "relevance": lambda: relevance.write(split, section, there / "train.npy"),
        "import-relevance": lambda: converted_relevance.import_relevance(
            tmp_path / "flat.npy", split, section, there / "train.npy"
        ),
        "export-relevance": lambda: converted_relevance.export_relevance(matrix, split, there / "flat.npy"),
        "import-features": lambda: converted.import_features(
            folder / "image.npy", folder / "text.npy", [annotations], split, there
        ),
        "export-features": lambda: converted.export_features(folder, split, [], there),
    }
    for name, stage in stages.items():
        with pytest.raises(UserError, match=r"no room for .* numbers"):
            stage()
        assert not left(disk), name


def test_space_that_is_not_there_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To reserve it would fill the disk until that fails, under every other process."""
    asked = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *arguments: asked.append(arguments))
    with pytest.raises(UserError, match=r"no room for 1000000000 x 1000000 numbers: 4,000,000,000.0 MB are needed"):
        arrays.create(tmp_path / "a.npy", (10**9, 10**6))
    assert not asked
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shift", [-1, 1])
def test_rows_that_are_moved_by_one_are_refused(tmp_path: Path, shift: int) -> None:
    """With five captions an image, four of five rows are still right, and rows of one image alike enough."""
    captions = [tuple(f"caption {number} of {image}" for number in range(5)) for image in range(40)]
    records = [Record(str(image), f"{image}.jpg", own) for image, own in enumerate(captions)]
    annotations = tmp_path / "theirs.json"
    annotations.write_text(json.dumps([{"image": record.image, "caption": record.captions} for record in records]))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 8)).astype(np.float32).repeat(5, axis=0)
    images += 0.1 * rng.normal(size=images.shape).astype(np.float32)  # as augmentation does
    np.save(tmp_path / "text.npy", rng.normal(size=(200, 8)).astype(np.float32))
    files = tmp_path / "image.npy", tmp_path / "text.npy", [annotations], Split("train", records, tmp_path)
    np.save(tmp_path / "image.npy", images)
    converted.import_features(*files, tmp_path / "good")
    np.save(tmp_path / "image.npy", np.roll(images, shift, axis=0))
    with pytest.raises(UserError, match=r"image\.npy: rows of one image are more alike when every row is moved by one"):
        converted.import_features(*files, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
