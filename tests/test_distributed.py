"""Stages as several processes: what reaches them from outside, how they wait for each other, how they end."""

import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import preloaded
import pytest
from conftest import TINY_TRAINING

from rvlr import config, environment, launch

HERE = Path(__file__).parent
SECTION = {"kind": "retrieval", "training": {**TINY_TRAINING, "epochs": 1}}
OF_OTHER_LAUNCHERS = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "3",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "ROLE_RANK": "2",
    "MASTER_ADDR": "no.such.host",
    "MASTER_PORT": "abc",
    "TORCHELASTIC_RUN_ID": "x",
    "PMI_SIZE": "2",
    "PMI_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_USE_CPU": "x",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "FSDP_VERSION": "2",
    "MEGATRON_LM_TP_DEGREE": "2",
    "RVLR_PROCESS": "1:0:2:5:/no/such/folder",
}
OF_LIBRARIES = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_DYNAMIC": "true",
    "OMP_THREAD_LIMIT": "1",
    "MKL_DYNAMIC": "true",
    "TIMM_FUSED_ATTN": "0",
}
ACCELERATES_FILE = (
    "mixed_precision: bf16\ndistributed_type: MULTI_CPU\nnum_processes: 2\ngradient_accumulation_steps: 4\n"
)


def train_command(folder: Path, data: Path, model: Path, section: dict) -> list[str]:
    folder.mkdir()
    (folder / "section.yaml").write_text(config.to_yaml(config.parse(section, "test", config.TrainedTeacher)))
    options = {"config": folder / "section.yaml", "seed": 3, "start-model": model, "splits": data / "splits"}
    options |= {"resume": folder / "resume", "output": folder / "run"}
    flat = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    return [sys.executable, "-m", "rvlr", "train-teacher", *flat]


def extract_command(folder: Path, data: Path, model: Path, processes: int) -> list[str]:
    folder.mkdir()
    section = {"kind": "retrieval", "training": {**TINY_TRAINING, "processes": processes, "itm_pool": 4}}
    (folder / "section.yaml").write_text(config.to_yaml(config.parse(section, "test", config.TrainedTeacher)))
    options = {"config": folder / "section.yaml", "model": model, "split": data / "splits/train.jsonl"}
    flat = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    return [sys.executable, "-m", "rvlr", "extract", *flat, "--output", str(folder / "features")]


