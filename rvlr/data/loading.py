"""From splits to batches.

Which sample a training step sees, and how it is augmented, depends on (seed, epoch, caption) alone: not on workers,
processes or where a resumed run began.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from transformers import PreTrainedTokenizerBase

from rvlr.data.features import Features
from rvlr.data.images import ImageTransform, load_image
from rvlr.data.records import Split
from rvlr.data.text import tokenise
from rvlr.errors import UserError

Batch = dict[str, torch.Tensor]
Sample = tuple[torch.Tensor | None, str, int, int]
"""Pixels (3, H, W), None where they are not needed, a caption, and the indices of image and caption."""


class TrainingSchedule(Sampler[list[tuple[int, int]]]):
    """The batches of the whole training from step `start` on: this process' share of each global batch, as
    (epoch, caption) pairs. Each epoch is a new permutation of the captions; what does not fill a batch is left out."""

    def __init__(
        self, captions: int, batch_size: int, epochs: int, seed: int, start: int = 0, rank: int = 0, processes: int = 1
    ) -> None:
        if captions < batch_size:
            raise UserError(
                f"training.batch_size: {batch_size} exceeds the {captions} training captions; make it smaller"
            )
        self.captions, self.batch_size, self.seed, self.start = captions, batch_size, seed, start
        self.rank, self.processes = rank, processes
        self.steps_per_epoch = captions // batch_size
        self.steps = self.steps_per_epoch * epochs

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, ordered_epoch = np.empty(0, dtype=np.int64), None
        share = self.batch_size // self.processes
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != ordered_epoch:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.captions)
                ordered_epoch = epoch
            begin = position * self.batch_size + self.rank * share
            yield [(epoch, int(caption)) for caption in order[begin : begin + share]]


class TrainingPairs(Dataset[Sample]):
    """Images with one caption each; indexed by (epoch, caption). transform: None where no pixels are needed."""

    def __init__(self, split: Split, transform: ImageTransform | None, seed: int) -> None:
        split.check_images()
        self.split, self.transform, self.seed = split, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, caption = key
        image = int(self.split.caption_image[caption])
        if self.transform is None:
            return None, self.split.captions[caption], image, caption
        picture = load_image(self.split.path(image), self.transform.at_least)
        state = np.random.SeedSequence((self.seed, epoch, caption)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(state[0] >> 1))
            pixels = self.transform(picture)
        return pixels, self.split.captions[caption], image, caption


class PairCollator:
    """Stacks samples: pixels (B, 3, H, W) or image_tokens (B, 1 + N, image width), input_ids and attention_mask (B, L),
    image and caption (B,) indices, and for a student teacher_image and teacher_text, (B, teacher width) each."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_words: int,
        max_tokens: int,
        features: Features | None = None,
        image_tokens: np.ndarray | None = None,
    ) -> None:
        """image_tokens: of all images of the split (images, 1 + N, image width), for samples without pixels."""
        self.tokenizer, self.max_words, self.max_tokens = tokenizer, max_words, max_tokens
        self.features, self.image_tokens = features, image_tokens

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        pixels, captions, images, indices = zip(*samples, strict=True)
        batch = {
            **tokenise(self.tokenizer, captions, self.max_words, self.max_tokens),
            "image": torch.tensor(images),
            "caption": torch.tensor(indices),
        }
        if self.image_tokens is None:
            batch["pixels"] = torch.stack(pixels)
        else:
            batch["image_tokens"] = torch.from_numpy(self.image_tokens[list(images)])
        if self.features is not None:
            batch["teacher_image"] = torch.from_numpy(self.features.image[list(images)])
            batch["teacher_text"] = torch.from_numpy(self.features.text[list(indices)])
        return batch


class Images(Dataset[torch.Tensor]):
    """The images `first` to `last` - 1 of a split, one tensor each."""

    def __init__(self, split: Split, transform: ImageTransform, first: int, last: int) -> None:
        split.check_images()
        self.split, self.transform, self.first, self.last = split, transform, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(load_image(self.split.path(self.first + index), self.transform.at_least))


