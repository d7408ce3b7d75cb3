"""What the stages of a finished run cost: wall time, memory, GPU hours.

Input: the benchmark files that Snakemake writes, and the records of the stages that say which GPU they used. Snakemake
measures the memory of a stage every 0.5 s during the first 30 s, then every 30 s. So it may miss a short peak, and a
stage that ends before the first measurement has no memory. A training that was interrupted and resumed is listed with
its last part only.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rvlr.errors import UserError

ORDER = [
    "prepare",
    "verify",
    "cache",
    "relevance",
    "initial",
    "teacher",
    "features",
    "student",
    "evaluate",
    "summarise",
    "plot",
    "sheets",
]
"""The stages in the order of the pipeline, by the first word of their benchmark file."""


Gpus = Mapping[tuple[str, int | None], int]
"""How many GPUs a stage used, by its name and seed; those that are not in it used none."""


@dataclass(frozen=True)
class Stage:
    """One benchmark file: wall time in seconds, largest resident set in MiB (None if it was not measured)."""

    name: str
    seed: int | None
    seconds: float
    memory: float | None

    @property
    def kind(self) -> str:
        """The first word of its name, such as `teacher`."""
        return self.name.partition("-")[0]

    @property
    def position(self) -> tuple[list[int], str, int]:
        """The sort key in tables: evaluations in the order of the models they evaluate, unknown stages last."""
        kinds = [ORDER.index(word) if word in ORDER else len(ORDER) for word in self.name.split("-")[:2]]
        return kinds, self.name, -1 if self.seed is None else self.seed


@dataclass(frozen=True)
class Total:
    """All stages of a kind: how many, their wall time in seconds, the largest memory of one in MiB, GPU hours."""

    kind: str
    stages: int
    seconds: float
    memory: float | None
    gpu_hours: float


def read(folder: Path) -> list[Stage]:
    """All stages of `results/{dataset}`, in the order of the pipeline. Raises UserError naming a file that is no
    benchmark file."""
    return sorted(
        (read_stage(path) for path in (folder / "benchmarks").rglob("*.tsv")), key=lambda stage: stage.position
    )


def read_stage(path: Path) -> Stage:
    """The stage of a benchmark file. Raises UserError if it is none, OSError if it cannot be read."""
    seed = path.parent.name.removeprefix("seed")
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            row = next(csv.DictReader(stream, delimiter="\t"))
        seconds, memory = float(row["s"]), row["max_rss"]
        return Stage(
            name=path.stem,
            seed=int(seed) if seed.isdecimal() else None,
            seconds=seconds,
            memory=None if memory in ("NA", "-") else float(memory),
        )
    except (StopIteration, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a benchmark file of Snakemake; remove it, or run its stage again") from None


def totals(stages: Iterable[Stage], gpus: Gpus) -> list[Total]:
    """The stages added up by kind."""
    kinds: dict[str, list[Stage]] = {}
    for stage in stages:
        kinds.setdefault(stage.kind, []).append(stage)
    return [add(kind, group, gpus) for kind, group in kinds.items()]


def add(kind: str, stages: Sequence[Stage], gpus: Gpus) -> Total:
    """All of some stages, under the name `kind`."""
    measured = [stage.memory for stage in stages if stage.memory is not None]
    hours = sum(stage.seconds * gpus.get((stage.name, stage.seed), 0) for stage in stages) / 3600
    return Total(kind, len(stages), sum(stage.seconds for stage in stages), max(measured, default=None), hours)