# --- the environment ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_environment_changes_no_bit_of_the_weights(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "hub/accelerate").mkdir(parents=True)
    (tmp_path / "hub/accelerate/default_config.yaml").write_text(ACCELERATES_FILE)
    found = {}
    for name, variables in {
        "plain": {},
        "launchers": {**OF_OTHER_LAUNCHERS, "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "abc"},
        "libraries": OF_LIBRARIES,
    }.items():
        line = train_command(tmp_path / name, tiny_data, tiny_model, SECTION)
        done = subprocess.run(line, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found[name] = hashlib.sha256((tmp_path / name / "run/model/model.safetensors").read_bytes()).hexdigest()
        named = re.search("ignored, because results must not depend on it: (.*)", done.stderr)
        silent = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HOME", "SLURM_PROCID", "SLURM_NTASKS", "RVLR_PROCESS"}
        assert (named[1].split(", ") if named else []) == sorted(set(variables) - silent)
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("given", ["abc", "0", "-1", "", "1", "999999", "2,1", "1e3"])
def test_the_number_of_threads_is_the_machines(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": given})
    environment.prepare()
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == str(environment.threads())
    assert environment.threads() == min(8, len(os.sched_getaffinity(0)))


def test_what_is_no_business_of_results_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"HF_HOME": "h", "HF_HUB_OFFLINE": "1", "NCCL_DEBUG": "INFO", "CUDA_VISIBLE_DEVICES": "1", "PATH": "/bin"}
    kept |= {"SLURM_JOB_ID": "7", "OMP_WAIT_POLICY": "ACTIVE", "HF_HUB_DISABLE_TELEMETRY": "0", "RANKING": "1"}
    monkeypatch.setattr(environment, "_removed", set())
    monkeypatch.setattr(os, "environ", {**kept, "RANK": "1", "GROUP_RANK": "0"})
    environment.prepare()
    threads = {name for name in os.environ if name.endswith("_THREADS")}
    assert {name: value for name, value in os.environ.items() if name not in threads} == kept
    assert {"RANK", "GROUP_RANK"} <= set(environment.removed())


def test_a_place_counts_only_from_the_process_that_gave_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RVLR_PROCESS", f"{os.getppid()}:1:4:9:{tmp_path}")
    assert environment.place() == environment.Place(1, 4, tmp_path, 9)
    assert environment.threads() == max(1, min(8, len(os.sched_getaffinity(0))) // 4)
    for left_over in (f"{os.getppid()}:1:4:9:{tmp_path}/gone", "", "1", ":::::", f"-1:1:4:9:{tmp_path}", "a:b:c:d:/"):
        monkeypatch.setenv("RVLR_PROCESS", left_over)
        assert environment.place() is None
    monkeypatch.setenv("RVLR_PROCESS", f"1{os.getppid()}:1:4:9:{tmp_path}")
    with pytest.raises(SystemExit, match="the process that started it is gone"):  # never a second launcher
        environment.place()


# --- the launcher ------------------------------------------------------------------------------------------------

TWO = "import os, signal, sys, time; rank = int(os.environ['RVLR_PROCESS'].split(':')[1])\n"


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", TWO + code, *arguments]


def test_the_exit_status_is_that_of_the_first_process_that_fails() -> None:
    assert launch.run(python("sys.exit(0)"), 3) == 0
    begun = time.monotonic()
    assert launch.run(python("sys.exit(7) if rank == 1 else time.sleep(60)"), 2) == 7
    assert launch.run(python("time.sleep(60) if rank else sys.exit(3)"), 3) == 3
    assert time.monotonic() - begun < 20


def test_the_end_of_one_waits_for_the_others_to_save(tmp_path: Path) -> None:
    """A process that is writing when another fails gets as long as a checkpoint takes, and no longer."""
    code = """
def save(number, frame):
    time.sleep(1)
    open(sys.argv[1], 'w').write('saved')
    sys.exit(0)
if rank == 0:
    signal.signal(signal.SIGTERM, save)
    open(sys.argv[1] + '-ready', 'w')
    time.sleep(60)
while not os.path.exists(sys.argv[1] + '-ready'):
    time.sleep(0.01)
sys.exit(5)
"""
    for grace, saved in ((30.0, True), (0.2, False)):
        file = tmp_path / f"{grace}"
        assert launch.run(python(code, str(file)), 2, grace=grace) == 5
        assert file.exists() == saved


def test_a_process_that_is_killed_is_named_once(caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(launch.logger, "propagate", True)
    assert launch.run(python("os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(60)"), 2) == 128 + 9
    assert len(caplog.records) == 1
    assert "process 1 of 2 was ended by SIGKILL, as the system does when memory runs out" in caplog.text


def test_leases_last_as_long_as_the_processes(tmp_path: Path) -> None:
    """They outlive a launcher that is killed, as a process that still computes does."""
    code = "time.sleep(60) if rank else open(sys.argv[1], 'w').write(str(os.getpid())) and time.sleep(60)"
    start = f"""
import fcntl, os, sys
from rvlr import launch
lease = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lease, fcntl.LOCK_EX)
launch.run({python(code, str(tmp_path / "pid"))!r}, 1, [lease])
"""
    launcher = subprocess.Popen([sys.executable, "-c", start, str(tmp_path / "lock")])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    launcher.kill()
    launcher.wait()
    with (tmp_path / "lock").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_every_process_once_and_its_status_comes_back(tmp_path: Path, number: signal.Signals) -> None:
    """The processes end one after the other, of which the later must not be told a second time: it may be saving."""
    code = f"""
received = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: received.append(number))
open(sys.argv[1] + str(rank), 'w')
while not received:
    time.sleep(0.01)
time.sleep(0.5 * (rank + 1))
open(sys.argv[1] + str(rank), 'w').write(str(len(received)))
sys.exit(128 + {int(number)})
"""
    start = f"from rvlr import launch; import sys; sys.exit(launch.run({python(code, str(tmp_path / 'ready'))!r}, 2))"
    process = subprocess.Popen([sys.executable, "-c", start])
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1", "1"]


# --- waiting for each other --------------------------------------------------------------------------------------


def together(
    event: str, place: str, victim: int, timeout: float, grace: float = 2.0
) -> tuple[int, list[str], subprocess.CompletedProcess]:
    """Exit status, error messages and output of two processes, to one of which something happens."""
    worker = [sys.executable, str(HERE / "waiting_worker.py"), event, place, str(victim), str(timeout)]
    start = f"from rvlr import launch, log; import sys; log.setup(); sys.exit(launch.run({worker!r}, 2, grace={grace}))"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, re.findall(r"^\d\d:\d\d:\d\d ERROR (.*)", done.stderr, re.MULTILINE), done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "place", "victim", "timeout", "status", "message"),
    [
        (
            "SIGSTOP",
            "step",
            1,
            2,
            1,
            r"step 2: process 0 of 2 has waited for process 1, which has given no sign of life",
        ),
        (
            "SIGSTOP",
            "validation",
            0,
            2,
            1,
            r"validation after step 2: process 1 of 2 has waited for process 0, which has",
        ),
        (
            "SIGKILL",
            "step",
            0,
            60,
            137,
            r"process 0 of 2 was ended by SIGKILL, as the system does when memory runs out",
        ),
        ("fault", "step", 1, 60, 1, r"step 2: the loss is infinite"),
        ("fault", "validation", 0, 60, 1, r"step 2: the loss is infinite"),
        ("bug", "step", 1, 60, 1, r"unexpected error"),
    ],
)
def test_what_happens_to_one_is_said_once_and_ends_both(
    event: str, place: str, victim: int, timeout: float, status: int, message: str
) -> None:
    """In a step the other stands in a collective of PyTorch's, in a validation it waits for the main process."""
    found, errors, done = together(event, place, victim, timeout)
    assert found == status, done.stderr
    assert len(errors) == 1, done.stderr
    assert re.match(message, errors[0]), done.stderr
    assert done.stderr.count("Traceback") == (event == "bug")
    assert ("ZeroDivisionError: a bug" in done.stderr) == (event == "bug")
    assert "torch/distributed" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("place", ["validation", "writing"])
def test_the_main_process_may_take_long_and_none_is_gone_before_all_is_written(place: str) -> None:
    status, errors, done = together("long", place, 0, 1)
    assert (status, errors) == (0, [])
    assert done.stdout.splitlines() == ["validated 0.1"] * 2 + ["gone"] * 2


# --- whole stages ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_end_well_every_time(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Twenty extractions: exit status 0, outputs complete, nothing left over, only progress and result said."""

    def extract(number: int) -> subprocess.CompletedProcess:
        line = preloaded.stage(extract_command(tmp_path / f"{number}", tiny_data, tiny_model, 2))
        scratch = tmp_path / f"{number}/tmp"
        scratch.mkdir()
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=150, env={**os.environ, "TMPDIR": str(scratch)}
        )
        assert not list(scratch.iterdir())
        return done

    with ThreadPoolExecutor(2) as pool:
        every = list(pool.map(extract, range(20)))
    assert [done.returncode for done in every] == [0] * 20, [done.stderr for done in every if done.returncode]
    for number, done in enumerate(every):
        folder = tmp_path / f"{number}/features"
        assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
            "image.npy",
            "index.json",
            "text.npy",
        }
        assert np.load(folder / "image.npy").shape == (24, 16)
        assert np.load(folder / "text.npy").shape == (48, 16)
        assert all(re.match(r"[\d:]+ (INFO|RESULT) ", line) for line in done.stderr.splitlines()), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_save_their_state_when_the_launcher_is_stopped_or_killed(
    tiny_data: Path, tiny_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """With SIGTERM by the launcher's word, with SIGKILL because it is gone; both are resumed."""
    training = {**TINY_TRAINING, "epochs": 400, "processes": 2, "itm_pool": 4, "checkpoint_steps": 1000}
    line = train_command(tmp_path / "a", tiny_data, tiny_model, {"kind": "retrieval", "training": training})
    with (tmp_path / "log.txt").open("w+") as log:
        process = subprocess.Popen(line, stderr=log)
        resume = tmp_path / "a/resume"
        while not (resume / "checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == (128 + number if number == signal.SIGTERM else -number)
        deadline = time.monotonic() + 30
        while "interrupted by" not in (said := (tmp_path / "log.txt").read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
    step = re.findall(r"interrupted by SIGTERM at step (\d+)", said)
    assert len(step) == 1, said
    assert " ERROR " not in said
    assert "Traceback" not in said
    found = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    lines = []
    for one in found.stderr:
        lines.append(one)
        if "resumed at step" in one or found.poll() is not None:
            break
    found.terminate()
    found.communicate(timeout=60)
    assert f"resumed at step {step[0]} of" in lines[-1], lines


@pytest.mark.slow
def test_a_fault_of_the_input_is_said_once_by_two_processes(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    line = preloaded.stage(extract_command(tmp_path / "a", tiny_data, tmp_path / "no-model", 2))
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("no-model") == 1, done.stderr
    assert "Traceback" not in done.stderr
