"""Speed of the training's loader, and how many cores one GPU needs: `python benchmarks/loading.py`.

Measures the training's own loader (decode, crop, augment, tokenise, collate; default settings, Swin-B's 384 pixels):
decoding JPEGs in full, decoding them at reduced size as training does, and reading a cache of scaled copies. The best
of three epochs counts. Images per core are computed from CPU time, which other programs on the machine hardly change.
Files come from memory: a slow disk is not measured.

`--splits DIR` measures photographs of your own. Otherwise stand-ins are made from the photographs of 200 pixels in the
folder that the variable RVLR_SHARED names: enlarged, with grain added, so that a file of 640 pixels has 120 kB (COCO's
average: 163 kB).
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rvlr import config
from rvlr.data.images import ImageTransform, training_transform
from rvlr.data.loading import Loader, PairCollator, TrainingPairs, TrainingSchedule
from rvlr.data.records import Record, Split, read_split
from rvlr.data.text import learn_tokenizer
from rvlr.datasets import cache

PHOTOGRAPHS = Path(os.environ.get("RVLR_SHARED", ""), "data/flickr8k-mini/images")
SIZES = (640, 3000)  # long side of the stand-ins, pixels
REPEATS = 3
GRAIN = 10.0  # standard deviation of the grain, levels of 255
# An estimate, for Swin-B at 384 pixels on an H100: 47 GMAC per image forwards, 2 FLOP per MAC, backwards twice as much;
# 989 TFLOP/s (bf16, dense) at 40 % use. The text and fusion layers are not counted, so the real rate is lower.
GPU_IMAGES_PER_SECOND = 0.4 * 989e12 / (3 * 2 * 47e9)


def stand_ins(folder: Path, images: int) -> Iterator[tuple[str, Split]]:
    """The photographs at each size of SIZES, as splits in `folder`."""
    sources = sorted(PHOTOGRAPHS.glob("*.jpg"))[:images]
    noise = np.random.default_rng(0).normal(0, GRAIN, (SIZES[-1], SIZES[-1], 1))
    for long_side in SIZES:
        root = folder / str(long_side)
        root.mkdir()
        for source in sources:
            with Image.open(source) as image:
                size = [round(side * long_side / max(image.size) / 8) * 8 for side in image.size]
                pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=float)
            pixels = (pixels + noise[: size[1], : size[0]]).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / source.name, quality=90)
        records = [Record(source.stem, source.name, ("two dogs run over a green meadow",)) for source in sources]
        yield f"stand-ins, {long_side} px", Split("train", records, root)


def images_per_second(split: Split, transform: ImageTransform, batch_size: int, workers: int) -> tuple[float, float]:
    """The rate of the training loader, by the clock and by CPU time; the start of its workers is included."""
    for index in range(len(split.records)):
        split.path(index).read_bytes()
    loader = Loader(
        TrainingPairs(split, transform, seed=0),
        workers,
        batch_sampler=TrainingSchedule(len(split.captions), batch_size, epochs=1, seed=0),
        collate=PairCollator(learn_tokenizer(split.captions), max_words=60, max_tokens=40),
    )
    rates = []
    for _ in range(REPEATS):
        begun, busy = time.perf_counter(), sum(os.times()[:4])
        images = sum(len(batch["pixels"]) for batch in loader)
        rates.append((images / (time.perf_counter() - begun), images / (sum(os.times()[:4]) - busy)))
    by_clock, by_cpu = zip(*rates, strict=True)
    return max(by_clock), max(by_cpu)


def main() -> None:
    """Measure and print the table."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=Path, help="splits folder, such as results/vizwiz/splits; originals are read")
    parser.add_argument("--images", type=int, default=360, help="how many training images to read")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--short-side", type=int, default=config.Cache().short_side, help="of the cached copies")
    parser.add_argument(
        "--gpu-images-per-second",
        type=float,
        default=GPU_IMAGES_PER_SECOND,
        help="what one GPU trains; default: an estimate for Swin-B on an H100, %(default).0f",
    )
    arguments = parser.parse_args()
    if arguments.splits is None and not PHOTOGRAPHS.is_dir():
        parser.error("no photographs: set the variable RVLR_SHARED, or give --splits")

    vision, training = config.Vision(), config.Training()
    transform = training_transform(vision.image_size, vision.mean, vision.std, training.augmentation)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.splits is None:
            measured = stand_ins(folder, arguments.images)
        else:
            split = read_split(arguments.splits / "train.jsonl", originals=True)
            measured = iter([(str(split.image_root), replace(split, records=split.records[: arguments.images]))])
        needed = arguments.gpu_images_per_second
        sys.stdout.write(f"{arguments.workers} workers; one GPU needs {needed:,.0f} images/s\n\n")
        rows = []
        for photographs, split in measured:
            cache.build([split], config.Cache(short_side=arguments.short_side), folder / "cache", arguments.workers)
            copies = replace(split, image_root=folder / "cache")
            slowest = None
            for label, source, at_least in (
                ("originals, decoded in full", split, None),
                ("originals", split, transform.at_least),
                (f"cache, short side {arguments.short_side} px", copies, transform.at_least),
            ):
                chosen = ImageTransform(transform.transforms, at_least)
                by_clock, by_cpu = images_per_second(source, chosen, training.batch_size, arguments.workers)
                slowest = slowest or by_cpu
                size = np.mean([source.path(index).stat().st_size for index in range(len(source.records))]) / 1e3
                rows.append((photographs, size, label, by_clock, by_cpu, by_cpu / slowest, needed / by_cpu))
    columns = ("photographs", "kB each", "read as", "images/s", "images/s per core", "ratio", "cores for one GPU")
    table = pd.DataFrame(rows, columns=columns)
    formats = ("", ",.0f", "", ",.0f", ",.0f", ".1f", ",.0f")
    sys.stdout.write(table.to_markdown(index=False, floatfmt=formats) + "\n")


if __name__ == "__main__":
    main()
