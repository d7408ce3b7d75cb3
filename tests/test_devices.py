"""Leases of GPUs between real processes with real locks; nvidia-smi and its list of GPUs are made up, since most
machines that run this have none."""

import os
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rvlr import devices, leases
from rvlr.distributed import processes
from rvlr.errors import UserError

UUIDS = [f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in range(3)]
LIST = "".join(f"GPU {number}: NVIDIA H100 80GB HBM3 (UUID: {uuid})\n" for number, uuid in enumerate(UUIDS))
PARTS = ["MIG-a0000000-0000-0000-0000-000000000000", "MIG-b0000000-0000-0000-0000-000000000000"]
SPLIT_LIST = LIST + "".join(f"  MIG 3g.40gb     Device  {n}: (UUID: {uuid})\n" for n, uuid in enumerate(PARTS))
CODE = """
import os, sys, time
from pathlib import Path
from rvlr import devices, leases
leases.POLL_SECONDS, leases.LOCKS = 0.05, Path(sys.argv[2])
if len(sys.argv) > 3:
    os.setuid(int(sys.argv[3]))
    os.umask(0o077)
devices.lease(int(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
assert "torch" not in sys.modules  # nothing can have initialised CUDA
time.sleep(60)
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with three GPUs, as far as nvidia-smi goes: the list that it prints, to be written over."""
    listed = tmp_path / "listed"
    listed.write_text(LIST)
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat {listed}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):  # set first, so that they are gone after the test too
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(leases, "LOCKS", tmp_path / "locks")
    leases.LOCKS.mkdir()
    leases.LOCKS.chmod(0o1777)
    return listed


class Stage:
    """A process that leases GPUs and holds them."""

    def __init__(self, count: int, user: int | None = None, **variables: str) -> None:
        arguments = [str(count), str(leases.LOCKS)] + ([str(user)] if user is not None else [])
        command = [sys.executable, "-c", CODE, *arguments]
        self.process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)

    def devices(self) -> list[str]:
        return self.process.stdout.readline().strip().split(",")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.slow
def test_stages_of_one_machine_get_different_gpus_and_wait_for_each_other(gpus: Path) -> None:
    first, second = Stage(1), Stage(1)
    held = first.devices() + second.devices()
    assert len(set(held)) == 2
    assert set(held) < set(UUIDS)
    third = Stage(2)
    time.sleep(1)
    assert third.process.poll() is None  # one GPU is free, it wants two, and takes none meanwhile
    fourth = Stage(1)
    assert {*fourth.devices(), *held} == set(UUIDS)
    fourth.kill()
    first.kill()
    assert len(set(third.devices())) == 2
    third.kill()
    second.kill()


@pytest.mark.slow
def test_stages_of_one_slurm_allocation_get_different_gpus_however_they_are_named(gpus: Path) -> None:
    given = [{"CUDA_VISIBLE_DEVICES": names} for names in ("1,2", f"{UUIDS[2]},{UUIDS[1]}", "GPU-1,GPU-2")]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}
    stages = [Stage(1, **slurm, **variables) for variables in given]
    outputs, deadline = [stage.process.stdout for stage in stages], time.monotonic() + 60
    while len(select.select(outputs, [], [], 0.1)[0]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)  # in which the third would take one too
    for stage in stages:
        stage.process.kill()
    held = [name for stage in stages for name in stage.process.communicate()[0].split()]
    assert sorted(held) == UUIDS[1:]  # two got one each, the third waits


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_two_users_of_one_machine_share_the_locks(gpus: Path) -> None:
    for folder in (gpus.parent, *gpus.parent.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    first = Stage(2, user=12345)
    held = first.devices()
    second = Stage(1, user=54321)
    assert {*held, *second.devices()} == set(UUIDS)
    assert all(stat.S_IMODE(lock.stat().st_mode) == 0o666 for lock in leases.LOCKS.iterdir())
    first.kill()
    second.kill()
    third = Stage(3, user=54321)
    assert third.devices() == UUIDS
    third.kill()


def visible_after_lease(count: int = 1) -> str:
    for descriptor in devices.lease(count):
        os.close(descriptor)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        (None, 1, UUIDS[0]),
        (None, 3, ",".join(UUIDS)),
        ("2", 1, UUIDS[2]),
        ("2, 0", 2, f"{UUIDS[2]},{UUIDS[0]}"),
        (UUIDS[1], 1, UUIDS[1]),
        ("GPU-1", 1, UUIDS[1]),
        ("", 2, ""),
        ("-1", 1, ""),
    ],
)
def test_cuda_visible_devices_narrows_the_choice(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, count: int, expected: str
) -> None:
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_after_lease(count) == expected
    assert os.environ.get("CUDA_DEVICE_ORDER") == ("PCI_BUS_ID" if expected else None)


