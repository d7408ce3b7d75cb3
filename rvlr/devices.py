"""The GPUs of this machine: which of them a stage may use, and how it gets them for itself.

`--resources gpu=4` only counts GPUs; it does not assign different GPUs to two concurrent jobs of one machine, or of one
Slurm allocation. `rvlr.leases` does. `CUDA_VISIBLE_DEVICES` limits the choice of devices; if it is empty, the CPU is
used. Devices are listed by `nvidia-smi`, so that CUDA is not initialised before the choice is made.
"""

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

from rvlr import environment, leases
from rvlr.errors import UserError
from rvlr.log import logger

DRIVER = Path("/proc/driver/nvidia/version")
DEVICE_FILES = Path("/dev")
_ON_THE_CPU = "to use the CPU on purpose, set CUDA_VISIBLE_DEVICES to nothing, as in `CUDA_VISIBLE_DEVICES= snakemake`"
_NO_GPU = ("", "-1")
_LISTED = re.compile(r"^(\s*)(?:GPU (\d+):|MIG ).*\(UUID: ([^)]+)\)", re.MULTILINE)
_GRANTED = "SLURM_GPUS_ON_NODE"


def lease(count: int, required: bool = False) -> list[int]:
    """Wait until `count` GPUs of this machine are free, lock them until this process ends, and make them the only
    visible GPUs. Returns the descriptors of their locks. Without a GPU, or where `CUDA_VISIBLE_DEVICES` is empty,
    nothing is leased, and the stage runs on the CPU.

    required: raise UserError where it would run on the CPU. Raises UserError, too, if there are fewer than `count` GPUs
    (or cores, without a GPU), or a GPU that cannot be listed.
    """
    visible = _visible()
    if not visible:
        _refuse(required)
        if count > max(2, environment.cores()):
            raise UserError(
                f"processes: {count} need as many GPUs, or cores where there is none; no GPU and {environment.cores()} "
                "core(s) are visible; lower processes"
            )
        logger.info("%s: computing on the CPU; with gpu: required in the configuration this is an error", _none())
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return []
    if count > len(visible):
        raise UserError(
            f"processes: {count} need as many GPUs, {len(visible)} are visible: {', '.join(visible)}{_granted()}; "
            f"lower processes, or {_ON_THE_CPU}"
        )
    parts = [name for name in visible if name.startswith("MIG-")]
    if count > 1 and parts:
        raise UserError(f"processes: {count} need whole GPUs, but {parts[0]} is a part of one; set processes to 1")
    leased = leases.take(visible, count)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(leased)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    logger.info("leased GPU %s", os.environ["CUDA_VISIBLE_DEVICES"])
    return list(leased.values())


def check(required: bool) -> None:
    """Raise UserError if no GPU is visible, and the configuration says `gpu: required` or a scheduler gave one."""
    if not _visible():
        _refuse(required)


def _refuse(required: bool) -> None:
    """Raise UserError where the CPU may not be used; no GPU is visible."""
    if required:
        raise UserError(
            f"gpu: required, but {_none()}; run on a machine with a GPU, or set gpu: optional to compute on the CPU"
        )
    if "CUDA_VISIBLE_DEVICES" not in os.environ and (given := _granted()):
        raise UserError(f"{_none()}{given}; ask who runs the machine, or {_ON_THE_CPU}")


def check_visible(wanted: int) -> None:
    """Raise UserError if PyTorch sees fewer GPUs than the `wanted` that were leased: CUDA leaves out, without a word,
    those that the system keeps from this job. Initialises CUDA."""
    import torch

    found = torch.cuda.device_count()
    if found < wanted:
        leased = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError(
            f"{wanted} GPUs were leased ({leased}), but PyTorch sees {found} of them{_granted()}; have all of them "
            "allowed to this job, or lower processes"
        )


