"""The command line: `rvlr STAGE`, or `python -m rvlr STAGE`. A workflow rule, a person and each of several processes
run the same line.

Stages import what they need when they run, so that checking a configuration does not load PyTorch.
"""

# ruff: noqa: E402 - what numerical libraries read when they are loaded comes first
from rvlr import environment

environment.prepare()

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from rvlr import authors_commands, config, documents, io, log
from rvlr.cli import App, run_name, whole
from rvlr.config.sources import KNOWN
from rvlr.data import commands
from rvlr.errors import Interrupted, LogFileError, UserError, describe_system
from rvlr.ownership import check_apart, check_paths

app = App(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
config_app = App(no_args_is_help=True, help="Check or show a configuration file.")
app.add_typer(config_app, name="config")
app.add_typer(commands.app, name="data")
app.add_typer(authors_commands.app)  # beside the stages

ConfigFile = Annotated[Path, typer.Option("--config", help="Frozen section of the configuration, YAML.")]
LogFile = Annotated[Path | None, typer.Option(help="Also write messages to this file.")]
Seed = Annotated[int, typer.Option(parser=whole(0, 2**31 - 1), metavar="INTEGER", help="Seed of the run.")]
Output = Annotated[Path, typer.Option(help="What to write.")]


@config_app.command("check")
def check(file: Path) -> None:
    """Validate FILE as a whole; every fault is listed with its key."""
    found = config.load(file)
    config.check_disk(found, str(file))
    typer.echo(f"{file}: valid; {len(found.teachers)} teacher(s), {len(found.students)} student(s)")


@config_app.command("show")
def show(file: Path) -> None:
    """Print FILE with all defaults filled in."""
    typer.echo(config.to_yaml(config.load(file)), nl=False)


@app.command()
def freeze(
    section: Annotated[str, typer.Option(help="A section of the configuration as JSON.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Write a section of the configuration as the file that one stage reads."""
    log.setup(log_file)
    import yaml

    check_paths({"--log-file": log_file}, {"--output": output})
    settings = documents.parse_json(section, "--section")
    io.write_text(output, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


@app.command()
def prepare(
    config_file: ConfigFile,
    output: Output,
    downloads: Annotated[Path, typer.Option(help="Folder of what was fetched.")] = config.DOWNLOADS,
    relevance: Annotated[
        Path | None,
        typer.Option(help="Frozen relevance section, YAML: refuse captions that its scorer finds no words in."),
    ] = None,
    log_file: LogFile = None,
) -> None:
    """Make the splits of a data set: OUTPUT/splits, and OUTPUT/images where the images are made here."""
    log.setup(log_file)
    section = config.load(config_file, config.Dataset)
    check = None
    if relevance is not None:
        from rvlr.relevance import check_words

        where = str(section.captions) if section.kind == "custom" else section.name
        check = partial(check_words, section=config.load(relevance, config.Relevance), where=where)
    from rvlr.data.records import split_files

    given = {"--config": config_file, "--relevance": relevance, "--log-file": log_file}
    if section.kind == "shapes":
        from rvlr.data import shapes

        check_paths(given, {"--output": [*split_files(output / "splits"), output / "images"]})
        shapes.prepare(section, output)
    elif section.kind == "custom":
        from rvlr.data import custom

        given |= {"dataset.images": section.images, "dataset.captions": section.captions}
        check_paths(given, {"--output": split_files(output / "splits")})
        custom.prepare(section, output, check)
    else:
        from rvlr.data import public

        files = {name: downloads / KNOWN[name].file for name in public.annotation_sources(section)}
        check_paths({**given, "--downloads": files.values()}, {"--output": split_files(output / "splits")})
        public.prepare(section, files, str((downloads / section.kind / "images").absolute()), output, check)


@app.command()
def relevance(
    captions: Annotated[Path, typer.Option(help="A split (.jsonl), or the authors' JSON.")],
    output: Output,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Frozen section of the configuration, YAML; or the options below.")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="rouge-score (the default) or coco-caption.")] = None,
    stemmer: Annotated[bool, typer.Option("--stemmer", help="Compare word stems; rouge-score only.")] = False,
    captions_per_image: Annotated[
        int | None,
        typer.Option(
            parser=whole(1, 10**6),
            metavar="INTEGER",
            help="Use the first so many captions of each image, as the paper does with 5; else all.",
        ),
    ] = None,
    log_file: LogFile = None,
) -> None:
    """Compute the ROUGE-L relevance matrix, captions x images."""
    log.setup(log_file)
    if config_file is not None and (scorer or stemmer):
        raise UserError("--config names the scorer already; give either it or --scorer and --stemmer")
    from rvlr import relevance as stage

    if config_file is not None:
        section = config.load(config_file, config.Relevance)
    else:
        section = config.parse({"scorer": scorer or "rouge-score", "stemmer": stemmer}, "options", config.Relevance)
    given = {"--captions": captions, "--config": config_file, "--log-file": log_file}
    check_paths(given, {"--output": stage.files(output)})
    stage.write(stage.read_captions(captions, captions_per_image), section, output)


@app.command()
def initialise(
    config_file: ConfigFile,
    seed: Seed,
    split: Annotated[Path, typer.Option(help="The training split, for a vocabulary.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Build the model that training starts from."""
    log.setup(log_file)
    check_paths({"--config": config_file, "--split": split, "--log-file": log_file}, {"--output": output})
    from rvlr.data.records import read_split
    from rvlr.models import build

    build.initialise(config.load(config_file, config.Model), seed, read_split(split).captions, output)


@app.command()
def train_teacher(
    config_file: ConfigFile,
    seed: Seed,
    start_model: Annotated[Path, typer.Option(help="Model folder to start from.")],
    splits: Annotated[Path, typer.Option(help="Folder of the splits.")],
    resume: Annotated[Path, typer.Option(help="Folder for the state of an unfinished training.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Stage 1: train a teacher with contrast and matching."""
    log.setup(log_file)
    section = config.load(config_file, config.TrainedTeacher)
    _train(section, seed, config_file, start_model, splits, None, resume, output, log_file)


@app.command()
def train_student(
    config_file: ConfigFile,
    seed: Seed,
    start_model: Annotated[Path, typer.Option(help="Model folder to start from.")],
    splits: Annotated[Path, typer.Option(help="Folder of the splits.")],
    features: Annotated[Path, typer.Option(help="Folder of the teacher's features.")],
    resume: Annotated[Path, typer.Option(help="Folder for the state of an unfinished training.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Stage 2: train a student that also distils a teacher's features."""
    log.setup(log_file)
    section = config.load(config_file, config.Student)
    _train(section, seed, config_file, start_model, splits, features, resume, output, log_file)


def _train(
    section: config.TrainedTeacher | config.Student,
    seed: int,
    config_file: Path,
    start_model: Path,
    splits: Path,
    features: Path | None,
    resume: Path,
    output: Path,
    log_file: Path | None,
) -> None:
    given = {"--config": config_file, "--start-model": start_model, "--splits": splits, "--features": features}
    made = [output / name for name in ("model", "metrics.jsonl", "config.yaml", "tensorboard")]
    check_apart({**given, "--log-file": log_file}, {"--resume": resume, "--output": made})
    check_paths({}, {"--output": made})
    from rvlr import launch
    from rvlr.training import folders

    folders.check_resume(resume)
    folders.check_output(output)
    launch.spread(section.training.processes)
    from rvlr.training import stage

    stage.train(section, seed, stage.Paths(start_model, splits, features, resume, output))


@app.command()
def extract(
    config_file: ConfigFile,
    split: Annotated[Path, typer.Option(help="The split to extract features of, .jsonl.")],
    output: Output,
    model: Annotated[Path | None, typer.Option(help="Model folder of a trained teacher.")] = None,
    log_file: LogFile = None,
) -> None:
    """Store a teacher's single-modal features of a split."""
    log.setup(log_file)
    section = config.load(config_file, config.Teacher)
    trained = isinstance(section, config.TrainedTeacher)
    if trained and model is None:
        raise UserError(f"--model is missing: {config_file} is a trained teacher's section, so give its model folder")
    if not trained and model is not None:
        raise UserError(f"--model: {config_file} is a pair of single-modal models, which needs none; leave it out")
    given = {"--config": config_file, "--split": split, "--model": model, "--log-file": log_file}
    check_paths(given, {"--output": [output / name for name in ("image.npy", "text.npy", "index.json")]})
    from rvlr import launch

    launch.spread(section.training.processes if trained else section.processes)
    from rvlr import features
    from rvlr.data.records import read_split

    features.extract(section, model, read_split(split), output)


@app.command()
def evaluate(
    config_file: ConfigFile,
    run: Annotated[
        str,
        typer.Option(parser=run_name, metavar="RUN", help="Name of the run in the results, such as student-rvlr."),
    ],
    seed: Seed,
    model: Annotated[Path, typer.Option(help="Model folder.")],
    split: Annotated[Path, typer.Option(help="The split to evaluate on, .jsonl.")],
    relevance: Annotated[Path, typer.Option(help="Relevance matrix of that split, .npy.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Evaluate a model three ways; writes OUTPUT/SPLIT.json and OUTPUT/rankings.npz."""
    log.setup(log_file)
    section = config.load(config_file, config.Scoring)
    given = {"--config": config_file, "--model": model, "--split": split, "--relevance": relevance}
    made = [output / f"{split.stem}.json", output / "rankings.npz"]
    check_paths({**given, "--log-file": log_file}, {"--output": made})
    from rvlr import devices
    from rvlr.evaluation import stage

    devices.lease(1)
    stage.evaluate(section, run, seed, model, split, relevance, output)


@app.command()
def summarise(
    evaluations: Annotated[list[Path], typer.Argument(help="Result files, eval/test.json of each run and seed.")],
    csv: Annotated[Path, typer.Option(help="Every number, one row a run and protocol.")],
    comparisons: Annotated[Path, typer.Option(help="Differences between trained runs, one row a pair and metric.")],
    markdown: Annotated[Path, typer.Option(help="The tables for people.")],
    text: Annotated[Path, typer.Option(help="The table for the terminal.")],
    log_file: LogFile = None,
) -> None:
    """Mean and standard deviation over seeds, and differences between trained runs, as tables."""
    log.setup(log_file)
    check_paths(
        {"EVALUATIONS": evaluations, "--log-file": log_file},
        {"--csv": csv, "--comparisons": comparisons, "--markdown": markdown, "--text": text},
    )
    from rvlr.report import results, summary

    found = results.read(evaluations)
    summary.summarise(found, csv, comparisons, markdown)
    io.write_text(text, summary.table(found))


@app.command()
def plot_losses(
    metrics: Annotated[list[Path], typer.Argument(help="metrics.jsonl of each run.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Draw the loss curves of runs, named by the folders of their metrics.jsonl."""
    log.setup(log_file)
    check_paths({"METRICS": metrics, "--log-file": log_file}, {"--output": output})
    from rvlr.report import figures

    figures.plot_losses(figures.named_by_folder(metrics), output)


@app.command()
def plot_three_ways(
    evaluations: Annotated[list[Path], typer.Argument(help="Result files, eval/test.json of each run and seed.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Draw the three ways of retrieval as bars."""
    log.setup(log_file)
    check_paths({"EVALUATIONS": evaluations, "--log-file": log_file}, {"--output": output})
    from rvlr.report import figures, results

    figures.plot_three_ways(results.read(evaluations), output)


@app.command()
def draw_sheets(
    rankings: Annotated[Path, typer.Option(help="eval/rankings.npz of a run.")],
    split: Annotated[Path, typer.Option(help="The split it ranks, .jsonl.")],
    run: Annotated[str, typer.Option(help="Name of the run, for the title.")],
    queries: Annotated[
        int, typer.Option(parser=whole(0, 50), metavar="INTEGER", help="How many queries of each direction to show.")
    ],
    cross_modal: Annotated[Path, typer.Option(help="What to write: image<->text.")],
    single_modal: Annotated[Path, typer.Option(help="What to write: image->image, text->text.")],
    log_file: LogFile = None,
) -> None:
    """Draw what a run retrieves for some queries."""
    log.setup(log_file)
    check_paths(
        {"--rankings": rankings, "--split": split, "--log-file": log_file},
        {"--cross-modal": cross_modal, "--single-modal": single_modal},
    )
    from rvlr.data.records import read_split
    from rvlr.report import records, sheets

    ranked = read_split(split)
    records.check_rankings(rankings, run, ranked.checksum)
    sheets.draw_cross_modal(rankings, ranked, queries, cross_modal, run)
    sheets.draw_single_modal(rankings, ranked, queries, single_modal, run)


def main() -> None:
    """Run the command line; faults a user can mend end with one message and exit status 1."""
    environment.prepare()
    try:
        app()
    except UserError as error:
        if isinstance(error, LogFileError):
            log.forget_file()
        _fail(str(error))
    except Interrupted as stop:
        log.logger.warning("%s", stop)
        sys.exit(stop.exit_status)
    except Exception as error:
        message = describe_system(error)
        if message is not None:
            _fail(message)
        # a fault of ours: the traceback belongs in the log file too
        if not log.logger.handlers:
            raise
        log.logger.exception("unexpected error")
        _leave()


def _fail(message: str) -> NoReturn:
    """Show the one message of a command that failed and exit with status 1."""
    if log.logger.handlers:
        log.logger.error("%s", message)
    else:
        typer.echo(f"error: {message}", err=True)
    _leave()


def _leave() -> NoReturn:
    """Exit with status 1, as one of several processes at once: the threads of a collective that the others will never
    join abort an orderly exit now and then, and the status with it."""
    if environment.place() is None:
        sys.exit(1)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
