"""Teachers that are not trained here: their features of both splits and what the workflow makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL
from study import changed, plan, run
from transformers import BertConfig, BertModel

from rvlr import config, extraction
from rvlr.data.features import read_features
from rvlr.data.records import read_split
from rvlr.data.text import learn_tokenizer

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


@pytest.mark.slow
def test_features_of_the_test_split_are_a_target(pair: dict[str, Any], tmp_path: Path) -> None:
    settings = changed(teachers={"pair": pair}, students={"p": {"teacher": "pair"}})
    target = "results/shapes/seed0/teacher-pair/features-test/index.json"
    run(tmp_path, settings, "--", target)
    split = read_split(tmp_path / "results/shapes/splits/test.jsonl")
    found = read_features((tmp_path / target).parent, split)
    assert (found.image.shape, found.text.shape) == ((12, 12), (24, 24))
    extraction.extract(config.parse(pair, "test", config.Teacher), None, split, tmp_path / "direct")
    direct = read_features(tmp_path / "direct", split)
    np.testing.assert_allclose(found.image, direct.image, atol=1e-5)
    np.testing.assert_allclose(found.text, direct.text, atol=1e-5)
    planned = plan(tmp_path, settings)
    assert planned["extract_features pair"] == 1
    assert planned["extract_test_features pair"] == 0
