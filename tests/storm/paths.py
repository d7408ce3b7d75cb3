"""Outputs that are somebody else's, that contain what is read, or that cannot be written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from storm import Case, World

PLACES = {
    "a file": "notes.txt",
    "a folder with a file in it": "photos",
    "the working folder": ".",
    "the folder above": "..",
    "a link to a folder": "link",
    "a link to a file": "link.txt",
}
FOREIGN = r"rvlr did not make"
APART = r"lies inside|are the same path"


def _mine(folder: Path) -> None:
    """Files that a user would miss."""
    (folder / "photos").mkdir()
    (folder / "photos/cat.jpg").write_bytes(b"a photograph")
    for name in ("notes.txt", "table.csv", "matrix.npy", "matrix.json", "photos/model.safetensors"):
        (folder / name).write_text("my own")
    (folder / "link").symlink_to("photos")
    (folder / "link.txt").symlink_to("notes.txt")


def _initialise(world: World, output: str) -> list[str]:
    files = ["--config", f"{world.sections}/model.yaml", "--split", f"{world.data}/splits/train.jsonl"]
    return ["initialise", *files, "--seed", "0", "--output", output]


def _prepare(world: World, output: str) -> list[str]:
    return ["prepare", "--config", f"{world.sections}/dataset.yaml", "--output", output]


def _verify(world: World, output: str) -> list[str]:
    return ["data", "verify", "--splits", f"{world.data}/splits", "--output", output]


def _relevance(world: World, output: str) -> list[str]:
    return ["relevance", "--captions", f"{world.data}/splits/test.jsonl", "--output", output]


def _extract(world: World, output: str) -> list[str]:
    files = ["--config", f"{world.sections}/teacher.yaml", "--model", str(world.model)]
    return ["extract", *files, "--split", f"{world.data}/splits/train.jsonl", "--output", output]


def _copy(world: World, output: str) -> list[str]:
    files = ["--features", str(world.features), "--split", f"{world.data}/splits/train.jsonl"]
    return ["copy-features", *files, "--output", output]


def _evaluate(world: World, output: str) -> list[str]:
    files = ["--config", f"{world.sections}/evaluation.yaml", "--model", str(world.model)]
    more = ["--split", f"{world.data}/splits/test.jsonl", "--relevance", f"{world.relevance}/test.npy"]
    return ["evaluate", *files, *more, "--run", "initial-base", "--seed", "0", "--output", output]


def _train(world: World, output: str, **changed: str) -> list[str]:
    options = {
        "config": f"{world.sections}/teacher.yaml",
        "start-model": str(world.model),
        "splits": f"{world.data}/splits",
        "resume": "resume",
        **changed,
    }
    named = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["train-teacher", "--seed", "0", *named, "--output", output]


def _summarise(world: World, **changed: str) -> list[str]:
    options = {name: f"out.{name}" for name in ("csv", "comparisons", "markdown", "text")} | changed
    named = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["summarise", f"{world.evaluation}/test.json", *named]


def _sheets(world: World, cross: str, single: str) -> list[str]:
    files = ["--rankings", f"{world.evaluation}/rankings.npz", "--split", f"{world.data}/splits/test.jsonl"]
    return ["draw-sheets", *files, "--run", "r", "--queries", "1", "--cross-modal", cross, "--single-modal", single]


def _cached(world: World, folder: Path, output: str) -> list[str]:
    """`data cache` of photographs in `folder`."""
    shutil.copytree(world.data / "images", folder / "originals")
    shutil.copytree(world.data / "splits", folder / "splits")
    about = json.loads((folder / "splits/dataset.json").read_text())
    (folder / "splits/dataset.json").write_text(json.dumps({**about, "image_root": "../originals"}))
    section = {"kind": "custom", "images": "originals", "captions": "captions.csv", "cache": {"short_side": 16}}
    (folder / "custom.json").write_text(json.dumps(section))
    return ["data", "cache", "--config", "custom.json", "--splits", "splits", "--output", output]


def _own_photos(images: str, output: str) -> Callable[[World, Path], list[str]]:
    """`prepare` of a data set of one's own."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.data / "images/train", folder / "photos")
        captions = "".join(f"{path.name},a picture\n" for path in sorted((folder / "photos").iterdir()))
        (folder / "captions.csv").write_text(f"image,caption\n{captions}")
        (folder / "custom.json").write_text(
            json.dumps({"kind": "custom", "images": images, "captions": "captions.csv"})
        )
        return ["prepare", "--config", "custom.json", "--output", output]

    return arrange


