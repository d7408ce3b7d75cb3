"""Relevance by words and by scenes, on test splits of `shapes`: `python benchmarks/scenes.py [--test N] [--seed N]`.

Prints as Markdown, for each value of the knob `imbalance`, how well ROUGE-L and scenes agree: Spearman's rho over all
ordered pairs of different images (relevance of an image to an image: the mean over the captions of the query), over all
pairs of a caption and another image, and its mean over queries, as lists are ranked. Then NDCG@10 of I->I for images in
the order of each relevance and in random order, judged by each. Only captions and scenes are needed: no image is drawn,
no model run. Last, the time of the two matrices.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

from rvlr import relevance
from rvlr.config import Relevance, Shapes
from rvlr.data.records import Record, Split
from rvlr.datasets import shapes
from rvlr.evaluation import metrics

IMBALANCES = (-0.5, 0.0, 0.5, 0.8)
CUTOFF = 10


def test_split(section: Shapes) -> Split:
    """The captions of the test split, without images."""
    drawn = shapes.scenes(section)["test"]
    texts = (tuple(text for text, _ in shapes.captions(section, "test", *scene)) for scene in enumerate(drawn))
    records = [Record(f"test-{index:05d}", f"{index}.png", captions) for index, captions in enumerate(texts)]
    return Split("test", records, Path())


def of_images(matrix: np.ndarray, split: Split) -> np.ndarray:
    """The relevance of images to images (N, N - 1), the query left out: row by row the mean over its captions."""
    means = np.add.reduceat(matrix, split.offsets[:-1], axis=0) / np.diff(split.offsets)[:, None]
    return without(means, np.arange(len(means)))


def without(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rows (R, N) without one column each, (R, N - 1)."""
    kept = np.ones(rows.shape, dtype=bool)
    kept[np.arange(len(rows)), columns] = False
    return rows[kept].reshape(len(rows), -1)


def mean_rho(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rho of each row (R, N), averaged."""
    ranks = [rankdata(rows, axis=1) for rows in (one, other)]
    first, second = (values - values.mean(axis=1, keepdims=True) for values in ranks)
    norms = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return float(((first * second).sum(axis=1) / norms).mean())


def ndcg(scores: np.ndarray, gains: np.ndarray) -> float:
    """NDCG of the order of `scores`, (N, N - 1) as `gains`, in percent."""
    found = np.take_along_axis(gains, metrics.top_k(scores, gains, CUTOFF), axis=1)
    return 100 * float(metrics.ndcg_at_k(found, metrics.top_gains(gains, CUTOFF), CUTOFF).mean())


def matrices(section: Shapes, folder: Path) -> tuple[Split, list[np.ndarray], list[float]]:
    """The test split, its two matrices (C, N), by words and by scenes, and the seconds that each took."""
    split, found, seconds = test_split(section), [], []
    for name in ("words", "scenes"):
        path, start = folder / f"{name}.npy", time.perf_counter()
        if name == "words":
            relevance.write(split, Relevance(), path)
        else:
            relevance.write_scenes(split, section, path)
        seconds.append(time.perf_counter() - start)
        found.append(np.array(relevance.read(path, split, by_scenes=name == "scenes")))
    return split, found, seconds


def compare(split: Split, words: np.ndarray, scenes: np.ndarray, seed: int) -> dict[str, str]:
    """One row of the table."""
    images = [of_images(matrix, split) for matrix in (words, scenes)]
    texts = [without(matrix, split.caption_image) for matrix in (words, scenes)]
    at_random = np.random.default_rng(seed).random(images[0].shape, dtype=np.float32)
    row = {
        "image pairs": f"{spearmanr(images[0].ravel(), images[1].ravel()).statistic:.3f}",
        "an image's list": f"{mean_rho(*images):.3f}",
        "caption, image": f"{spearmanr(texts[0].ravel(), texts[1].ravel()).statistic:.3f}",
        "a caption's list": f"{mean_rho(*texts):.3f}",
    }
    for judge, gains in zip(("words", "scenes"), images, strict=True):
        orders = {"scenes" if judge == "words" else "words": images[0 if judge == "scenes" else 1], "random": at_random}
        row |= {f"by {judge}: order of {name}": f"{ndcg(order, gains):.1f}" for name, order in orders.items()}
    return row


def main() -> None:
    """Print the table and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", type=int, default=400, help="number of test images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    arguments = parser.parse_args()
    rows, taken = {}, []
    for imbalance in IMBALANCES:
        section = Shapes(train=1, val=2, test=arguments.test, seed=arguments.seed, imbalance=imbalance)
        with tempfile.TemporaryDirectory() as folder:
            split, found, seconds = matrices(section, Path(folder))
        rows[str(imbalance)] = compare(split, *found, arguments.seed)
        taken.append(seconds)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("imbalance").reset_index()
    words, scenes = np.max(taken, axis=0)
    sys.stdout.write(f"{arguments.test:,} images, {len(split.captions):,} captions, seed {arguments.seed}\n\n")
    sys.stdout.write(table.to_markdown(index=False, disable_numparse=True) + "\n\n")
    sys.stdout.write(f"The slowest matrix by words took {words:.1f} s, by scenes {scenes:.1f} s.\n")


if __name__ == "__main__":
    main()
