"""Features from elsewhere, brought into the order of a split, against rows picked one by one; and what is refused."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rvlr import arrays, config, store_features
from rvlr.cli import app
from rvlr.data import stored
from rvlr.data.features import read_features
from rvlr.data.records import Record, Split, read_split, write_splits
from rvlr.errors import UserError
from rvlr.workflow import disk, outdated, places

RECORDS = [
    Record("a", "trees/a.jpg", ("an oak", "a  tall tree", "an oak")),
    Record("b", "b.png", ("a tall tree",)),
    Record("c", "c.jpg", ("Ein Löwe.", "a lion")),
]
IMAGES, CAPTIONS = ["c", "extra.jpg", "trees/a.jpg", "b"], ["a lion", "an oak", "Ein Löwe.", "not here", "a tall tree"]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "VALUES_AT_ONCE", 2 * 7)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    write_splits(tmp_path / "splits", {"train": RECORDS, "val": [], "test": []}, "images")
    return read_split(tmp_path / "splits/train.jsonl")


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {"image": generator.normal(size=(4, 7)), "text": generator.normal(size=(5, 3)).astype(np.float16)}


@pytest.fixture
def folder(tmp_path: Path, rows: dict[str, np.ndarray]) -> Path:
    """As somebody writes it by hand: float64 and float16 beside the names."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for part, array in rows.items():
        np.save(folder / f"{part}.npy", array)
    (folder / "index.json").write_text(json.dumps({"images": IMAGES, "captions": CAPTIONS}))
    return folder


def test_rows_are_brought_into_the_order_of_the_split(
    folder: Path, rows: dict[str, np.ndarray], split: Split, tmp_path: Path
) -> None:
    """By id or path, and by the caption's text up to white space; equal captions share a row, others are left out."""
    stored.copy(folder, split, tmp_path / "out")
    found = read_features(tmp_path / "out", split)
    named = {"a": "trees/a.jpg", "b": "b", "c": "c"}
    for row, record in zip(found.image, split.records, strict=True):
        assert np.array_equal(row, rows["image"][IMAGES.index(named[record.image_id])].astype(np.float32))
    for row, caption in zip(found.text, split.captions, strict=True):
        assert np.array_equal(row, rows["text"][CAPTIONS.index(" ".join(caption.split()))].astype(np.float32))
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["stored"] == stored.digests(folder)


def test_stored_from_python_it_is_the_same(
    folder: Path, rows: dict[str, np.ndarray], split: Split, tmp_path: Path
) -> None:
    store_features(tmp_path / "stored", rows["image"], IMAGES, rows["text"], tuple(CAPTIONS))
    store_features(tmp_path / "stored", rows["image"], IMAGES, rows["text"], CAPTIONS)  # over itself
    for name in ("stored", "mine"):
        stored.copy(tmp_path / name, split, tmp_path / f"{name}-out")
    found, expected = (read_features(tmp_path / f"{name}-out", split) for name in ("stored", "mine"))
    assert np.array_equal(found.image, expected.image)
    assert np.array_equal(found.text, expected.text)


def test_any_order_of_the_rows_gives_the_same(tiny_data: Path, tiny_features: Path, tmp_path: Path) -> None:
    """A folder of `rvlr extract` as it is, and its rows shuffled under names."""
    split = read_split(tiny_data / "splits/train.jsonl")
    original = read_features(tiny_features, split)
    stored.copy(tiny_features, split, tmp_path / "as-it-is")
    images, texts = list(range(24)), list(range(48))
    random.Random(3).shuffle(images)
    random.Random(4).shuffle(texts)
    names, captions = [split.records[row].image for row in images], [split.captions[row] for row in texts]
    store_features(tmp_path / "shuffled", original.image[images], names, original.text[texts], captions)
    stored.copy(tmp_path / "shuffled", split, tmp_path / "ordered")
    for name in ("as-it-is", "ordered"):
        found = read_features(tmp_path / name, split)
        assert np.array_equal(found.image, original.image)
        np.testing.assert_allclose(found.text, original.text, atol=1e-5)  # equal captions share a row
    with pytest.raises(UserError, match="made of the split 'train' of other captions or images than the split 'test'"):
        stored.copy(tiny_features, read_split(tiny_data / "splits/test.jsonl"), tmp_path / "test")