def _among_mine(command: Callable[..., list[str]], *paths: str, **named: str) -> Callable[[World, Path], list[str]]:
    def arrange(world: World, folder: Path) -> list[str]:
        _mine(folder)
        return command(world, *paths, **named)

    return arrange


def _user_file(name: str, command: Callable[..., list[str]], *paths: str) -> Callable[[World, Path], list[str]]:
    """The command, where a file of the user's bears the name of one of its outputs."""

    def arrange(world: World, folder: Path) -> list[str]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("my own")
        return command(world, *paths)

    return arrange


def _mixed_into_ours(world: World, folder: Path) -> list[str]:
    """A model folder of ours into which the user put a file."""
    shutil.copytree(world.model, folder / "model")
    (folder / "model/notes.txt").write_text("my own")
    return _initialise(world, "model")


def _import_checkpoint(world: World, folder: Path) -> list[str]:
    _mine(folder)
    for name in ("vision.json", "text.json", "checkpoint.pth"):
        (folder / name).write_text("{}")
    files = ["checkpoint.pth", "--vision-config", "vision.json", "--text-config", "text.json"]
    return ["import-checkpoint", *files, "--output", "photos"]


def _unwritable(kind: str) -> Callable[[World, Path], list[str]]:
    def arrange(world: World, folder: Path) -> list[str]:
        (folder / "file").write_text("my own")
        places = {
            "a file as parent": "file/out.npy",
            "a name too long": "x" * 260 + ".npy",
            "a path too long": "/".join(["y" * 200] * 25) + "/out.npy",
            "a system folder": "/proc/out.npy",
            "a folder": "folder.npy",
        }
        (folder / "folder.npy").mkdir()
        return _relevance(world, places[kind])

    return arrange


def _log(content: str) -> Callable[[World, Path], list[str]]:
    def arrange(world: World, folder: Path) -> list[str]:
        (folder / "diary.txt").write_text(content)
        return [*_relevance(world, "out.npy"), "--log-file", "diary.txt"]

    return arrange


def _freeze(output: str) -> Callable[[World, Path], list[str]]:
    def arrange(world: World, folder: Path) -> list[str]:
        _mine(folder)
        return ["freeze", "--section", "{}", "--output", output]

    return arrange


def _links_in_a_circle(world: World, folder: Path) -> list[str]:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return _relevance(world, "a/out.npy")


