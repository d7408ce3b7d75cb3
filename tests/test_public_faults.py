"""Annotation files that are not as published: what users get to read. Nothing is written then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotations import (
    COCO,
    CONTENTS,
    FLICKR,
    VIZWIZ,
    Contents,
    coco_contents,
    flickr,
    lay,
    listed,
    run,
    single,
    vizwiz,
)

from rvlr.config.datasets import Coco, Counts, VizWiz
from rvlr.config.sources import SOURCES
from rvlr.datasets import public
from rvlr.errors import UserError

COCO_KARPATHY = COCO.model_copy(update={"annotations": "karpathy"})
FLICKR_KARPATHY = FLICKR.model_copy(update={"annotations": "karpathy"})
OFFICIAL = VizWiz(kind="vizwiz", annotations="official", val_images=4)
VAL, TEST, FLICKR_TRAIN = "coco-val-captions", "coco-test-captions", "flickr30k-train-captions"
K, D, DF = "karpathy-captions", "dataset_coco.json", "dataset_flickr30k.json"
V = "vizwiz-official-captions"
IN_COCO = "it must be the path of an image in train2014 or val2014, without '..'"
MEND = "correct the file, or have sources.{} point to the published one"
GONE = object()


def change(*path: str | int, to: Any) -> Callable[[Contents], None]:
    """Put something else where the path through the contents leads to, or take away what is there."""

    def apply(contents: Contents) -> None:
        place: Any = contents
        for step in path[:-1]:
            place = place[step]
        if to is GONE:
            del place[path[-1]]
        else:
            place[path[-1]] = to

    return apply


# section, path to what is wrong (file, member of an archive, place), what is there, and how the lines begin that users
# read
FAULTY = {
    "not JSON": (COCO, (VAL,), "[{'image'", ["not valid JSON: key must be a string at line 1 column 3"]),
    "a page": (COCO, (VAL,), "<html>404</html>", ["not valid JSON: expected value at line 1 column 1"]),
    "cut short": (
        COCO,
        (VAL,),
        '[{"image": "val2014/a.jpg", "ca',
        ["not valid JSON: EOF while parsing a string"],
    ),
    "not UTF-8": (COCO, (VAL,), b'[{"image": "caf\xe9"}]', ["not valid JSON: invalid unicode code point"]),
    "half a character": (
        COCO,
        (VAL, 0, "image"),
        "\ud83d dog",
        ["not valid JSON: unexpected end of hex escape"],
    ),
    "too deep": (COCO, (VAL,), "[" * 100_000, ["not valid JSON: recursion limit exceeded"]),
    "no list": (
        COCO,
        (VAL,),
        {"a": 1},
        ["found a mapping, {'a': 1}; give a list of values, each a mapping with the keys image, caption"],
    ),
    "no record": (COCO, (VAL, 1), "a.jpg", ["[1]: found 'a.jpg' (text); give a mapping with the keys image, caption"]),
    "no image": (COCO, (VAL, 1, "image"), GONE, ["[1].image: missing; give text"]),
    "image a number": (COCO, (VAL, 0, "image"), 7, ["[0].image: found 7; give text"]),
    "absolute path": (COCO, (VAL, 0, "image"), "/val2014/a.jpg", [f"[0].image: found '/val2014/a.jpg'; {IN_COCO}"]),
    "path that climbs": (
        COCO,
        (VAL, 1, "image"),
        "val2014/../../a.jpg",
        [f"[1].image: found 'val2014/../../a.jpg'; {IN_COCO}"],
    ),
    "another data set's": (COCO, (VAL,), [listed(flickr(1))], [f"[0].image: found '{flickr(1)}'; {IN_COCO}"]),
    "several": (
        COCO,
        (VAL,),
        [listed("val2014/a.jpg", []), listed("val2014/b.jpg", ["a", "  ", 7])],
        [
            "[0].caption: found an empty list; give a list of texts, at least 1",
            "[1].caption[1]: found '  '; it must be a caption",
            "[1].caption[2]: found 7; give text",
        ],
    ),
    "train layout in a val file": (
        COCO,
        (VAL, 1),
        single("val2014/a.jpg", "A man."),
        ["[1].caption: found 'A man.' (text); give a list of texts, at least 1"],
    ),
    "val layout in a train file": (
        FLICKR,
        (FLICKR_TRAIN, 1),
        listed(flickr(11), ["A man."]),
        ["[1].caption: found a list of 1, ['A man.']; give text"],
    ),
    "Karpathy: no images": (
        COCO_KARPATHY,
        (K, D),
        {"dataset": "coco"},
        ["images: missing; give a list of values, each a mapping with the keys filepath, filename, split, sentences"],
    ),
    "Karpathy: unknown split": (
        COCO_KARPATHY,
        (K, D, "images", 2, "split"),
        "dev",
        ["images[2].split: found 'dev' (text); give one of 'train', 'restval', 'val', 'test'"],
    ),
    "Karpathy: no folder": (
        COCO_KARPATHY,
        (K, D, "images", 0, "filepath"),
        GONE,
        [f"images[0]: found 'COCO_val2014_000000000009.jpg'; {IN_COCO}"],
    ),
    "Karpathy: absolute file name": (
        FLICKR_KARPATHY,
        (K, DF, "images", 0, "filename"),
        "/etc/passwd",
        ["images[0]: found '/etc/passwd'; it must be the path of an image in flickr30k-images, without '..'"],
    ),
    "VizWiz: no mark": (
        OFFICIAL,
        (V, "train.json", "annotations", 0, "is_rejected"),
        GONE,
        ["annotations[0].is_rejected: missing; give true or false"],
    ),
    "VizWiz: caption of no image": (
        OFFICIAL,
        (V, "train.json", "annotations", 3, "image_id"),
        7,
        ["annotations[3].image_id: 7 is the id of none of the images"],
    ),
    "VizWiz: id twice": (
        OFFICIAL,
        (V, "val.json", "images", 3, "id"),
        100,
        [
            "images[3].id: 100 is the id of an image before; each needs one of its own",
            *(f"annotations[{number}].image_id: 103 is the id of none of the images" for number in range(5)),
        ],
    ),
}


def message(folder: Path, section: public.PublicSection, contents: Contents) -> str:
    """What the user reads. Nothing may have been written."""
    with pytest.raises(UserError) as caught:
        run(folder, section, contents)
    assert not (folder / "out").exists()
    return str(caught.value)


@pytest.mark.parametrize("case", FAULTY)
def test_faulty_file(tmp_path: Path, case: str) -> None:
    section, (key, *steps), found, faults = FAULTY[case]
    contents = CONTENTS[section.kind]()
    change(key, *steps, to=found)(contents)
    file = tmp_path / Path(SOURCES[key].file).name
    file = file / steps[0] if file.suffix == ".zip" else file
    count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    title, *lines = message(tmp_path, section, contents).split("\n  ")
    assert title == f"{file}: {count}; nothing was written; {MEND.format(key)}"
    assert len(lines) == len(faults)
    assert [part for line, part in zip(lines, faults, strict=True) if not line.startswith(part)] == [], lines


def test_many_faults_are_counted(tmp_path: Path) -> None:
    contents = coco_contents()
    contents[VAL] = [listed("a.jpg")] * 1_500
    lines = message(tmp_path, COCO, contents).split("\n")
    assert lines[0].startswith(f"{tmp_path / 'coco_val.json'}: 1,500 faults; ")
    assert len(lines) == 22
    assert lines[-1] == "  ... and 1,480 more"


SHARED = "but splits must share no image; " + MEND
WRONG = {
    "image twice": (
        COCO,
        lambda contents: contents[VAL].append(contents[VAL][1]),
        "{0}/coco_val.json: val holds image 'val2014/COCO_val2014_000000000004' more than once; " + MEND.format(VAL),
    ),
    "images twice": (
        COCO_KARPATHY,
        lambda contents: contents[K][D]["images"].extend(contents[K][D]["images"][2:4]),
        f"{{0}}/caption_datasets.zip/{D}: train holds image 'train2014/COCO_train2014_000000000005' more than once; "
        f"{MEND.format(K)}\n"
        f"{{0}}/caption_datasets.zip/{D}: val holds image 'val2014/COCO_val2014_000000000003' more than once; "
        f"{MEND.format(K)}",
    ),
    "same name, another extension": (
        VIZWIZ,
        change("vizwiz-train-captions", 71, to=single("train/VizWiz_train_00000003.png", "A shelf.")),
        "{0}/vizwiz_train.json: train holds image 'train/VizWiz_train_00000003' more than once; "
        + MEND.format("vizwiz-train-captions"),
    ),
    "test in train": (
        FLICKR,
        lambda contents: contents["flickr30k-test-captions"].extend([listed(flickr(11)), listed(flickr(33))]),
        "{0}/flickr30k_test.json: test holds 2 images, the first is 'flickr30k-images/11', that train "
        "({0}/flickr30k_train.json) holds too, " + SHARED.format("flickr30k-test-captions"),
    ),
    "test in val": (
        FLICKR.model_copy(update={"train_on_val": True}),
        lambda contents: contents["flickr30k-test-captions"].append(listed(flickr(44))),
        "{0}/flickr30k_test.json: test holds image 'flickr30k-images/44' that val ({0}/flickr30k_val.json) holds too, "
        + SHARED.format("flickr30k-test-captions"),
    ),
    "val in train": (
        COCO,
        change(K, D, "images", 2, "split", to="restval"),
        "{0}/coco_val.json: val holds image 'val2014/COCO_val2014_000000000003' that train "
        f"({{0}}/caption_datasets.zip/{D}) holds too, " + SHARED.format(VAL),
    ),
    "test of VizWiz in train": (
        VIZWIZ,
        change("vizwiz-train-captions", 71, to=single(vizwiz("val", 5), "A shelf.")),
        "{0}/vizwiz_test.json: test holds image 'val/VizWiz_val_00000005' that train ({0}/vizwiz_train.json) holds "
        "too, " + SHARED.format("vizwiz-test-captions"),
    ),
    "images missing": (
        Coco(kind="coco", counts=Counts(train=113_287, val=2, test=5_000)),
        lambda contents: None,
        f"coco: train: 113,287 images expected, 3 found in {{0}}/caption_datasets.zip/{D}; {MEND.format(K)}, or set "
        "dataset.counts.train to 3 if that is what you want to use\n"
        f"coco: test: 5,000 images expected, 2 found in {{0}}/coco_test.json; {MEND.format(TEST)}, or set "
        "dataset.counts.test to 2 if that is what you want to use",
    ),
    "counts without the val images in train": (
        FLICKR.model_copy(update={"train_on_val": True, "counts": Counts(train=4, val=2, test=2)}),
        lambda contents: contents[FLICKR_TRAIN].append(single(flickr(44), "A man.")),
        "flickr30k: train: 4 images expected, 3 found in {0}/flickr30k_train.json; "
        + MEND.format(FLICKR_TRAIN)
        + ", or set dataset.counts.train to 3 if that is what you want to use",
    ),
    "official test of another number than asked for": (
        OFFICIAL.model_copy(update={"counts": Counts(train=None, val=None, test=4)}),
        lambda contents: None,
        "vizwiz: test: 4 images expected, 3 found in {0}/annotations.zip/val.json; "
        + MEND.format(V)
        + ", or set dataset.counts.test to 3 if that is what you want to use",
    ),
    "one test image": (
        COCO_KARPATHY.model_copy(update={"counts": Counts(train=None, val=None, test=None)}),
        change(K, D, "images", 0, to=GONE),
        f"coco: test: 1 image found in {{0}}/caption_datasets.zip/{D}, at least 2 needed; {MEND.format(K)}",
    ),
    "more drawn than there are": (
        VIZWIZ.model_copy(update={"val_images": 12}),
        lambda contents: None,
        "vizwiz: dataset.val_images is 12, but {0}/vizwiz_train.json holds 12 images, of which some must be left to "
        "train on; lower it below 12",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_splits(tmp_path: Path, case: str) -> None:
    section, spoil, expected = WRONG[case]
    contents = CONTENTS[section.kind]()
    spoil(contents)
    assert message(tmp_path, section, contents) == expected.format(tmp_path)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    files = lay(tmp_path, coco_contents())
    files[VAL].unlink()
    with pytest.raises(UserError) as caught:
        public.make_splits(COCO, files, "/photographs", tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path / 'coco_val.json'}: no such file; fetch it with `rvlr data fetch {VAL}`, or {MEND.format(VAL)}"
    )


@pytest.mark.parametrize(
    "content", ["<html>404</html>", {"dataset_flickr8k.json": {}}], ids=["no archive", "no such member"]
)
def test_archive_that_is_not_the_published_one(tmp_path: Path, content: Any) -> None:
    contents = coco_contents() | {K: content}
    assert str(tmp_path / "caption_datasets.zip") in message(tmp_path, COCO, contents)
