"""MS-COCO, Flickr30K and VizWiz in miniature: archives and annotations with the originals' names, folders and keys."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import annotations
import numpy as np
import swin_original
import torch
from archives import make_tar, make_zip
from PIL import Image
from transformers import BertConfig, BertModel

from rvlr.config.sources import SOURCES
from rvlr.data.text import learn_tokenizer

COUNTS = {"train": 20, "val": 6, "test": 6}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
COLOURS = {"red": (220, 30, 40), "green": (30, 200, 60), "blue": (40, 60, 220), "grey": (120, 120, 120)}


def captions_of(number: int) -> list[str]:
    colour = list(COLOURS)[number % 4]
    return [f"A {colour} picture, number {number}, seen {times} times." for times in range(1, 6)]


def jpeg(number: int) -> bytes:
    """A small picture in its colour, with noise."""
    noise = np.random.default_rng(number).integers(-25, 25, (36, 48, 3))
    pixels = np.clip(np.array(list(COLOURS.values())[number % 4]) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """With entries for folders, as the originals have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folders = sorted({f"{name.rpartition('/')[0]}/" for name in members if "/" in name})
    make_zip(path, [*((folder, b"") for folder in folders), *members.items()])


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def karpathy(names: Mapping[str, tuple[str, int]], dataset: str) -> dict[str, Any]:
    """Karpathy's JSON; names: image path -> its split and number. Flickr30K's has no `filepath`."""
    images = []
    for image, (split, number) in names.items():
        folder, _, file = image.rpartition("/")
        more = {"filepath": folder, "cocoid": number} if dataset == "coco" else {}
        images.append(annotations.karpathy(file, split, captions_of(number), **more))
    return {"images": images, "dataset": dataset}


def evaluation_list(names: Mapping[str, int]) -> list[dict[str, Any]]:
    return [annotations.listed(image, captions_of(number)) for image, number in names.items()]


def training_list(names: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        annotations.single(image, caption, number) for image, number in names.items() for caption in captions_of(number)
    ]


def write_captions(root: Path, archive: Mapping[str, Any]) -> None:
    members = {f"dataset_{name}.json": json.dumps(value).encode() for name, value in archive.items()}
    write_zip(root / SOURCES["karpathy-captions"].file, members)


def make_coco(root: Path) -> None:
    """Below `root`, every file of MS-COCO where `SOURCES` keeps it: 14 + 6 (restval) train, 6 val and 6 test images."""
    splits = ["train"] * 14 + ["restval"] * 6 + ["val"] * 6 + ["test"] * 6
    names = {}
    for number, split in enumerate(splits, 1):
        folder = "train2014" if split == "train" else "val2014"
        names[f"{folder}/COCO_{folder}_{number:012d}.jpg"] = (split, number)
    for folder in ("train2014", "val2014"):
        members = {name: jpeg(number) for name, (_, number) in names.items() if name.startswith(folder)}
        write_zip(root / SOURCES[f"coco-{folder}"].file, members)
    write_captions(root, {"coco": karpathy(names, "coco")})
    for split in ("val", "test"):
        chosen = {name: number for name, (own, number) in names.items() if own == split}
        write_json(root / SOURCES[f"coco-{split}-captions"].file, evaluation_list(chosen))


def make_flickr30k(root: Path) -> None:
    """As `make_coco`, for Flickr30K; the archive of images is a .tar.gz under the name of a .zip."""
    splits = [split for split, count in COUNTS.items() for _ in range(count)]
    names = {f"flickr30k-images/{1000 + number}.jpg": (split, number) for number, split in enumerate(splits)}
    members = {name: jpeg(number) for name, (_, number) in names.items()}
    archive = root / SOURCES["flickr30k-images"].file
    archive.parent.mkdir(parents=True)
    make_tar(archive, [*members.items(), ("flickr30k-images/readme.txt", b"terms")])
    write_captions(root, {"flickr30k": karpathy(names, "flickr30k")})
    for split in COUNTS:
        chosen = {name: number for name, (own, number) in names.items() if own == split}
        make = training_list if split == "train" else evaluation_list
        write_json(root / SOURCES[f"flickr30k-{split}-captions"].file, make(chosen))


def make_vizwiz(root: Path) -> None:
    """As `make_coco`, for VizWiz: 26 training images, of which 6 are to be held out, and 6 of its val to test on."""
    train = {f"train/VizWiz_train_{number:08d}.jpg": number for number in range(26)}
    val = {f"val/VizWiz_val_{number:08d}.jpg": number for number in range(26, 34)}
    for folder, names in {"train": train, "val": val}.items():
        write_zip(
            root / SOURCES[f"vizwiz-{folder}-images"].file, {name: jpeg(number) for name, number in names.items()}
        )
    write_json(root / SOURCES["vizwiz-train-captions"].file, training_list(train))
    test = dict(list(val.items())[:6])
    write_json(root / SOURCES["vizwiz-test-captions"].file, evaluation_list(test))


def make_weights(root: Path) -> None:
    """A tiny BERT under the names of the original's files, and a tiny Swin in the layout of Microsoft's."""
    tokenizer = learn_tokenizer([caption for number in range(40) for caption in captions_of(number)])
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
        )
    )
    folder = root / "weights/bert-base-uncased"
    bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)) + "\n")
    state = swin_original.weights(
        SWIN["embed_dim"], SWIN["depths"], SWIN["num_heads"], window=2, side=32, classes=10, seed=0
    )
    torch.save({"model": state}, root / SOURCES["swin-base-22k"].file)
