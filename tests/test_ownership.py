"""What rvlr may replace: what it made, what is empty, and nothing else."""

import errno
from pathlib import Path

import pytest

from rvlr import files, log, ownership
from rvlr.errors import UserError, describe_system
from rvlr.workflow import places

NAMES = [
    "plain.txt",
    "with space.txt",
    "кот.txt",
    "cafe\u0301.txt",
    "line\nbreak.txt",
    "separator\u2028.txt",
    ".hidden",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_ours_is_replaced_and_one_of_the_users_is_not(tmp_path: Path, name: str) -> None:
    for text in ("first", "second"):
        files.write_text(tmp_path / name, text)
    assert (tmp_path / name).read_text() == "second"
    mine = tmp_path / f"mine {name}"
    mine.write_text("my own")
    with pytest.raises(UserError, match="rvlr did not make it"):
        files.write_text(mine, "gone")
    assert mine.read_text() == "my own"


def test_a_folder_of_ours_is_replaced_until_the_user_puts_a_file_into_it(tmp_path: Path) -> None:
    for number in range(2):
        with files.atomic_folder(tmp_path / "made") as folder:
            for name in NAMES:
                (folder / "sub").mkdir(exist_ok=True)
                (folder / "sub" / name).write_text(str(number))
    assert {file.read_text() for file in (tmp_path / "made/sub").iterdir()} == {"1"}
    (tmp_path / "made/sub/mine.txt").write_text("my own")
    with (
        pytest.raises(UserError, match=r"rvlr did not make sub/mine\.txt in it"),
        files.atomic_folder(tmp_path / "made"),
    ):
        pass
    assert (tmp_path / "made/sub/mine.txt").read_text() == "my own"


@pytest.mark.parametrize("folder", ["images", "cache", "seed0/student-a/model", "seed12/teacher-t/tensorboard"])
def test_the_workflow_deletes_no_folder_that_holds_a_file_of_the_user(tmp_path: Path, folder: str) -> None:
    with files.atomic_folder(tmp_path / folder) as made:
        (made / "ours").touch()
    (tmp_path / folder / ".snakemake_timestamp").touch()
    (tmp_path / "mine.txt").touch()
    places.check_folders(tmp_path)
    (tmp_path / folder / "mine").touch()
    with pytest.raises(UserError, match=rf"{folder}/mine: rvlr did not make it, .*; move it elsewhere, or delete it$"):
        places.check_folders(tmp_path)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    (tmp_path / folder).symlink_to(tmp_path / "elsewhere")
    places.check_folders(tmp_path)


def test_what_is_empty_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    files.write_text(tmp_path / "empty.txt", "text")
    (tmp_path / "folder/inner").mkdir(parents=True)
    with files.atomic_folder(tmp_path / "folder") as folder:
        (folder / "file").touch()
    assert [file.name for file in (tmp_path / "folder").iterdir() if file.name != ownership.LEDGER] == ["file"]


def test_a_link_is_replaced_only_if_it_is_ours_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("my own")
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(UserError, match="rvlr did not make it"), files.atomic_folder(tmp_path / name):
            pass
    ownership.record(tmp_path / "link")
    with files.atomic_folder(tmp_path / "link"):
        pass
    assert (tmp_path / "photos/cat.jpg").read_text() == "my own"
    assert not (tmp_path / "link").is_symlink()


def test_a_folder_that_was_moved_is_still_ours_and_a_damaged_ledger_makes_nothing_ours(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "made") as folder:
        (folder / "file").write_text("text")
    moved = (tmp_path / "made").rename(tmp_path / "moved")
    assert ownership.foreign(moved) is None
    for damage in (b'"fi', b"\0\xff", b"[1]\n{}"):
        (moved / ownership.LEDGER).write_bytes(damage)
        assert ownership.foreign(moved) == moved / "file"
        files.write_text(moved / "other", "a line that was cut does not spoil the next")
        assert "other" in {path.name for path in moved.iterdir() if ownership.foreign(path) is None}
        (moved / "other").unlink()


def test_an_interrupted_write_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    files.write_text(tmp_path / "file", "old")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), files.atomic_file(tmp_path / "file") as temporary:
        temporary.write_text(f"new {1 // 0}")
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_paths_are_compared_as_the_system_sees_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    ownership.check_apart({"--input": tmp_path / "data"}, {"--output": tmp_path / "data2"})
    for output in ("data", "link", "link/inner", "data/../data/inner", "."):
        with pytest.raises(UserError, match="--output"):
            ownership.check_apart({"--input": tmp_path / "data"}, {"--output": tmp_path / output})


def test_errors_of_the_system_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Not a directory") as caught:
        (tmp_path.joinpath("file").write_text("a"), tmp_path.joinpath("file/inner").read_text())
    assert "file/inner: Not a directory" in describe_system(caught.value)
    assert "lower `batch_size`" in describe_system(MemoryError())
    assert describe_system(ZeroDivisionError()) is None


def test_full_disk_is_said_of_the_file_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as error, files.atomic_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() raises it, without a name
    assert str(tmp_path / "a.txt") in describe_system(error.value)


def test_log_file_whose_disk_is_full_is_given_up_and_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log.setup(tmp_path / "a.log")
    log.logger.handlers[1].setStream(Path("/dev/full").open("w")).close()  # noqa: SIM115 - the handler closes it
    for _ in range(2):
        log.logger.info("a message")
    said = capsys.readouterr().err
    assert said.count("a message") == 2
    assert said.count("a.log: cannot be written ([Errno 28] No space left on device)") == 1
    assert "Traceback" not in said
