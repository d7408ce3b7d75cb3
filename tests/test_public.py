"""The public data sets: splits made of miniatures in the real layouts, and of the four real files at hand."""

import hashlib
import logging
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from annotations import (
    COCO,
    FLICKR,
    VIZWIZ,
    Contents,
    coco_contents,
    flickr,
    flickr_contents,
    lay,
    run,
    single,
    texts,
    vizwiz,
    vizwiz_contents,
)

from rvlr import files, log, provenance
from rvlr.config.datasets import Cache, Counts, Flickr30K, VizWiz
from rvlr.config.sources import SOURCES
from rvlr.data.records import SPLITS, Record, read_split
from rvlr.datasets import annotations, public
from rvlr.datasets.annotations import File, Part

COCO_FOLDERS, FLICKR_FOLDERS, VIZWIZ_FOLDERS = ["train2014", "val2014"], ["flickr30k-images"], ["train", "val"]


def images(records: Sequence[Record]) -> list[str]:
    return [record.image for record in records]


def lengths(records: Sequence[Record]) -> list[int]:
    return [len(record.captions) for record in records]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """What was logged at a level."""
    monkeypatch.setattr(log.logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="rvlr")
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]


# --- sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "annotations"),
    [
        (COCO, ["karpathy-captions", "coco-val-captions", "coco-test-captions"]),
        (COCO.model_copy(update={"annotations": "karpathy"}), ["karpathy-captions"]),
        (FLICKR, ["flickr30k-train-captions", "flickr30k-val-captions", "flickr30k-test-captions"]),
        (FLICKR.model_copy(update={"annotations": "karpathy"}), ["karpathy-captions"]),
        (VIZWIZ, ["vizwiz-train-captions", "vizwiz-test-captions"]),
        (VIZWIZ.model_copy(update={"annotations": "official"}), ["vizwiz-official-captions"]),
    ],
)
def test_sources_are_known(section: public.PublicSection, annotations: list[str]) -> None:
    assert list(dict.fromkeys(section.annotation_sources.values())) == annotations
    assert set(annotations) <= SOURCES.keys()
    found = section.image_sources
    assert [Path(SOURCES[key].file).name for key in found.values()] == [f"{folder}.zip" for folder in found]


def test_workflow_can_ask_without_torch_and_pillow() -> None:
    code = "import sys, rvlr.datasets.public; print([name for name in ('torch', 'PIL') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- MS-COCO -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("annotations", ["authors", "karpathy"])
def test_coco(tmp_path: Path, annotations: str) -> None:
    splits, about = run(tmp_path, COCO.model_copy(update={"annotations": annotations}))
    assert images(splits["train"]) == [
        "val2014/COCO_val2014_000000000007.jpg",
        "train2014/COCO_train2014_000000000005.jpg",
        "train2014/COCO_train2014_000000000001.jpg",
    ]
    assert images(splits["val"]) == [f"val2014/COCO_val2014_{number:012d}.jpg" for number in (3, 4)]
    assert images(splits["test"]) == [f"val2014/COCO_val2014_{number:012d}.jpg" for number in (9, 8)]
    assert [lengths(splits[name]) for name in SPLITS] == [[5, 7, 5], [5, 5], [5, 5]]
    name = "val2014/COCO_val2014_000000000003"
    assert splits["val"][0] == Record(name, f"{name}.jpg", tuple(texts("COCO_val2014_000000000003.jpg")))
    assert (about["name"], about["annotations"], about["image_root"]) == ("coco", annotations, "/photographs")
    assert about["captions_per_image"] == 5
    assert about["val_from"] == {"source": "file"}
    assert about["cache"] is None
    assert about["notes"] == [
        f"The split {split} holds {found} images, the published one {paper}."
        for split, found, paper in (("train", 3, "113,287"), ("val", 2, "5,000"), ("test", 2, "5,000"))
    ]


