"""What an unfinished training leaves behind: damaged, foreign or full folders, and kills between and after damage."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import preloaded
import pytest
import torch
from conftest import TINY_TRAINING, fill, stopped_at
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from test_training import command, paths_in, student_section, teacher_section

from rvlr import config
from rvlr.errors import Interrupted, UserError
from rvlr.training.checkpoint import ResumeFolder
from rvlr.training.folders import MARK, check_resume
from rvlr.training.stage import Paths, train

OUTPUTS = ("model/model.safetensors", "metrics.jsonl")
EPOCHS = 4  # of 6 steps


def section() -> config.TrainedTeacher:
    return teacher_section(epochs=EPOCHS)


@pytest.fixture(scope="module")
def alone(tiny_data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a training that nothing disturbed."""
    paths = paths_in(tmp_path_factory.mktemp("alone"), tiny_model, tiny_data)
    train(section(), 3, paths)
    assert not paths.resume.exists()
    return paths.output


@pytest.fixture(scope="module")
def unfinished(tiny_data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The resume folder of a training that was stopped at step 14: checkpoints at steps 14 and 12, val at 6 and 12."""
    paths = paths_in(tmp_path_factory.mktemp("unfinished"), tiny_model, tiny_data)
    with stopped_at(14), pytest.raises(Interrupted):
        train(section(), 3, paths)
    assert {path.name for path in paths.resume.iterdir()} >= {"checkpoint.pt", "previous.pt", "metrics.jsonl", MARK}
    return paths.resume


@pytest.fixture
def paths(unfinished: Path, tiny_data: Path, tiny_model: Path, tmp_path: Path) -> Paths:
    """A training with a copy of that resume folder."""
    shutil.copytree(unfinished, tmp_path / "resume")
    return paths_in(tmp_path, tiny_model, tiny_data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    """A checkpoint that PyTorch can load and that is not what was written."""
    state = torch.load(path, weights_only=True)
    torch.save(change(state), path)


class Unwanted:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "of 10 bytes": lambda path: cut(path, 10),
    "cut in half": lambda path: cut(path, path.stat().st_size // 2),
    "without its last byte": lambda path: cut(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "one bit": flip,
    "all zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("hello"),
    "no keys": lambda path: rewrite(path, lambda state: {}),
    "a list": lambda path: rewrite(path, lambda state: [1, 2]),
    "another step": lambda path: rewrite(path, lambda state: {**state, "step": 2}),
    "another model": lambda path: rewrite(path, lambda state: {**state, "model": {"a": torch.zeros(3)}}),
    "objects": lambda path: torch.save(Unwanted(), path),
    "missing": Path.unlink,
}


def finishes_as(alone: Path, paths: Paths) -> None:
    train(section(), 3, paths)
    for name in OUTPUTS:
        assert (paths.output / name).read_bytes() == (alone / name).read_bytes(), name


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[Path], object], paths: Paths, unfinished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(paths.resume / "checkpoint.pt")
    folder = ResumeFolder(paths.resume, torch.load(unfinished / "checkpoint.pt", weights_only=True)["fingerprint"])
    with caplog.at_level("WARNING", "rvlr"):
        state = folder.load()
    assert state["step"] == 12
    assert "checkpoint.pt is " in caplog.text
    assert "training continues from previous.pt, step 12" in caplog.text
    # the sound one has taken the place of the damaged one, which must not become the older of two
    assert (paths.resume / "checkpoint.pt").read_bytes() == (unfinished / "previous.pt").read_bytes()
    assert not (paths.resume / "previous.pt").exists()
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("checkpoint.pt", flip),
        ("previous.pt", flip),
        ("metrics.jsonl", Path.unlink),
        ("metrics.jsonl", lambda path: cut(path, 100)),
        ("metrics.jsonl", lambda path: path.write_bytes(bytes(path.stat().st_size))),
        ("metrics.jsonl", lambda path: path.write_text(path.read_text() + '{"kind": "train"}\n')),
        ("tensorboard", shutil.rmtree),
        ("tensorboard/events.out.tfevents.0.rvlr", flip),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_after_damage_training_ends_with_the_same_bits(
    name: str, damage: Callable[[Path], object], paths: Paths, alone: Path
) -> None:
    damage(paths.resume / name)
    finishes_as(alone, paths)
    assert events(paths.output) == events(alone)


def events(output: Path) -> list[tuple[int, str, float]]:
    """Every scalar that TensorBoard reads."""
    (file,) = (output / "tensorboard").glob("events*")
    found = []
    for event in EventFileLoader(str(file)).Load():
        found += [(event.step, value.tag, value.tensor.float_val[0]) for value in event.summary.value]
    return found


def test_tensorboard_shows_what_metrics_jsonl_does(alone: Path) -> None:
    wanted = []
    for line in map(json.loads, (alone / "metrics.jsonl").read_text().splitlines()):
        kind, step, _ = line.pop("kind"), line.pop("step"), line.pop("epoch")
        wanted += [(step, f"{kind}/{name}", pytest.approx(value)) for name, value in line.items()]
    assert events(alone) == wanted


@pytest.mark.parametrize("names", [("checkpoint.pt", "previous.pt"), ("best-12.safetensors", "best-6.safetensors")])
def test_without_a_sound_state_one_message_says_how_to_start_over(names: tuple[str, ...], paths: Paths) -> None:
    for path in paths.resume.iterdir():
        if path.name in names:
            flip(path)
    with pytest.raises(UserError) as raised:
        train(section(), 3, paths)
    message = str(raised.value)
    assert message.startswith(f"{paths.resume}: there is no sound state to resume from")
    assert "damaged" in message
    assert message.endswith(f"rm -r {paths.resume}")
    assert not paths.output.exists()


def test_other_settings_start_over_and_say_so(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    flip(paths.resume / "checkpoint.pt")  # even where the last state is damaged
    with caplog.at_level("INFO", "rvlr"):
        train(teacher_section(epochs=1), 3, paths)
    assert "belongs to other settings or inputs; training starts over" in caplog.text
    assert sum('"val"' in line for line in (paths.output / "metrics.jsonl").read_text().splitlines()) == 1


def test_two_states_and_the_best_weights_of_both_are_kept(tmp_path: Path) -> None:
    folder = ResumeFolder(tmp_path / "resume", "f")
    weights = {"w": torch.zeros(2)}
    with folder.locked():
        for step, best in ((1, None), (2, 2), (3, 2), (4, 4), (5, 4)):
            if best == step:
                folder.save_best(step, weights)
            folder.save({"step": step, "best_step": best})
            files = [path for path in (folder.checkpoint, folder.previous) if path.exists()]
            states = [torch.load(path, weights_only=True) for path in files]
            assert [state["step"] for state in states] == [step, step - 1][: len(states)]
            kept = {path.name for path in folder.folder.glob("best-*")}
            assert kept == {f"best-{state['best_step']}.safetensors" for state in states if state["best_step"]}


# --- folders ------------------------------------------------------------------------------------------------------


def test_only_a_folder_of_its_own_is_used(unfinished: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path, unfinished):
        check_resume(folder)
    shutil.copytree(unfinished, tmp_path / "resume")
    (tmp_path / "resume/tensorboard/.nfs0001").touch()  # of a network drive
    (tmp_path / "resume/.checkpoint.pt.tmp-0a1b2c3d.pt").touch()  # left by a process that was killed
    check_resume(tmp_path / "resume")
    (tmp_path / "resume/thesis.tex").touch()
    with pytest.raises(UserError, match=r"resume: .*but thesis\.tex is not part of that; move thesis\.tex"):
        check_resume(tmp_path / "resume")


def test_clearing_removes_nothing_else(unfinished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resume"
    shutil.copytree(unfinished, folder)
    (folder / ".best-6.safetensors.tmp-0a1b2c3d.safetensors").touch()
    for name in ("thesis.tex", "checkpoint.pt.bak", "tensorboard/mine", "best-x.safetensors"):
        (folder / name).touch()
    resume = ResumeFolder(folder, "f")
    with resume.locked():
        resume.clear()
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert left == ["best-x.safetensors", "checkpoint.pt.bak", "tensorboard", "tensorboard/mine", "thesis.tex"]


def test_a_training_that_fails_at_once_leaves_no_folder(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    paths = paths_in(tmp_path, tiny_model, tiny_data)
    with pytest.raises(UserError, match=r"lower training\.learning_rate"):
        train(teacher_section(learning_rate=1e30, warmup=0.0), 3, paths)
    assert {path.name for path in tmp_path.iterdir()} <= {".resume.lock"}


def test_a_full_disk_keeps_the_last_state_and_training_resumes(
    paths: Paths, alone: Path, unfinished: Path, small_disk: Callable[[str], Path]
) -> None:
    size = (unfinished / "checkpoint.pt").stat().st_size
    disk = small_disk(f"{4 * size // 1024}k")
    shutil.copytree(unfinished, disk / "resume")
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - size // 2))
    tight = Paths(paths.start, paths.splits, None, disk / "resume", paths.output)
    with pytest.raises(UserError) as raised:
        train(section(), 3, tight)
    message = str(raised.value)
    assert message.startswith("the state of step 15 cannot be written: ")
    assert "No space left on device" in message
    assert "make room there" in message
    assert "it resumes at step 14" in message
    left = {path.name: path.read_bytes() for path in (disk / "resume").glob("*.pt")}
    assert left == {path.name: path.read_bytes() for path in unfinished.glob("*.pt")}
    (disk / "filler").unlink()
    finishes_as(alone, tight)


def test_a_disk_that_is_full_from_the_start_or_read_only(
    paths: Paths, unfinished: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("64k")
    fill(disk)
    full = Paths(paths.start, paths.splits, None, disk / "resume", paths.output)
    with pytest.raises(UserError, match=r"resume folder cannot be written: .*: No space left on device .*make room"):
        train(section(), 3, full)
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match=r"resume folder cannot be written: .*: Read-only file system .*; give"):
        train(section(), 3, full)
    with pytest.raises(UserError, match=r"--output .*/disk/run: .*/disk cannot be written; give another path"):
        train(section(), 3, Paths(paths.start, paths.splits, None, paths.resume, disk / "run"))
    assert (paths.resume / "checkpoint.pt").read_bytes() == (unfinished / "checkpoint.pt").read_bytes()


def test_outputs_that_do_not_fit_leave_the_old_ones_and_the_state(
    paths: Paths, alone: Path, small_disk: Callable[[str], Path]
) -> None:
    model = (alone / "model/model.safetensors").stat().st_size
    disk = small_disk(f"{model // 2048}k")
    tight = Paths(paths.start, paths.splits, None, paths.resume, disk / "run")
    with pytest.raises(UserError, match=r"the outputs cannot be written: .*; training is complete and kept"):
        train(section(), 3, tight)
    assert not any(path.is_file() and path.name != ".rvlr-made" for path in disk.rglob("*"))
    subprocess.run(["mount", "-o", "remount,size=50%", disk], check=True)
    finishes_as(alone, tight)


# --- kills ---------------------------------------------------------------------------------------------------------


def kill_later(line: list[str], resume: Path, seconds: float, number: int) -> int:
    """Start a training, kill all its processes `seconds` after its next checkpoint, and return its exit status."""
    process = subprocess.Popen(line, start_new_session=True, stderr=subprocess.DEVNULL)
    before = stamp(resume)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and stamp(resume) == before:
        time.sleep(0.01)
    time.sleep(seconds)
    if process.poll() is None:
        launched = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for group in (process.pid, *map(int, launched)):  # those of several processes have sessions of their own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
    return process.wait()


def stamp(resume: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (resume / "checkpoint.pt").stat().st_mtime_ns
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_damaged_killed_gives_the_same_bits(
    processes: int,
    tiny_data: Path,
    tiny_model: Path,
    tiny_features: Path,
    tmp_path: Path,
) -> None:
    """SIGKILL at random moments; between the kills the last checkpoint loses its end."""
    training = {**TINY_TRAINING, "epochs": 15 * processes, "checkpoint_steps": 2}
    training |= {"processes": processes, "itm_pool": 4}
    student = student_section(training=training)
    alone = paths_in(tmp_path / "alone", tiny_model, tiny_data, tiny_features)
    killed = paths_in(tmp_path / "killed", tiny_model, tiny_data, tiny_features)
    lines = {paths: command("train-student", student, paths, paths.output.parent) for paths in (alone, killed)}

    def finish(paths: Paths) -> None:
        if processes == 1:
            train(student, 3, paths)
        else:
            subprocess.run(preloaded.stage(lines[paths]), check=True)

    finish(alone)
    chance = random.Random(7)
    for damage in (True, False):
        status = kill_later(lines[killed], killed.resume, chance.random() * 0.3, signal.SIGKILL)
        assert status == -signal.SIGKILL
        if damage and (killed.resume / "previous.pt").exists():
            cut(killed.resume / "checkpoint.pt", 1000)
    assert (killed.resume / "checkpoint.pt").exists()
    finish(killed)
    for name in OUTPUTS:
        assert (killed.output / name).read_bytes() == (alone.output / name).read_bytes(), name
