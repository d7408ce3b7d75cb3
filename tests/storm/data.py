"""Data: captions and images of one's own, splits, relevance and features, edited by clumsy or hostile hands."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rvlr import store_features
from storm import Case, World

Arrange = Callable[[World, Path], list[str]]
WORDS = ("a red cat", "the cat runs", "a dog sits", "two dogs run", "a cow", "red cows", "a bird", "birds on a tree")
PREPARE = ["prepare", "--config", "dataset.yaml", "--output", "out"]
AGAIN = "splits are made by the prepare stage"


# --- own captions and images --------------------------------------------------------------------------------------


def _own(spoil: Callable[[Path], Any], captions: str = "captions.json", **section: Any) -> Arrange:
    """`prepare` of eight photographs with two captions each, after `spoil` changed the folder."""

    def arrange(world: World, folder: Path) -> list[str]:
        (folder / "photos").mkdir()
        for number in range(8):
            Image.new("RGB", (8, 8)).save(folder / f"photos/{number}.png")
        records = [{"image": f"{n}.png", "captions": [WORDS[n], WORDS[(n + 3) % 8]]} for n in range(8)]
        (folder / "captions.json").write_text(json.dumps(records))
        settings = {"kind": "custom", "images": "photos", "captions": captions, **section}
        (folder / "dataset.yaml").write_text(json.dumps(settings))
        (folder / "relevance.yaml").write_text("scorer: rouge-score")
        more = spoil(folder)
        return [*PREPARE, *more] if isinstance(more, list) else PREPARE

    return arrange


def _named(name: str, on_disk: str = "0.png") -> Arrange:
    """The captions say `name`, the disk has `on_disk`."""

    def spoil(folder: Path) -> None:
        (folder / "photos" / on_disk).parent.mkdir(exist_ok=True)
        (folder / "photos/0.png").rename(folder / "photos" / on_disk)
        _edit(folder / "captions.json", lambda records: records[0].update(image=name))

    return _own(spoil)


def _captioned(*captions: str, scorer: str = "rouge-score") -> Arrange:
    """Every image has the captions, which are checked for the scorer; "{}" becomes the image's number."""

    def spoil(folder: Path) -> list[str]:
        texts = [[caption.replace("{}", str(number)) for caption in captions] for number in range(8)]
        records = [{"image": f"{number}.png", "captions": own} for number, own in enumerate(texts)]
        (folder / "captions.json").write_text(json.dumps(records))
        (folder / "relevance.yaml").write_text(f"scorer: {scorer}")
        return ["--relevance", "relevance.yaml"]

    return _own(spoil)


def _written(name: str, content: str | bytes) -> Arrange:
    """The captions file is another one."""
    return _own(
        lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()), name
    )


def _edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change what a JSON file holds; `change` returns the new value, or changes the old one."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))


