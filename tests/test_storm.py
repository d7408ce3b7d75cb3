"""The storm of bad input, see the package `storm`: every case of every surface, two at a time."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY_MODEL, TINY_TRAINING, stopped_at
from storm import Case, World, run, server, surfaces
from transformers import BertConfig, BertModel

from rvlr import config, extraction, relevance
from rvlr.data.records import read_split
from rvlr.data.text import learn_tokenizer
from rvlr.errors import Interrupted
from rvlr.evaluation import stage as evaluation
from rvlr.training import stage as training

CASES = [(f"{surface}: {case.name}", case) for surface, case in surfaces()]
SECTIONS = {
    "dataset": {"kind": "shapes", "train": 24, "val": 8, "test": 12, "image_size": 32, "captions_per_image": 2},
    "model": TINY_MODEL,
    "teacher": {"kind": "retrieval", "training": {**TINY_TRAINING, "epochs": 1}},
    "unfinished": {"kind": "retrieval", "training": {**TINY_TRAINING, "epochs": 2}},
    "student": {"teacher": "t", "training": {**TINY_TRAINING, "epochs": 1}},
    "evaluation": {"candidates": 6, "workers": 0},
    "relevance": {},
}


@pytest.fixture(scope="module")
def world(tiny_data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    parts = ("bert", "features", "relevance", "evaluation", "sections", "unfinished")
    made = World(tiny_data, tiny_model, *(root / name for name in parts))
    train, test = (read_split(tiny_data / f"splits/{name}.jsonl") for name in ("train", "test"))
    tokenizer = learn_tokenizer(train.captions)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(made.bert)
    tokenizer.save_pretrained(made.bert)
    teacher = config.parse(SECTIONS["teacher"], "test", config.TrainedTeacher)
    extraction.extract(teacher, tiny_model, train, made.features)
    relevance.write(test, config.Relevance(), made.relevance / "test.npy")
    evaluation.evaluate(
        config.parse(SECTIONS["evaluation"], "test", config.Scoring),
        "initial-base",
        0,
        tiny_model,
        tiny_data / "splits/test.jsonl",
        made.relevance / "test.npy",
        made.evaluation,
    )
    section = config.parse(SECTIONS["unfinished"], "test", config.TrainedTeacher)
    paths = training.Paths(tiny_model, tiny_data / "splits", None, made.unfinished, root / "run")
    with stopped_at(8), pytest.raises(Interrupted):
        training.train(section, 0, paths)
    made.sections.mkdir()
    for name, section in SECTIONS.items():
        (made.sections / f"{name}.yaml").write_text(yaml.safe_dump(section))
    return made


@pytest.fixture(scope="module")
def storm(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[str]]]]:
    """What does not hold of each case that was asked for; they run while earlier ones are looked at."""
    root, context = tmp_path_factory.mktemp("storm"), server()
    wanted = {item.callspec.params["name"] for item in request.session.items if item.name.startswith("test_case[")}
    with ThreadPoolExecutor(2) as pool:
        running = {}
        for number, (name, case) in enumerate(CASES):
            if name in wanted:
                where = root / f"{number}"
                running[name] = pool.submit(run, context, case, world, where / "folder", where.with_suffix(".txt"))
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES, ids=[name for name, _ in CASES])
def test_case(name: str, case: Case, storm: dict[str, Future[list[str]]]) -> None:
    assert not storm[name].result()


def test_names_are_unique() -> None:
    names = [name for name, _ in CASES]
    assert len(set(names)) == len(names)
