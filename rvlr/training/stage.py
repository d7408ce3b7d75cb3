"""Stages `train-teacher` and `train-student`: from a model folder to a trained model folder.

Enters: the frozen section, the folder of the model to start from, the splits, and for a student the teacher's
features. Leaves: `model/` (the weights that were best on val), `metrics.jsonl` and `tensorboard/`.
"""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from rvlr import config, files, provenance
from rvlr.data.features import Features, read_features
from rvlr.data.images import training_transform
from rvlr.data.loading import Loader, PairCollator, TrainingPairs, TrainingSchedule
from rvlr.data.records import Split, read_split
from rvlr.distributed import Processes, processes
from rvlr.errors import UserError
from rvlr.evaluation.corrected import recalls
from rvlr.evaluation.scoring import score as score_split
from rvlr.log import logger
from rvlr.models import build
from rvlr.models.retrieval import RetrievalModel
from rvlr.training import record, start
from rvlr.training.checkpoint import FORMAT, ResumeFolder
from rvlr.training.engine import Engine
from rvlr.training.folders import TENSORBOARD, check_output, check_resume
from rvlr.training.tasks import StudentTask, TeacherTask

RELATION_PROJECTIONS = [1536, 768]
"""Hidden and output width of the MLPs before the Wasserstein distance, METHOD.md "Losses"."""


@dataclass(frozen=True)
class Paths:
    """Where a training reads and writes."""

    start: Path
    splits: Path
    features: Path | None
    resume: Path
    output: Path


def train(section: config.TrainedTeacher | config.Student, seed: int, paths: Paths) -> None:
    """Train to the end, from where an interrupted run with the same settings and inputs was."""
    check_resume(paths.resume)
    check_output(paths.output)
    with processes(section.training.processes, section.training.mixed_precision) as group:
        _train(section, seed, paths, group)


def _train(section: config.TrainedTeacher | config.Student, seed: int, paths: Paths, group: Processes) -> None:
    training = section.training
    splits = {name: read_split(paths.splits / f"{name}.jsonl") for name in ("train", "val")}
    features = read_features(paths.features, splits["train"]) if paths.features is not None else None
    torch.manual_seed(seed)
    task, tokenizer = _make_task(section, paths.start, features)
    start.check_temperatures(task.model, paths.start)
    schedule = TrainingSchedule(
        captions=len(splits["train"].captions),
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=seed,
        rank=group.accelerator.process_index,
        processes=group.accelerator.num_processes,
    )
    resume = ResumeFolder(paths.resume, _fingerprint(section, seed, paths, splits))
    with resume.locked() if group.is_main else nullcontext():
        group.meet("waiting for the resume folder")
        engine = Engine(task, training, seed, schedule, resume, group, lambda: start.sizes(paths.start, features))
        best = _run(engine, tokenizer, splits, features)
        if group.is_main:
            task.model.load_state_dict(best)
            _write(task.model, tokenizer, engine, section, paths.output)
            resume.clear()


def _make_task(
    section: config.TrainedTeacher | config.Student, folder: Path, features: Features | None
) -> tuple[TeacherTask, PreTrainedTokenizerBase]:
    if isinstance(section, config.TrainedTeacher):
        model, tokenizer = build.load(folder)
        return TeacherTask(model, section.weights, section.training.itm_pool), tokenizer
    model = RetrievalModel.student_from(
        folder,
        teacher_widths=[int(features.image.shape[1]), int(features.text.shape[1])],
        fusion_weight=section.fusion_weight.value,
        relation_projections=RELATION_PROJECTIONS if section.distance == "wasserstein" else None,
    )
    return StudentTask(model, section), model.tokenizer


def _fingerprint(
    section: config.TrainedTeacher | config.Student, seed: int, paths: Paths, splits: dict[str, Split]
) -> str:
    """What a checkpoint belongs to: settings that change the result, and inputs."""
    settings = section.model_dump(mode="json")
    for key in ("workers", "checkpoint_steps"):
        del settings["training"][key]
    inputs = [paths.start / "model.safetensors", paths.start / "config.json"]
    if paths.features is not None:
        inputs += [paths.features / "image.npy", paths.features / "text.npy"]
    return provenance.digest(
        {
            "format": FORMAT,
            "settings": settings,
            "seed": seed,
            "splits": {name: split.checksum for name, split in splits.items()},
            "cache": files.read_json(paths.splits / "dataset.json").get("cache"),
            "inputs": [provenance.sha256(path) for path in inputs],
        }
    )


def _run(
    engine: Engine, tokenizer: PreTrainedTokenizerBase, splits: dict[str, Split], features: Features | None
) -> dict[str, torch.Tensor] | None:
    engine.restore()
    training, schedule, model = engine.section, engine.schedule, engine.model
    vision, text = model.config.vision, model.config.text
    transform = training_transform(vision.image_size, vision.mean, vision.std, training.augmentation)
    loader = Loader(
        TrainingPairs(splits["train"], transform, engine.seed),
        batch_sampler=schedule,
        workers=training.workers,
        collate=PairCollator(tokenizer, training.max_words, text.max_tokens, features),
        pin_memory=engine.accelerator.device.type == "cuda",
    )
    logger.info(
        "training on %d captions of %d images, %d steps of %d in %d process(es) on %s",
        len(splits["train"].captions),
        len(splits["train"].records),
        schedule.steps,
        training.batch_size,
        engine.accelerator.num_processes,
        engine.accelerator.device,
    )

    def score() -> dict[str, float]:
        scoring = config.Scoring(candidates=training.val_candidates, workers=training.workers)
        return recalls(score_split(model, tokenizer, splits["val"], None, scoring))

    return engine.run(loader, score)


def _write(
    model: RetrievalModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: Engine,
    section: config.TrainedTeacher | config.Student,
    output: Path,
) -> None:
    """Turn a finished training into its outputs. All are written before the first of them replaces what was there;
    `config.yaml`, by which they are complete, goes first and comes back last."""
    model.config.fresh_heads = False
    about = {"seed": engine.seed, "settings": section.model_dump(mode="json")}
    settings = output / "config.yaml"
    try:
        with (
            files.atomic_file(settings) as settings_file,
            files.atomic_folder(output / "model") as model_folder,
            files.atomic_folder(output / "tensorboard") as events,
            files.atomic_file(output / "metrics.jsonl") as metrics,
        ):
            build.write(model, tokenizer, model_folder)
            shutil.copytree(engine.resume.folder / TENSORBOARD, events, dirs_exist_ok=True)
            metrics.write_text(record.text_of(engine.state.lines), encoding="utf-8")
            written = {"model": model_folder / "model.safetensors", "metrics": metrics}
            about["outputs"] = {f"{name}_sha256": provenance.sha256(path) for name, path in written.items()}
            about["provenance"] = provenance.collect()
            settings_file.write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
            settings.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{output}: the outputs cannot be written: {error}; training is complete and kept in "
            f"{engine.resume.folder}: make room, or allow writing, and run the same command again"
        ) from error
    logger.info("best model on val in %s", output / "model")
