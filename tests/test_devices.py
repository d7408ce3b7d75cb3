"""Leases of GPUs between real processes; the number of GPUs is made up, since most machines that run this have none."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODE = """
import os, sys, time, torch
torch.cuda.device_count = lambda: 3
from rvlr import devices
devices.POLL_SECONDS = 0.05
devices.lease(int(sys.argv[1]))
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
if len(sys.argv) > 2:  # the lease outlives exec, as into torchrun
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
time.sleep(60)
"""


class Stage:
    """A process that leases GPUs and holds them."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        hidden = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {"TMPDIR": str(folder), **variables}
        command = [sys.executable, "-c", CODE, *arguments]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def devices(self) -> str:
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.mark.slow
def test_stages_of_one_machine_get_different_gpus_and_wait_for_each_other(tmp_path: Path) -> None:
    first, second = Stage(tmp_path, "1", "exec"), Stage(tmp_path, "1")
    try:
        held = {first.devices(), second.devices()}
        assert len(held) == 2
        assert held < {"0", "1", "2"}
        third = Stage(tmp_path, "2")
        time.sleep(6)
        assert third.process.poll() is None  # one GPU is free, it wants two, and takes none meanwhile
        fourth = Stage(tmp_path, "1")
        assert {fourth.devices()} == {"0", "1", "2"} - held
        fourth.kill()
        first.kill()
        assert len(set(third.devices().split(","))) == 2
        third.kill()
    finally:
        for stage in (first, second):
            stage.kill()


@pytest.mark.slow
def test_devices_given_from_outside(tmp_path: Path) -> None:
    """CUDA_VISIBLE_DEVICES narrows the choice; what Slurm gave is left alone."""
    given = {"CUDA_VISIBLE_DEVICES": "7,5,6"}
    first, second = Stage(tmp_path, "1", **given), Stage(tmp_path, "2", **given)
    held = first.devices().split(",") + second.devices().split(",")
    assert sorted(held) == ["5", "6", "7"]
    first.kill()
    second.kill()
    slurm = Stage(tmp_path, "1", SLURM_JOB_ID="1")
    assert slurm.devices() == "None"
    slurm.kill()