def test_files_are_named_with_their_checksums(tmp_path: Path) -> None:
    _, about = run(tmp_path, COCO)
    with zipfile.ZipFile(tmp_path / "caption_datasets.zip") as archive:
        member = hashlib.sha256(archive.read("dataset_coco.json")).hexdigest()
    assert about["files"] == {
        "train": {
            "source": "karpathy-captions",
            "path": str(tmp_path / "caption_datasets.zip" / "dataset_coco.json"),
            "sha256": member,
        },
        "val": {
            "source": "coco-val-captions",
            "path": str(tmp_path / "coco_val.json"),
            "sha256": provenance.sha256(tmp_path / "coco_val.json"),
        },
        "test": {
            "source": "coco-test-captions",
            "path": str(tmp_path / "coco_test.json"),
            "sha256": provenance.sha256(tmp_path / "coco_test.json"),
        },
    }


@pytest.mark.parametrize(
    ("limit", "evaluated", "kept"), [(None, [6, 5], "all captions"), (2, [2, 2], "the first 2 captions")]
)
def test_coco_cuts_val_and_test_alone(tmp_path: Path, limit: int | None, evaluated: list[int], kept: str) -> None:
    splits, about = run(tmp_path, COCO.model_copy(update={"captions_per_image": limit, "cache": Cache()}))
    assert [lengths(splits[name]) for name in SPLITS] == [[5, 7, 5], evaluated, evaluated]
    assert about["notes"][-1] == f"Images of val, test keep {kept}, in the published splits the first 5."
    assert about["cache"] == Cache().model_dump()


# --- Flickr30K -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("annotations", ["authors", "karpathy"])
def test_flickr_cuts_train_too(tmp_path: Path, annotations: str) -> None:
    splits, about = run(tmp_path, FLICKR.model_copy(update={"annotations": annotations}))
    assert splits["train"] == [
        Record(f"flickr30k-images/{number}", flickr(number), tuple(texts("a photograph"))) for number in (22, 11, 33)
    ]
    assert images(splits["val"]) == [flickr(55), flickr(44)]
    assert images(splits["test"]) == [flickr(77), flickr(66)]
    assert not any("val images" in note for note in about["notes"])


@pytest.mark.parametrize("annotations", ["authors", "authors, val in train", "karpathy"])
def test_flickr_trains_on_val_if_asked(tmp_path: Path, said: Callable[[int], list[str]], annotations: str) -> None:
    contents = flickr_contents()
    if annotations == "authors, val in train":
        val = [single(flickr(44), text, 44) for text in texts(flickr(44))]
        contents["flickr30k-train-captions"] = val + contents["flickr30k-train-captions"]
    section = FLICKR.model_copy(update={"annotations": annotations.split(",")[0], "train_on_val": True})
    splits, about = run(tmp_path, section, contents)
    assert images(splits["train"]) == [flickr(number) for number in (22, 11, 33, 55, 44)]
    assert splits["train"][3:] == splits["val"]
    assert about["counts"]["train"] == {"images": 5, "captions": 25}
    warned = (
        "Train contains the 2 val images too, as published: val is seen data, and the epoch chosen on it may be one "
    )
    assert said(logging.WARNING) == [f"{warned}that overfits."]
    assert about["notes"][-1:] == said(logging.WARNING)
    assert not any("taken out" in note for note in about["notes"])


def test_flickr_val_images_in_the_train_file_are_taken_out(tmp_path: Path, said: Callable[[int], list[str]]) -> None:
    contents = flickr_contents()
    contents["flickr30k-train-captions"].append(single(flickr(44), "A man.", 44))
    splits, about = run(tmp_path, FLICKR, contents)
    assert images(splits["train"]) == [flickr(number) for number in (22, 11, 33)]
    assert about["notes"][0] == "The train file contains 1 val images; they were taken out of train."
    assert about["notes"][0] in said(logging.INFO)


# --- VizWiz --------------------------------------------------------------------------------------------------


