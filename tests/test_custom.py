"""Own data: what users get to read when something is wrong, and the splits they get when nothing is."""

import json
import logging
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from rvlr import files, log, provenance
from rvlr.config import Custom, SplitRatio
from rvlr.data.records import SPLITS, Split, read_split
from rvlr.datasets import custom
from rvlr.errors import UserError
from rvlr.faults import FAULTS_SHOWN

NAMES = ("a.jpg", "b.png", "c.jpg", "sub/d.jpg", "e.jpg", "f.jpg")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.radial_gradient("L").convert("RGB").rotate(30 * number).resize((120, 90)).save(folder / name)
    return folder


@pytest.fixture
def images(photographs: Path, tmp_path: Path) -> Path:
    """A copy of the photographs that a test may damage."""
    return shutil.copytree(photographs, tmp_path / "images")


def run(images: Path, file: str, content: str | bytes, **section: object) -> dict[str, Split]:
    """Write a captions file beside the images folder, prepare, and read the splits back."""
    captions, out = images.parent / file, images.parent / f"out-{file}"
    captions.write_bytes(content.encode() if isinstance(content, str) else content)
    custom.prepare(Custom(kind="custom", images=images, captions=captions, **section), out)
    return {split: read_split(out / "splits" / f"{split}.jsonl") for split in SPLITS}


def message(images: Path, file: str, content: str | bytes, **section: object) -> str:
    """What the user reads. Nothing may have been written."""
    with pytest.raises(UserError) as caught:
        run(images, file, content, **section)
    assert not (images.parent / f"out-{file}").exists()
    return str(caught.value)


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def record(image: object = "a.jpg", captions: object = ("a dog",), **more: object) -> dict[str, object]:
    return {"image": image, "captions": captions, **more}


A, B, C, D, E, _ = (record(name) for name in NAMES)
FEWEST = (A, B, C, D, E)  # the smallest sound data set: 1 train, 2 val and 2 test images
TRAIN, VAL, TEST, VAL2, TEST2 = (
    record(name, split=split) for name, split in zip(NAMES[:5], ("train", "val", "test", "val", "test"), strict=True)
)

