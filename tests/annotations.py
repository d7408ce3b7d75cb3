"""Annotation files of the public data sets in miniature, in the layouts of the real ones, and what is made of them."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rvlr import files
from rvlr.config.datasets import Coco, Counts, Flickr30K, VizWiz
from rvlr.config.sources import SOURCES
from rvlr.data.records import SPLITS, Record, read_split
from rvlr.datasets import public

Contents = dict[str, Any]  # of the annotation files by their keys in SOURCES, of archives by member


def texts(name: str, count: int = 5) -> list[str]:
    return [f"Caption {number} of {name}." for number in range(count)]


def karpathy(filename: str, split: str, captions: list[str], **more: Any) -> dict[str, Any]:
    """One image as in Karpathy's files, with all keys that those of Flickr30K have."""
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "imgid": 0, "sentid": number}
        for number, text in enumerate(captions)
    ]
    return {"sentids": [0], "imgid": 0, "sentences": sentences, "split": split, "filename": filename, **more}


def coco_image(number: int, split: str, captions: int = 5) -> dict[str, Any]:
    folder = "train2014" if split == "train" else "val2014"
    name = f"COCO_{folder}_{number:012d}.jpg"
    return karpathy(name, split, texts(name, captions), filepath=folder, cocoid=number)


def listed(image: str, captions: list[str] | None = None) -> dict[str, Any]:
    """One image as in the paper's val and test files."""
    return {"image": image, "caption": texts(image) if captions is None else captions}


def single(image: str, caption: str, image_id: int = 0) -> dict[str, Any]:
    """One caption as in the paper's train files."""
    return {"image": image, "caption": caption, "image_id": image_id}


def flickr(number: int) -> str:
    return f"flickr30k-images/{number}.jpg"


def vizwiz(split: str, number: int) -> str:
    return f"{split}/VizWiz_{split}_{number:08d}.jpg"


def coco_contents() -> Contents:
    images = [
        coco_image(9, "test", 6),
        coco_image(7, "restval"),
        coco_image(3, "val", 6),
        coco_image(5, "train", 7),
        coco_image(1, "train", 5),
        coco_image(4, "val"),
        coco_image(8, "test"),
    ]
    contents: Contents = {"karpathy-captions": {"dataset_coco.json": {"images": images, "dataset": "coco"}}}
    for split in ("val", "test"):
        contents[f"coco-{split}-captions"] = [
            listed(f"val2014/{image['filename']}", [sentence["raw"] for sentence in image["sentences"]])
            for image in images
            if image["split"] == split
        ]
    return contents


def flickr_contents() -> Contents:
    train = [single(flickr(image), text, image) for text in texts("a photograph", 6) for image in (22, 11, 33)]
    val, test = [listed(flickr(number)) for number in (55, 44)], [listed(flickr(number)) for number in (77, 66)]
    images = [karpathy(f"{image}.jpg", "train", texts("a photograph", 6)) for image in (22, 11, 33)]
    for split, items in (("val", val), ("test", test)):
        images += [karpathy(Path(item["image"]).name, split, item["caption"]) for item in items]
    return {
        "flickr30k-train-captions": train,
        "flickr30k-val-captions": val,
        "flickr30k-test-captions": test,
        "karpathy-captions": {"dataset_flickr30k.json": {"images": images, "dataset": "flickr30k"}},
    }


def vizwiz_official(split: str, images: int) -> dict[str, Any]:
    """As VizWiz publishes them: image 1 has a rejected and a precanned caption, image 2 no others."""
    annotations = []
    for image in range(images):
        name = vizwiz(split, image)
        for number, text in enumerate(texts(name)):
            dropped = image == 2 or (image == 1 and number in (0, 3))
            annotations.append(
                {
                    "caption": "" if dropped else text,
                    "image_id": 100 + image,
                    "is_precanned": dropped and number % 2 == 1,
                    "is_rejected": dropped and number % 2 == 0,
                    "text_detected": False,
                    "id": len(annotations),
                }
            )
    return {
        "info": {"description": "VizWiz"},
        "images": [
            {"file_name": Path(vizwiz(split, image)).name, "vizwiz_url": "", "id": 100 + image, "text_detected": True}
            for image in range(images)
        ],
        "annotations": annotations[::-1],
    }


def vizwiz_contents() -> Contents:
    train = [single(vizwiz("train", image), text, image) for image in range(12) for text in texts("a shelf", 6)]
    official = {"train.json": vizwiz_official("train", 12), "val.json": vizwiz_official("val", 4)}
    official["test.json"] = {"images": [], "info": {}}
    return {
        "vizwiz-train-captions": train,
        "vizwiz-test-captions": [listed(vizwiz("val", image)) for image in (772, 5)],
        "vizwiz-official-captions": official,
    }


COCO = Coco(kind="coco", counts=Counts(train=3, val=2, test=2))
FLICKR = Flickr30K(kind="flickr30k", counts=Counts(train=3, val=2, test=2))
VIZWIZ = VizWiz(kind="vizwiz", val_images=4, counts=Counts(train=None, val=None, test=2))
CONTENTS = {"coco": coco_contents, "flickr30k": flickr_contents, "vizwiz": vizwiz_contents}


def lay(folder: Path, contents: Contents) -> dict[str, Path]:
    """Write annotation files, archives as zip files with more members; text and bytes are written as they are."""

    def data(value: Any) -> bytes:
        text = value if isinstance(value, str | bytes) else json.dumps(value)
        return text.encode() if isinstance(text, str) else text

    files = {}
    for key, value in contents.items():
        files[key] = folder / Path(SOURCES[key].file).name
        if files[key].suffix == ".json" or isinstance(value, str | bytes):
            files[key].write_bytes(data(value))
            continue
        inside = "annotations/" if key == "vizwiz-official-captions" else ""
        with zipfile.ZipFile(files[key], "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in value.items():
                archive.writestr(f"__MACOSX/{inside}._{member}", b"\0\5\26\7")
                archive.writestr(inside + member, data(content))
    return files


def run(
    folder: Path, section: public.PublicSection, contents: Contents | None = None
) -> tuple[dict[str, Sequence[Record]], dict[str, Any]]:
    """Prepare from miniatures; returns the records of the splits, and `dataset.json`."""
    made = CONTENTS[section.kind]() if contents is None else contents
    needed = section.annotation_sources.values()
    paths = lay(folder, {key: value for key, value in made.items() if key in needed})
    public.make_splits(section, paths, "/photographs", folder / "out")
    splits = folder / "out" / "splits"
    records = {name: read_split(splits / f"{name}.jsonl").records for name in SPLITS}
    return records, files.read_json(splits / "dataset.json")
