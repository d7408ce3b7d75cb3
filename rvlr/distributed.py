"""Several processes: starting them, and gathering tensors without losing gradients."""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from rvlr import devices
from rvlr.errors import UserError

VALIDATION_TIMEOUT = timedelta(hours=6)
"""How long the other processes wait while the main one scores on val."""


def spread(processes: int) -> None:
    """Lease a GPU for each process, and become torchrun with `processes` copies of this command, on a free port, if
    more than one is wanted, unless this is one of them already.

    The process is replaced rather than kept as a parent, so that signals reach torchrun, which passes them on.
    """
    if "LOCAL_RANK" in os.environ:
        return
    devices.lease(processes)
    if processes == 1:
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None:  # Snakemake's, meant for the whole stage
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(threads) // processes))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [*torchrun, "-m", "rvlr", *sys.argv[1:]])


def make_accelerator(processes: int, mixed_precision: str = "no") -> Accelerator:
    """This process' place among `processes`: one a GPU, or on the CPU with gloo where there is none."""
    on_cpu = not torch.cuda.is_available()
    if on_cpu and mixed_precision == "fp16":
        raise UserError("training.mixed_precision: fp16 needs a GPU, none is visible; use 'no' or bf16")
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=mixed_precision,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=VALIDATION_TIMEOUT),
            # several timm backbones have parameters that their features do not use
            DistributedDataParallelKwargs(find_unused_parameters=True),
        ],
    )
    if accelerator.num_processes != processes:
        raise UserError(f"processes: {processes} wanted, but {accelerator.num_processes} were started")
    return accelerator


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate (B, ...) over all processes, (processes * B, ...), with gradients to every process' part.

    Together with the mean that DistributedDataParallel takes, parameters get the gradient of the global loss, whatever
    the number of processes. (Keeping only the local slice, as is common, divides it by that number.)
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    if not tensor.requires_grad:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)
    return torch.cat(dist_functional.all_gather(tensor.contiguous()))