def _instead(path: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Something else at `path`."""

    def spoil(folder: Path) -> None:
        place = folder / path
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        make(place)

    return spoil


OWN = [
    Case(
        "captions: a pipe", _own(_instead("captions.json", os.mkfifo)), (r"captions\.json: a pipe or a device found",)
    ),
    Case(
        "captions: an endless device",
        _own(_instead("captions.json", lambda path: path.symlink_to("/dev/zero"))),
        (r"captions\.json: a pipe or a device found.*set dataset\.captions",),
    ),
    Case(
        "captions: a link to nothing",
        _own(_instead("captions.json", lambda path: path.symlink_to("gone.json"))),
        (r"captions\.json: a link to gone\.json, which is not there",),
    ),
    Case("captions: a folder", _own(_instead("captions.json", Path.mkdir)), (r"captions\.json: a folder found",)),
    Case("captions: semicolons", _written("c.csv", "image;caption\n"), (r"unknown column 'image;caption'.*by commas",)),
    Case(
        "captions: COCO's layout", _written("c.json", '{"images": []}'), (r"c\.json.*must contain a list of records",)
    ),
    Case(
        "captions: NaN",
        _written("c.json", '[{"image": "0.png", "caption": NaN}]'),
        (r"record 1 .* caption: found nan",),
    ),
    Case("captions: a zero byte", _captioned("a\0dog"), (r"captions\[0\]: found 'a\\x00dog', with a zero byte",)),
    Case(
        "captions: nothing to see", _captioned("\u200b\u2060"), (r"record 1 .*captions\[0\]: empty; write a caption",)
    ),
    Case(
        "captions: Russian",
        _captioned("кот и 2 собаки", "кот спит"),
        (r"captions\.json, test: 4 of 4 captions have no words for the scorer rouge-score, .*'кот.*keeps only a-z",),
    ),
    Case(
        "captions: Greek and a brand", _captioned("μια γάτα με ένα iPad {}"), (r"have no words for the scorer rouge",)
    ),
    Case(
        "captions: Chinese without spaces for coco-caption",
        _captioned("一只猫坐着", scorer="coco-caption"),
        (r"no words for the scorer coco-caption.*put spaces between the words",),
    ),
    Case(
        "captions: no word in common", _captioned("unique{}"), (r"test: no two of 2 images have a word .* in common",)
    ),
    Case(
        "captions: a list in .jsonl", _written("c.jsonl", "[[1]]"), (r"line 1: .*a list of records must end in \.json",)
    ),
    Case("captions: nested too deep", _written("c.json", "[" * 100000), (r"c\.json.*brackets nested too deep",)),
    Case("images: a file", _own(lambda folder: None, images="captions.json"), (r"captions\.json: not a folder",)),
    Case("image: a pipe", _own(_instead("photos/0.png", os.mkfifo)), (r"image '0\.png' is not a file",)),
    Case(
        "image: a link to nothing",
        _own(_instead("photos/0.png", lambda path: path.symlink_to("gone.png"))),
        (r"'0\.png' is a link to gone\.png, which is not there",),
    ),
    Case("name: NFC for NFD", _named("\u00e9.png", "e\u0301.png"), (r"'\\xe9\.png' \(Unicode form NFC\).*\(NFD\)",)),
    Case("name: capitals", _named("CAT.PNG", "cat.png"), (r"record 1 .*'CAT\.PNG' is not in .*is it 'cat\.png'",)),
    Case("name: no ending", _named("0"), (r"'0' is not in .*is it '0\.png'",)),
    Case("name: a space after it", _named("0.png "), (r"is it '0\.png'",)),
    Case("name: with percent signs", _named("a%20b.png", "a b.png"), (r"is it 'a b\.png'",)),
    Case("name: the folder twice", _named("photos/0.png"), (r"is it '0\.png' in .*photos\?",)),
    Case("name: of Windows", _named("C:\\photos\\0.png"), (r"an address or a Windows path",)),
    Case("name: too long", _named("x" * 300 + ".png"), (r"File name too long; shorten its name",)),
]


# --- splits -------------------------------------------------------------------------------------------------------


def _split(change: Callable[[bytes], bytes], name: str = "test") -> Arrange:
    """`relevance` of a split that was edited."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.data / "splits", folder / "splits")
        path = folder / f"splits/{name}.jsonl"
        path.write_bytes(change(path.read_bytes()))
        return ["relevance", "--captions", f"splits/{name}.jsonl", "--output", "relevance.npy"]

    return arrange


def _first(**fields: Any) -> Arrange:
    """The first record of a split has other fields."""

    def change(content: bytes) -> bytes:
        first, _, rest = content.decode().partition("\n")
        return (json.dumps({**json.loads(first), **fields}) + "\n" + rest).encode()

    return _split(change)


def _about(change: Callable[[Any], Any], *command: str) -> Arrange:
    """A command on splits whose `dataset.json` was edited."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.data / "splits", folder / "splits")
        _edit(folder / "splits/dataset.json", change)
        (folder / "cached.yaml").write_text(json.dumps({"kind": "coco", "cache": {"short_side": 32}}))
        return list(command or ("relevance", "--captions", "splits/test.jsonl", "--output", "relevance.npy"))

    return arrange


def _train_is_val(world: World, folder: Path) -> list[str]:
    shutil.copytree(world.data, folder / "data")
    shutil.copy(folder / "data/splits/train.jsonl", folder / "data/splits/val.jsonl")
    return ["data", "verify", "--splits", "data/splits", "--output", "verified.json"]


VERIFY = ("data", "verify", "--splits", "splits", "--output", "verified.json")
SPLITS = [
    Case("split: cut off", _split(lambda content: content[:-20]), (r"test\.jsonl: line 12: not valid JSON",)),
    Case(
        "split: fewer lines", _split(lambda content: content[: content.rindex(b"{")]), (r"edited .*: 11 images found",)
    ),
    Case(
        "split: Windows lines",
        _split(lambda content: content.replace(b"\n", b"\r\n")),
        (rf"edited or replaced.*{AGAIN}",),
    ),
    Case("split: an absolute path", _first(image="/etc/passwd"), (r"line 1: image '/etc/passwd' leaves the folder",)),
    Case("split: captions a string", _first(captions="a dog"), (r"line 1: captions is 'a dog', a list",)),
    Case("split: another key", _first(weight=2), (r"line 1: \{.*a record of image_id, image and captions expected",)),
    Case(
        "split: an id twice", _first(image_id="test-00003"), (r"line 4: image_id 'test-00003' is that of line 1 too",)
    ),
    Case("split: one word changed", _first(captions=["a dog", "a cat"]), (r"test\.jsonl: edited or replaced since",)),
    Case("split: train is val", _train_is_val, (r"val\.jsonl: edited or replaced since it was made: 24 images found",)),
    Case("dataset.json: a list", _about(lambda _: [1]), (r"dataset\.json.*object",)),
    Case("dataset.json: a root of nothing", _about(lambda about: about.update(image_root="")), (r"image_root is ''",)),
    Case(
        "dataset.json: a root with a zero byte",
        _about(lambda about: about.update(image_root="a\0")),
        (r"image_root is",),
    ),
    Case(
        "dataset.json: images moved away",
        _about(lambda about: about.update(image_root="../gone"), *VERIFY),
        (r"gone: no such folder, but the images of the split 'train' must lie there",),
    ),
    Case(
        "dataset.json: prepared without the cache",
        _about(lambda about: about, "data", "cache", "--config", "cached.yaml", "--splits", "splits", "--output", "c"),
        (r"dataset\.json: prepared with cache None, but cached\.yaml says .*run the prepare stage",),
    ),
]


# --- relevance and features ---------------------------------------------------------------------------------------


def _matrix(change: Callable[[Path], Any]) -> Arrange:
    """`export-relevance` of a matrix that was changed."""

    def arrange(world: World, folder: Path) -> list[str]:
        for name in ("test.npy", "test.json"):
            shutil.copy(world.relevance / name, folder)
        change(folder)
        split = str(world.data / "splits/test.jsonl")
        return ["export-relevance", "test.npy", "--captions", split, "--output", "flat.npy"]

    return arrange


def _values(change: Callable[[np.ndarray], np.ndarray], name: str = "test.npy") -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, change(np.load(folder / name)))


def _features(change: Callable[[Path], Any], *options: str) -> Arrange:
    """`export-features` of features that were changed."""

    def arrange(world: World, folder: Path) -> list[str]:
        shutil.copytree(world.features, folder / "features")
        change(folder / "features")
        split = str(world.data / "splits/train.jsonl")
        return ["export-features", "--features", "features", "--split", split, "--output", "out", *options]

    return arrange


def _copied(change: Callable[[Path], Any]) -> Arrange:
    """`copy-features` of a folder with names of its rows."""

    def arrange(world: World, folder: Path) -> list[str]:
        split, rng = world.data / "splits/train.jsonl", np.random.default_rng(0)
        records = [json.loads(line) for line in split.read_text().splitlines()]
        captions = [caption for record in records for caption in record["captions"]]
        images = [record["image"] for record in records]
        store_features(folder / "mine", rng.normal(size=(24, 6)), images, rng.normal(size=(48, 5)), captions)
        change(folder / "mine")
        return ["copy-features", "--features", "mine", "--split", str(split), "--output", "out"]

    return arrange


def _theirs(
    image: Callable[[np.ndarray], np.ndarray] = np.copy, text: Callable[[np.ndarray], np.ndarray] = np.copy
) -> Arrange:
    """`import-features` of the authors' two files, one row a caption."""

    def arrange(world: World, folder: Path) -> list[str]:
        split, rng = world.data / "splits/train.jsonl", np.random.default_rng(0)
        records = [json.loads(line) for line in split.read_text().splitlines()]
        lists = [{"image": record["image"], "caption": record["captions"]} for record in records]
        (folder / "theirs.json").write_text(json.dumps(lists))
        np.save(folder / "image.npy", image(rng.normal(size=(24, 6)).astype(np.float32).repeat(2, axis=0)))
        np.save(folder / "text.npy", text(rng.normal(size=(48, 5)).astype(np.float32)))
        files = ["--image", "image.npy", "--text", "text.npy", "--annotations", "theirs.json"]
        return ["import-features", *files, "--split", str(split), "--output", "out"]

    return arrange


def _fetch_images(place: Callable[[Path], Any]) -> Arrange:
    """`data fetch` of images where `place` has put something in the place of their folder."""

    def arrange(world: World, folder: Path) -> list[str]:
        (folder / "downloads/coco/images").mkdir(parents=True)
        place(folder / "downloads/coco/images/train2014")
        return ["data", "fetch", "coco-train2014", "--downloads", "downloads"]

    return arrange


def _fetch(place: Callable[[Path], Any], *options: str) -> Arrange:
    """`data fetch` of a file where `place` has put something; no address is asked."""

    def arrange(world: World, folder: Path) -> list[str]:
        target = folder / TARGET
        target.parent.mkdir(parents=True)
        place(target)
        return ["data", "fetch", "flickr30k-val-captions", "--downloads", "downloads", *options]

    return arrange


def _logged_as(name: str) -> Arrange:
    """`relevance` whose log file is one of its outputs."""

    def arrange(world: World, folder: Path) -> list[str]:
        split = str(world.data / "splits/test.jsonl")
        return ["relevance", "--captions", split, "--output", "out.npy", "--log-file", name]

    return arrange


def _one_file(world: World, folder: Path) -> list[str]:
    return ["image.npy" if word == "text.npy" else word for word in _theirs()(world, folder)]


def _with(value: float, row: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(rows: np.ndarray) -> np.ndarray:
        rows[row, 0] = value
        return rows

    return change


STORED = "run the relevance stage again"
ARRAYS = [
    Case("relevance: reversed", _matrix(_values(lambda rows: rows[::-1])), (rf"test\.npy: changed since.*{STORED}",)),
    Case(
        "relevance: NaN", _matrix(_values(_with(np.nan, 5))), (r"changed since .*; row 5 .*contains NaN or infinity",)
    ),
    Case("relevance: beyond 1", _matrix(_values(_with(7, 5))), (r"test\.npy: changed since it was made",)),
    Case("relevance: by columns", _matrix(_values(np.asfortranarray)), (r"<f4 numbers, column by column,",)),
    Case(
        "relevance: an archive",
        _matrix(lambda folder: (np.savez(folder / "test.npz", 1), (folder / "test.npz").replace(folder / "test.npy"))),
        (r"\.npz\) found",),
    ),
    Case("relevance: a pipe", _matrix(_instead("test.npy", os.mkfifo)), (rf"test\.npy: a pipe.*{STORED}",)),
    Case("relevance: its .json a list", _matrix(lambda folder: (folder / "test.json").write_text("[]")), (STORED,)),
    Case(
        "relevance: of another split",
        _matrix(lambda folder: _edit(folder / "test.json", lambda about: about.update(checksum="0" * 64))),
        (r"test\.npy: made from other captions than those of the split 'test'",),
    ),
    Case("features: reversed", _features(_values(lambda rows: rows[::-1], "text.npy")), (r"text\.npy: changed since",)),
    Case("features: infinite", _features(_values(_with(np.inf, 3), "image.npy")), (r"image\.npy: changed .*row 3 ",)),
    Case("features: float64", _features(_values(np.float64, "text.npy")), (r"text\.npy: <f8 numbers found",)),
    Case(
        "features: no index", _features(lambda folder: (folder / "index.json").unlink()), (r"index\.json.*extract the",)
    ),
    Case("copy: NaN", _copied(_values(_with(np.nan, 7), "image.npy")), (r"mine/image\.npy: row 7 .* contains NaN",)),
    Case(
        "copy: a row too few", _copied(_values(lambda rows: rows[1:], "text.npy")), (r"48 names, but .* has 47 rows",)
    ),
    Case("copy: a pipe", _copied(_instead("text.npy", os.mkfifo)), (r"mine/text\.npy: a pipe",)),
    Case(
        "copy: an endless file",
        _copied(_instead("index.json", lambda path: path.symlink_to("/dev/zero"))),
        (r"mine/index\.json: a pipe or a device found",),
    ),
    Case(
        "copy: names nested too deeply",
        _copied(lambda folder: (folder / "index.json").write_text('{"images": ' + "[" * 100_000)),
        (r"mine/index\.json: ",),
    ),
    Case(
        "import: image rows shuffled",
        _theirs(lambda rows: rows[np.arange(48) * 7 % 48]),
        (r"image\.npy: rows of one image",),
    ),
    Case("import: all zeros", _theirs(np.zeros_like), (r"image\.npy: all rows are the same",)),
    Case(
        "import: NaN",
        _theirs(text=_with(np.nan, 7)),
        (r"text\.npy: row 7 \(counted from 0\) contains NaN or infinity",),
    ),
    Case("import: halves", _theirs(np.float16), (r"image\.npy: float16 found, float32 expected; convert",)),
    Case(
        "import: cut off", _theirs(lambda rows: rows[:-1]), (r"shape 47 x 6 found.*: the annotation files have 48 cap",)
    ),
    Case("log: the output", _logged_as("out.npy"), (r"--log-file are the same path; give --log-file a path of its",)),
    Case("log: what lies beside the output", _logged_as("out.json"), (r"out\.json and --log-file are the same path",)),
]

TARGET = "downloads/flickr30k/flickr30k_val.json"
FETCHED = [
    Case("fetch: the log is the file", _fetch(lambda path: None, "--log-file", TARGET), (r"--log-file are the same",)),
    Case(
        "fetch: another file lies there",
        _fetch(lambda path: path.write_text("[]")),
        (r"flickr30k_val\.json: is there, but it is another file: checksum git:0637.* expected; delete it",),
    ),
    Case(
        "fetch: a folder with some of the images",
        _fetch_images(lambda folder: (folder.mkdir(), (folder / "a.jpg").touch())),
        (r"train2014: 1 images in it, 82,783 expected",),
    ),
    Case(
        "fetch: a link to a disk that is not there",
        _fetch_images(lambda folder: folder.symlink_to("/media/nowhere/photos")),
        (r"links to /media/nowhere/photos, which is not there",),
    ),
    Case("fetch: an empty file lies there", _fetch(Path.touch), (r"another file: 0 bytes found, more expected",)),
    Case("fetch: a folder lies there", _fetch(Path.mkdir), (r"a folder is where the file belongs; move it away",)),
]

CASES = [*OWN, *SPLITS, *ARRAYS, *FETCHED]
