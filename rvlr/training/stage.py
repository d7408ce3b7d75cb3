"""Stages `train-teacher` and `train-student`: from a model folder to a trained model folder.

Input: the frozen section, the folder of the model to start from, the splits, for a student the teacher's features, and
the relevance of val where it selects the weights.
Output: `model/` (the weights that were best on val), `metrics.jsonl`, `tensorboard/` and `config.yaml` (the settings).
"""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import SafetensorError

from rvlr import config, files, provenance, relevance
from rvlr.data.features import PARTS, Features, read_features
from rvlr.data.images import training_transform
from rvlr.data.loading import Loader, PairCollator, TrainingPairs, TrainingSchedule
from rvlr.data.records import Split, read_split
from rvlr.distributed import Processes, processes
from rvlr.errors import UserError
from rvlr.evaluation.corrected import balanced, recalls
from rvlr.evaluation.encode import encode_images
from rvlr.evaluation.scoring import score as score_split
from rvlr.log import progress, result
from rvlr.training import record, start
from rvlr.training.checkpoint import FORMAT, ResumeFolder
from rvlr.training.engine import Engine
from rvlr.training.folders import TENSORBOARD, check_output, check_relevance, check_resume
from rvlr.training.tasks import Section, make_task
from rvlr.training.tokens import image_tokens


@dataclass(frozen=True)
class Paths:
    """Where a training reads and writes.

    start: the folder of the model to start from. splits: the folder of the splits. features: the folder of the
    teacher's features, None for a teacher. resume: for the state of the unfinished training. output: for the results.
    relevance: the relevance matrix of val, for `training.selected_by: balanced` alone.
    """

    start: Path
    splits: Path
    features: Path | None
    resume: Path
    output: Path
    relevance: Path | None = None


def train(section: Section, seed: int, paths: Paths) -> None:
    """Train to the end; an interrupted run with the same settings and inputs is resumed.

    Raises UserError for paths and inputs that cannot be used, and if training diverges; Interrupted after SIGINT or
    SIGTERM, when the state is saved.
    """
    check_resume(paths.resume)
    check_output(paths.output)
    check_relevance(section.training, paths.relevance)
    with processes(section.processes, section.training.mixed_precision) as group:
        _train(section, seed, paths, group)


def _train(section: Section, seed: int, paths: Paths, group: Processes) -> None:
    training = section.training
    splits = {name: read_split(paths.splits / f"{name}.jsonl") for name in ("train", "val")}
    features = read_features(paths.features, splits["train"]) if paths.features is not None else None
    relevant = relevance.read(paths.relevance, splits["val"]) if paths.relevance is not None else None
    torch.manual_seed(seed)
    task = make_task(section, paths.start, features)
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
        best = _fit(engine, splits, features, relevant)
        if best is not None:
            task.model.load_state_dict(best)
            _write(engine, section, paths.output)
            resume.clear()


def _fingerprint(section: Section, seed: int, paths: Paths, splits: dict[str, Split]) -> str:
    """What a checkpoint belongs to: the settings that change the result, and the inputs."""
    settings = section.model_dump(mode="json")
    for key in ("workers", "checkpoint_steps"):
        del settings["training"][key]
    inputs = [paths.start / "model.safetensors", paths.start / "config.json"]
    if paths.features is not None:
        inputs += [paths.features / f"{name}.npy" for name in PARTS]
    if paths.relevance is not None:
        inputs.append(paths.relevance)
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


def _fit(
    engine: Engine, splits: dict[str, Split], features: Features | None, relevant: np.ndarray | None
) -> dict[str, torch.Tensor] | None:
    engine.restore()
    training, schedule, model = engine.section, engine.schedule, engine.model
    vision, text = model.config.vision, model.config.text
    tokens = image_tokens(model, splits["train"], training, engine.resume.tokens, engine.group)
    transform = None
    if tokens is None:
        transform = training_transform(vision.image_size, vision.mean, vision.std, training.augmentation)
    loader = Loader(
        TrainingPairs(splits["train"], transform, engine.seed),
        batch_sampler=schedule,
        workers=training.workers,
        collate=PairCollator(model.tokenizer, training.max_words, text.max_tokens, features, tokens),
        pin_memory=engine.accelerator.device.type == "cuda",
    )
    progress(
        "training on %d captions of %d images, %d steps of %d in %d process(es) on %s",
        *(len(splits["train"].captions), len(splits["train"].records), schedule.steps, training.batch_size),
        *(engine.accelerator.num_processes, engine.accelerator.device),
    )

    scoring = config.Scoring(candidates=training.val_candidates, workers=training.workers)

    @cache
    def val_tokens() -> torch.Tensor | None:
        """The tokens of a frozen encoder, which are the same in every validation."""
        if not vision.frozen:
            return None
        return torch.cat(list(encode_images(model, splits["val"], scoring.batch_size, scoring.workers)))

    def score() -> dict[str, float]:
        inputs = score_split(model, splits["val"], relevant, scoring, val_tokens())
        return recalls(inputs) if relevant is None else balanced(inputs)

    return engine.run(loader, score)


def _write(engine: Engine, section: Section, output: Path) -> None:
    """Write the outputs of a finished training. All are written before the first of them replaces an older one.
    `config.yaml`, which marks the others as complete, is removed before and put in place last."""
    engine.model.config.fresh_heads = False
    about = {"seed": engine.seed, "settings": section.model_dump(mode="json")}
    settings = output / "config.yaml"
    try:
        with (
            files.atomic_file(settings) as settings_file,
            files.atomic_folder(output / "model") as model_folder,
            files.atomic_folder(output / "tensorboard") as events,
            files.atomic_file(output / "metrics.jsonl") as metrics,
        ):
            engine.model.save_pretrained(model_folder)
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
    selected_by, state = engine.section.selected_by, engine.state
    best = "val {} {:.1f} after step {} of {}, the best".format(
        selected_by.replace("r_mean", "R-mean"), state.best_score, state.best_step, state.step
    )
    result("%s", best)
