"""One stage as several processes: how the processes wait for each other and gather tensors without losing gradients.

Every wait is supervised. Within a step, PyTorch's collectives wait; there, a thread of each process checks that the
process makes progress. Elsewhere the processes meet through files in the folder of the launch, next to their signs of
life, so that a validation of the main process may take any time. See `rvlr.launch` for how the processes are started.
"""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

from rvlr import devices, environment
from rvlr.errors import Interrupted, UserError
from rvlr.log import logger

T = TypeVar("T")
TIMEOUT = 30 * 60.0
"""Seconds without a sign of life, or in one step, after which a process stops waiting for the others."""
_POLL_SECONDS = 0.1


class Processes:
    """The processes of this stage, seen from one of them. place: of this process; None if it is the only one."""

    def __init__(self, accelerator: Accelerator, place: environment.Place | None, timeout: float) -> None:
        self.accelerator, self.place = accelerator, place
        self.timeout, self._interval = timeout, min(5.0, timeout / 10)
        self._where, self._still, self._watched = "", 0, False
        self._meetings = itertools.count()
        self._ended = threading.Event()

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the first of all."""
        return self.place is None or self.place.rank == 0

    def at(self, where: str) -> None:
        """Say what this process does now, such as "step 12". From here until the next meeting this process is watched:
        it ends with a message if it does not reach the next `at` in time."""
        self._where, self._still, self._watched = where, 0, True

    def meet(self, where: str) -> None:
        """Return when all processes have come here. Raises UserError if one of them gives no sign of life."""
        if self.place is not None:
            number = next(self._meetings)
            (self.place.folder / f"{number}-{self.place.rank}").touch()
            others = [rank for rank in range(self.place.count) if rank != self.place.rank]
            self._wait(self.place, where, {rank: self.place.folder / f"{number}-{rank}" for rank in others})

    def by_main(self, work: Callable[[], T], where: str) -> T:
        """The result of `work`, a JSON value, which the main process computes and all processes return. The others wait
        as long as the main process gives signs of life, else they raise UserError."""
        if self.place is None:
            return work()
        answer = self.place.folder / f"{next(self._meetings)}.json"
        if self.is_main:
            self._watched = False
            value = work()
            written = answer.with_suffix(".partial")
            written.write_text(json.dumps(value), encoding="utf-8")
            written.replace(answer)
            return value
        self._wait(self.place, where, {0: answer})
        found: T = json.loads(answer.read_text(encoding="utf-8"))
        return found

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Give signs of life and watch this process; end it if its launcher has ended."""
        if self.place is None:
            yield
            return
        for watch in (self._watch, self._watch_launcher):
            threading.Thread(target=watch, args=(self.place,), daemon=True).start()
        try:
            yield
        finally:
            self._ended.set()

    def _wait(self, place: environment.Place, where: str, files: dict[int, Path]) -> None:
        """Wait for a file of each of some processes. Raises UserError if one of them gives no sign of life."""
        seen: dict[int, int] = {}
        silent = dict.fromkeys(files, 0.0)
        self._watched = False
        while missing := [rank for rank, path in files.items() if not path.exists()]:
            if place.failed():
                raise UserError(f"{where}: another process has failed")  # and has said why
            time.sleep(_POLL_SECONDS)
            for rank in missing:
                life = _last_sign(place, rank)
                # time is counted, not measured: a stage that was suspended as a whole has missed nothing
                silent[rank] = 0.0 if life != seen.get(rank) else silent[rank] + _POLL_SECONDS
                seen[rank] = life
                if silent[rank] > self.timeout:
                    raise UserError(self._lost(place, where, rank))

    def _lost(self, place: environment.Place, where: str, rank: int) -> str:
        return (
            f"{where}: process {place.rank} of {place.count} has waited for process {rank}, which has given no sign of "
            f"life for {self.timeout / 60:.3g} minutes; run the stage again"
        )

    def _watch(self, place: environment.Place) -> None:
        """Run in a thread beside the main thread, which may be waiting in a collective."""
        while True:
            _sign(place, place.rank).touch()
            if self._ended.wait(self._interval):
                return
            self._still += 1
            if self._watched and self._still * self._interval > self.timeout:
                self._give_up(place)

    def _give_up(self, place: environment.Place) -> None:
        now = time.time_ns()
        ages = {rank: (now - _last_sign(place, rank)) / 1e9 for rank in range(place.count)}
        silent = [rank for rank, age in ages.items() if rank != place.rank and age > self.timeout / 2]
        if silent:
            logger.error("%s", self._lost(place, self._where, silent[0]))
        else:
            logger.error(
                "%s: process %d of %d has made no progress for %.3g minutes; run the stage again",
                self._where,
                place.rank,
                place.count,
                self.timeout / 60,
            )
        os._exit(1)  # the main thread may never return from the collective

    def _watch_launcher(self, place: environment.Place) -> None:
        """Stop as on a SIGTERM when the launcher ends, also by SIGKILL."""
        os.read(place.lifeline, 1)
        if not self._ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