def test_vizwiz_draws_val_from_train(tmp_path: Path, said: Callable[[int], list[str]]) -> None:
    splits, about = run(tmp_path, VIZWIZ)
    drawn = sorted(
        (vizwiz("train", image) for image in range(12)),
        key=lambda name: hashlib.sha256(f"0:{name.removesuffix('.jpg')}".encode()).digest(),
    )[:4]
    assert images(splits["val"]) == sorted(drawn)
    assert images(splits["train"]) == sorted({vizwiz("train", image) for image in range(12)} - set(drawn))
    assert images(splits["test"]) == [vizwiz("val", 772), vizwiz("val", 5)]
    assert [set(lengths(splits[name])) for name in SPLITS] == [{6}, {5}, {5}]
    assert about["val_from"] == {"source": "train", "images": 4, "seed": 0}
    assert about["files"]["val"] == about["files"]["train"]
    note = "Val is 4 images drawn from train with seed 0, since the published val is the test split; 8 are left to "
    assert about["notes"][0] == f"{note}train on."
    assert about["notes"][0] in said(logging.INFO)
    assert said(logging.WARNING) == []


def test_vizwiz_draw_hangs_on_the_seed_and_not_on_the_order(tmp_path: Path) -> None:
    contents = vizwiz_contents()
    random.Random(1).shuffle(contents["vizwiz-train-captions"])
    drawn = []
    for name, given, seed in (("as-is", None, 0), ("shuffled", contents, 0), ("seed", None, 1)):
        (tmp_path / name).mkdir()
        splits, _ = run(tmp_path / name, VIZWIZ.model_copy(update={"val_seed": seed}), given)
        drawn.append(set(images(splits["val"])))
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("annotations", ["authors", "official"])
def test_vizwiz_published_val_is_test(tmp_path: Path, said: Callable[[int], list[str]], annotations: str) -> None:
    section = VIZWIZ.model_copy(
        update={"annotations": annotations, "val": "published", "counts": Counts(train=None, val=None, test=None)}
    )
    splits, about = run(tmp_path, section)
    assert splits["val"] == splits["test"]
    assert about["val_from"] == {"source": "test"}
    assert about["files"]["val"] == about["files"]["test"]
    warned = "Val and test are the same images, as published: the epoch is chosen on the test images."
    assert said(logging.WARNING) == [warned]
    assert warned in about["notes"]


def test_vizwiz_official(tmp_path: Path, said: Callable[[int], list[str]]) -> None:
    section = VizWiz(kind="vizwiz", annotations="official", val_images=4)
    splits, about = run(tmp_path, section)
    assert images(splits["test"]) == [vizwiz("val", image) for image in (0, 1, 3)]
    assert lengths(splits["test"]) == [5, 3, 5]
    kept = [text for number, text in enumerate(texts(vizwiz("val", 1))) if number in (1, 2, 4)]
    assert splits["test"][1].captions == tuple(reversed(kept)), "in the order of the annotations"
    assert len(splits["val"]) == 4
    assert sorted(images([*splits["train"], *splits["val"]])) == [vizwiz("train", i) for i in range(12) if i != 2]
    assert about["notes"] == [
        "Of VizWiz's train.json, 7 rejected, precanned or blank captions were dropped, and 1 of 12 images left out "
        "that have no other.",
        "Of VizWiz's val.json, 7 rejected, precanned or blank captions were dropped, and 1 of 4 images left out "
        "that have no other.",
        "Val is 4 images drawn from train with seed 0, since the published val is the test split; 7 are left to train "
        "on.",
        "Test is all 3 images of VizWiz's val.json that have captions; which of them the paper drew, only the authors' "
        "file says (dataset.annotations: authors).",
    ]
    assert said(logging.INFO)[:4] == about["notes"]


def test_blank_captions_are_dropped_and_images_without_others(tmp_path: Path) -> None:
    contents = coco_contents()
    sentences = contents["karpathy-captions"]["dataset_coco.json"]["images"][3]["sentences"]
    sentences[2]["raw"], sentences[4]["raw"] = "\n", " "
    splits, about = run(tmp_path, COCO, contents)
    assert lengths(splits["train"]) == [5, 5, 5]
    place = tmp_path / "caption_datasets.zip" / "dataset_coco.json"
    assert f"2 blank captions of {place} dropped." in about["notes"]
    contents = flickr_contents()
    contents["flickr30k-train-captions"].append(single(flickr(99), " ", 99))
    splits, about = run(tmp_path, FLICKR, contents)
    assert flickr(99) not in images(splits["train"])
    assert any(note.startswith("1 blank caption of ") for note in about["notes"])


