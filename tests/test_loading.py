"""Faults in the worker processes that load images: one message each, none buried under PyTorch's frames."""

import os
import resource  # noqa: F401 - used by a command below
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from rvlr.data.loading import Loader
from rvlr.errors import UserError


class Faulty(Dataset):
    """Numbers, of which the fifth is not to be had."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 5:
            if self.fault == "user":
                raise UserError("image five.jpg cannot be read;\nreplace it")
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "ours":
                raise ZeroDivisionError
        return torch.full((1 << 18,), index)  # 2 MB


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_of_the_user_comes_back_as_it_was_raised(workers: int) -> None:
    with pytest.raises(UserError) as raised:
        list(Loader(Faulty("user"), workers, batch_size=2))
    assert str(raised.value) == "image five.jpg cannot be read;\nreplace it"
    found = torch.cat([batch[:, 0] for batch in Loader(Faulty("none"), workers, batch_size=3)])
    assert found.tolist() == list(range(8))


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="Original Traceback"):
        list(Loader(Faulty("ours"), 1, batch_size=2))


def test_a_killed_worker_names_the_setting() -> None:
    with pytest.raises(UserError, match=r"was killed by the system, usually for its memory; lower `workers`"):
        list(Loader(Faulty("killed"), 2, batch_size=2))


def _command(body: str) -> list[str]:
    lines = ["from test_loading import *", "try:", f"    {body}", "except UserError as error:", "    print(error)"]
    return [sys.executable, "-c", "\n".join(lines)]


def _run(line: list[str]) -> str:
    done = subprocess.run(line, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_too_little_shared_memory_names_itself() -> None:
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec"
    line = _command('list(Loader(Faulty("none"), 2, batch_size=4))')
    unshare = ["unshare", "--mount", "sh", "-c", f'{mount} "$@"', "sh"]
    if os.geteuid() != 0 or shutil.which("unshare") is None or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("only root can mount a small /dev/shm")
    assert _run([*unshare, *line]).startswith("no shared memory is left, through which worker processes hand over")


@pytest.mark.slow
def test_more_workers_than_the_system_starts() -> None:
    said = _run(_command("resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); list(Loader(Faulty(''), 200))"))
    assert said.startswith("200 worker processes cannot start: Too many open files; lower `workers`")
