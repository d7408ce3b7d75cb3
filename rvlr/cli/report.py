"""`rvlr summarise`, `pool`, `tables`, `agreement`, `plot-...` and `draw-sheets`: tables and figures."""

from pathlib import Path
from typing import Annotated

import typer

from rvlr import config, files, log
from rvlr.cli.options import App, Captions, Evaluations, LogFile, Output, Stemmer, whole
from rvlr.errors import UserError, show
from rvlr.ownership import check_paths

app = App()


@app.command()
def summarise(
    evaluations: Evaluations,
    csv: Annotated[Path, typer.Option(help="Every number, one row per run and protocol.")],
    comparisons: Annotated[Path, typer.Option(help="Differences between trained runs, one row per pair and metric.")],
    markdown: Annotated[Path, typer.Option(help="The tables for readers.")],
    text: Annotated[Path, typer.Option(help="The table for the terminal.")],
    html: Annotated[Path | None, typer.Option(help="The tables for readers, as a page for browsers.")] = None,
    log_file: LogFile = None,
) -> None:
    """Write the tables. Mean and standard deviation over seeds, and differences between trained runs."""
    log.setup(log_file)
    check_paths(
        {"EVALUATIONS": evaluations, "--log-file": log_file},
        {"--csv": csv, "--comparisons": comparisons, "--markdown": markdown, "--html": html, "--text": text},
    )
    from rvlr.report import page, results, tables

    found = results.read(evaluations)
    tables.summarise(found, csv, comparisons, markdown)
    if html is not None:
        files.write_text(html, page.of_markdown(files.read_text(markdown)))
    files.write_text(text, tables.table(found))


@app.command()
def pool(
    folders: Annotated[list[Path], typer.Argument(help="Folders of results, such as results/photos-0, two or more.")],
    output: Annotated[Path, typer.Option(help="Folder to write: summary.{md,csv,txt}, comparisons.csv, figures/.")],
    log_file: LogFile = None,
) -> None:
    """Pool the results of one study on several splits of the data: tables and figures over splits and seeds."""
    log.setup(log_file)
    summary = {name: output / f"summary.{name}" for name in ("csv", "md", "txt")}
    comparisons, figures = output / "comparisons.csv", output / "figures"
    bars, forest = figures / "three-ways.png", figures / "differences.png"
    check_paths(
        {"FOLDERS": folders, "--log-file": log_file}, {"--output": [*summary.values(), comparisons, bars, forest]}
    )
    from rvlr.report import differences, tables
    from rvlr.report.figures import plot_three_ways
    from rvlr.report.pool import read

    found = read(folders)
    tables.summarise(found, summary["csv"], comparisons, summary["md"])
    plot_three_ways(found, bars)
    if found.comparisons:
        differences.plot_differences(found, forest)
    files.write_text(summary["txt"], tables.table(found))


@app.command("tables")
def join_tables(
    folders: Annotated[list[Path], typer.Argument(help="Folders of results, such as results/coco, one or more.")],
    output: Annotated[Path, typer.Option(help="Folder to write: tables.{md,csv,tex}.")],
    protocol: Annotated[str, typer.Option(help="corrected or paper.")] = "corrected",
    log_file: LogFile = None,
) -> None:
    """Join finished studies into the three tables of the paper: cross-modal, single-modal, mixed. What is missing in a
    study is named."""
    log.setup(log_file)
    from rvlr.report import joined

    if protocol not in joined.PROTOCOLS:
        raise UserError(f"--protocol: found {show(protocol)}; give {' or '.join(joined.PROTOCOLS)}")
    check_paths({"FOLDERS": folders, "--log-file": log_file}, {"--output": [output / name for name in joined.NAMES]})
    joined.write(joined.read(folders, protocol), output)


@app.command()
def agreement(
    captions: Captions,
    ratings: Annotated[Path, typer.Option("--cxc", help="Folder of the ratings of Crisscrossed Captions.")],
    part: Annotated[str | None, typer.Option(help="test or val, where the folder has the ratings of both.")] = None,
    scorer: Annotated[str, typer.Option(help="rouge-score or coco-caption.")] = "rouge-score",
    stemmer: Stemmer = False,
) -> None:
    """Compare ROUGE-L with people. Prints Spearman's correlation of both on the pairs of images and captions of COCO
    that people rated."""
    log.setup(None)
    section = config.parse({"scorer": scorer, "stemmer": stemmer}, "options", config.Relevance)
    from rvlr.datasets.annotations import read_captions
    from rvlr.judgements import agreement as people
    from rvlr.judgements import coco, cxc

    split = read_captions(captions, coco.CAPTIONS)
    typer.echo(people.table(people.measure(split, cxc.read(ratings, split, part), section)))


@app.command()
def plot_losses(
    metrics: Annotated[list[Path], typer.Argument(help="metrics.jsonl of each run.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Draw the loss curves of runs. A run is named after the folder of its metrics.jsonl."""
    log.setup(log_file)
    check_paths({"METRICS": metrics, "--log-file": log_file}, {"--output": output})
    from rvlr.report import figures

    figures.plot_losses(figures.named_by_folder(metrics), output)


@app.command()
def plot_three_ways(
    evaluations: Evaluations,
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Draw the three ways of retrieval as bars."""
    log.setup(log_file)
    check_paths({"EVALUATIONS": evaluations, "--log-file": log_file}, {"--output": output})
    from rvlr.report import figures, results

    figures.plot_three_ways(results.read(evaluations), output)


@app.command()
def plot_differences(
    evaluations: Evaluations,
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Draw the differences between trained runs with their intervals."""
    log.setup(log_file)
    check_paths({"EVALUATIONS": evaluations, "--log-file": log_file}, {"--output": output})
    from rvlr.report import differences, results

    differences.plot_differences(results.read(evaluations), output)


@app.command()
def draw_sheets(
    rankings: Annotated[Path, typer.Option(help="eval/rankings.npz of a run.")],
    split: Annotated[Path, typer.Option(help="The split that the rankings are of, .jsonl.")],
    run: Annotated[str, typer.Option(help="Name of the run, for the title.")],
    queries: Annotated[
        int, typer.Option(parser=whole(0, 50), metavar="INTEGER", help="How many queries of each direction to show.")
    ],
    cross_modal: Annotated[Path, typer.Option(help="PNG to write: image to text, text to image.")],
    single_modal: Annotated[Path, typer.Option(help="PNG to write: image to image, text to text.")],
    log_file: LogFile = None,
) -> None:
    """Draw what a run retrieves for some queries."""
    log.setup(log_file)
    check_paths(
        {"--rankings": rankings, "--split": split, "--log-file": log_file},
        {"--cross-modal": cross_modal, "--single-modal": single_modal},
    )
    from rvlr.data.records import read_split
    from rvlr.report import consistency, sheets

    ranked = read_split(split)
    consistency.check_rankings(rankings, run, ranked.checksum)
    sheets.draw_cross_modal(rankings, ranked, queries, cross_modal, run)
    sheets.draw_single_modal(rankings, ranked, queries, single_modal, run)
