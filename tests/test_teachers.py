"""Teachers that are not trained here: their features of both splits and what the workflow makes of them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL
from study import changed, fails, plan, run
from transformers import BertConfig, BertModel

from rvlr import config, extraction, relevance, store_features
from rvlr.data.features import read_features, write_index
from rvlr.data.records import Split, read_split
from rvlr.data.text import learn_tokenizer
from rvlr.errors import UserError
from rvlr.evaluation import corrected, paper
from rvlr.evaluation.features import evaluate
from rvlr.evaluation.inputs import OF_FEATURES, Inputs


def write_folder(folder: Path, split: Split, image: np.ndarray, text: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    np.save(folder / "image.npy", image.astype(np.float32))
    np.save(folder / "text.npy", text.astype(np.float32))
    write_index(folder, split)


TABLES = ("freeze_config", "summarise", "plot_losses", "plot_three_ways", "plot_differences", "all")
CAPTIONS = ["a red circle left of a blue square", "a large green triangle above a small yellow star"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A teacher of two small models, both of other widths than those of the tiny student."""
    folder, tokenizer = tmp_path_factory.mktemp("pair") / "bert", learn_tokenizer(CAPTIONS)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vision = {**TINY_MODEL["vision"], "options": {"channels": [4, 8, 8, 12], "stem_width": 4}}
    return {
        "kind": "single-modal",
        "vision": vision,
        "text": {"weights": str(folder), "pooling": "mean"},
        "workers": 0,
    }


