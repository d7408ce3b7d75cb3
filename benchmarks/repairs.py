"""What each repair of the paper's protocol changes: `python benchmarks/repairs.py results/shapes student-rvlr`.

Starts from protocol `paper`, applies one repair at a time, then all repairs together, which gives protocol `corrected`.
The first and the last numbers are checked against `rvlr.evaluation`, except for the order of ties. Prints NDCG@10 and
R-mean, in percent, as a Markdown table. Its last rows show what the published code does to the same scores on more than
one GPU: docs/METHOD.md, "Where the published code differs".
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from rvlr import config, relevance
from rvlr.data.records import read_split
from rvlr.evaluation import corrected, metrics, paper
from rvlr.evaluation.inputs import NOT_A_CANDIDATE, Inputs
from rvlr.evaluation.scoring import device, score
from rvlr.models.retrieval import RetrievalModel

REPAIRS = {
    "query left out": "the query is in neither the list nor the ideal list",
    "all captions of an image query": "an image's relevance to an image is the mean over the query's captions",
    "every caption a query": "T→T and T→IT have every caption as a query",
    "matrices the right way round": "T→IT reads the query's own logits and relevance",
    "one scale": "mixed lists by standardised cosines",
    "ranks for all": "items that are not candidates follow by cosine",
}
Lists = tuple[np.ndarray, np.ndarray]


def image_query(inputs: Inputs, rows: np.ndarray, repairs: set[str], mixed: bool) -> Lists:
    """Scores and relevance of the lists of images `rows`: all images, and in mixed lists all captions."""
    scores = inputs.image_units[rows] @ inputs.image_units.T
    mean = "all captions of an image query" in repairs
    gains = inputs.image_relevance[rows] if mean else inputs.relevance[inputs.first_captions[rows]]
    leave_out(scores, gains, rows, repairs, mixed)
    if not mixed:
        return scores, gains
    texts = inputs.image_units[rows] @ inputs.text_units.T if "one scale" in repairs else inputs.scores_i2t[rows]
    return join(scores, texts, gains, inputs.caption_relevance(rows), repairs)


def text_query(inputs: Inputs, captions: np.ndarray, repairs: set[str], mixed: bool) -> Lists:
    """Scores and relevance of the lists of `captions`: in mixed lists all images, then all captions."""
    owners, first = inputs.caption_image[captions], inputs.first_captions
    scores = inputs.text_units[captions] @ inputs.text_units.T
    gains = inputs.caption_relevance(owners)
    if "matrices the right way round" in repairs:
        images, image_gains = inputs.scores_t2i[captions], inputs.relevance[captions]
    else:
        images, image_gains = inputs.scores_t2i[first][:, owners].T, gains[:, first]
    leave_out(scores, gains, captions, repairs, mixed)
    if not mixed:
        return scores, gains
    if "one scale" in repairs:
        images = inputs.text_units[captions] @ inputs.image_units.T
    return join(images, scores, image_gains, gains, repairs)


def leave_out(scores: np.ndarray, gains: np.ndarray, own: np.ndarray, repairs: set[str], mixed: bool) -> None:
    """Take the query out of its list. The paper sets both values to 0 in single-modal lists, none in mixed lists."""
    if "query left out" in repairs or not mixed:
        for values in (scores, gains):
            values[np.arange(len(own)), own] = -np.inf if "query left out" in repairs else 0


def join(images: np.ndarray, texts: np.ndarray, of_images: np.ndarray, of_texts: np.ndarray, repairs: set) -> Lists:
    """A mixed list: images first."""
    if "one scale" in repairs:
        images, texts = corrected.standardise(images), corrected.standardise(texts)
    return np.hstack([images, texts]), np.hstack([of_images, of_texts])


def ndcg(inputs: Inputs, direction: str, repairs: set[str]) -> float:
    """NDCG@10 in percent."""
    ask: Callable[..., Lists] = image_query if direction[0] == "i" else text_query
    everything = "every caption a query" in repairs
    images, captions = np.arange(len(inputs.image_embeds)), np.arange(len(inputs.text_embeds))
    queries = images if direction[0] == "i" else captions if everything else inputs.first_captions
    mixed, values = direction.endswith("it"), []
    for rows in np.split(queries, range(256, len(queries), 256)):
        scores, gains = ask(inputs, rows, repairs, mixed)
        depth = min(10, int(np.isfinite(scores[0]).sum()))
        found = np.take_along_axis(gains, metrics.top_k(scores, gains, depth), axis=1)
        ideal = metrics.top_gains(gains, depth)
        asked = ideal[:, 0] > 0
        values.append(metrics.ndcg_at_k(found[asked], ideal[asked], 10))
    return 100 * float(np.concatenate(values).mean())


def row(inputs: Inputs, repairs: set[str]) -> dict[str, float]:
    """All headline numbers with these repairs."""
    numbers = {f"{way}_ndcg@10": ndcg(inputs, way, repairs) for way in ("i2i", "t2t", "i2it", "t2it")}
    found = corrected.recalls(inputs) if "ranks for all" in repairs else paper.evaluate(inputs).numbers
    return {"r_mean": found["r_mean"], **numbers}


def on_gpus(inputs: Inputs, count: int) -> dict[str, float]:
    """What the published code gives on `count` GPUs: every GPU scores every query, and the scores are added up."""
    summed = {name: getattr(inputs, name) * count for name in ("scores_i2t", "scores_t2i")}
    return paper.evaluate(dataclasses.replace(inputs, **summed)).numbers


def main() -> None:
    """Score a model of a finished run once, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="such as results/shapes")
    parser.add_argument("run", help="such as student-rvlr")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    split = read_split(arguments.results / "splits/test.jsonl")
    gains = relevance.read(arguments.results / "relevance/test.npy", split)
    section = config.load(arguments.results / "config/evaluation.yaml", config.Scoring)
    model = RetrievalModel.from_pretrained(arguments.results / f"seed{arguments.seed}/{arguments.run}/model")
    inputs = score(model.to(device()), split, gains, section)
    rows = {"`paper`": row(inputs, set())}
    rows |= {f"{name}: {meaning}": row(inputs, {name}) for name, meaning in REPAIRS.items()}
    rows["all: `corrected`"] = row(inputs, set(REPAIRS))
    for name, numbers in (("`paper`", paper.evaluate(inputs)), ("all: `corrected`", corrected.evaluate(inputs))):
        for key, value in rows[name].items():
            if abs(value - numbers.numbers[key]) > 1e-2:
                raise SystemExit(f"{name}: {key} is {value} here and {numbers.numbers[key]} in rvlr")
    rows |= {f"published code on {count} GPUs": on_gpus(inputs, count) for count in (2, 4)}
    columns = {"r_mean": "R-mean", "i2i_ndcg@10": "I→I", "t2t_ndcg@10": "T→T", "i2it_ndcg@10": "I→IT"}
    columns |= {"t2it_ndcg@10": "T→IT"}
    table = pd.DataFrame.from_dict(rows, orient="index")[list(columns)].rename(columns=columns)
    candidates = int((inputs.scores_i2t[0] != NOT_A_CANDIDATE).sum())
    sys.stdout.write(f"{split.name}: {len(split.records)} images, {candidates} candidates\n\n")
    sys.stdout.write(table.to_markdown(floatfmt=".1f") + "\n")


if __name__ == "__main__":
    main()
