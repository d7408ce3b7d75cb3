"""Captions files: what users get to read when one is wrong, and the entries they get when it is not."""

import json
import os
from pathlib import Path

import pytest

from rvlr import files
from rvlr.datasets import captions_file
from rvlr.datasets.captions_file import Entry
from rvlr.errors import UserError
from rvlr.faults import Place


def read(folder: Path, name: str, content: str | bytes) -> list[Entry]:
    """Write a captions file and read it; its faults are raised."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    entries, faults = captions_file.read(path)
    faults.check()
    return entries


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def record(image: object = "a.jpg", captions: object = ("a dog",), **more: object) -> dict[str, object]:
    return {"image": image, "captions": captions, **more}


A, B, C = (record(name) for name in ("a.jpg", "b.png", "c.jpg"))

# file name, content, what the message must hold: place, what was found, how to fix it
BROKEN = {
    "empty caption": (
        "c.csv",
        "image,caption\na.jpg,\n",
        ["line 2: caption: empty; write a caption or remove it"],
    ),
    "whitespace caption": (
        "c.jsonl",
        lines(A, record("b.png", ["a", " \t\n"])),
        ["line 2: captions[1]: empty; write a caption or remove it"],
    ),
    "caption not a string": (
        "c.jsonl",
        lines(record("a.jpg", ["a", 7])),
        ["line 1: captions[1]: found 7; give text"],
    ),
    "no captions": (
        "c.jsonl",
        lines(A, record("b.png", [])),
        ["line 2: captions: found an empty list; give a list of texts, at least 1"],
    ),
    "captions not a list": (
        "c.jsonl",
        lines(record("a.jpg", "a dog")),
        ["line 1: captions: found 'a dog' (text); give a list of texts"],
    ),
    "caption a number": (
        "c.jsonl",
        lines({"image": "a.jpg", "caption": 7}),
        ["line 1: caption: found 7; give text or a list of texts"],
    ),
    "caption an empty list": (
        "c.jsonl",
        lines(A, {"image": "b.png", "caption": []}),
        ["line 2: caption: found an empty list; give text or a list of texts, at least 1"],
    ),
    "caption a list with faults": (
        "c.jsonl",
        lines({"image": "a.jpg", "caption": ["x", 7, " ", ["y"]]}),
        [
            "3 faults",
            "line 1: caption[1]: found 7; give text",
            "line 1: caption[2]: empty",
            "line 1: caption[3]: found a list of 1, ['y']; give text",
        ],
    ),
    "caption missing": (
        "c.jsonl",
        lines({"image": "a.jpg"}),
        ["neither 'captions' nor 'caption'", "give one"],
    ),
    "caption twice": ("c.jsonl", lines(record(caption="x")), ["both 'captions' and 'caption'", "give one"]),
    "lone surrogate": (
        "c.jsonl",
        lines(record("a.jpg", ["\ud83d dog"])),
        [r"captions[0]: found '\ud83d dog', in which half a character"],
    ),
    "no image": (
        "c.jsonl",
        lines(A, {"caption": "x"}),
        ["line 2: image: missing; give the path of an image file below the images folder"],
    ),
    "image not a string": ("c.jsonl", lines(record(3)), ["line 1: image: found 3; give the path of an image file"]),
    "image empty": (
        "c.csv",
        "image,caption\n,a dog\n",
        ["line 2: image: found ''; give the path of an image file"],
    ),
    "unknown key": (
        "c.json",
        json.dumps([A, B, record("c.jpg", spilt="val")]),
        ["1 fault;", "record 3 (line 1): spilt: unknown key; did you mean 'split'?"],
    ),
    "record not an object": (
        "c.jsonl",
        '{"image": "a.jpg", "caption": "x"}\n["b.png", "y"]\n',
        ["line 2: found ['b"],
    ),
    "several faults in a record": (
        "c.json",
        json.dumps([record("C:\\a.jpg", [" "], image_id=True, more=1)]),
        [
            "4 faults",
            "record 1 (line 1): image: found 'C:\\\\a.jpg', an address or a Windows path",
            "record 1 (line 1): captions[0]: empty",
            "record 1 (line 1): image_id: found true; give text or a whole number",
            "record 1 (line 1): more: unknown key; the keys here are image, captions, caption, image_id, split",
        ],
    ),
    "id not text": (
        "c.jsonl",
        lines(record(image_id=1.5)),
        ["1 fault;", "line 1: image_id: found 1.5; give text or a whole number"],
    ),
    "id empty": ("c.jsonl", lines(record(image_id="")), ["line 1: image_id: found ''; give text or a whole number"]),
    "Latin-1": (
        "c.csv",
        "image,caption\na.jpg,a dog\nb.png,a café\n".encode("latin-1"),
        ["line 3: not UTF-8 at byte 37 (0xe9); save the file as UTF-8"],
    ),
    "UTF-16": ("c.json", json.dumps([A]).encode("utf-16"), ["line 1: not UTF-8 at byte 0 (0xff)"]),
    "absolute path": (
        "c.jsonl",
        lines(A, record("/etc/passwd")),
        ["line 2: image: found '/etc/passwd', which leaves"],
    ),
    "dots": (
        "c.csv",
        "image,caption\nsub/../a.jpg,x\n",
        ["line 2: image: found 'sub/../a.jpg', which leaves", "without '..'"],
    ),
    "only a dot": ("c.jsonl", lines(record(".")), ["line 1: image: found '.', which leaves the images folder"]),
    "JSON syntax": (
        "c.json",
        '[\n {"image": "a.jpg",\n  "caption" "x"}\n]',
        ["line 3: not valid JSON", "column 13"],
    ),
    "JSONL as JSON": (
        "c.json",
        lines(A, B),
        ["line 2: not valid JSON", "one record a line must end in .jsonl"],
    ),
    "JSON not a list": ("c.json", json.dumps({"a": 1}), ["found {'a': 1}", "must contain a list of records"]),
    "JSON too deep": ("c.json", "[" * 100_000, ["not a usable JSON record", "nested too deep", "must look like"]),
    "JSON key twice": (
        "c.json",
        '[{"image": "a.jpg", "caption": "x"},\n{"image": "b.png", "image": "c.jpg", "caption": "y"}]',
        ["1 fault;", "record 2 (line 2)", "the key 'image' is given twice; keep one"],
    ),
    "JSONL syntax": (
        "c.jsonl",
        lines(A) + "\n{'image'}\n" + lines(C),
        ["line 3: not valid JSON", "column 2"],
    ),
    "ragged row": (
        "c.csv",
        "image,caption\na.jpg,a dog, running\nb.png\n",
        [
            "2 faults",
            "line 2: 3 fields where the header names 2 (image, caption)",
            "in double quotes",
            "line 3: 1 f",
        ],
    ),
    "unclosed quote": (
        "c.csv",
        'image,caption\na.jpg,x\nb.png,"a dog\nc.jpg,y\n',
        ["line 3: not valid CSV", "quote"],
    ),
    "unknown column": (
        "c.csv",
        "image,caption,Split\na.jpg,x,val\n",
        ["line 1: unknown column 'Split'", "split and"],
    ),
    "missing column": ("c.csv", "image,split\na.jpg,val\n", ["line 1: no column 'caption'", "must name"]),
    "column twice": ("c.csv", "image,caption,caption\na.jpg,x,y\n", ["line 1: a column is named twice"]),
    "semicolons": (
        "c.csv",
        "image;caption\na.jpg;x\n",
        ["unknown column 'image;caption'", "separated by commas"],
    ),
    "empty JSON": ("c.json", "", ["no records found", "at least one image"]),
    "empty list": ("c.json", " []\n", ["no records found", "at least one image"]),
    "empty JSONL": ("c.jsonl", "\n\n", ["no records found", "at least one image"]),
    "empty CSV": ("c.csv", b"", ["no records found", "at least one image"]),
    "only a header": ("c.csv", "image,caption\n", ["no records found", "at least one image"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_captions_file(tmp_path: Path, case: str) -> None:
    name, content, parts = BROKEN[case]
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, content)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / name}: ")
    assert [part for part in parts if part not in text] == [], text


def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "c.csv").mkdir()
    with pytest.raises(UserError) as caught:
        captions_file.read(tmp_path / "c.csv")
    assert str(caught.value) == f"{tmp_path}/c.csv: a folder found, a file expected"
    os.mkfifo(tmp_path / "d.json")
    with pytest.raises(UserError, match=r"d\.json: a pipe or a device found, a file expected"):
        captions_file.read(tmp_path / "d.json")
    (tmp_path / "e.json").symlink_to("gone.json")
    with pytest.raises(UserError, match=r"e\.json: a link to gone\.json, which is not there"):
        captions_file.read(tmp_path / "e.json")


def test_long_values_are_cut(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, "c.jsonl", lines(record(["x" * 10_000])))
    assert len(str(caught.value)) < 600


CAPTIONS = {
    "a.jpg": ["Köter, nass", 'a "dog"'],
    "b.png": ["two\nlines"],
    "c.jpg": ["dup", "dup"],
    "sub/d.jpg": ["d"],
    "e.jpg": ["e", "ee", "eee"],
    "f.jpg": ["f"],
}
WHERE = {"a.jpg": "train", "b.png": "dev", "c.jpg": "test", "sub/d.jpg": "train", "e.jpg": "valid", "f.jpg": "test"}
QUOTED = (
    "image,caption,split\r\n"
    'a.jpg,"Köter, nass",train\r\na.jpg,"a ""dog""",train\r\nb.png,"two\nlines",validation\r\n'
    "c.jpg,dup,test\r\n\r\nc.jpg,dup,test\r\n./sub//d.jpg,d,train\r\n"
    "e.jpg,e,valid\r\nf.jpg,f,test\r\ne.jpg,ee,val\r\ne.jpg,eee,val\r\n"
)
LISTS = [{"image": name, "captions": CAPTIONS[name], "split": WHERE[name]} for name in CAPTIONS]
PUBLISHED = [{"image": name, "caption": CAPTIONS[name], "split": WHERE[name]} for name in CAPTIONS]
SINGLES = [
    {"image": name, "caption": caption, "split": WHERE[name], "image_id": None}
    for name in CAPTIONS
    for caption in CAPTIONS[name]
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lists.json", json.dumps(LISTS, indent=2)),
        ("published.json", json.dumps(PUBLISHED)),
        ("published.jsonl", lines(*PUBLISHED)),
        ("singles.json", json.dumps(SINGLES, ensure_ascii=False)),
        ("lists.jsonl", lines(*LISTS).replace("\n", "\r\n\n")),
        ("singles.JSONL", lines(*SINGLES).encode("utf-8-sig")),
        ("rows.csv", QUOTED),
        ("rows-bom.CSV", QUOTED.encode("utf-8-sig")),
    ],
)
def test_every_format_gives_the_same_entries(tmp_path: Path, name: str, content: str | bytes) -> None:
    captions: dict[str, list[str]] = {}
    splits = {}
    for entry in read(tmp_path, name, content):
        assert entry.image_id is None
        captions.setdefault(entry.image, []).extend(entry.captions)
        splits[entry.image] = entry.split
    assert captions == CAPTIONS
    assert list(captions) == list(CAPTIONS)
    names = {"dev": "val", "valid": "val"}
    assert splits == {image: names.get(split, split) for image, split in WHERE.items()}


def test_entries_know_their_places(tmp_path: Path) -> None:
    assert [entry.place for entry in read(tmp_path, "c.csv", QUOTED)][:4] == [Place(2), Place(3), Place(4), Place(6)]
    places = [str(entry.place) for entry in read(tmp_path, "c.json", json.dumps(LISTS, indent=1))]
    assert places[:2] == ["record 1 (line 2)", "record 2 (line 10)"]


@pytest.mark.parametrize(
    ("name", "images", "captions"),
    [
        ("coco_val.json", 5000, 25010),
        ("flickr30k_val.json", 1014, 5070),
        ("flickr30k_test.json", 1000, 5000),
        ("vizwiz_test.json", 1000, 5000),
    ],
)
def test_published_annotations_are_read(shared: Path, name: str, images: int, captions: int) -> None:
    path = shared / "data" / "captions" / name
    entries, faults = captions_file.read(path)
    faults.check()
    assert len({entry.image for entry in entries}) == images
    assert sum(len(entry.captions) for entry in entries) == captions
    assert [list(entry.captions) for entry in entries] == [given["caption"] for given in files.read_json(path, list)]
