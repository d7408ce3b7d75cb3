"""Subsets of a split, such as COCO 1K: what they hold, and that their numbers are those of the subset alone."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from rvlr import config, relevance
from rvlr.data.records import read_split, write_splits
from rvlr.errors import UserError
from rvlr.evaluation import stage, subsets
from rvlr.evaluation.encode import encode
from rvlr.models.retrieval import RetrievalModel


def evaluate(model: Path, splits: Path, output: Path, named: list[str]) -> dict[str, dict[str, float]]:
    matrix = output / "relevance.npy"
    relevance.write(read_split(splits / "test.jsonl"), config.Relevance(), matrix)
    section = config.Scoring(candidates=4, workers=0, subsets=named)
    train = splits / "train.jsonl"
    stage.evaluate(section, "initial-base", 0, model, splits / "test.jsonl", matrix, output, train)
    return json.loads((output / "test.json").read_text())["protocols"]


def test_a_subset_has_the_numbers_of_a_split_that_holds_it_alone(
    tiny_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    found = evaluate(tiny_model, tiny_data / "splits", tmp_path / "all", ["first-5", "folds-5"])
    assert set(found) == {f"{name}{part}" for name in ("corrected", "paper") for part in ("", "/first-5", "/folds-5")}
    splits = {name: read_split(tiny_data / f"splits/{name}.jsonl") for name in ("train", "val", "test")}
    folds = []
    for first in (0, 5):
        records = {name: split.records for name, split in splits.items()}
        records["test"] = records["test"][first : first + 5]
        folder = tmp_path / f"fold{first}/splits"
        write_splits(folder, records, str(splits["test"].image_root))
        folds.append(evaluate(tiny_model, folder, tmp_path / f"eval{first}", []))
    for protocol in ("corrected", "paper"):
        alone = [fold[protocol] for fold in folds]
        assert found[f"{protocol}/first-5"] == pytest.approx(alone[0], abs=1e-4)
        mean = {name: fmean(fold[name] for fold in alone) for name in alone[0]}
        assert found[f"{protocol}/folds-5"] == pytest.approx(mean, abs=1e-4)
    assert alone[0] != pytest.approx(alone[1], abs=1e-4)


def test_images_have_unequal_numbers_of_captions(tiny_data: Path, tiny_model: Path) -> None:
    split = read_split(tiny_data / "splits/test.jsonl")
    records = [replace(one, captions=one.captions[: 1 + number % 2]) for number, one in enumerate(split.records)]
    split = replace(split, records=records)
    model = RetrievalModel.from_pretrained(tiny_model)
    encoded = encode(model, split, 4, 0)
    part, caption_image, relevant = stage._part(
        encoded, split, np.arange(18 * 12, dtype=np.float32).reshape(18, 12), 3, 7
    )
    assert caption_image.tolist() == [0, 0, 1, 2, 2, 3]
    assert relevant[:, 0].tolist() == [12 * caption + 3 for caption in range(4, 10)]
    first = encoded.text_offsets[5], encoded.text_offsets[6]
    assert part.text_tokens[part.text_offsets[1] : part.text_offsets[2]].equal(encoded.text_tokens[first[0] : first[1]])


def test_a_subset_must_be_smaller_than_the_split() -> None:
    assert subsets.ranges(["first-5"], 12) == {"first-5": [(0, 5)]}
    assert subsets.ranges(["folds-5", "folds-6"], 12) == {"folds-5": [(0, 5), (5, 10)], "folds-6": [(0, 6), (6, 12)]}
    with pytest.raises(UserError, match=r"evaluation\.subsets: 'first-12', but the split has 12 images"):
        subsets.ranges(["first-12"], 12)