def image_batches(
    split: Split, transform: ImageTransform, batch_size: int, workers: int, first: int = 0, last: int | None = None
) -> "Loader":
    """Batches (B, 3, H, W) of a split's images in order."""
    images = Images(split, transform, first, len(split.records) if last is None else last)
    return Loader(images, workers, batch_size=batch_size)


# --- workers ------------------------------------------------------------------------------------------------------

_FEWER = "lower `workers` (training.workers; of an evaluation, evaluation.workers), or give the job more memory"
_SHARED = (
    "no shared memory is left, through which worker processes hand over batches: enlarge /dev/shm (in a container, "
    "--shm-size), or set `workers` to 0 (training.workers; of an evaluation, evaluation.workers)"
)


class Loader(DataLoader[Any]):
    """A DataLoader whose faults reach the user as one message: a UserError of a worker process comes back as it was
    raised, and the end of a worker names the setting to change."""

    def __init__(
        self,
        dataset: Dataset[Any],
        workers: int,
        collate: Callable[[list[Any]], Any] = default_collate,
        **options: Any,
    ) -> None:
        super().__init__(
            _Guarded(dataset),
            num_workers=workers,
            collate_fn=_GuardedCollate(collate),
            worker_init_fn=_ignore_signals,
            **options,
        )

    def check_worker_number_rationality(self) -> None:
        """Nothing: the number of workers is the user's choice, also above the number of cores."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # PyTorch names a private class
        """Raises UserError."""
        others = multiprocessing.active_children()
        try:
            batches = super().__iter__()
        except OSError as error:
            for worker in set(multiprocessing.active_children()).difference(others):
                worker.kill()  # the workers that did start would wait for ever
            for frame, _ in traceback.walk_tb(error.__traceback__):
                if isinstance(half := frame.f_locals.get("self"), _MultiProcessingDataLoaderIter):
                    half._shutdown = True  # else it prints a traceback about workers that it has not started
            raise UserError(f"{self.num_workers} worker processes cannot start: {error.strerror}; {_FEWER}") from error
        if self.num_workers == 0:
            end: Callable[[], object] = bool
        else:
            assert isinstance(batches, _MultiProcessingDataLoaderIter)
            _name_killed_workers()
            # waiting workers ignore the signal by which Python ends them if they outlive the program
            end = Finalize(None, batches._shutdown_workers, exitpriority=100)
        try:
            for batch in batches:
                if isinstance(batch, _Fault):
                    raise UserError(batch.message)
                yield batch
        except RuntimeError as error:
            raise _killed(error) from error
        finally:
            end()


@dataclass(frozen=True)
class _Fault:
    """Takes the place of a sample or batch, since PyTorch would bury an exception under a traceback."""

    message: str


class _Guarded(Dataset[Any]):
    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # PyTorch does not declare __len__

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except UserError as error:
            return _Fault(str(error))


class _GuardedCollate:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        for sample in samples:
            if isinstance(sample, _Fault):
                return sample
        try:
            batch = self.collate(samples)
            if get_worker_info() is not None:  # else the batch is shared in a thread, whose faults stop nothing
                for tensor in batch.values() if isinstance(batch, dict) else [batch]:
                    tensor.share_memory_()
        except RuntimeError as error:
            if "shared memory" not in str(error) and "unable to" not in str(error):
                raise
            return _Fault(_SHARED)
        return batch


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group, but it is the main process that decides when to stop; workers
    end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _name_killed_workers() -> None:
    """Raise UserError where PyTorch raises RuntimeError: in the main process, by a signal, when a worker is killed."""
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, _WorkerEnds):
        signal.signal(signal.SIGCHLD, _WorkerEnds(handler))


class _WorkerEnds:
    def __init__(self, handler: Callable[[int, Any], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            raise _killed(error) from error


def _killed(error: RuntimeError) -> Exception:
    said = str(error).strip()
    if not said.startswith("DataLoader worker"):
        return error
    if "Bus error" in said or "shared memory" in said:
        return UserError(_SHARED)
    return UserError(f"a worker process that loads images was killed by the system, usually for its memory; {_FEWER}")
