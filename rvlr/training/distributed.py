"""Several processes: starting them, and gathering tensors without losing gradients."""

import os
import subprocess
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional


def launched() -> bool:
    """Whether this process was started by torchrun."""
    return "LOCAL_RANK" in os.environ


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `python -m rvlr ARGUMENTS` in `processes` processes on this machine through torchrun, on a free port;
    returns the exit status."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, "-m", "rvlr", *arguments], check=False).returncode


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
