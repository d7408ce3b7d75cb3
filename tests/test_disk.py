"""Disks that are full or read-only, under every command that makes data: one message, and nothing half-written."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from archives import make_zip
from conftest import TINY_TRAINING, fill
from PIL import Image
from storm import Case, World, run, server

from rvlr import config
from rvlr.datasets import custom

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def context() -> object:
    return server()


@pytest.fixture
def disk(small_disk: Callable[[str], Path]) -> Path:
    return small_disk("512k")


def lock(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder.parent)], check=True)


def own_data(folder: Path) -> Path:
    (folder / "photos").mkdir()
    for number in range(8):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / f"photos/{number}.png")
    records = [{"image": f"{number}.png", "captions": [f"a dog {number}", "a cat"]} for number in range(8)]
    (folder / "captions.json").write_text(json.dumps(records))
    section = {"kind": "custom", "images": "photos", "captions": "captions.json", "cache": {"short_side": 16}}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(section))
    return folder / "dataset.yaml"


def prepare(data: Path, model: Path, folder: Path) -> list[str]:
    return ["prepare", "--config", own_data(folder).name, "--output", "out"]


def prepare_shapes(data: Path, model: Path, folder: Path) -> list[str]:
    (folder / "dataset.yaml").write_text("{kind: shapes, train: 20, val: 2, test: 2}")
    return ["prepare", "--config", "dataset.yaml", "--output", "out"]


def relevance(data: Path, model: Path, folder: Path) -> list[str]:
    return ["relevance", "--captions", f"{data}/splits/train.jsonl", "--output", "out/train.npy"]


def extract(data: Path, model: Path, folder: Path) -> list[str]:
    teacher = {"kind": "retrieval", "training": {**TINY_TRAINING, "epochs": 1}}
    (folder / "teacher.yaml").write_text(yaml.safe_dump(teacher))
    options = ["--model", str(model), "--split", f"{data}/splits/train.jsonl"]
    return ["extract", "--config", "teacher.yaml", *options, "--output", "out"]


def import_features(data: Path, model: Path, folder: Path) -> list[str]:
    records = [json.loads(line) for line in (data / "splits/train.jsonl").read_text().splitlines()]
    lists = [{"image": record["image"], "caption": record["captions"]} for record in records]
    (folder / "theirs.json").write_text(json.dumps(lists))
    rows = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32).repeat(2, axis=0)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "text.npy", rows)
    options = ["--image", "rows.npy", "--text", "text.npy", "--annotations", "theirs.json"]
    return ["import-features", *options, "--split", f"{data}/splits/train.jsonl", "--output", "out"]


def verify(data: Path, model: Path, folder: Path) -> list[str]:
    return ["data", "verify", "--splits", f"{data}/splits", "--output", "out/verified.json"]


def fetch(data: Path, model: Path, folder: Path) -> list[str]:
    archive = make_zip(folder.parent.parent / "own.zip", [(f"{n}.jpg", bytes(2000)) for n in range(20)])
    source = {"existing": str(archive), "size": archive.stat().st_size, "checksum": None, "images": 20}
    (folder / "sources.yaml").write_text(yaml.safe_dump({"coco-val2014": source}))
    return ["data", "fetch", "coco-val2014", "--sources", "sources.yaml", "--downloads", "downloads"]


def cache(data: Path, model: Path, folder: Path) -> list[str]:
    section = config.load(own_data(folder), config.Custom)
    located = {"images": folder / section.images, "captions": folder / section.captions}
    custom.prepare(section.model_copy(update=located), folder)
    return ["data", "cache", "--config", "dataset.yaml", "--splits", "splits", "--output", "cache"]


COMMANDS = [prepare, cache, prepare_shapes, relevance, extract, import_features, verify, fetch]
SAID = {fill: r"No space left on device|no room for|MB are free|GiB are free|make room", lock: r"Read-only file system"}


@pytest.mark.parametrize("spoil", [fill, lock])
@pytest.mark.parametrize("command", COMMANDS)
def test_disk(
    command: Callable[[Path, Path, Path], list[str]],
    spoil: Callable[[Path], None],
    disk: Path,
    tmp_path: Path,
    tiny_data: Path,
    tiny_model: Path,
    context: object,
) -> None:
    def arrange(world: World, folder: Path) -> list[str]:
        arguments = command(tiny_data, tiny_model, folder)
        spoil(folder)
        return arguments

    # what fetching and caching leave may stay: they resume from there
    case = Case(command.__name__, arrange, (SAID[spoil], "ERROR"), changes=command in (fetch, cache))
    assert run(context, case, None, disk / "work", tmp_path / "said.txt") == [], (tmp_path / "said.txt").read_text()
