"""What can be deleted from results: all of it is listed with its price, nothing else is touched."""

import fcntl
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rvlr import files
from rvlr.cli import app
from rvlr.errors import UserError
from rvlr.training.folders import MARK, MARK_TEXT
from rvlr.workflow import clean

SECTIONS = {
    "report": {"runs": ["teacher-t", "student-a", "student-b"], "seeds": [0, 1]},
    "initial-base": {},
    "initial-old": {},
    "teacher-t": {"kind": "retrieval", "model": "base"},
    "teacher-gone": {"kind": "retrieval", "model": "old"},
    "student-a": {"teacher": "t", "start": "t"},
    "student-b": {"teacher": "t", "start": "base"},
    "student-gone": {"teacher": "gone", "start": "gone"},
}
SECONDS = {
    "cache": 40,
    "relevance-test": 30,
    **{f"seed0/{stage}": seconds for stage, seconds in {"teacher-t": 100, "student-a": 200, "student-b": 300}.items()},
    **{f"seed0/evaluate-{run}": 10 for run in ("teacher-t", "student-a", "student-b", "student-gone")},
    "seed0/features-t": 7,
    "seed0/student-gone": 500,
}


def folder_of(path: Path, size: int, *names: str) -> None:
    """A folder that `rvlr` made, with files of `size` bytes."""
    with files.atomic_folder(path) as temporary:
        for name in names:
            (temporary / name).parent.mkdir(exist_ok=True, parents=True)
            (temporary / name).write_bytes(bytes(size))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Results of a study that had another teacher, another student and another seed before."""
    folder = tmp_path / "study/results/photos"
    for name, section in SECTIONS.items():
        files.write_text(folder / f"config/{name}.yaml", yaml.safe_dump(section))
    for seed in (0, 1, 2):
        for run in SECTIONS:
            if run != "report":
                place = folder / f"seed{seed}/{run}"
                folder_of(place / "model", 100, "model.safetensors", "config.json")
                (place / "model/.snakemake_timestamp").touch()
                files.write_text(place / "eval/test.json", "{}")
                files.write_text(place / "config.yaml", "seed: 0")
                if run.startswith("teacher"):
                    for name in ("image.npy", "text.npy", "index.json"):
                        files.write_text(place / "features" / name, "x" * 50)
    for run in ("student-a", "student-gone"):
        files.write_text(folder / f"figures/{run}-cross-modal.png", "png")
    folder_of(folder / "cache", 1000, "train/a.jpg", "b.jpg")
    for name in ("test.npy", "test.json"):
        files.write_text(folder / "relevance" / name, "r" * 600)
    for name, seconds in SECONDS.items():
        path = folder / f"benchmarks/{name}.tsv"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}.25\t0:00:01\t5\n")
    resume = folder / "resume/seed1/student-a"
    resume.mkdir(parents=True)
    (resume / MARK).write_text(MARK_TEXT)
    (resume / "checkpoint.pt").write_bytes(bytes(5000))
    (folder / "resume/seed1/.student-a.lock").write_text("")
    (folder / "resume/seed0/student-b").mkdir(parents=True)  # empty: the training ended
    (folder / "seed0/student-a/.model.tmp-0a1b2c3d").mkdir()
    (folder / "seed0/student-a/.model.tmp-0a1b2c3d/model.safetensors").write_bytes(bytes(70))
    files.write_text(folder / "summary.md", "# table")
    return folder


def by_name(items: list[clean.Item]) -> dict[str, clean.Item]:
    found = {item.name: item for item in items}
    assert len(found) == len(items)
    return found


def everything(folder: Path) -> dict[str, bytes | str | None]:
    return {
        str(path.relative_to(folder)): None
        if path.is_dir() and not path.is_symlink()
        else str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def command(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["clean", *map(str, arguments)])
    assert done.exit_code == 0, done.exception
    return done.output


def test_everything_that_can_go_is_listed(made: Path) -> None:
    items = by_name(clean.find(made))
    gone = ("initial-old", "teacher-gone", "student-gone")
    orphans = {f"seed{seed}/{run}" for seed in (0, 1) for run in gone}
    orphans |= {f"seed2/{run}" for run in SECTIONS if run != "report"}
    orphans |= {f"config/{run}.yaml" for run in gone} | {"figures/student-gone-cross-modal.png"}
    assert {name for name, item in items.items() if item.kind == "orphans"} == orphans
    assert {name: item.kind for name, item in items.items() if item.kind != "orphans"} == {
        "seed0/student-a/.model.tmp-0a1b2c3d": "leftovers",
        "resume/seed1/student-a": "resume",
        "cache": "cache",
        "seed0/teacher-t/features": "features",
        "seed1/teacher-t/features": "features",
        "relevance/test.npy": "relevance",
    }
    assert not any(item.kept for item in items.values())


def test_sizes_and_times(made: Path) -> None:
    items = by_name(clean.find(made))
    assert items["cache"].size == 2000
    assert items["resume/seed1/student-a"].size == 5000 + len(MARK_TEXT)
    assert items["seed0/student-gone"].size == 2 * 100 + len("{}") + len("seed: 0")
    assert items["seed0/student-a/.model.tmp-0a1b2c3d"].size == 70
    assert (items["cache"].seconds, items["relevance/test.npy"].size) == (40.25, 1200)
    assert items["seed0/student-gone"].seconds == 500.25 + 10.25
    assert items["seed2/student-a"].seconds is None  # there is no benchmark of it
    assert items["resume/seed1/student-a"].seconds == 200.25  # that of another seed
    # the students that it teaches, trained and evaluated; then all evaluations; then all of that and the teacher
    assert (items["seed0/teacher-t/features"].seconds, items["seed0/teacher-t/features"].after) == (7.25, 521.0)
    assert items["relevance/test.npy"].after == 3 * 10.25
    assert items["cache"].after == 100.25 + 200.25 + 300.25 + 3 * 10.25 + 7.25
    assert (items["seed1/teacher-t/features"].seconds, items["seed1/teacher-t/features"].after) == (None, None)


def test_nothing_is_deleted_without_yes(made: Path) -> None:
    before = everything(made)
    output = command(made)
    assert everything(made) == before
    assert "nothing was deleted; --yes deletes all that is listed" in output
    assert [line.split() for line in output.splitlines() if line.startswith("cache ")] == [
        ["cache", "cache", "2.0", "KB", "40", "s", "11", "min"]
    ]


def test_yes_deletes_what_is_listed_and_nothing_else(made: Path) -> None:
    before = everything(made)
    items = clean.find(made)
    output = command(made, "--yes")
    assert f"deleted {len(items)} of {len(items)}" in output
    paths = [path.relative_to(made) for item in items for path in item.paths]
    stays = {
        name: content
        for name, content in before.items()
        if not any(Path(name).is_relative_to(path) for path in paths)
        # folders in which nothing is left go, too
        and not name.startswith(("seed2", "resume/seed1/.", "resume/seed1", "relevance"))
    }
    after = everything(made)
    assert stays == {name: content for name, content in after.items() if name in stays}
    assert {name for name in after if name not in stays} <= {"resume/seed1", "resume/seed1/.student-a.lock"}
    for name in ("seed0/student-a/model/model.safetensors", "seed1/initial-base/model/config.json", "summary.md"):
        assert name in after
    assert not any(name.startswith("seed2") for name in after)
    assert clean.find(made) == []
    assert "nothing to delete" in command(made)


def test_only_some_kinds(made: Path) -> None:
    command(made, "--only", "cache", "--only", "leftovers", "--yes")
    assert not (made / "cache").exists()
    assert not list(made.rglob("*.tmp-*"))
    assert (made / "seed0/student-gone/model/config.json").exists()
    assert (made / "resume/seed1/student-a/checkpoint.pt").exists()
    done = CliRunner().invoke(app, ["clean", str(made), "--only", "caches"])
    assert str(done.exception).startswith("--only: found 'caches'; give leftovers, resume,")


def test_files_of_others_keep_their_folder(made: Path) -> None:
    for place in ("cache/train", "seed0/student-gone", "seed0/teacher-t/features", "resume/seed1/student-a"):
        (made / place / "notes.txt").write_text("mine")
    before = everything(made)
    items = by_name(clean.find(made))
    kept = {name for name, item in items.items() if item.kept}
    assert kept == {"cache", "seed0/student-gone", "seed0/teacher-t/features", "resume/seed1/student-a"}
    output = command(made, "--yes")
    assert f"stays: cache: {made}/cache/train/notes.txt is not something that rvlr made" in output
    after = everything(made)
    assert {name for name in before if name.startswith(tuple(kept))} <= after.keys()
    assert not (made / "seed0/teacher-gone").exists()


def test_links_are_never_followed(made: Path, tmp_path: Path) -> None:
    """Neither links that lead out in what is listed, nor folders that lie elsewhere."""
    outside = tmp_path / "outside"
    folder_of(outside, 10, "precious.npy")
    (made / "seed1").rename(tmp_path / "moved")
    (made / "seed1").symlink_to(tmp_path / "moved")
    (made / "cache").rename(tmp_path / "cache")
    (made / "cache").symlink_to(tmp_path / "cache")
    (made / "seed0/student-gone/model/link").symlink_to(outside)
    (made / "seed2/student-a/.model.tmp-00000000").symlink_to(outside)
    before = {name: everything(tmp_path / name) for name in ("outside", "moved", "cache")}
    items = by_name(clean.find(made))
    assert not any(name.startswith(("seed1", "cache")) for name in items)
    assert items["seed0/student-gone"].kept
    assert items["seed2/student-a"].kept
    assert items["seed2/student-a/.model.tmp-00000000"].kept
    command(made, "--yes")
    assert {name: everything(tmp_path / name) for name in before} == before
    assert (made / "seed0/student-gone/model/link").is_symlink()
    assert (made / "cache").is_symlink()
    (tmp_path / "name").symlink_to(made)
    with pytest.raises(UserError, match=r"name: a link; give the folder itself"):
        clean.find(tmp_path / "name")


@pytest.mark.parametrize("what", ["empty", "foreign report", "absent", "broken report"])
def test_other_folders_are_refused(what: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    if what != "absent":
        folder_of(folder / "cache", 10, "a.jpg")
    if what == "foreign report":
        (folder / "config").mkdir()
        (folder / "config/report.yaml").write_text(yaml.safe_dump(SECTIONS["report"]))
    if what == "broken report":
        files.write_text(folder / "config/report.yaml", "runs: 3")
    before = everything(tmp_path)
    done = CliRunner().invoke(app, ["clean", str(folder), "--yes"])
    assert isinstance(done.exception, UserError)
    assert str(folder) in str(done.exception)
    assert everything(tmp_path) == before


def test_nothing_is_deleted_while_something_is_at_work(made: Path) -> None:
    before = everything(made)
    with (made / "resume/seed1/.student-a.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"student-a of seed1 is trained now, so nothing was deleted"):
            clean.delete(made, clean.find(made))
    locks = made.parent.parent / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").touch()
    with pytest.raises(UserError, match=r"Snakemake is at work on it .*snakemake --unlock"):
        clean.delete(made, clean.find(made))
    assert everything(made) == before


def test_a_killed_deletion_leaves_what_the_next_one_deletes(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            clean.delete(made, clean.find(made, ["cache"]))
    assert not (made / "cache").exists()
    (left,) = (item for item in clean.find(made, ["leftovers"]) if item.name.startswith(".cache.tmp-"))
    assert left.size == 2000
    command(made, "--only", "leftovers", "--yes")
    assert not [path for path in made.iterdir() if path.name.startswith(".cache")]
