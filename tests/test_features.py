"""Features that several processes write, each its rows; the processes are threads here."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rvlr.data import features
from rvlr.data.records import Record, Split
from rvlr.errors import UserError


@pytest.fixture
def split(tmp_path: Path) -> Split:
    records = [Record(f"{number}", f"{number}.png", (f"caption {number}", "another")) for number in range(7)]
    return Split("train", records, tmp_path)


def write(folder: Path, split: Split, processes: int, spoilt: int | None = None) -> None:
    """Write features whose value is their row; spoilt: the process whose last row of captions is not finite."""
    barrier = threading.Barrier(processes)

    def work(rank: int) -> None:
        accelerator = SimpleNamespace(process_index=rank, num_processes=processes)
        group = SimpleNamespace(accelerator=accelerator, is_main=rank == 0, meet=lambda where: barrier.wait(20))

        def rows(count: int, width: int) -> np.ndarray:
            first, last = features.share(count, group)
            found = np.repeat(np.arange(first, last, dtype=np.float32)[:, None], width, axis=1)
            if rank == spoilt and width == 5:
                found[-1, 2] = np.nan
            return np.array_split(found, 2) if len(found) > 1 else [found]

        try:
            features.write_features(folder, split, {"image": rows(7, 3), "text": rows(14, 5)}, group, teacher="t")
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(processes) as pool:
        for one in [pool.submit(work, rank) for rank in range(processes)]:
            if not isinstance(error := one.exception(), threading.BrokenBarrierError | None):
                raise error


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_rows_of_all_processes_are_joined_in_order(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / ".text-9.npy.partial").touch()  # left by more processes, which were killed
    monkeypatch.setattr(features, "_ROWS_AT_ONCE", 2)
    write(folder, split, processes)
    found = features.read_features(folder, split)
    np.testing.assert_array_equal(found.image, np.repeat(np.arange(7)[:, None], 3, axis=1))
    np.testing.assert_array_equal(found.text, np.repeat(np.arange(14)[:, None], 5, axis=1))
    assert sorted(path.name for path in folder.iterdir() if ".rvlr" not in path.name) == [
        "image.npy",
        "index.json",
        "text.npy",
    ]


def test_a_feature_that_is_not_finite_is_named_by_its_row(split: Split, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text features are not all finite, .*caption 'caption 4' \(row 8\)"):
        write(tmp_path / "features", split, 3, spoilt=1)
    assert not (tmp_path / "features").exists() or not list((tmp_path / "features").glob("*.npy"))