def edit(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text()) | keys
        index = {key: value for key, value in index.items() if value is not ...}
        (folder / "index.json").write_text(json.dumps(index))

    return change


def save(part: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / f"{part}.npy", change(np.load(folder / f"{part}.npy")))


def put(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[row] = value
        return array

    return change


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an image is missing": (
        edit(images=["c", "x", "y", "b"]),
        r"index\.json: images: 1 of the 3 images of the split 'train' not found, the first being 'trees/a\.jpg'; the "
        r"first there is 'c'; store the features of all of them",
    ),
    "captions are missing": (
        edit(captions=["a lion", "x", "y", "z", "a tall tree"]),
        r"captions: 3 of the 6 captions of the split 'train' not found, the first being 'an oak'",
    ),
    "an image twice": (edit(images=["c", "b", "c", "a"]), r"images: entries 0 and 2 \(counted from 0\) are both 'c'"),
    "an image by id and path": (
        edit(images=["c", "a", "trees/a.jpg", "b"]),
        r"images: the id 'a' and the path 'trees/a\.jpg' are of one image, and each names a row",
    ),
    "too few names": (edit(images=["c", "b"]), r"images: 2 names, but .*image\.npy has 4 rows; give one a row"),
    "no captions": (
        edit(captions=...),
        r"captions: missing; a list of texts expected; give one a row; rvlr\.store",
    ),
    "captions are a text": (edit(captions="a lion"), r"captions: 'a lion'; a list of texts expected"),
    "an empty name": (edit(images=["c", "", "b", "a"]), r"images: entry 1 \(counted from 0\) is '', not a text"),
    "a number as a name": (edit(images=["c", 7, "b", "a"]), r"entry 1 \(counted from 0\) is 7, not a text"),
    "no JSON": (lambda folder: (folder / "index.json").write_text("{"), r"index\.json: line 1: not valid JSON"),
    "a list": (lambda folder: (folder / "index.json").write_text("[]"), r"index\.json: "),
    "no index": (lambda folder: (folder / "index.json").unlink(), r"index\.json: no such file"),
    "no rows": (lambda folder: (folder / "text.npy").unlink(), r"text\.npy: no such file"),
    "no array": (lambda folder: (folder / "text.npy").write_text("1 2 3"), r"text\.npy: not a readable \.npy file"),
    "one number a row": (save("image", lambda array: array[:, 0]), r"image\.npy: shape 4 found, any x any expected"),
    "whole numbers": (save("image", lambda array: array.astype(int)), r"image\.npy: int64 found, floating-point"),
    "NaN": (save("image", put(2, np.nan)), r"image\.npy: row 2 \(counted from 0\) contains NaN, infinity"),
    "too large": (save("image", put(3, 1e300)), r"image\.npy: row 3 .*beyond float32"),
    "never filled": (save("text", put(4, 0)), r"text\.npy: row 4 \(counted from 0\) is all zeros"),
    "objects": (save("image", lambda array: np.array([[{}]])), r"image\.npy: not a readable \.npy file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_features_that_do_not_fit_are_refused(folder: Path, split: Split, tmp_path: Path, name: str) -> None:
    change, says = FAULTS[name]
    change(folder)
    with pytest.raises(UserError, match=says) as error:
        stored.copy(folder, split, tmp_path / "out")
    assert str(folder) in str(error.value)
    assert not (tmp_path / "out/index.json").exists()
    assert not list((tmp_path / "out").glob("*.npy"))


def test_rows_that_no_split_needs_may_hold_anything(folder: Path, split: Split, tmp_path: Path) -> None:
    save("image", put(1, np.nan))(folder)
    save("text", put(3, 0))(folder)
    stored.copy(folder, split, tmp_path / "out")
    assert np.isfinite(read_features(tmp_path / "out", split).image).all()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image": np.zeros(4)}, r"image: float64 of shape \(4,\) found, numbers \(rows, width\) expected"),
        ({"text": np.array([["a"]] * 5)}, "text: <U1 of shape"),
        ({"images": IMAGES[:3]}, "images: 3 names, but image features has 4 rows"),
        ({"captions": [*CAPTIONS[:4], None]}, r"captions: entry 4 \(counted from 0\) is None"),
        ({"images": [*IMAGES[:3], "c"]}, r"images: entries 0 and 3 \(counted from 0\) are both 'c'"),
        ({"image": np.full((4, 2), np.inf)}, r"image features: row 0 \(counted from 0\) contains NaN"),
    ],
)
def test_what_python_gives_is_checked(
    rows: dict[str, np.ndarray], tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    sound = {"image": rows["image"], "images": IMAGES, "text": rows["text"], "captions": CAPTIONS}
    with pytest.raises(UserError, match=says):
        store_features(tmp_path / "new", **(sound | given))
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").glob("*.npy"))


# --- as a teacher of a study ------------------------------------------------------------------------------------------


def study(**folders: str) -> dict[str, Any]:
    return {
        "dataset": "shapes",
        "models": {"base": {"text": {"weights": "random", "size": {"hidden_size": 12, "num_attention_heads": 2}}}},
        "training": {"epochs": 3},  # which is nothing to such a teacher
        "teachers": {"dino": {"kind": "stored", "features": folders}},
        "students": {"s": {"teacher": "dino"}},
    }


def test_stored_teachers_have_rows_if_there_are_test_features() -> None:
    found = config.parse(study(train="a", test="b"), "test")
    assert found.evaluated_runs() == ["initial-base", "teacher-dino", "student-s"]
    assert found.trained_runs() == ["student-s"]
    assert found.start_of("s") == "initial-base"
    found = config.parse(study(train="a"), "test")
    assert found.evaluated_runs() == ["initial-base", "student-s"]
    assert found.stored_features() == {"dino": {"train": Path("a")}}


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({}, r"teachers\.dino\.features\.train: missing"),
        ({"train": ""}, r"teachers\.dino\.features\.train: found '' \(empty\); give a path"),
        ({"train": "a", "val": "b"}, r"teachers\.dino\.features\.val"),
    ],
)
def test_faults_of_the_section_are_named(features: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        config.parse(study(**features), "test")


def test_folders_that_are_not_there_stop_the_start(folder: Path, tmp_path: Path) -> None:
    (folder / "text.npy").unlink()
    found = config.parse(study(train=str(folder), test=str(tmp_path / "none")), "my.yaml")
    with pytest.raises(UserError) as error:
        disk.check(found, "my.yaml")
    said = str(error.value)
    assert f"teachers.dino.features.train: {folder / 'text.npy'}: nothing there; give a folder with image.npy" in said
    assert f"teachers.dino.features.test: {tmp_path / 'none'}: nothing there; give a folder of features" in said
    inside = config.parse(study(train="results/shapes/mine"), "my.yaml")
    with pytest.raises(UserError, match=r"teachers\.dino\.features\.train: results/shapes/mine lies in results/shapes"):
        places.check(inside, Path("results/shapes"), "my.yaml")


def test_other_content_is_noticed_whatever_the_times(folder: Path, split: Split, tmp_path: Path) -> None:
    settings = config.parse(study(train=str(folder)), "test")
    results = tmp_path / "results"
    copies = results / "seed0/teacher-dino/features"
    stored.copy(folder, split, copies)
    assert outdated.find(settings, {}, results, []) == []
    save("text", lambda array: array * 2)(folder)
    assert outdated.find(settings, {}, results, []) == [str(copies / "index.json")]
    stored.copy(folder, split, copies)
    assert outdated.find(settings, {}, results, []) == []
    extracted = config.parse({**study(train="a"), "teachers": {"dino": {}}}, "test")
    assert outdated.find(extracted, {}, results, []) == [str(copies / "index.json")]


def test_on_the_command_line(folder: Path, split: Split, tmp_path: Path) -> None:
    options = ["--features", folder, "--split", tmp_path / "splits/train.jsonl", "--output", tmp_path / "out"]
    done = CliRunner().invoke(app, ["copy-features", *map(str, options)])
    assert done.exit_code == 0, done.output
    assert read_features(tmp_path / "out", split).text.shape == (6, 3)