# --- real files ----------------------------------------------------------------------------------------------

REAL = {
    "coco-val-captions": (
        COCO_FOLDERS,
        5_000,
        25_010,
        "val2014/COCO_val2014_000000184613.jpg",
        "A child holding a flowered umbrella and petting a yak.",
    ),
    "flickr30k-val-captions": (
        FLICKR_FOLDERS,
        1_014,
        5_070,
        "flickr30k-images/1018148011.jpg",
        "A group of people stand in the back of a truck filled with cotton.",
    ),
    "flickr30k-test-captions": (
        FLICKR_FOLDERS,
        1_000,
        5_000,
        "flickr30k-images/1007129816.jpg",
        "The man with pierced ears is wearing glasses and an orange hat.",
    ),
    "vizwiz-test-captions": (
        VIZWIZ_FOLDERS,
        1_000,
        5_000,
        "val/VizWiz_val_00000772.jpg",
        "Some type of plastic container which says Every Now and Then and Karen Kingsbury",
    ),
}


def real_file(shared: Path, key: str) -> Path:
    return shared / "data" / "captions" / Path(SOURCES[key].file).name


def real(shared: Path, key: str) -> Part:
    return annotations.read_paper(File(real_file(shared, key), key), REAL[key][0], "test")


@pytest.mark.parametrize("key", REAL)
def test_published_files(shared: Path, key: str) -> None:
    _, count, captions, image, caption = REAL[key]
    part = real(shared, key)
    data = part.file.path.read_bytes()
    blob = b"blob %d\0" % len(data) + data
    assert SOURCES[key].origin.checksum == f"git:{hashlib.sha1(blob).hexdigest()}"
    assert len(part.records) == len({record.image_id for record in part.records}) == count
    assert sum(lengths(part.records)) == captions
    assert part.records[0].image == image
    assert part.records[0].image_id == image.removesuffix(".jpg")
    assert part.records[0].captions[0] == caption
    assert part.sha256 == hashlib.sha256(data).hexdigest()


def prepare_real(shared: Path, folder: Path, section: public.PublicSection, miniatures: Contents) -> dict[str, Any]:
    paths = lay(folder, miniatures)
    for key in section.annotation_sources.values():
        paths.setdefault(key, real_file(shared, key))
    public.make_splits(section, paths, "../images", folder)
    return files.read_json(folder / "splits" / "dataset.json")


def test_coco_real_val_is_cut_to_five_captions(shared: Path, tmp_path: Path) -> None:
    assert sum(length == 6 for length in lengths(real(shared, "coco-val-captions").records)) == 10
    contents = coco_contents()
    del contents["coco-val-captions"]
    section = COCO.model_copy(update={"counts": Counts(train=3, val=5_000, test=2)})
    about = prepare_real(shared, tmp_path, section, contents)
    assert about["counts"]["val"] == {"images": 5_000, "captions": 25_000}


def test_flickr_real_val_and_test(shared: Path, tmp_path: Path) -> None:
    train = {"flickr30k-train-captions": flickr_contents()["flickr30k-train-captions"]}
    section = Flickr30K(kind="flickr30k", train_on_val=True, counts=Counts(train=3, val=1_014, test=1_000))
    about = prepare_real(shared, tmp_path, section, train)
    assert about["counts"]["train"] == {"images": 1_017, "captions": 5_085}
    assert about["counts"]["val"] == {"images": 1_014, "captions": 5_070}
    assert about["counts"]["test"] == {"images": 1_000, "captions": 5_000}
    assert read_split(tmp_path / "splits" / "val.jsonl").image_root == tmp_path / "images"


def test_vizwiz_real_test(shared: Path, tmp_path: Path) -> None:
    train = {"vizwiz-train-captions": vizwiz_contents()["vizwiz-train-captions"]}
    about = prepare_real(shared, tmp_path, VizWiz(kind="vizwiz", val_images=4), train)
    assert about["counts"]["test"] == {"images": 1_000, "captions": 5_000}
    assert len(about["notes"]) == 1, "test holds as many images as published"
