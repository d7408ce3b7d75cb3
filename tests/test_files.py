"""Files come out complete or not at all, with the permissions that the user's umask gives."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rvlr import files
from rvlr.errors import UserError
from rvlr.models.retrieval import RetrievalModel
from rvlr.ownership import LEDGER


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def test_permissions_follow_the_umask(umask: int, tiny_model: Path, tmp_path: Path) -> None:
    """Also of files that a library makes its own way: safetensors writes with 0600."""
    with files.atomic_folder(tmp_path / "made/model") as folder:
        RetrievalModel.from_pretrained(tiny_model).save_pretrained(folder)
    with files.atomic_file(tmp_path / "rankings.npz") as temporary:
        np.savez(temporary, values=np.zeros(3))
    files.write_json(tmp_path / "about.json", {})
    with files.atomic_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner/private.bin").touch(0o600)
    found = modes(tmp_path)
    assert {"made/model/model.safetensors", "rankings.npz", "about.json", "folder/inner/private.bin"} < set(found)
    for name, mode in found.items():
        assert mode == (0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask, name


def test_a_failure_leaves_nothing_but_what_was_there(tmp_path: Path) -> None:
    files.write_text(tmp_path / "file", "old")
    with files.atomic_folder(tmp_path / "folder") as folder:
        (folder / "old").touch()
    for write, path in (
        (files.atomic_file, tmp_path / "file"),
        (files.atomic_file, tmp_path / "new/deep/file"),
        (files.atomic_folder, tmp_path / "folder"),
    ):
        with pytest.raises(ZeroDivisionError), write(path) as temporary:
            (temporary / "half" if temporary.is_dir() else temporary).write_text(str(1 // 0))
    assert sorted(modes(tmp_path)) == [LEDGER, "file", "folder", f"folder/{LEDGER}", "folder/old"]
    assert (tmp_path / "file").read_text() == "old"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from rvlr import files\n"
    code += "with files.{}(Path(sys.argv[1])) as temporary: os._exit(9)"
    for kind, name in (("atomic_file", "a.npy"), ("atomic_folder", "model")):
        assert subprocess.run([sys.executable, "-c", code.format(kind), tmp_path / name]).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    files.write_text(tmp_path / "a.npy", "")
    with files.atomic_folder(tmp_path / "model"):
        pass
    assert sorted(modes(tmp_path)) == [LEDGER, "a.npy", "model", f"model/{LEDGER}"]


def test_without_a_ledger(tmp_path: Path) -> None:
    """For folders that hold nothing but what `rvlr` made, such as that of an unfinished training."""
    (tmp_path / "state").write_text("old")
    with pytest.raises(UserError, match="rvlr did not make it"), files.atomic_file(tmp_path / "state"):
        pass
    with files.atomic_file(tmp_path / "state", ledger=False) as temporary:
        temporary.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"state": "new"}


def test_links(tmp_path: Path) -> None:
    for target in ("one", "two"):
        (tmp_path / target).mkdir()
        files.link(tmp_path / "link", tmp_path / target)
        assert (tmp_path / "link").readlink() == tmp_path / target
    with pytest.raises(OSError, match="one"):
        files.link(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one").is_dir()


def test_a_lock_has_one_owner(tmp_path: Path) -> None:
    with files.alone(tmp_path / "target"), (tmp_path / ".target.lock").open("rb") as lock:
        assert lock.read() == str(os.getpid()).encode()
        assert not files.try_lock(lock)
    with (tmp_path / ".target.lock").open("rb") as lock:
        assert files.try_lock(lock)
