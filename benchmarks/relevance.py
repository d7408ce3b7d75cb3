"""Time and memory of a full-size relevance matrix, compared with the obvious code, which works pair by pair.

For `rouge-score` the obvious code is the package itself, for `coco-caption` it is the algorithm of pycocoevalcap.

    python benchmarks/relevance.py [CAPTIONS.json] [--scorer rouge-score|coco-caption] [--stemmer]

CAPTIONS.json is a file of the authors: a list of {"image", "caption": [..]}. Without it, captions are made up: 25,000
captions of 5,000 images, as many as COCO 5K has, from 7,000 words with the frequencies of a natural language.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rouge_score.rouge_scorer import RougeScorer

from rvlr import files, log, relevance

PAIRS = 2_000


def made_up() -> list[list[str]]:
    """5,000 images with 5 captions of 7 to 16 words each."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, 7_001)
    words = rng.choice(7_000, size=(25_000, 16), p=frequency / frequency.sum())
    captions = [
        " ".join(f"w{word}" for word in row[:size])
        for row, size in zip(words, rng.integers(7, 17, 25_000), strict=True)
    ]
    return [captions[start : start + 5] for start in range(0, 25_000, 5)]


def peak_memory() -> float:
    """The largest resident set of this process so far, in GiB, including the mapped output."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(
    captions_file: Annotated[Path | None, typer.Argument()] = None, scorer: str = "rouge-score", stemmer: bool = False
) -> None:
    log.setup()
    images = made_up()
    if captions_file is not None:
        images = [record["caption"] for record in files.read_json(captions_file, list)]
    captions = [caption for group in images for caption in group]
    offsets = np.cumsum([0, *map(len, images)])
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "relevance.npy"
        before, begun = peak_memory(), time.perf_counter()
        relevance.compute(captions, offsets, output, scorer, stemmer)
        taken = time.perf_counter() - begun
        matrix = np.load(output, mmap_mode="r")
        typer.echo(
            f"{scorer}{', stemmed' if stemmer else ''}: {len(captions):,} captions x {len(images):,} images in "
            f"{taken:.1f} s, {taken / len(captions) ** 2 * 1e9:.1f} ns per pair of captions; peak memory "
            f"{peak_memory():.2f} GiB, {before:.2f} GiB before"
        )
        compare(captions, offsets, matrix, taken, scorer, stemmer)


def coco_score(candidate: str, references: list[str]) -> float:
    """The algorithm of `Rouge.calc_score` in pycocoevalcap: a table of common subsequences for each reference."""
    words, precisions, recalls = candidate.split(" "), [], []
    for reference in (text.split(" ") for text in references):
        table = [[0] * (len(words) + 1) for _ in range(len(reference) + 1)]
        for i in range(1, len(reference) + 1):
            for j in range(1, len(words) + 1):
                if reference[i - 1] == words[j - 1]:
                    table[i][j] = table[i - 1][j - 1] + 1
                else:
                    table[i][j] = max(table[i - 1][j], table[i][j - 1])
        precisions.append(table[-1][-1] / len(words))
        recalls.append(table[-1][-1] / len(reference))
    precision, recall, square = max(precisions), max(recalls), relevance.BETA**2
    return (1 + square) * precision * recall / (recall + square * precision) if precision and recall else 0.0


def compare(
    captions: list[str], offsets: np.ndarray, matrix: np.ndarray, taken: float, scorer: str, stemmer: bool
) -> None:
    """Run the obvious code on a sample of captions and images: its time per pair, and the largest difference."""
    if scorer == "rouge-score":
        name, package = "rouge-score's own code", RougeScorer(["rougeL"], use_stemmer=stemmer)

        def reference(candidate: str, targets: list[str]) -> float:
            return max(package.score(target, candidate)["rougeL"].fmeasure for target in targets)
    else:
        name, reference = "pycocoevalcap's algorithm", coco_score
    rng, pairs, spent, difference = np.random.default_rng(1), 0, 0.0, 0.0
    while pairs < PAIRS:
        caption, image = rng.integers(len(captions)), rng.integers(len(offsets) - 1)
        targets = captions[offsets[image] : offsets[image + 1]]
        begun = time.perf_counter()
        value = reference(captions[caption], targets)
        spent += time.perf_counter() - begun
        pairs += len(targets)
        difference = max(difference, abs(float(np.float32(value)) - float(matrix[caption, image])))
    whole = spent / pairs * len(captions) ** 2
    typer.echo(
        f"{name}: {spent / pairs * 1e6:.0f} us per pair on {pairs:,} pairs, so {whole / 3600:.1f} h for all: "
        f"{whole / taken:,.0f} times as long; largest difference {difference:g}"
    )


if __name__ == "__main__":
    typer.run(main)