@pytest.mark.parametrize(
    ("given", "count", "message"),
    [
        (
            "3",
            1,
            r"CUDA_VISIBLE_DEVICES: '3' is none of this machine's GPUs; here: 0 \(GPU-0.*CUDA_VISIBLE_DEVICES to no",
        ),
        ("0,GPU-7", 1, r"'GPU-7' is none"),
        ("GPU-", 1, r"'GPU-' is none"),
        ("NoDevFiles", 1, r"'NoDevFiles' is none"),
        ("0,", 1, r"'' is none"),
        (f"1,{UUIDS[1]}", 1, r"names GPU-1\S* twice"),
        (None, 4, r"processes: 4 need as many GPUs, 3 are visible"),
        ("1", 2, r"processes: 2 need as many GPUs, 1 are visible: GPU-1"),
    ],
)
def test_devices_that_are_not_there(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, count: int, message: str
) -> None:
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with pytest.raises(UserError, match=message):
        devices.lease(count)
    assert not list(leases.LOCKS.iterdir())


def test_parts_of_a_gpu_are_leased_in_its_place(gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus.write_text(SPLIT_LIST)
    for given, expected in ((PARTS[1], PARTS[1]), ("MIG-a", PARTS[0]), ("2", PARTS[0]), ("1", UUIDS[1])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_after_lease() == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS[2])
    with pytest.raises(UserError, match="processes: 2 need whole GPUs"):
        devices.lease(2)


def test_no_gpu_means_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_after_lease(2) == ""
    assert not devices.usable()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="'0' is none of this machine's GPUs; here: no GPU"):
        devices.lease(1)


def test_a_machine_without_a_gpu_is_named_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices.logger, "propagate", True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    for given, words in ((None, "no GPU is visible"), ("", "CUDA_VISIBLE_DEVICES is ''")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        if given is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        with pytest.raises(UserError, match=f"gpu: required, but {words}; run on a machine with a GPU, or set gpu: op"):
            devices.lease(1, required=True)
        caplog.clear()
        with caplog.at_level("INFO", "rvlr"):
            devices.lease(1)
        assert caplog.messages == [
            f"{words}: computing on the CPU; with gpu: required in the configuration this is an error"
        ]


def test_a_scheduler_that_shows_fewer_gpus_than_it_gave(gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Slurm plugin of Snakemake has Slurm do with a job for two GPUs, one of which its only task gets."""
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(
        UserError, match=r"2 need as many GPUs, 1 are visible: GPU-1\S+, although the scheduler gave this "
    ):
        devices.lease(2)
    gpus.write_text("")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(
        UserError, match=r"no GPU is visible, although the scheduler gave this job 2 .*tasks_per_gpu: 0"
    ):
        devices.lease(2)
    assert not list(leases.LOCKS.iterdir())


def test_pytorch_must_see_every_leased_gpu(gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA leaves out those that the system keeps from a job, and the next in the list without a word."""
    visible_after_lease(2)
    monkeypatch.setattr(devices, "usable", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("RVLR_PROCESS", f"{os.getppid()}:0:2:9:{gpus.parent}")
    with (
        pytest.raises(UserError, match=f"2 GPUs were leased \\({UUIDS[0]},{UUIDS[1]}\\), but PyTorch sees 1 of them"),
        processes(2),
    ):
        raise AssertionError


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that works")
def test_a_gpu_that_pytorch_cannot_use_is_an_error_not_a_training_on_the_cpu(
    gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = gpus.with_name("version")
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\n")
    monkeypatch.setattr(devices, "DRIVER", driver)
    visible_after_lease()
    for build, named in (("13.0", r"is built for CUDA 13\.0"), (None, "is built for CPUs alone")):
        monkeypatch.setattr(torch.version, "cuda", build)
        with pytest.raises(UserError, match=rf"GPU {UUIDS[0]}: PyTorch \S+ {named} .*driver 470\.256\.02.*CPU on purp"):
            devices.usable()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # without a lease the device files count
    with pytest.raises(UserError, match=f"GPU {driver}"):
        devices.usable()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not devices.usable()


def test_a_gpu_that_cannot_be_listed_is_an_error(gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (gpus.parent / "nvidia0").touch()
    monkeypatch.setattr(devices, "DEVICE_FILES", gpus.parent)
    gpus.write_text("Failed to initialize NVML: Driver/library version mismatch\n")
    with pytest.raises(
        UserError, match=r"nvidia0: there is a GPU, but `\S+nvidia-smi -L` says: Failed to initialize NV"
    ):
        devices.lease(1)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"nvidia0: there is a GPU, but nvidia-smi is not on PATH"):
        devices.lease(1)


def test_a_lock_that_is_not_a_file_of_ours_is_refused(gpus: Path) -> None:
    (leases.LOCKS / f"rvlr-{UUIDS[0]}.lock").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"rvlr-GPU-0\S+\.lock: .*ask its owner to remove it"):
        devices.lease(1)