@pytest.fixture(scope="module")
def elsewhere(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of other widths than the student's, of the images of both splits, in no order."""
    folder, generator = tmp_path_factory.mktemp("elsewhere") / "features", np.random.default_rng(0)
    splits = [read_split(tiny_data / f"splits/{name}.jsonl") for name in ("test", "train")]
    images = [record.image for split in splits for record in split.records]
    captions = sorted({caption for split in splits for caption in split.captions})
    generator.shuffle(images)
    store_features(folder, generator.normal(size=(36, 20)), images, generator.normal(size=(len(captions), 9)), captions)
    return folder


@pytest.fixture(scope="module")
def settings(pair: dict[str, Any], elsewhere: Path) -> dict[str, Any]:
    stored = {"kind": "stored", "features": {"train": str(elsewhere), "test": str(elsewhere)}}
    return changed(
        teachers={"pair": pair, "stored": stored},
        students={"p": {"teacher": "pair"}, "continued": {"teacher": "stored"}},
    )


@pytest.fixture(scope="module")
def finished(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the workflow ran with teachers that are not trained."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder, settings)
    return folder


@pytest.mark.slow
def test_features_of_both_splits_are_extracted(finished: Path, pair: dict[str, Any], tmp_path: Path) -> None:
    folder = finished / "results/shapes"
    for name, split_name in (("features", "train"), ("features-test", "test")):
        split = read_split(folder / f"splits/{split_name}.jsonl")
        found = read_features(folder / "seed0/teacher-pair" / name, split)
        assert (found.image.shape, found.text.shape) == ((len(split.records), 12), (len(split.captions), 24))
        extraction.extract(config.parse(pair, "test", config.Teacher), None, split, tmp_path / name)
        direct = read_features(tmp_path / name, split)
        np.testing.assert_allclose(found.image, direct.image, atol=1e-5)
        np.testing.assert_allclose(found.text, direct.text, atol=1e-5)


@pytest.mark.slow
def test_stored_features_of_both_splits_are_copied(finished: Path, elsewhere: Path) -> None:
    folder, index = finished / "results/shapes", json.loads((elsewhere / "index.json").read_text())
    image, text = np.load(elsewhere / "image.npy"), np.load(elsewhere / "text.npy")
    for name, split_name in (("features", "train"), ("features-test", "test")):
        split = read_split(folder / f"splits/{split_name}.jsonl")
        found = read_features(folder / "seed0/teacher-stored" / name, split)
        assert np.array_equal(found.image, image[[index["images"].index(record.image) for record in split.records]])
        assert np.array_equal(found.text, text[[index["captions"].index(caption) for caption in split.captions]])
    student = json.loads((folder / "seed0/student-continued/model/config.json").read_text())
    assert student["teacher_widths"] == [20, 9]


@pytest.mark.slow
def test_untrained_teachers_have_a_row_and_no_sheets(finished: Path, settings: dict[str, Any]) -> None:
    folder = finished / "results/shapes"
    table = (folder / "summary.txt").read_text()
    for run_name in ("teacher-pair", "teacher-stored"):
        row = next(line for line in table.splitlines() if line.startswith(run_name))
        measured = json.loads((folder / f"seed0/{run_name}/eval/test.json").read_text())["protocols"]["corrected"]
        shown = [f"{measured[f'{way}_ndcg@10']:.1f}" for way in ("i2i", "t2t")]
        assert row.split() == [run_name, "–", "–", "–", *shown, "–", "–"]
    assert not list(folder.glob("figures/teacher-*"))
    compared = (folder / "comparisons.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in compared[1:]} == {"student-p"}
    assert "Nothing to be done" in run(finished, settings)


@pytest.mark.slow
def test_every_model_is_compared_with_what_untrained_teachers_know(finished: Path) -> None:
    folder = finished / "results/shapes"
    names = {f"{part}_{metric}" for part in ("image", "text") for metric in ("neighbours", "cka")}
    digests = {}
    for teacher in ("pair", "stored"):
        record = json.loads((folder / f"seed0/teacher-{teacher}/eval/test.json").read_text())
        digests[teacher] = record["inputs"]["features_sha256"]
    for name in ("initial-base", "student-p", "student-continued"):
        measured = json.loads((folder / f"seed0/{name}/eval/test.json").read_text())
        assert {f"{metric}/{teacher}" for metric in names for teacher in digests} <= measured["diagnostics"].keys()
        assert measured["inputs"]["teachers"] == digests
    structure = (folder / "summary.md").read_text().split("### Structure of teachers")[1]
    found = json.loads((folder / "seed0/student-p/eval/test.json").read_text())["diagnostics"]
    rows = [line.split("|") for line in structure.splitlines() if line.startswith("| student-p ")]
    shown = [[cell.strip() for cell in row][2:5:2] for row in rows]
    assert shown == [[teacher, f"{found[f'text_neighbours/{teacher}']:.3f}"] for teacher in digests]


@pytest.mark.slow
def test_only_what_is_stale_runs_again(finished: Path, settings: dict[str, Any], pair: dict[str, Any]) -> None:
    students = {**settings["students"], "p": {"teacher": "pair", "distance": "mse"}}
    planned = plan(finished, settings | {"students": students})
    assert not [job for job in planned if "feature" in job]
    assert planned["train_student p"] == 1
    planned = plan(finished, settings | {"teachers": settings["teachers"] | {"pair": {**pair, "batch_size": 5}}})
    assert {"extract_features pair", "extract_test_features pair", "evaluate_features pair"} <= planned.keys()
    assert planned["evaluate_model initial-base"] == 1
    assert not [job for job in planned if job.startswith("copy") or job == "train_student continued"]
    planned = plan(finished, settings | {"evaluation": {**settings["evaluation"], "candidates": 5}})
    assert {"evaluate_features pair", "evaluate_model student-p"} <= planned.keys()
    assert not [job for job in planned if job.startswith(("extract", "copy", "train"))]


@pytest.mark.slow
def test_test_features_may_come_later_and_other_content_runs_again(
    finished: Path, settings: dict[str, Any], elsewhere: Path
) -> None:
    """What changed is planned although the files are as old as ever; a folder without test features has no row, and no
    model is compared with it."""
    teachers = settings["teachers"]
    train_alone = {"kind": "stored", "features": {"train": str(elsewhere)}}
    planned = plan(finished, settings | {"teachers": teachers | {"stored": train_alone}})
    assert {job.split()[0] for job in planned} == {*TABLES, "evaluate_model", "draw_sheets"}
    assert len([job for job in planned if job.startswith("evaluate_model")]) == 3
    image, times = elsewhere / "image.npy", (elsewhere / "image.npy").stat()
    before = image.read_bytes()
    np.save(image, 2 * np.load(image))
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        planned = plan(finished, settings)
        needed = {"copy_features stored", "copy_test_features stored", "evaluate_features stored"}
        assert needed | {"train_student continued", "evaluate_model student-continued"} <= planned.keys()
        assert not [job for job in planned if job.startswith("extract") or job == "train_student p"]
    finally:
        image.write_bytes(before)
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "Nothing to be done" in run(finished, settings)


@pytest.mark.slow
def test_a_training_that_another_teacher_of_that_name_left_disturbs_nothing(
    finished: Path, settings: dict[str, Any]
) -> None:
    left = finished / "results/shapes/seed0/teacher-pair/config.yaml"
    left.write_text((finished / "results/shapes/seed0/student-p/config.yaml").read_text())
    try:
        assert "Nothing to be done" in run(finished, settings)
    finally:
        left.unlink()


@pytest.mark.slow
def test_test_features_that_were_replaced_are_noticed(finished: Path, settings: dict[str, Any]) -> None:
    index = finished / "results/shapes/seed0/teacher-pair/features-test/index.json"
    before, times = index.read_text(), (index.stat().st_atime, index.stat().st_mtime)
    index.write_text(before.replace('"sha256": "', '"sha256": "0'))
    os.utime(index, times)
    try:
        assert "teacher-pair/eval/test.json: made from another features than" in fails(finished, settings, "--dry-run")
    finally:
        index.write_text(before)
        os.utime(index, times)


# --- raw features in the tables ---------------------------------------------------------------------------------------


def ndcg(cosines: np.ndarray, relevance: np.ndarray, k: int) -> float:
    """The mean over all queries, item by item, without the query itself."""
    values = []
    for query in range(len(cosines)):
        others = [item for item in range(len(cosines)) if item != query]
        # ties count against the model
        listed = sorted(others, key=lambda item: (-cosines[query, item], relevance[query, item]))
        gains = [relevance[query, item] for item in listed[:k]]
        ideal = sorted((relevance[query, item] for item in others), reverse=True)[:k]
        sums = [sum(gain / np.log2(rank + 2) for rank, gain in enumerate(one)) for one in (gains, ideal)]
        values.append(100 * sums[0] / sums[1])
    return float(np.mean(values))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_raw_features_are_measured_within_each_modality(tiny_data: Path, tmp_path: Path) -> None:
    """Against a slow version, with widths that differ, and on a subset."""
    split_file = tiny_data / "splits/test.jsonl"
    split = read_split(split_file)
    generator = np.random.default_rng(0)
    image, text = generator.normal(size=(12, 5)), generator.normal(size=(24, 9))
    write_folder(tmp_path / "features", split, image, text)
    matrix = tmp_path / "relevance.npy"
    relevance.write(split, config.parse({}, "test", config.Relevance), matrix)
    section = config.parse({"subsets": ["folds-6"]}, "test", config.Scoring)
    evaluate(section, "teacher-pair", 3, tmp_path / "features", split_file, matrix, tmp_path / "eval")
    record = json.loads((tmp_path / "eval/test.json").read_text())
    assert (record["run"], record["seed"], record["counts"]) == ("teacher-pair", 3, {"images": 12, "captions": 24})
    assert record["protocols"].keys() == {"corrected", "paper", "corrected/folds-6", "paper/folds-6"}
    assert all(sorted(numbers) == sorted(OF_FEATURES) for numbers in record["protocols"].values())

    related = np.load(matrix)
    owner = split.caption_image
    images = np.array([related[owner == query].mean(axis=0) for query in range(12)])
    texts = related[:, owner].T  # of caption d to the image of the query
    found = record["protocols"]["corrected"]
    for k in (10, 20, 50):
        assert found[f"i2i_ndcg@{k}"] == pytest.approx(ndcg(unit(image) @ unit(image).T, images, k), abs=1e-4)
        assert found[f"t2t_ndcg@{k}"] == pytest.approx(ndcg(unit(text) @ unit(text).T, texts, k), abs=1e-4)
    folds = [
        ndcg(unit(image[part]) @ unit(image[part]).T, images[part, part], 10) for part in (slice(0, 6), slice(6, 12))
    ]
    assert record["protocols"]["corrected/folds-6"]["i2i_ndcg@10"] == pytest.approx(np.mean(folds), abs=1e-4)

    image[4] = 0
    write_folder(tmp_path / "features", split, image, text)
    with pytest.raises(UserError, match=r"image\.npy: row 4 \(counted from 0\), of .*is all zeros"):
        evaluate(section, "teacher-pair", 3, tmp_path / "features", split_file, matrix, tmp_path / "eval")


def test_protocols_give_raw_features_what_they_give_embeddings() -> None:
    """Of one width, both could be a model's embeddings, whose cross-modal scores change nothing within a modality."""
    generator = np.random.default_rng(1)
    image, text = generator.normal(size=(8, 6)).astype(np.float32), generator.normal(size=(24, 6)).astype(np.float32)
    related, owner = generator.random((24, 8), dtype=np.float32), np.repeat(np.arange(8), 3)
    logits = generator.normal(size=(8, 24)).astype(np.float32)
    whole, raw = Inputs(image, text, logits, logits.T, related, owner), Inputs.of_features(image, text, related, owner)
    for protocol in (corrected, paper):
        numbers, found = protocol.evaluate(whole).numbers, protocol.single_modal(raw).numbers
        assert found == {name: numbers[name] for name in OF_FEATURES}
