"""Wall time and peak memory of every stage of a finished run, in the order of the pipeline.

    python benchmarks/stages.py [results/shapes]

The values come from the benchmark files that Snakemake writes. Snakemake measures the memory of a stage every 0.5 s
during the first 30 s, then every 30 s. So it may miss a short peak, and a stage that ends before the first measurement
has no memory. A training that was interrupted and resumed is listed with its last part only.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from tabulate import SEPARATING_LINE, tabulate

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


@dataclass(frozen=True)
class Stage:
    """One benchmark file: wall time in seconds, largest resident set in MiB (None if it was not measured)."""

    name: str
    seed: int | None
    seconds: float
    memory: float | None

    @property
    def position(self) -> tuple[list[int], str, int]:
        """The sort key in the table: evaluations in the order of the models they evaluate, unknown stages last."""
        kinds = [ORDER.index(word) if word in ORDER else len(ORDER) for word in self.name.split("-")[:2]]
        return kinds, self.name, -1 if self.seed is None else self.seed


def read(folder: Path) -> list[Stage]:
    """All stages of `results/{dataset}`, in the order of the pipeline."""
    return sorted((_stage(path) for path in (folder / "benchmarks").rglob("*.tsv")), key=lambda stage: stage.position)


def _stage(path: Path) -> Stage:
    with path.open(encoding="utf-8", newline="") as stream:
        row = next(csv.DictReader(stream, delimiter="\t"))
    seed = path.parent.name.removeprefix("seed")
    return Stage(
        name=path.stem,
        seed=int(seed) if seed.isdecimal() else None,
        seconds=float(row["s"]),
        memory=None if row["max_rss"] in ("NA", "-") else float(row["max_rss"]),
    )


def table(stages: list[Stage]) -> str:
    """The table for the terminal; the last row contains the sum of the times and the largest memory."""
    memories = [stage.memory for stage in stages if stage.memory is not None]
    total = Stage(f"{len(stages)} stages", None, sum(stage.seconds for stage in stages), max(memories, default=None))
    return tabulate(
        [*map(_row, stages), SEPARATING_LINE, _row(total)],
        headers=("stage", "seed", "wall time [s]", "peak memory [MiB]"),
        colalign=("left", "right", "right", "right"),
        disable_numparse=True,
    )


def _row(stage: Stage) -> tuple[str, str, str, str]:
    seed = "" if stage.seed is None else str(stage.seed)
    memory = "not measured" if stage.memory is None else f"{stage.memory:,.0f}"
    return stage.name, seed, f"{stage.seconds:,.1f}", memory


def main(results: Annotated[Path, typer.Argument(help="results/{dataset}")] = Path("results/shapes")) -> None:
    stages = read(results)
    if not stages:
        sys.exit(
            f"error: {results}/benchmarks contains no benchmark files; run `snakemake` first, or name another folder"
        )
    typer.echo(table(stages))


if __name__ == "__main__":
    typer.run(main)
