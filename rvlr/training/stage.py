"""Stages `train-teacher` and `train-student`: from a model folder to a trained model folder.

Enters: the frozen section, the folder of the model to start from, the splits, and for a student the teacher's
features. Leaves: `model/` (the weights that were best on val), `metrics.jsonl` and `tensorboard/`.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from rvlr import config, io
from rvlr.data.images import training_transform
from rvlr.data.loading import Features, PairCollator, TrainingPairs, TrainingSchedule, ignore_signals
from rvlr.data.records import Split, read_split
from rvlr.distributed import Processes, processes
from rvlr.evaluation.protocols import recalls
from rvlr.evaluation.stage import score as score_split
from rvlr.features import read_features
from rvlr.log import logger
from rvlr.models import build
from rvlr.models.retrieval import RetrievalModel
from rvlr.training.checkpoint import ResumeFolder
from rvlr.training.engine import Engine
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
    training = section.training
    with processes(training.processes, training.mixed_precision) as group:
        _train(section, seed, paths, group)


def _train(section: config.TrainedTeacher | config.Student, seed: int, paths: Paths, group: Processes) -> None:
    splits = {name: read_split(paths.splits / f"{name}.jsonl") for name in ("train", "val")}
    features = read_features(paths.features, splits["train"]) if paths.features is not None else None
    torch.manual_seed(seed)
    task, tokenizer = _make_task(section, paths.start, features)
    resume = ResumeFolder(paths.resume, _fingerprint(section, seed, paths, splits))
    if not group.is_main:
        group.meet("waiting for the resume folder")
        _run(task, tokenizer, section, seed, splits, features, resume, group)
        return
    with resume.locked():
        group.meet("waiting for the resume folder")
        best = _run(task, tokenizer, section, seed, splits, features, resume, group)
        task.model.load_state_dict(best)
        _write(task.model, tokenizer, resume, paths.output)
        settings = {"seed": seed, "settings": section.model_dump(mode="json"), "provenance": io.provenance()}
        io.write_text(paths.output / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        resume.clear()


def _make_task(
    section: config.TrainedTeacher | config.Student, start: Path, features: Features | None
) -> tuple[TeacherTask, PreTrainedTokenizerBase]:
    if isinstance(section, config.TrainedTeacher):
        model, tokenizer = build.load(start)
        return TeacherTask(model, section.weights, section.training.itm_pool), tokenizer
    widths = [int(features.image.shape[1]), int(features.text.shape[1])]
    added = {
        "teacher_widths": widths,
        "fusion_weight": section.fusion_weight.value,
        "relation_projections": RELATION_PROJECTIONS if section.distance == "wasserstein" else None,
    }
    model, tokenizer = build.load(start, added)
    return StudentTask(model, section), tokenizer


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
    return io.digest(
        {
            "settings": settings,
            "seed": seed,
            "splits": {name: split.checksum for name, split in splits.items()},
            "cache": io.read_json(paths.splits / "dataset.json").get("cache"),
            "inputs": [io.sha256(path) for path in inputs],
        }
    )


def _run(
    task: TeacherTask,
    tokenizer: PreTrainedTokenizerBase,
    section: config.TrainedTeacher | config.Student,
    seed: int,
    splits: dict[str, Split],
    features: Features | None,
    resume: ResumeFolder,
    group: Processes,
) -> dict[str, torch.Tensor] | None:
    training, model, accelerator = section.training, task.model, group.accelerator
    schedule = TrainingSchedule(
        captions=len(splits["train"].captions),
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=seed,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    engine = Engine(task, training, seed, schedule, resume, group)
    engine.restore()
    vision, text = model.config.vision, model.config.text
    transform = training_transform(vision["image_size"], vision["mean"], vision["std"], training.augmentation)
    loader = DataLoader(
        TrainingPairs(splits["train"], transform, seed),
        batch_sampler=schedule,
        num_workers=training.workers,
        worker_init_fn=ignore_signals,
        collate_fn=PairCollator(tokenizer, training.max_words, text["max_tokens"], features),
        pin_memory=accelerator.device.type == "cuda",
    )
    logger.info(
        "training on %d captions of %d images, %d steps of %d in %d process(es) on %s",
        len(splits["train"].captions),
        len(splits["train"].records),
        schedule.steps,
        training.batch_size,
        accelerator.num_processes,
        accelerator.device,
    )

    def score() -> dict[str, float]:
        scoring = config.Scoring(candidates=training.val_candidates, workers=training.workers)
        return recalls(score_split(model, tokenizer, splits["val"], None, scoring))

    return engine.run(loader, score)


def _write(model: RetrievalModel, tokenizer: PreTrainedTokenizerBase, resume: ResumeFolder, output: Path) -> None:
    """Turn a finished training into its outputs."""
    with io.atomic_folder(output / "tensorboard") as folder:
        shutil.copytree(resume.tensorboard, folder, dirs_exist_ok=True)
    io.write_text(output / "metrics.jsonl", resume.metrics.read_text(encoding="utf-8"))
    model.config.fresh_heads = False
    build.save(model, tokenizer, output / "model")
    logger.info("best model on val in %s", output / "model")