def usable() -> bool:
    """Whether this process computes on a GPU: a leased GPU or, without a lease, any GPU of the machine.

    Raises UserError if there is a GPU that PyTorch cannot use, rather than silently using the slow CPU.
    """
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given in _NO_GPU:
        return False
    with warnings.catch_warnings(action="ignore"):  # the error below says the same
        if torch.cuda.is_available():
            return True
    if given or _device_files():
        build = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built for CPUs alone"
        raise UserError(
            f"GPU {given or ', '.join(_device_files())}: PyTorch {torch.__version__} {build} and cannot use it with "
            f"{_driver()}; install a PyTorch for this driver or a newer driver; {_ON_THE_CPU}"
        )
    return False


def _none() -> str:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "no GPU is visible" if given is None else f"CUDA_VISIBLE_DEVICES is {given!r}"


def _granted() -> str:
    """What the scheduler gave, in words that follow how many GPUs are visible; nothing without a scheduler. One task of
    a job may see only a part: snakemake-executor-plugin-slurm adds --ntasks-per-gpu=1 unless told otherwise."""
    given = os.environ.get(_GRANTED, "")
    if not given.isdecimal() or int(given) == 0:
        return ""
    return (
        f", although the scheduler gave this job {given} on this machine ({_GRANTED}); if it binds one GPU to each "
        "task, as with --ntasks-per-gpu, have it not do that (in a profile of Snakemake: tasks_per_gpu: 0)"
    )


def _visible() -> list[str]:
    """The UUIDs of the devices that this stage may use, in the order of preference."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None and given.strip() in _NO_GPU:
        return []
    listed = _list()
    if given is None:
        return [uuid for parts in listed.values() for uuid in parts]
    chosen: list[str] = []
    for name in map(str.strip, given.split(",")):
        for uuid in _resolve(name, listed):
            if uuid in chosen:
                raise UserError(f"CUDA_VISIBLE_DEVICES: {given!r} names {uuid} twice")
            chosen.append(uuid)
    return chosen


def _resolve(name: str, listed: dict[str, list[str]]) -> list[str]:
    """The UUIDs of a name in CUDA_VISIBLE_DEVICES, which is an index or the beginning of one UUID."""
    if name.isdecimal() and int(name) < len(listed):
        return list(listed.values())[int(name)]
    whole = {gpu: parts for gpu, parts in listed.items() if gpu.startswith(name)}
    parts = [part for every in listed.values() for part in every if part.startswith(name)]
    found = parts or [part for every in whole.values() for part in every]
    if not name.startswith(("GPU-", "MIG-")) or len(whole) + len(parts) == 0 or len(whole) > 1 or len(parts) > 1:
        known = ", ".join(f"{index} ({gpu})" for index, gpu in enumerate(listed)) or "no GPU"
        raise UserError(f"CUDA_VISIBLE_DEVICES: {name!r} is none of this machine's GPUs; here: {known}; {_ON_THE_CPU}")
    return found


def _list() -> dict[str, list[str]]:
    """For the UUID of every GPU, in the order of the PCI bus, the UUIDs of the devices that can be used: its MIG
    devices, or the GPU itself. Raises UserError if there are device files but nvidia-smi lists nothing."""
    program = shutil.which("nvidia-smi")
    if program is None:
        if present := _device_files():
            raise UserError(f"{', '.join(present)}: there is a GPU, but nvidia-smi is not on PATH; {_ON_THE_CPU}")
        return {}
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{program}: {error}; {_ON_THE_CPU}") from None
    found: dict[str, list[str]] = {}
    for _, index, uuid in _LISTED.findall(done.stdout):
        if index:
            found[uuid] = []
        else:
            found[list(found)[-1]].append(uuid)
    if not found and (present := _device_files()):
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise UserError(f"{', '.join(present)}: there is a GPU, but `{program} -L` says: {said}; {_ON_THE_CPU}")
    return {gpu: parts or [gpu] for gpu, parts in found.items()}


def _device_files() -> list[str]:
    """The files that show that there is an NVIDIA GPU, also if it does not work."""
    found = sorted(str(path) for path in DEVICE_FILES.glob("nvidia[0-9]*"))
    return found or ([str(DRIVER)] if DRIVER.exists() else [])


def _driver() -> str:
    if not DRIVER.exists():
        return "the driver (unknown version)"
    line = DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    version = re.search(r"\d+(\.\d+)+", line)
    return f"driver {version[0]}" if version else f"the driver ({line})"