def _sign(place: environment.Place, rank: int) -> Path:
    """The file that a process touches as a sign of life."""
    return place.folder / f"alive-{rank}"


def _last_sign(place: environment.Place, rank: int) -> int:
    path = _sign(place, rank)
    return path.stat().st_mtime_ns if path.exists() else 0


@contextmanager
def processes(count: int, mixed_precision: str = "no", timeout: float = TIMEOUT) -> Iterator[Processes]:
    """Join the `count` processes of this stage: one for each GPU, or on the CPU with gloo where no GPU is leased. The
    processes end together: none leaves before all have come to the end, when everything is written.

    Raises UserError if another number of processes was started, or for a precision that the device does not support.
    """
    place = environment.place()
    started = place.count if place else 1
    if started != count:
        raise UserError(f"processes: {count} wanted, but {started} were started")
    on_cpu = not devices.usable()
    if on_cpu and mixed_precision == "fp16":
        raise UserError("training.mixed_precision: fp16 needs a GPU, none is visible; use 'no' or bf16")
    if not on_cpu:
        devices.check_visible(count)
    if place is not None:
        _join(place, "gloo" if on_cpu else "nccl", timeout)
    group = Processes(_accelerator(on_cpu, mixed_precision), place, timeout)
    with group.supervised():
        try:
            yield group
        except Interrupted:  # all processes have agreed to stop; the main process may still be writing
            _end(group)
            raise
        _end(group)


def _end(group: Processes) -> None:
    group.meet("the end")
    if group.place is not None:
        dist.destroy_process_group()


def _join(place: environment.Place, backend: str, timeout: float) -> None:
    """Start PyTorch's process group, through a file in the launcher's folder: a port could be in use."""
    rank, count = str(place.rank), str(place.count)
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=count, LOCAL_WORLD_SIZE=count)  # accelerate reads them
    dist.init_process_group(
        backend,
        store=dist.FileStore(str(place.folder / "store"), place.count),  # type: ignore[attr-defined]  # it is public
        rank=place.rank,
        world_size=place.count,
        timeout=timedelta(seconds=2 * timeout),  # `Processes` gives up first, with a better message
    )


def _accelerator(on_cpu: bool, mixed_precision: str) -> Accelerator:
    """An Accelerator with every setting given that accelerate would otherwise take from the environment."""
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        # several timm backbones have parameters that their features do not use
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate (B, ...) over all processes, (processes * B, ...), with gradients to the part of every process.

    Together with the mean that DistributedDataParallel takes, parameters get the gradient of the global loss for any
    number of processes. (Keeping the gradient of the local slice only, as is common, divides it by that number.)
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    if not tensor.requires_grad:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)
    return torch.cat(dist_functional.all_gather(tensor.contiguous()))