FOLDERS = [
    Case(f"initialise: output is {what}", _among_mine(_initialise, place), (FOREIGN, "--output"))
    for what, place in PLACES.items()
]
CASES = [
    *FOLDERS,
    Case("initialise: output is a model folder with a file of the user's", _mixed_into_ours, (FOREIGN, r"notes\.txt")),
    Case("initialise: output contains the split", lambda w, f: _initialise(w, str(w.data)), (APART, "--split")),
    Case("import-checkpoint: output is a folder of photographs", _import_checkpoint, (FOREIGN, "photos")),
    Case(
        "prepare: images of the user's", _user_file("mine/images/cat.jpg", _prepare, "mine"), (FOREIGN, "mine/images")
    ),
    Case(
        "prepare: splits of the user's", _user_file("mine/splits/val.jsonl", _prepare, "mine"), (FOREIGN, r"val\.jsonl")
    ),
    Case("prepare: images is a file", _user_file("mine/images", _prepare, "mine"), (FOREIGN, "mine/images")),
    Case("prepare: photographs inside the output", _own_photos("photos", "photos"), (APART, r"dataset\.images")),
    Case("prepare: output inside the photographs", _own_photos(".", "results"), (APART, r"dataset\.images")),
    Case(
        "copy-features: features of the user's",
        _user_file("mine/text.npy", _copy, "mine"),
        (FOREIGN, r"mine/text\.npy"),
    ),
    Case("copy-features: output is its input", lambda w, f: _copy(w, str(w.features)), (APART, "--features")),
    Case("data verify: output is a text of the user's", _among_mine(_verify, "notes.txt"), (FOREIGN, r"notes\.txt")),
    Case(
        "data verify: list of faults of the user's", _user_file("image-faults.txt", _verify, "stamp.json"), (FOREIGN,)
    ),
    Case("data verify: output is a folder of the user's", _among_mine(_verify, "photos"), (FOREIGN, "photos")),
    Case(
        "data verify: output among the splits", lambda w, f: _verify(w, f"{w.data}/splits/v.json"), (APART, "--splits")
    ),
    Case("data cache: output is the photographs", lambda w, f: _cached(w, f, "originals"), ("same path", "originals")),
    Case("data cache: output contains the photographs", lambda w, f: _cached(w, f, "."), (APART,)),
    Case("data cache: output inside the photographs", lambda w, f: _cached(w, f, "originals/small"), (APART,)),
    Case(
        "relevance: output is a matrix of the user's", _among_mine(_relevance, "matrix.npy"), (FOREIGN, r"matrix\.npy")
    ),
    Case(
        "relevance: description of the user's", _user_file("out.json", _relevance, "out.npy"), (FOREIGN, r"out\.json")
    ),
    Case("relevance: another ending", lambda w, f: _relevance(w, "out.csv"), (r"\.npy", "ending")),
    Case("extract: rows of the user's", _user_file("out/image.npy", _extract, "out"), (FOREIGN, r"image\.npy")),
    Case("extract: output inside the model", lambda w, f: _extract(w, str(w.model)), (APART, "--model")),
    Case("evaluate: rankings of the user's", _user_file("out/rankings.npz", _evaluate, "out"), (FOREIGN, "rankings")),
    Case("evaluate: output inside the model", lambda w, f: _evaluate(w, str(w.model)), (APART, "--model")),
    Case("train-teacher: model of the user's", _user_file("out/model/a.bin", _train, "out"), (FOREIGN, "out/model")),
    Case("train-teacher: record of the user's", _user_file("out/metrics.jsonl", _train, "out"), (FOREIGN, "metrics")),
    Case("train-teacher: log of the user's", _user_file("out/tensorboard/a", _train, "out"), (FOREIGN, "tensorboard")),
    Case(
        "train-teacher: resume inside the splits", lambda w, f: _train(w, "out", resume=f"{w.data}/splits/r"), (APART,)
    ),
    Case(
        "train-teacher: resume is the start model", lambda w, f: _train(w, "out", resume=str(w.model)), ("same path",)
    ),
    Case("train-teacher: output inside resume", lambda w, f: _train(w, "resume"), (APART, "--resume")),
    Case("summarise: table of the user's", _among_mine(_summarise, csv="table.csv"), (FOREIGN, r"--csv table\.csv")),
    Case("summarise: output is an input", lambda w, f: _summarise(w, text=f"{w.evaluation}/test.json"), ("same path",)),
    Case(
        "summarise: two outputs in one file",
        lambda w, f: _summarise(w, text="a", markdown="a"),
        ("same path", "--text"),
    ),
    Case("draw-sheets: two outputs in one file", lambda w, f: _sheets(w, "a.png", "a.png"), ("same path",)),
    Case("draw-sheets: picture of the user's", _among_mine(_sheets, "photos/cat.jpg", "b.png"), (FOREIGN, r"cat\.jpg")),
    Case("freeze: output is a text of the user's", _freeze("notes.txt"), (FOREIGN, r"notes\.txt")),
    Case("freeze: output is a link", _freeze("link.txt"), (FOREIGN, r"link\.txt")),
    Case("log: a diary", _log("Dear diary"), (r"--log-file diary\.txt", "not a log")),
    Case("log: a file of zeros", _log("\0" * 100), (r"--log-file diary\.txt", "not a log")),
    Case("log: a folder", lambda w, f: [*_relevance(w, "out.npy"), "--log-file", str(f.parent)], ("--log-file",)),
    Case(
        "log: is an input",
        lambda w, f: [*_relevance(w, "o.npy"), "--log-file", f"{w.data}/splits/test.jsonl"],
        ("--log-file",),
    ),
    *(
        Case(f"relevance: output with {kind}", _unwritable(kind), (words,))
        for kind, words in {
            "a file as parent": "file",
            "a name too long": "shorter path",
            "a path too long": "shorter path",
            "a system folder": "/proc",
            "a folder": r"folder\.npy",
        }.items()
    ),
    Case("relevance: links in a circle", _links_in_a_circle, ("circle",)),
]
