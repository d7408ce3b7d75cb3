"""Wall time and peak memory of every stage of a finished run, in the order of the pipeline.

    python benchmarks/stages.py [results/shapes]

The values come from the benchmark files that Snakemake writes. Snakemake measures the memory of a stage every 0.5 s
during the first 30 s, then every 30 s. So it may miss a short peak, and a stage that ends before the first measurement
has no memory. A training that was interrupted and resumed is listed with its last part only.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from tabulate import SEPARATING_LINE, tabulate

from rvlr.report.costs import Stage, read


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
