"""Wall time and peak memory of every stage of a finished run, in the order of the pipeline.

    python benchmarks/stages.py [results/shapes]

Read from the benchmark files that Snakemake writes. It looks at a stage every 0.5 s for 30 s and every 30 s from then
on, so a short peak may be missed, and a stage that ends before the first look has no memory. A training that was
interrupted and resumed is listed with its last part alone.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

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
    """One benchmark file: wall time in seconds, largest resident set in MiB (None where it was not measured)."""

    name: str
    seed: int | None
    seconds: float
    memory: float | None

    @property
    def place(self) -> tuple[list[int], str, int]:
        """Where the stage stands in the table: evaluations in the order of what they evaluate, unknown stages last."""
        kinds = [ORDER.index(word) if word in ORDER else len(ORDER) for word in self.name.split("-")[:2]]
        return kinds, self.name, -1 if self.seed is None else self.seed


def read(folder: Path) -> list[Stage]:
    """All stages of `results/{dataset}`, in the order of the pipeline."""
    return sorted((_stage(path) for path in (folder / "benchmarks").rglob("*.tsv")), key=lambda stage: stage.place)


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
    """The table for the terminal; the last row has the sum of the times and the largest memory."""
    memories = [stage.memory for stage in stages if stage.memory is not None]
    total = Stage(f"{len(stages)} stages", None, sum(stage.seconds for stage in stages), max(memories, default=None))
    rows = [("stage", "seed", "wall time [s]", "peak memory [MiB]")]
    rows += [
        (
            stage.name,
            "" if stage.seed is None else str(stage.seed),
            f"{stage.seconds:,.1f}",
            "not measured" if stage.memory is None else f"{stage.memory:,.0f}",
        )
        for stage in [*stages, total]
    ]
    name, seed, seconds, memory = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [f"{row[0]:<{name}}  {row[1]:>{seed}}  {row[2]:>{seconds}}  {row[3]:>{memory}}" for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def main(results: Annotated[Path, typer.Argument(help="results/{dataset}")] = Path("results/shapes")) -> None:
    stages = read(results)
    if not stages:
        sys.exit(f"error: {results}/benchmarks holds no benchmark files; run `snakemake` first, or name another folder")
    typer.echo(table(stages))


if __name__ == "__main__":
    typer.run(main)
