"""Splits: what the prepare stage wrote is read, what was edited since is refused with its place."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rvlr import files, provenance
from rvlr.data.loading import image_batches
from rvlr.data.records import Record, read_split, write_splits
from rvlr.datasets.verify import distinct_images
from rvlr.errors import UserError

RECORDS = [Record(name, f"{name}.jpg", (f"a {name}", f"the {name}")) for name in ("cat", "dog", "cow")]
LINES = [json.dumps(asdict(record)) for record in RECORDS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_splits(tmp_path / "splits", {"train": RECORDS, "val": RECORDS[:2], "test": RECORDS[1:]}, "../images")
    return tmp_path / "splits"


def with_fields(**fields: Any) -> str:
    return "\n".join([*LINES[:2], json.dumps({**json.loads(LINES[2]), **fields})]) + "\n"


def test_what_was_written_is_read(folder: Path) -> None:
    split = read_split(folder / "train.jsonl")
    assert split.records == RECORDS
    assert split.image_root == folder.parent / "images"
    about = files.read_json(folder / "dataset.json")
    assert about["checksums"]["val"] == provenance.sha256(folder / "val.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_fields(image="/etc/passwd"), r"line 3: image '/etc/passwd' leaves the folder of images"),
        (with_fields(image="a/../../cow.jpg"), r"line 3: image .* leaves the folder"),
        (with_fields(image="a\0b"), r"line 3: image 'a\\x00b' leaves the folder"),
        (with_fields(image=""), r"line 3: image is '', a string expected"),
        (with_fields(image_id=3), r"line 3: image_id is 3, a string expected"),
        (with_fields(captions="a cow"), r"line 3: captions is 'a cow', a list of one or more strings expected"),
        (with_fields(captions=[]), r"line 3: captions is \[\], a list of one or more strings expected"),
        (with_fields(captions=["a cow", 7]), r"line 3: a caption is 7, a string with words expected"),
        (with_fields(captions=["a cow", " "]), r"line 3: a caption is ' ', a string with words expected"),
        (with_fields(split="val"), r"line 3: \{.* found, a record of image_id, image and captions expected"),
        (with_fields(image_id="cat"), r"line 3: image_id 'cat' is that of line 1 too"),
        (with_fields(image="dog.jpg"), r"line 3: image 'dog\.jpg' is that of line 2 too"),
        ("[1, 2]\n", r"line 1: \[1, 2\] found, a record"),
        ("", r"no image in it"),
        ("\n".join([*LINES, ""]).replace("cow", "c\0w"), r"line 3: not valid JSON"),
        ("\ufeff" + "\n".join([*LINES, ""]), r"line 1: not valid JSON"),
        ("\n".join(LINES)[:-9], r"line 3: not valid JSON"),
        ("\n".join([LINES[0], "", *LINES[1:], ""]), r"line 2: not valid JSON"),
        ("\r\n".join([*LINES, ""]), r"edited or replaced since it was made: 3 images found"),
        ("\n".join(LINES), r"edited or replaced since it was made"),
        (
            "\n".join([*LINES[:2], ""]),
            r"edited or replaced .*: 2 images found with 4 captions, \{'images': 3, 'captions': 6\} written",
        ),
        ("\n".join([*LINES[::-1], ""]), r"edited or replaced since it was made"),
        (with_fields(captions=["a cow", "the bull"]), r"edited or replaced since it was made"),
    ],
)
def test_edited_splits(folder: Path, content: str, message: str) -> None:
    (folder / "train.jsonl").write_bytes(content.encode())
    with pytest.raises(UserError, match=rf"train\.jsonl: (?s:.)*{message}.*; splits are made by the prepare stage"):
        read_split(folder / "train.jsonl")


@pytest.mark.parametrize(("name", "other"), [("train", "val"), ("val", "test")])
def test_one_split_in_the_place_of_another(folder: Path, name: str, other: str) -> None:
    (folder / f"{name}.jsonl").write_bytes((folder / f"{other}.jsonl").read_bytes())
    with pytest.raises(UserError, match=rf"{name}\.jsonl: edited or replaced since it was made"):
        read_split(folder / f"{name}.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.pop("image_root"), "image_root is None, not what the prepare stage writes"),
        (lambda about: about.update(image_root=["a"]), r"image_root is \['a'\]"),
        (lambda about: about.update(counts=3), "counts is 3"),
        (lambda about: about.pop("checksums"), "checksums is None"),
        (lambda about: about.update(cache="yes"), "cache is 'yes'"),
    ],
)
def test_dataset_json_of_other_content(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    about = files.read_json(folder / "dataset.json")
    change(about)
    (folder / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=rf"dataset\.json: {message}"):
        read_split(folder / "train.jsonl")


def test_other_names_and_no_dataset_json(folder: Path) -> None:
    (folder / "mine.jsonl").write_text("\n".join(LINES))
    with pytest.raises(UserError, match=r"mine\.jsonl: not a split; splits are train\.jsonl, val\.jsonl, test\.jsonl"):
        read_split(folder / "mine.jsonl")
    (folder / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"train\.jsonl: not a split that was prepared: there is no .*dataset\.json"):
        read_split(folder / "train.jsonl")


@pytest.mark.parametrize(("cached", "stage"), [(False, "prepare"), (True, "cache")])
def test_images_that_are_not_there(folder: Path, cached: bool, stage: str) -> None:
    about = files.read_json(folder / "dataset.json")
    (folder / "dataset.json").write_text(json.dumps({**about, "cache": {"short_side": 64} if cached else None}))
    split = read_split(folder / "train.jsonl")
    for use in (lambda: image_batches(split, None, 1, 0), lambda: distinct_images([split])):
        with pytest.raises(UserError, match=rf"no such folder, .* split 'train' .* run the {stage} stage again"):
            use()


def test_a_failure_leaves_the_splits_as_they_were(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="Out of range"):
        write_splits(folder, {"train": RECORDS[:1], "val": [], "test": []}, "images", value=float("nan"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
