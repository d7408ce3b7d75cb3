"""The paper's annotations have one reader: what one command accepts, all accept, and what one refuses, all refuse with
the same words."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotations import COCO, FLICKR, coco_contents, flickr, flickr_contents, lay, listed, run, single
from typer.testing import CliRunner

from rvlr.cli import app
from rvlr.config.datasets import Counts
from rvlr.errors import UserError

ANY = Counts(train=None, val=None, test=None)
IMAGES = ("val2014/a.jpg", "val2014/b.jpg")
PHOTOGRAPHS = (flickr(1), flickr(2))


@dataclass(frozen=True)
class Role:
    """Where a file of some layout is read by `rvlr prepare`: the split, and the file's place in the contents."""

    split: str
    section: Any
    key: str
    contents: Callable[[], dict[str, Any]]


LISTS = Role("val", COCO.model_copy(update={"counts": ANY}), "coco-val-captions", coco_contents)
SINGLES = Role("train", FLICKR.model_copy(update={"counts": ANY}), "flickr30k-train-captions", flickr_contents)


def lists(*more: Any, first: Any = "a dog") -> list[dict[str, Any]]:
    return [listed(IMAGES[0], [first, "a cat"]), listed(IMAGES[1], ["two dogs and a cat"]), *more]


def singles(*more: Any) -> list[dict[str, Any]]:
    captions = ((PHOTOGRAPHS[0], "a dog"), (PHOTOGRAPHS[1], "two dogs and a cat"), (PHOTOGRAPHS[0], "a cat"))
    return [*(single(image, text) for image, text in captions), *more]


GOOD = {
    "a list of captions": (LISTS, lists()),
    "seven captions": (LISTS, lists(listed("val2014/c.jpg", [f"dog {number}" for number in range(7)]))),
    "one caption an entry": (SINGLES, singles()),
    "other keys": (LISTS, lists({**listed("val2014/c.jpg", ["a dog"]), "id": 3, "split": "restval", "captions": 1})),
    "indented": (LISTS, json.dumps(lists(), indent=2)),
    "byte order mark": (LISTS, b"\xef\xbb\xbf" + json.dumps(lists()).encode()),
    "path to be normalised": (LISTS, lists(listed("./val2014//c.jpg", ["a dog"]))),
    "a key twice": (LISTS, json.dumps(lists()).replace('"image"', '"image": "val2014/z.jpg", "image"', 1)),
    "blank caption of an image with others": (
        SINGLES,
        singles(single(PHOTOGRAPHS[0], " "), single(flickr(3), "A cat")),
    ),
    "image with blank captions alone": (SINGLES, singles(single(flickr(3), ""))),
    "zero byte": (LISTS, lists(first="a dog\0")),
}
BAD = {
    "not JSON": (LISTS, "<html>404</html>"),
    "cut short": (LISTS, json.dumps(lists())[:-20]),
    "empty": (LISTS, ""),
    "not UTF-8": (LISTS, json.dumps(lists(), ensure_ascii=False).replace("dog", "caf\xe9").encode("latin-1")),
    "UTF-16": (LISTS, json.dumps(lists()).encode("utf-16")),
    "half a character": (LISTS, lists(first="\ud83d dog")),
    "too deep": (LISTS, "[" * 100_000),
    "no list": (LISTS, {"images": lists()}),
    "one record a line": (LISTS, "".join(f"{json.dumps(entry)}\n" for entry in lists())),
    "no record": (LISTS, lists("a.jpg")),
    "no image": (SINGLES, singles({"caption": "a dog"})),
    "no caption": (SINGLES, singles({"image": PHOTOGRAPHS[0]})),
    "a captions file of a user": (SINGLES, [{"image": name, "captions": ["a dog"]} for name in PHOTOGRAPHS]),
    "image a number": (LISTS, lists(listed(7, ["a dog"]))),  # type: ignore[arg-type]
    "caption a number": (SINGLES, singles({"image": PHOTOGRAPHS[0], "caption": 7})),
    "several": (LISTS, lists({"image": IMAGES[0]}, {"caption": []}, listed("val2014/c.jpg", ["a", "\t", 7]))),  # type: ignore[list-item]
    "no captions": (LISTS, lists(listed("val2014/c.jpg", []))),
    "blank caption in a list": (LISTS, lists(first=" \u200b")),
    "both layouts, lists first": (LISTS, lists(single("val2014/c.jpg", "a dog"))),
    "both layouts, singles first": (SINGLES, singles(listed(flickr(3), ["a dog"]))),
    "image twice": (LISTS, lists(listed(IMAGES[0], ["a hat"]))),
    "same name, another extension": (SINGLES, singles(single(flickr(1).replace(".jpg", ".png"), "a hat"))),
    "no entries": (SINGLES, []),
    "blank captions alone": (SINGLES, [single(PHOTOGRAPHS[0], ""), single(PHOTOGRAPHS[1], "  ")]),
}


