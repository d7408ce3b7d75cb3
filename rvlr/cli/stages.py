"""`rvlr STAGE`: every stage from splits to evaluations, in the order of the workflow.

A stage's libraries are imported when the stage runs, so that checking a configuration does not load PyTorch.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rvlr import config, files, log
from rvlr.cli.options import (
    App,
    Captions,
    CaptionsPerImage,
    ConfigFile,
    Downloads,
    LogFile,
    Output,
    RequireGpu,
    Resume,
    Run,
    Scenes,
    Seed,
    Splits,
    StartModel,
    Stemmer,
    Teachers,
    ValRelevance,
    named_folders,
)
from rvlr.config.sources import SOURCES
from rvlr.errors import UserError
from rvlr.ownership import check_apart, check_paths

app = App()


@app.command()
def prepare(
    config_file: ConfigFile,
    output: Output,
    downloads: Downloads = config.DOWNLOADS,
    relevance: Annotated[
        Path | None,
        typer.Option(help="Frozen relevance section, YAML: refuse captions that its scorer finds no words in."),
    ] = None,
    log_file: LogFile = None,
) -> None:
    """Make the splits of a data set. Writes OUTPUT/splits, and OUTPUT/images where the images are made here."""
    log.setup(log_file)
    section = config.load(config_file, config.Dataset)
    check = None
    if relevance is not None:
        from rvlr.relevance import check_words

        where = str(section.own_captions or section.name)
        check = partial(check_words, section=config.load(relevance, config.Relevance), where=where)
    from rvlr import datasets
    from rvlr.data.records import split_files

    check_paths(
        {
            "--config": config_file,
            "--relevance": relevance,
            "--log-file": log_file,
            **{f"dataset.{key}": path for key, path in section.own_files.items()},
            "--downloads": [downloads / SOURCES[name].file for name in section.annotation_sources.values()],
        },
        {"--output": [*split_files(output / "splits"), *([output / "images"] if section.makes_images else [])]},
    )
    datasets.prepare(section, output, downloads, check)


@app.command()
def relevance(
    captions: Captions,
    output: Output,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Frozen section of the configuration, YAML; or the options below.")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="rouge-score (the default) or coco-caption.")] = None,
    stemmer: Stemmer = False,
    captions_per_image: CaptionsPerImage = None,
    log_file: LogFile = None,
) -> None:
    """Compute the relevance matrix of captions and images. Its values are ROUGE-L, as NDCG needs them."""
    log.setup(log_file)
    if config_file is not None and (scorer or stemmer):
        raise UserError("--config names the scorer already; give either it or --scorer and --stemmer")
    from rvlr import relevance as stage
    from rvlr.datasets.annotations import read_captions

    if config_file is not None:
        section = config.load(config_file, config.Relevance)
    else:
        section = config.parse({"scorer": scorer or "rouge-score", "stemmer": stemmer}, "options", config.Relevance)
    given = {"--captions": captions, "--config": config_file, "--log-file": log_file}
    check_paths(given, {"--output": stage.outputs(output)})
    stage.write(read_captions(captions, captions_per_image), section, output)


@app.command()
def scene_relevance(
    split: Annotated[Path, typer.Option(help="A split of the data set shapes, .jsonl.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Compute the relevance matrix of captions and images from their scenes. Only shapes knows those."""
    log.setup(log_file)
    from rvlr import relevance as stage
    from rvlr.data.records import read_split

    check_paths({"--split": split, "--log-file": log_file}, {"--output": stage.outputs(output)})
    read, about = read_split(split), split.parent / "dataset.json"
    settings = files.read_json(about).get("settings")
    if not isinstance(settings, dict) or settings.get("kind") != "shapes":
        raise UserError(f"{split}: not of the data set shapes, whose scenes alone are known; give a split of it")
    stage.write_scenes(read, config.parse(settings, f"{about}: settings", config.Shapes), output)


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
    start_model: StartModel,
    splits: Splits,
    resume: Resume,
    output: Output,
    relevance: ValRelevance = None,
    require_gpu: RequireGpu = False,
    log_file: LogFile = None,
) -> None:
    """Stage 1: train a teacher with contrast and matching."""
    log.setup(log_file)
    section = config.load(config_file, config.TrainedTeacher)
    _train(section, seed, config_file, start_model, splits, None, relevance, resume, output, require_gpu, log_file)


