"""Pretrained models from folders: every layout of a sound BERT gives the same start, and no code of theirs runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining

from rvlr import config, extraction
from rvlr.data.text import learn_tokenizer
from rvlr.errors import UserError
from rvlr.models import build, hub, tokens, weights
from rvlr.models.retrieval import RetrievalConfig, RetrievalModel

CAPTIONS = ["a red circle left of a blue square", "a dog in the snow"]
WEIGHTS = "model.safetensors"
State = dict[str, torch.Tensor]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A BERT as it is pretrained: prefix `bert.`, heads, pooler."""
    folder, tokenizer = tmp_path / "bert", learn_tokenizer(CAPTIONS)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertForPreTraining(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def section(weights: Path | str) -> config.Model:
    text = {"weights": str(weights), "text_layers": 2, "fusion_layers": 2}
    return config.parse({**TINY_MODEL, "text": text}, "test", config.Model)


def initialised(weights: Path | str, output: Path) -> bytes:
    build.initialise(section(weights), 0, CAPTIONS, output)
    return (output / WEIGHTS).read_bytes()


def bare(state: State) -> State:
    return {name.removeprefix("bert."): value for name, value in state.items() if name.startswith("bert.")}


def legacy(state: State) -> State:
    named = {name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): state[name] for name in state}
    return named | {"bert.embeddings.position_ids": torch.arange(512)[None]}


@pytest.mark.parametrize("change", [bare, legacy], ids=["no prefix", "old names"])
def test_every_layout_of_keys_gives_the_same_start(
    bert: Path, tmp_path: Path, change: Callable[[State], State]
) -> None:
    expected = initialised(bert, tmp_path / "expected")
    changed = {name: value.clone() for name, value in change(load_file(bert / WEIGHTS)).items()}
    save_file(changed, bert / WEIGHTS, metadata={"format": "pt"})
    assert initialised(bert, tmp_path / "found") == expected


def test_pickles_and_shards_give_the_same_start(bert: Path, tmp_path: Path) -> None:
    expected, state = initialised(bert, tmp_path / "expected"), load_file(bert / WEIGHTS)
    (bert / WEIGHTS).unlink()
    torch.save(state, bert / "pytorch_model.bin")
    assert initialised(bert, tmp_path / "pickled") == expected
    (bert / "pytorch_model.bin").unlink()
    names, files = sorted(state), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for file, part in zip(files, (names[:20], names[20:]), strict=True):
        save_file({name: state[name] for name in part}, bert / file, metadata={"format": "pt"})
    places = {name: files[0 if name in names[:20] else 1] for name in names}
    (bert / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    assert initialised(bert, tmp_path / "sharded") == expected


def test_home_folder_is_expanded(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert initialised("~/bert", tmp_path / "home") == initialised(bert, tmp_path / "whole")


def test_a_tokenizer_pads_on_the_right(bert: Path) -> None:
    path = bert / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
    tokenizer = tokens.load(bert, "test")
    ids = tokenizer(["a dog", "a dog in the snow"], padding="longest")["input_ids"]
    assert ids[0][0] == tokenizer.cls_token_id


def test_words_that_are_unknown(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tokens.load(bert, "test")
    tokens.check_words(tokenizer, CAPTIONS, "test")
    assert not caplog.records
    with pytest.raises(UserError, match=r"does not know 67% of the captions' words, such as \u732b, \u72ac"):
        tokens.check_words(tokenizer, ["\u732b \u72ac dog"], "test")


@pytest.mark.parametrize("name", ["/no/where", "./bert", "../bert", "~/bert", "a\\b", "a/b/c", "bert/", "bert.json"])
def test_a_path_is_never_a_name_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(*arguments: object) -> Path:
        raise AssertionError(f"asked the hub for {arguments}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(hub, "_fetch", fetch)
    with pytest.raises(UserError, match=r"text\.weights: no such folder"):
        hub.find(name, "text.weights", hub.WEIGHTS)


def test_below_a_folder_that_exists_is_a_path(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bert.parent.parent)
    with pytest.raises(UserError, match="there is bert"):
        hub.find(f"{bert.parent.name}/bertt", "text.weights")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_no_code_runs_whatever_is_typed(bert: Path, tiny_data: Path, tmp_path: Path, file: str) -> None:
    (bert / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Anything: pass\n")
    found = json.loads((bert / file).read_text())
    found |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Anything", "AutoModel": "code.Anything"}}
    found["auto_map"]["AutoTokenizer"] = ["code.Anything", "code.Anything"]
    (bert / file).write_text(json.dumps(found))
    (tmp_path / "model.yaml").write_text(section(bert).model_dump_json())
    program = [sys.executable, "-m", "rvlr", "initialise", "--config", tmp_path / "model.yaml", "--seed", "0"]
    program += ["--split", tiny_data / "splits/train.jsonl", "--output", tmp_path / "model"]
    done = subprocess.run(program, input="y\n" * 1000, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert f"{file}: auto_map: it asks for Python code" in done.stderr
    assert "y/N" not in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "model").exists()


def test_a_random_vision_teacher_is_always_the_same(bert: Path) -> None:
    teacher = config.parse(
        {"kind": "single-modal", "vision": TINY_MODEL["vision"], "text": {"weights": str(bert)}},
        "test",
        config.SingleModalTeacher,
    )
    pixels = torch.randn(1, 3, 32, 32)
    found = [extraction.single_modal_extractor(teacher, torch.device("cpu")).image(pixels) for _ in range(2)]
    assert torch.equal(*found)


def test_an_outline_costs_no_memory_and_no_random_numbers(tiny_model: Path) -> None:
    described = RetrievalConfig.from_pretrained(tiny_model)
    before = torch.get_rng_state()
    made = weights.outline(lambda: RetrievalModel(described), "test")
    assert torch.equal(torch.get_rng_state(), before)
    assert {value.device.type for value in made.state_dict().values()} == {"meta"}
