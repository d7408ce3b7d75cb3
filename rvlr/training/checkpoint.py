"""Resume state: one atomic file, tied by a fingerprint to what it belongs to.

It lies outside the outputs that Snakemake knows, because Snakemake deletes the outputs of a failed job. Beside it lie
the best weights so far, `metrics.jsonl` and the TensorBoard events, which become outputs when the training is complete.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rvlr import io
from rvlr.log import logger


class ResumeFolder:
    """The folder that an unfinished training lives in."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.checkpoint = folder / "checkpoint.pt"
        self.metrics = folder / "metrics.jsonl"
        self.tensorboard = folder / "tensorboard"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; waits, saying so, while another training (one that outlived its killed
        workflow, say) still holds it. The lock goes with the process, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder.with_name(f"{self.folder.name}.lock")
        with path.open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                logger.warning("process %s is at work in %s; waiting for it to end", stream.read().strip(), self.folder)
                fcntl.flock(stream, fcntl.LOCK_EX)
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
            self.folder.mkdir(parents=True, exist_ok=True)
            yield

    def load(self) -> dict[str, Any] | None:
        """The last complete checkpoint, or None. One that belongs to other settings or inputs is discarded."""
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if state["fingerprint"] == self.fingerprint:
                return state
            logger.info("%s belongs to other settings or inputs; training starts anew", self.checkpoint)
        return None

    def clear(self) -> None:
        """Remove everything but the lock; the checkpoint first, since it names the rest."""
        self.checkpoint.unlink(missing_ok=True)
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; weights that were the best before are dropped only now."""
        with io.atomic_file(self.checkpoint) as temporary:
            torch.save({"fingerprint": self.fingerprint, **state}, temporary)
        for path in self.folder.glob("best-*.safetensors"):
            if path.name != f"best-{state['best_step']}.safetensors":
                path.unlink()

    def save_best(self, step: int, weights: dict[str, torch.Tensor]) -> None:
        """Keep the weights of `step` until a checkpoint names better ones."""
        with io.atomic_file(self.folder / f"best-{step}.safetensors") as temporary:
            save_file({key: value.contiguous() for key, value in weights.items()}, temporary)

    def load_best(self, step: int) -> dict[str, torch.Tensor]:
        """The weights kept by `save_best`."""
        return load_file(self.folder / f"best-{step}.safetensors")