@app.command()
def extract(
    config_file: ConfigFile,
    split: Annotated[Path, typer.Option(help="The split to extract features of, .jsonl.")],
    output: Output,
    model: Annotated[Path | None, typer.Option(help="Model folder of a trained teacher.")] = None,
    require_gpu: RequireGpu = False,
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

    launch.launch(section.processes, require_gpu)
    from rvlr import extraction
    from rvlr.data.records import read_split

    extraction.extract(section, model, read_split(split), output)


@app.command()
def copy_features(
    features: Annotated[Path, typer.Option(help="Folder of features from elsewhere.")],
    split: Annotated[Path, typer.Option(help="The split that needs them, .jsonl.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Copy features from elsewhere in the order of a split. Their folder names every row."""
    log.setup(log_file)
    from rvlr.data import stored
    from rvlr.data.records import read_split

    taken = [features / name for name in stored.FILES]
    check_paths(
        {"--features": taken, "--split": split, "--log-file": log_file},
        {"--output": [output / name for name in stored.FILES]},
    )
    stored.copy(features, read_split(split), output)


@app.command()
def train_student(
    config_file: ConfigFile,
    seed: Seed,
    start_model: StartModel,
    splits: Splits,
    features: Annotated[Path, typer.Option(help="Folder of the teacher's features.")],
    resume: Resume,
    output: Output,
    relevance: ValRelevance = None,
    require_gpu: RequireGpu = False,
    log_file: LogFile = None,
) -> None:
    """Stage 2: train a student, distilling a teacher."""
    log.setup(log_file)
    section = config.load(config_file, config.Student)
    _train(section, seed, config_file, start_model, splits, features, relevance, resume, output, require_gpu, log_file)


def _train(
    section: config.TrainedTeacher | config.Student,
    seed: int,
    config_file: Path,
    start_model: Path,
    splits: Path,
    features: Path | None,
    relevance: Path | None,
    resume: Path,
    output: Path,
    require_gpu: bool,
    log_file: Path | None,
) -> None:
    given = {"--config": config_file, "--start-model": start_model, "--splits": splits, "--features": features}
    given["--relevance"] = relevance
    made = [output / name for name in ("model", "metrics.jsonl", "config.yaml", "tensorboard")]
    check_apart({**given, "--log-file": log_file}, {"--resume": resume, "--output": made})
    check_paths({}, {"--output": made})
    from rvlr import launch
    from rvlr.training import folders

    folders.check_resume(resume)
    folders.check_output(output)
    folders.check_relevance(section.training, relevance)
    launch.launch(section.processes, require_gpu)
    from rvlr.training import stage

    stage.train(section, seed, stage.Paths(start_model, splits, features, resume, output, relevance))


Ratings = Annotated[
    Path | None,
    typer.Option("--cxc", help="Folder of the ratings of Crisscrossed Captions, if the section asks for them."),
]


@app.command()
def evaluate(
    config_file: ConfigFile,
    run: Run,
    seed: Seed,
    model: Annotated[Path, typer.Option(help="Model folder.")],
    split: Annotated[Path, typer.Option(help="The split to evaluate on, .jsonl.")],
    relevance: Annotated[Path, typer.Option(help="Relevance matrix of that split, .npy.")],
    output: Output,
    train: Annotated[
        Path | None, typer.Option(help="The training split, .jsonl, for the mean embeddings of centred rankings.")
    ] = None,
    scenes: Scenes = None,
    teacher: Teachers = None,
    ratings: Ratings = None,
    require_gpu: RequireGpu = False,
    log_file: LogFile = None,
) -> None:
    """Evaluate a model three ways. Writes OUTPUT/SPLIT.json and OUTPUT/rankings.npz."""
    log.setup(log_file)
    given: dict[str, Path | None] = {"--config": config_file, "--model": model, "--train": train, "--split": split}
    given |= {"--relevance": relevance, "--scenes": scenes, "--cxc": ratings, "--log-file": log_file}
    teachers = named_folders("--teacher", teacher or [])
    given |= {f"--teacher {name}": folder for name, folder in teachers.items()}
    section = _scoring(config_file, scenes, given, split, output)
    from rvlr import devices
    from rvlr.evaluation import stage

    devices.lease(1, require_gpu)
    stage.evaluate(section, run, seed, model, split, relevance, output, train, scenes, teachers, ratings)


@app.command()
def evaluate_features(
    config_file: ConfigFile,
    run: Run,
    seed: Seed,
    features: Annotated[Path, typer.Option(help="Folder of features of that split.")],
    split: Annotated[Path, typer.Option(help="The split to evaluate on, .jsonl.")],
    relevance: Annotated[Path, typer.Option(help="Relevance matrix of that split, .npy.")],
    output: Output,
    scenes: Scenes = None,
    ratings: Ratings = None,
    log_file: LogFile = None,
) -> None:
    """Evaluate a teacher's raw features within each modality. Writes OUTPUT/SPLIT.json and OUTPUT/rankings.npz."""
    log.setup(log_file)
    given: dict[str, Path | None] = {"--config": config_file, "--features": features, "--split": split}
    given |= {"--relevance": relevance, "--scenes": scenes, "--cxc": ratings, "--log-file": log_file}
    section = _scoring(config_file, scenes, given, split, output)
    from rvlr.evaluation import features as raw

    raw.evaluate(section, run, seed, features, split, relevance, output, scenes, ratings)


def _scoring(
    config_file: Path, scenes: Path | None, given: Mapping[str, Path | None], split: Path, output: Path
) -> config.Scoring:
    """The section of an evaluation, after checks of it against the options `given`, and of these against the output."""
    section = config.load(config_file, config.Scoring)
    if section.scene_relevance != (scenes is not None):
        fix = "leave it out" if scenes else "give the matrix that rvlr scene-relevance writes"
        raise UserError(f"--scenes: {config_file} has scene_relevance: {str(section.scene_relevance).lower()}; {fix}")
    check_paths(given, {"--output": [output / f"{split.stem}.json", output / "rankings.npz"]})
    return section