def command(*arguments: str | Path) -> str | None:
    """What a command has to complain of; None if nothing."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(done.exception, UserError | None), done.exception
    return None if done.exception is None else str(done.exception)


def prepare(folder: Path, role: Role, content: Any) -> str | None:
    try:
        run(folder, role.section, role.contents() | {role.key: content})
    except UserError as error:
        return str(error).replace(f", or have sources.{role.key} point to the published one", "")
    return None


def features(folder: Path, content: Any) -> list[str | Path]:
    """Features that belong to a good file, as options: rows of one image, and of one caption, are alike."""
    entries = json.loads(content) if isinstance(content, str | bytes) else content
    texts = [(entry["image"], entry["caption"]) for entry in entries]
    rows = [(image, text) for image, found in texts for text in ([found] if isinstance(found, str) else found[:5])]
    options: list[str | Path] = []
    for name, keys in (("image", [image for image, _ in rows]), ("text", [text for _, text in rows])):
        values = {key: np.random.default_rng(number).normal(size=4) for number, key in enumerate(dict.fromkeys(keys))}
        np.save(folder / f"{name}.npy", np.array([values[key] for key in keys], np.float32))
        options += [f"--{name}", folder / f"{name}.npy"]
    return options


@pytest.mark.parametrize("case", [*GOOD, *BAD])
def test_all_commands_agree(tmp_path: Path, case: str) -> None:
    role, content = (GOOD | BAD)[case]
    (tmp_path / "base").mkdir()
    run(tmp_path / "base", role.section, role.contents())
    verdict = prepare(tmp_path, role, content)
    assert (verdict is None) == (case in GOOD), verdict
    file = lay(tmp_path, {role.key: content})[role.key]
    splits = (tmp_path if verdict is None else tmp_path / "base") / "out/splits"
    found = {"relevance": command("relevance", "--captions", file, "--output", tmp_path / "m.npy")}
    flat, rows = tmp_path / "flat.npy", features(tmp_path, content if verdict is None else [])
    np.save(flat, np.load(tmp_path / "m.npy").reshape(-1) if verdict is None else np.zeros(1))
    output: list[str | Path] = ["--output", tmp_path / "imported"]
    found["import-features"] = command(
        "import-features", *rows, "--annotations", file, "--split", splits / f"{role.split}.jsonl", *output
    )
    output = ["--output", tmp_path / "imported.npy"]
    found["import-relevance"] = command("import-relevance", flat, "--captions", file, *output)
    if verdict is not None:
        verdict = verdict.replace(f": {role.split} holds ", ": the file holds ")
    assert found == dict.fromkeys(found, verdict)


def test_relevance_of_a_file_is_that_of_the_split_made_from_it(tmp_path: Path) -> None:
    """So either can be given to evaluation."""
    role, content = GOOD["a list of captions"]
    assert prepare(tmp_path, role, content) is None
    file = lay(tmp_path, {role.key: content})[role.key]
    for captions, output in ((file, "file"), (tmp_path / "out/splits/val.jsonl", "split")):
        assert command("relevance", "--captions", captions, "--output", tmp_path / f"{output}.npy") is None
    assert (tmp_path / "file.json").read_text() == (tmp_path / "split.json").read_text()


def test_own_captions_files_are_not_annotations(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("image,caption\na.jpg,a dog\n")
    message = command("relevance", "--captions", tmp_path / "mine.csv", "--output", tmp_path / "m.npy")
    assert message is not None
    assert "a captions file of your own becomes a split by `rvlr prepare`" in message
