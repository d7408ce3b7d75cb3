"""The training loop of both stages.

Input: a task, a schedule of batches, a way to score on val. Output: the weights that scored best on val. Every random
number of step s follows from (seed, s), so on a CPU a run that was killed and resumed ends with the same bits as one
that was not interrupted.
"""

import math
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import get_linear_schedule_with_warmup

from rvlr import config
from rvlr.data.loading import Batch, TrainingSchedule
from rvlr.distributed import Processes
from rvlr.errors import Interrupted, UserError
from rvlr.evaluation import headlines
from rvlr.log import Progress, progress
from rvlr.training.checkpoint import ResumeFolder
from rvlr.training.record import Line, Record
from rvlr.training.tasks import Task

LOG_STEPS = 10
Scorer = Callable[[], dict[str, float]]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM, which then does not end the process; a second one does."""
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def receive(number: int, frame: object) -> None:
        received.append(number)
        restore()

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()


@dataclass
class State:
    """How far a run is. lines: its record so far. pending: the terms of steps that are not in the record yet."""

    step: int = 0
    best_step: int | None = None
    best_score: float = -math.inf
    lines: list[Line] = field(default_factory=list)
    epochs_without_gain: int = 0
    pending: list[dict[str, float]] = field(default_factory=list)


class Engine:
    """Trains a task. `run` returns the best weights on the main process, None on the others."""

    def __init__(
        self,
        task: Task,
        section: config.Training,
        seed: int,
        schedule: TrainingSchedule,
        resume: ResumeFolder,
        group: Processes,
        inputs: Callable[[], str],
    ) -> None:
        """inputs: describes the numbers that training starts from, see `start.sizes`, when they are too large."""
        self.inputs = inputs
        self.section, self.seed, self.schedule, self.resume = section, seed, schedule, resume
        self.group, self.accelerator = group, group.accelerator
        group.at("the start of training")
        optimizer = make_optimizer(task, section)
        self.lr_schedule = get_linear_schedule_with_warmup(
            optimizer, round(section.warmup * schedule.steps), schedule.steps
        )
        self.task, self.optimizer = self.accelerator.prepare(task, optimizer)
        self.model = task.model
        self.state = State()
        self._rate = 0.0  # of the last step taken
        self._recent: list[dict[str, torch.Tensor]] = []  # terms that stay on the device: to read one stalls a GPU
        self._views: Record | None = None  # of the main process

    def restore(self) -> None:
        """Resume from the last sound checkpoint, if there is one. The main process looks for it and repairs the
        folder before the others read it."""
        main = self.group.is_main
        saved = self.resume.load() if main else None
        if main and saved is None:
            self.resume.clear()
        self.group.meet("reading the checkpoint")
        if not main:
            saved = self.resume.load_again()
        if saved is not None:
            try:
                self._take(saved)
            except (RuntimeError, ValueError, KeyError) as error:
                raise UserError(
                    f"{self.resume.folder}: its state does not fit this model; perhaps rvlr or PyTorch has changed "
                    f"({str(error).partition(chr(10))[0]}); to start over, remove that folder and run the same command"
                ) from error
            progress("resumed at step %d of %d", self.state.step, self.schedule.steps)
        if main:
            with self.resume.writing("the record"):
                self._views = Record(self.resume.folder, self.state.lines)

    def _take(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.lr_schedule.load_state_dict(saved["lr_schedule"])
        if saved["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.state = State(**{name: saved[name] for name in State.__dataclass_fields__})
        self.schedule.start = self.state.step

    def run(self, loader: Iterable[Batch], score: Scorer) -> dict[str, torch.Tensor] | None:
        """Train to the end, or raise Interrupted. score: returns the numbers on val; that of
        the name `training.selected_by` selects the weights."""
        try:
            with _signals() as received:
                self._loop(loader, score, received)
        finally:
            if self._views is not None:
                self._views.close()
        self.group.meet("the end of training")
        return self.resume.load_best() if self.group.is_main else None

    def _loop(self, loader: Iterable[Batch], score: Scorer, received: list[int]) -> None:
        section, state, steps = self.section, self.state, self.schedule.steps
        steps_done = Progress("training", steps, "steps", start=state.step)
        if self._out_of_patience():
            return  # resumed after an early stop
        self.group.at(f"step {state.step + 1}")
        for batch in loader:
            terms = self._step(batch)
            self._recent.append(terms)
            steps_done.update(state.step, partial("loss {:.3f}".format, terms["loss"]))
            epoch_ends = state.step % self.schedule.steps_per_epoch == 0
            if epoch_ends or state.step % LOG_STEPS == 0:
                self._flush()
            if epoch_ends:
                if self.group.is_main:
                    self._check_weights()
                self._validate(score)
            stop = self._agreed(received)
            if epoch_ends or state.step % section.checkpoint_steps == 0 or stop:
                self._save()
            if stop and state.step < steps:
                raise Interrupted(stop, state.step)
            if self._out_of_patience():
                progress("no gain of %s on val for %d epochs; stopping early", section.selected_by, section.patience)
                break
            self.group.at(f"step {state.step + 1}")

    def _out_of_patience(self) -> bool:
        return self.section.patience is not None and self.state.epochs_without_gain >= self.section.patience

    def _agreed(self, received: list[int]) -> int:
        """The signal to stop at, or 0. Processes must stop at the same step, so they ask each other every few steps."""
        number = received[0] if received else 0
        if self.accelerator.num_processes == 1:
            return number
        if self.state.step % LOG_STEPS:
            return 0
        highest = torch.tensor(number, device=self.accelerator.device)
        torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
        return int(highest)

    def _step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimiser step; returns the detached terms."""
        words = np.random.SeedSequence((self.seed, self.state.step, self.accelerator.process_index)).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        self.task.train()
        terms = self.task({key: value.to(self.accelerator.device, non_blocking=True) for key, value in batch.items()})
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(terms["loss"])
        if self.section.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.task.parameters(), self.section.clip_norm)
        self.optimizer.step()
        self._rate = self.lr_schedule.get_last_lr()[0]
        self.lr_schedule.step()
        self.state.step += 1
        return {name: value.detach() for name, value in terms.items()}

    def _collect(self) -> None:
        """Copy recent terms to the CPU. Raises UserError for a loss that is not finite."""
        first = self.state.step - len(self._recent) + 1
        for step, terms in enumerate(self._recent, first):
            values = {name: float(value) for name, value in terms.items()}
            for name, value in sorted(values.items(), key=lambda item: item[0] == "loss"):
                if not math.isfinite(value):
                    raise self._not_finite(step, f"the loss term {name!r} is {value}")
            self.state.pending.append(values)
        self._recent = []

    def _not_finite(self, step: int, found: str) -> UserError:
        """The first step computes with the numbers that training starts from, later steps with updated weights."""
        precision = self.section.mixed_precision
        if step == 1:
            advice = (
                "use a start model whose values are of ordinary size"
                if precision == "no"
                else f"set training.mixed_precision: 'no', since {precision} may not represent them"
            )
            return UserError(
                f"step 1: {found} before any weight has changed. What training starts from is finite, but too large to "
                f"compute with: {self.inputs()}; {advice}"
            )
        return self._too_fast(f"step {step}: {found} after {step - 1} finite step(s)")

    def _too_fast(self, found: str) -> UserError:
        advice = ["lower training.learning_rate", "set training.clip_norm"]
        if self.section.mixed_precision != "no":
            advice.append("set training.mixed_precision: 'no'")
        return UserError(f"{found}, at a learning rate of {self._rate:.3g}; {' or '.join(advice)}")

    def _check_weights(self) -> None:
        """Raise UserError for weights that are not finite: gradients may be infinite where the loss was not, and
        validation would still return scores."""
        for name, value in self.model.state_dict().items():
            if not torch.isfinite(value).all():
                raise self._too_fast(f"step {self.state.step}: the weights {name} are no longer finite")

    def _flush(self) -> None:
        """Write the mean of the pending terms as one line of metrics.jsonl."""
        self._collect()
        if self.state.pending:
            names = self.state.pending[0]
            means = {name: sum(terms[name] for terms in self.state.pending) / len(self.state.pending) for name in names}
            self.state.pending = []
            self._write("train", {**means, "lr": self._rate, **self._scalars()})

    def _scalars(self) -> dict[str, float]:
        """The learnt scalars. Raises UserError for a temperature that is not positive: it would reverse its losses."""
        names = ("temperature", "relation_temperature", "fusion_weight")
        values = {name: getattr(self.model, name).item() for name in names if hasattr(self.model, name)}
        for name, value in values.items():
            if name.endswith("temperature") and value <= 0:
                raise self._too_fast(f"step {self.state.step}: {name} has fallen to {value:.3g}")
        return values

    def _write(self, kind: str, values: dict[str, float]) -> None:
        if self._views is not None:
            with self.resume.writing("the record"):
                epoch = (self.state.step - 1) // self.schedule.steps_per_epoch
                self._views.add(kind, self.state.step, epoch, values)

    def _validate(self, score: Scorer) -> None:
        """Score on val in the main process, and keep the weights if they are the best; all processes get the score."""

        def score_and_keep() -> float:
            self.model.train(False)
            values = score()
            self._write("val", values)
            verdict = values[self.section.selected_by]
            is_best = verdict > self.state.best_score
            progress("val after step %d: %s%s", self.state.step, headlines.line(values), ", the best so far" * is_best)
            if is_best:
                self.resume.save_best(self.state.step, self.model.state_dict())
            return verdict

        verdict = self.group.by_main(score_and_keep, f"validation after step {self.state.step}")
        if verdict > self.state.best_score:
            self.state.best_step, self.state.best_score = self.state.step, verdict
            self.state.epochs_without_gain = 0
        else:
            self.state.epochs_without_gain += 1

    def _save(self) -> None:
        self._collect()
        if not self.group.is_main:
            return
        scaler = self.accelerator.scaler
        self.resume.save(
            {
                **{name: getattr(self.state, name) for name in State.__dataclass_fields__},
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "lr_schedule": self.lr_schedule.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
        )


def make_optimizer(task: Task, section: config.Training) -> torch.optim.AdamW:
    """AdamW with four groups, docs/METHOD.md, "Training": fresh heads learn at `lr_mult` times the rate; biases, norms
    and the learnt scalars have no weight decay."""
    fresh = {id(parameter) for head in task.fresh_heads() for parameter in head.parameters()}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for parameter in task.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in fresh, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": section.learning_rate * (section.lr_mult if is_fresh else 1.0),
                "weight_decay": section.weight_decay if decays else 0.0,
            }
            for (is_fresh, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        betas=section.betas,
        eps=section.eps,
        fused=True,
    )
