"""Which GPU is mine: stages that share a machine lease devices from each other.

`--resources gpu=4` only counts GPUs; nothing tells two concurrent jobs of one machine to use different ones. A lease is
a locked file per device, freed by the system however the process ends. CUDA_VISIBLE_DEVICES narrows the choice; devices
that Slurm assigned are left as they are.
"""

import fcntl
import os
import tempfile
import time
from pathlib import Path

import torch

from rvlr.errors import UserError
from rvlr.log import logger

POLL_SECONDS = 2.0


def lease(count: int) -> None:
    """Wait until `count` GPUs of this machine are free, hold them until this process ends, and make them the only
    visible ones. Does nothing on a machine without GPUs. Must come before CUDA is initialised; the lease outlives
    `os.exec`. Raises UserError if the machine has fewer GPUs."""
    present = torch.cuda.device_count()
    if "SLURM_JOB_ID" in os.environ or present == 0:
        return
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = list(map(str, range(present))) if given is None else [name.strip() for name in given.split(",")][:present]
    if count > present:
        raise UserError(f"processes: {count} need as many GPUs, {present} are visible")
    told = False
    while len(held := _try(names, count)) < count:
        if not told:
            logger.info("waiting for %d of %d GPUs to become free", count, present)
            told = True
        time.sleep(POLL_SECONDS)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    logger.info("leased GPU %s", os.environ["CUDA_VISIBLE_DEVICES"])


def _try(names: list[str], count: int) -> list[str]:
    """Lock `count` of the devices and return their names, or lock none and return an empty list."""
    locks: dict[str, int] = {}
    for name in names:
        path = Path(tempfile.gettempdir()) / f"rvlr-{os.getuid()}-gpu{name.replace('/', '-')}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        locks[name] = descriptor
        if len(locks) == count:
            for descriptor in locks.values():
                os.set_inheritable(descriptor, True)
            return list(locks)
    for descriptor in locks.values():
        os.close(descriptor)
    return []