# file name, content, what the message must hold: place, what was found, how to mend it
BROKEN = {
    "missing image": (
        "c.jsonl",
        lines(A, record("x.jpg"), C, D, E),
        ["1 fault;", "line 2", "'x.jpg' is not in", "put the file there"],
    ),
    "missing image, JSON": (
        "c.json",
        json.dumps([A, record("x.jpg")], indent=1),
        ["record 2 (line 8)", "'x.jpg'"],
    ),
    "missing image, CSV": (
        "c.csv",
        'image,caption\na.jpg,"a\ndog"\nx.jpg,cat\n',
        ["line 4", "'x.jpg' is not in"],
    ),
    "NUL in path": ("c.jsonl", lines(record("a\0.jpg")), [r"line 1: image 'a\x00.jpg' "]),
    "surrogate in path": ("c.jsonl", lines(record("\ud83d.jpg")), [r"line 1: image: found "]),
    "folder as image": (
        "c.jsonl",
        lines(A, B, record("sub"), D, E),
        ["1 fault;", "line 3", "'sub' is not a file"],
    ),
    "id of two images": (
        "c.jsonl",
        lines(record("a.jpg", image_id=7), B, record("c.jpg", image_id="7")),
        ["line 3: image 'c.jpg' has the id '7' of 'a.jpg' (line 1)", "give each an image_id of its own"],
    ),
    "two ids of an image": (
        "c.csv",
        "image,image_id,caption\na.jpg,1,x\na.jpg,1,y\na.jpg,2,z\n",
        ["line 4: image 'a.jpg' has more than one id: '1' (line 2), '2' (line 4)", "keep one"],
    ),
    "default ids collide": (
        "c.jsonl",
        lines(A, record("a.png")),
        ["line 2: image 'a.png' has the id 'a' of 'a.jpg' (line 1)", "path without extension"],
    ),
    "two splits of an image": (
        "c.jsonl",
        lines(TRAIN, VAL, TEST, VAL2, TEST2, record("a.jpg", split="test")),
        ["line 6: image 'a.jpg' has more than one split: 'train' (line 1), 'test' (line 6)", "keep one"],
    ),
    "unknown split": (
        "c.jsonl",
        lines(TRAIN, VAL, record("c.jpg", split="Test"), VAL2, TEST2),
        [
            "1 fault;",
            "line 3: split: found 'Test' (text); give one of 'train', 'val', 'test'",
            "; did you mean 'test'?",
        ],
    ),
    "some without split": (
        "c.jsonl",
        lines(TRAIN, VAL, TEST, VAL2, TEST2, record("f.jpg")),
        [
            "line 6: 1 of 6 images have no split, the first is 'f.jpg'",
            "give every image a split, or none",
        ],
    ),
    "no test images": (
        "c.jsonl",
        lines(TRAIN, VAL, VAL2),
        [
            "1 fault;",
            "no test images (found: 1 train, 2 val), at least 2 needed; mark more with the split test, or remove all",
        ],
    ),
    "one test image": (
        "c.jsonl",
        lines(TRAIN, VAL, TEST, VAL2),
        [
            "1 fault;",
            "\n  1 test image (found: 1 train, 2 val, 1 test), at least 2 needed; mark more with the split test, or",
        ],
    ),
    "one val image, CSV": (
        "c.csv",
        "image,caption,split\na.jpg,x,train\nb.png,x,dev\nb.png,y,dev\nc.jpg,x,test\nsub/d.jpg,x,test\n",
        [
            "1 fault;",
            "\n  1 val image (found: 1 train, 1 val, 2 test), at least 2 needed; mark more with the split val",
        ],
    ),
    "no val or train images": (
        "c.jsonl",
        lines(TEST, TEST2),
        [
            "2 faults",
            "no train images (found: 2 test), at least 1 needed",
            "no val images (found: 2 test), at least 2 needed",
        ],
    ),
    "too few to draw": (
        "c.jsonl",
        lines(A, B, C, D),
        ["1 fault;", "images found: 4; val takes 2 (0.1) and test 2 (0.1)", "no train images", "add images"],
    ),
    "extension": ("c.txt", lines(A), ["c.txt: extension '.txt'", "must end in one of .json, .jsonl, .csv"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_captions_file(photographs: Path, tmp_path: Path, case: str) -> None:
    name, content, parts = BROKEN[case]
    images = tmp_path / "images"
    images.symlink_to(photographs)
    text = message(images, name, content)
    assert text.startswith(f"{tmp_path / name}: ")
    assert [part for part in parts if part not in text] == [], text


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def _encapsulated_postscript(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, "EPS")


def _link_out(path: Path) -> None:
    outside = path.parent.parent / "outside.jpg"
    path.rename(outside)
    path.symlink_to(outside)


DAMAGED = {
    "truncated": (_truncate, ["cannot be read: ", "truncated", "replace it, or remove its captions"]),
    "zero bytes": (lambda path: path.write_bytes(b""), ["is an empty file (0 bytes)", "replace it"]),
    "not an image": (
        lambda path: path.write_text("<html>404"),
        ["not an image in a known format (JPEG, PNG"],
    ),
    "refused format": (_encapsulated_postscript, ["not an image in a known format (JPEG, PNG", "convert"]),
    "warned bomb": (
        lambda path: Image.new("1", (9500, 9500)).save(path, "PNG"),
        ["more than 89,478,485 pixels"],
    ),
    "bomb": (
        lambda path: Image.new("1", (20000, 9500)).save(path, "PNG"),
        ["more than 89,478,485", "scale it"],
    ),
    "link out": (_link_out, ["is a link that leaves ", "put the file itself into that folder"]),
    "link to itself": (lambda path: (path.unlink(), path.symlink_to(path)), []),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_image(images: Path, case: str) -> None:
    damage, parts = DAMAGED[case]
    damage(images / "c.jpg")
    text = message(images, "c.jsonl", lines(*FEWEST))
    assert "1 fault; nothing was written\n  line 3: image 'c.jpg' " in text
    assert [part for part in parts if part not in text] == [], text


def test_truncated_png_is_found(images: Path) -> None:
    _truncate(images / "b.png")
    assert "1 fault; nothing was written\n  line 2: image 'b.png' cannot be read" in message(
        images, "c.jsonl", lines(*FEWEST)
    )


def test_missing_files_are_named_together(tmp_path: Path) -> None:
    section = Custom(kind="custom", images=tmp_path / "photos", captions=tmp_path / "c.csv")
    with pytest.raises(UserError) as caught:
        custom.prepare(section, tmp_path / "out")
    first, second = str(caught.value).splitlines()
    assert first == f"{tmp_path}/c.csv: no such file; set dataset.captions to your captions file"
    assert second == f"{tmp_path}/photos: no such folder; set dataset.images to the folder of images"


def test_faults_come_together_in_order_and_twenty_at_a_time(images: Path) -> None:
    (images / "a.jpg").write_bytes(b"")
    text = message(images, "c.jsonl", lines(A, *(record(f"{n}.jpg", [""]) for n in range(28)), record(2)))
    title, *faults = text.splitlines()
    assert title == f"{images.parent}/c.jsonl: 58 faults; nothing was written"
    assert faults[0].startswith("  line 1: image 'a.jpg' is an empty file")
    assert faults[1] == "  line 2: captions[0]: empty; write a caption or remove it"
    assert faults[2].startswith("  line 2: image '0.jpg' is not in ")
    assert faults[20:] == ["  ... and 38 more"]
    assert len(faults) == FAULTS_SHOWN + 1


WITH_SPLITS = (
    "image,caption,split\n"
    "a.jpg,nass,train\na.jpg,dog,train\nb.png,b,validation\n./c.jpg,c,test\nc.jpg,c,test\nsub//d.jpg,d,train\n"
    "e.jpg,e,valid\nf.jpg,f,test\ne.jpg,ee,val\n"
)


def test_rows_become_splits(images: Path) -> None:
    splits = run(images, "rows.csv", WITH_SPLITS)
    found = {split: [(r.image_id, r.image, list(r.captions)) for r in splits[split].records] for split in SPLITS}
    assert found == {
        "train": [("a", "a.jpg", ["nass", "dog"]), ("sub/d", "sub/d.jpg", ["d"])],
        "val": [("b", "b.png", ["b"]), ("e", "e.jpg", ["e", "ee"])],
        "test": [("c", "c.jpg", ["c", "c"]), ("f", "f.jpg", ["f"])],
    }
    assert splits["train"].path(1).is_file()


def test_ids_given_once_hold_for_all_rows_of_an_image(images: Path) -> None:
    text = "image_id,split,image,caption\n7,train,a.jpg,x\n,,a.jpg,y\n8,val,b.png,z\n,test,c.jpg,w\n"
    text += ",val,e.jpg,e\n,test,f.jpg,f\n9,,f.jpg,ff\n"
    splits = run(images, "rows.csv", text)
    assert [(r.image_id, r.captions) for r in splits["train"].records] == [("7", ("x", "y"))]
    assert [[r.image_id for r in splits[name].records] for name in ("val", "test")] == [["8", "e"], ["c", "9"]]


def test_dataset_json_says_what_made_it(
    images: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("rvlr"), "propagate", True)  # log.setup, if a test ran it, ends it
    monkeypatch.setattr(log, "Progress", partial(log.Progress, interval=0))  # short loops say nothing
    with caplog.at_level(logging.INFO, "rvlr"):
        run(images, "rows.csv", WITH_SPLITS, name="mine", cache={"short_side": 64})
    about = files.read_json(images.parent / "out-rows.csv" / "splits" / "dataset.json")
    assert about["image_root"] == str(images)
    assert about["counts"]["test"] == {"images": 2, "captions": 3}
    assert about["name"] == "mine"
    assert about["cache"] == {"short_side": 64, "format": "jpeg", "quality": 95}
    assert about["captions_sha256"] == provenance.sha256(images.parent / "rows.csv")
    assert about["splits_from"] == {"source": "file"}
    assert "mine: splits by file" in caplog.text
    assert "2 train, 2 val, 2 test images" in caplog.text
    assert "check images 6/6" in caplog.text


def _many(images: Path, count: int) -> list[dict[str, object]]:
    for number in range(count):
        shutil.copy(images / "a.jpg", images / f"{number}.jpg")
    return [record(f"{number}.jpg", [f"number {number}"]) for number in range(count)]


def test_drawn_splits_do_not_depend_on_the_order_of_records(images: Path) -> None:
    records, ratio = _many(images, 40), SplitRatio(val=0.2, test=0.1, seed=3)
    forward = run(images, "f.jsonl", lines(*records), split=ratio)
    backward = run(images, "b.json", json.dumps(records[::-1]), split=ratio)
    for name, count in {"train": 28, "val": 8, "test": 4}.items():
        assert len(forward[name].records) == count
        assert forward[name].records == backward[name].records
    images_used = [r.image for name in SPLITS for r in forward[name].records]
    assert sorted(images_used) == sorted(str(r["image"]) for r in records)
    about = files.read_json(images.parent / "out-b.json" / "splits" / "dataset.json")
    assert about["splits_from"] == {"source": "ratio", **ratio.model_dump()}


def test_folds_have_disjoint_test_splits_and_the_first_is_what_is_drawn_without_folds(images: Path) -> None:
    text = lines(*_many(images, 40))
    plain = run(images, "c.jsonl", text, split=SplitRatio(test=0.25))
    folds = [run(images, "c.jsonl", text, split=SplitRatio(test=0.25, fold=fold)) for fold in range(4)]
    assert folds[0] == plain
    tested = [record.image_id for fold in folds for record in fold["test"].records]
    assert len(set(tested)) == len(tested) == 40
    for fold in folds:
        assert [len(fold[name].records) for name in SPLITS] == [26, 4, 10]
        assert len({record.image_id for name in SPLITS for record in fold[name].records}) == 40


def test_a_fold_that_does_not_exist(images: Path) -> None:
    with pytest.raises(ValueError, match=r"fold is 2, but a test share of 0\.4 has only the folds 0 to 1"):
        SplitRatio(test=0.4, fold=2)
    text = message(images, "c.jsonl", lines(*_many(images, 10)), split=SplitRatio(val=0.2, test=0.1, fold=7))
    assert "dataset.split.fold: 7 needs more than the 10 images" in text


def test_splits_of_the_file_can_be_drawn_again(images: Path) -> None:
    records = _many(images, 40)
    named = [
        {**record, "split": name} for record, name in zip(records, ["train", "val", "test", "train"] * 10, strict=True)
    ]
    drawn = run(images, "c.jsonl", lines(*records))
    assert run(images, "named.jsonl", lines(*named)) != drawn
    again = run(images, "named.jsonl", lines(*named), split=SplitRatio(redraw=True))
    assert {name: split.records for name, split in again.items()} == {name: s.records for name, s in drawn.items()}
    twice = [*named, {**named[0], "split": "val"}]  # ignored like all others
    assert run(images, "twice.jsonl", lines(*twice), split=SplitRatio(redraw=True))["test"].records
    text = message(images, "fold.jsonl", lines(*named), split=SplitRatio(fold=1))
    assert "dataset.split.fold: 1 would change nothing; set dataset.split.redraw: true" in text


def test_drawn_splits_depend_on_the_seed_alone(images: Path) -> None:
    text = lines(*_many(images, 40))
    zero, again, one = (run(images, "c.jsonl", text, split=SplitRatio(seed=seed)) for seed in (0, 0, 1))
    assert zero["val"].records == again["val"].records
    assert zero["val"].records != one["val"].records
    # pinned: the same seed must give the same splits with any version of any library
    assert [r.image_id for r in zero["val"].records] == ["11", "13", "38", "5"]


def test_smallest_drawn_splits_hold_one_train_and_two_val_and_test_images(images: Path) -> None:
    splits = run(images, "c.jsonl", lines(*FEWEST))
    assert [len(splits[name].records) for name in SPLITS] == [1, 2, 2]


def test_smallest_splits_of_the_file_hold_one_train_and_two_val_and_test_images(images: Path) -> None:
    splits = run(images, "c.jsonl", lines(TRAIN, VAL, TEST, VAL2, TEST2))
    assert [len(splits[name].records) for name in SPLITS] == [1, 2, 2]


def test_ratio_that_leaves_no_training_images(images: Path) -> None:
    text = message(images, "c.jsonl", lines(*_many(images, 10)), split=SplitRatio(val=0.5, test=0.49))
    assert "images found: 10; val takes 5 (0.5) and test 5 (0.49), which leaves no train" in text


def test_links_within_the_folder_are_followed(images: Path) -> None:
    (images / "link.jpg").symlink_to("sub/d.jpg")
    splits = run(images, "c.jsonl", lines(A, B, C, E, record("link.jpg")))
    assert sum(len(split.records) for split in splits.values()) == 5


def test_real_photographs(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "flickr8k-mini"
    found = {}
    for name in ("captions.json", "captions.csv"):
        section = Custom(kind="custom", images=data / "images", captions=data / name)
        custom.prepare(section, tmp_path / name)
        found[name] = [read_split(tmp_path / name / "splits" / f"{split}.jsonl") for split in SPLITS]
    assert [len(split.records) for split in found["captions.json"]] == [600, 100, 100]
    assert {len(r.captions) for split in found["captions.json"] for r in split.records} == {5}
    assert found["captions.json"] == found["captions.csv"]


def test_real_photograph_cut_short(shared: Path, images: Path) -> None:
    source = sorted((shared / "data" / "flickr8k-mini" / "images").glob("*.jpg"))[0]
    data = source.read_bytes()
    (images / "c.jpg").write_bytes(data[: len(data) // 2])
    assert "line 3: image 'c.jpg' cannot be read: " in message(images, "c.jsonl", lines(*FEWEST))
