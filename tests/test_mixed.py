"""Mixed lists by plain and centred cosines against slow versions, cases worked by hand, and the evaluation's record."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_protocols import COUNTS, made_up, slow_ndcg

from rvlr import config, relevance
from rvlr.data.records import read_split
from rvlr.evaluation import corrected, mixed, queries, stage
from rvlr.evaluation.encode import encode
from rvlr.evaluation.inputs import PER_QUERY, Inputs, Result
from rvlr.models.retrieval import RetrievalModel

Items = list[tuple[float, float]]


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))


def slow_lists(inputs: Inputs, images: np.ndarray, texts: np.ndarray) -> dict[str, list[Items]]:
    """Direction -> for every query the (score, relevance) of its items."""
    relevant, owner, lists = inputs.relevance, inputs.caption_image, {}
    lists["i2it"] = [
        [
            (cosine(images[q], images[j]), np.mean([relevant[c, j] for c in np.flatnonzero(owner == q)]))
            for j in range(len(images))
            if j != q
        ]
        + [(cosine(images[q], texts[d]), relevant[d, q]) for d in range(len(texts))]
        for q in range(len(images))
    ]
    lists["t2it"] = [
        [(cosine(texts[c], images[j]), relevant[c, j]) for j in range(len(images))]
        + [(cosine(texts[c], texts[d]), relevant[d, owner[c]]) for d in range(len(texts)) if d != c]
        for c in range(len(texts))
    ]
    return lists


@pytest.mark.parametrize("counts", COUNTS)
def test_both_scales_equal_the_slow_version(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "QUERIES_AT_ONCE", 5)
    inputs = made_up(counts)
    means = mixed.Means(*np.random.default_rng(1).normal(0, 0.3, (2, 6)).astype(np.float32))
    result = corrected.evaluate(inputs)
    before = dict(result.numbers)
    mixed.add(result, inputs, means)
    spaces = {
        "plain": (inputs.image_units, inputs.text_units),
        "centred": (inputs.image_units - means.image, inputs.text_units - means.text),
    }
    expected = {}
    for scale, space in spaces.items():
        for direction, lists in slow_lists(inputs, *space).items():
            for k in (10, 20, 50):
                expected[f"{direction}_{scale}_ndcg@{k}"] = 100 * np.mean([slow_ndcg(items, k) for items in lists])
    assert result.numbers == pytest.approx(before | expected, abs=1e-4)
    assert {name: result.numbers[name] for name in before} == before
    values = {name: part for name, part in result.per_query.items() if not name.endswith("_rank")}
    assert [*values] == [*PER_QUERY, *expected]
    assert all(len(values[name]) == len(result.queries[name.split("_")[0]]) for name in expected)


def test_a_modality_gap_orders_plain_cosines_and_centring_removes_it() -> None:
    # two topics, at 0 and 90 degrees of the first two axes; images are moved along the third, captions against it
    topics, gap = np.array([[1, 0], [1, 0], [0, 1]]), 3.0
    images, texts = (np.hstack([topics, np.full((3, 1), way)]).astype(np.float32) for way in (gap, -gap))
    same = (topics @ topics.T).astype(np.float32)  # relevant: of the same topic
    scores = np.zeros((3, 3), np.float32)
    inputs = Inputs(images, texts, scores, scores, same, np.arange(3))
    means = mixed.Means(*(np.float32([0, 0, way / math.sqrt(10)]) for way in (gap, -gap)))
    result = Result()
    mixed.add(result, inputs, means)
    # images 0 and 1: plain: the image of their topic, the other image, the captions of their topic, the other caption
    plain = (1 + 1 / math.log2(4) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))
    # image 2 has one relevant item, its caption: behind two images, before two captions
    alone = 1 / math.log2(4)
    for direction in ("i2it", "t2it"):
        found = result.per_query[f"{direction}_plain_ndcg@10"]
        assert found == pytest.approx(100 * np.array([plain, plain, alone]), abs=1e-4)
        assert result.per_query[f"{direction}_centred_ndcg@10"] == pytest.approx([100, 100, 100])


def test_what_is_the_mean_is_like_nothing() -> None:
    units = np.array([[0.6, 0.8], [1, 0]], np.float32)
    found = mixed.centre(units, np.array([0.6, 0.8], np.float32))
    assert found[0].tolist() == [0, 0]
    assert np.linalg.norm(found[1]) == pytest.approx(1)


@pytest.mark.parametrize("most", [5, 250])
def test_means_are_those_of_images_at_equal_distances(
    tiny_data: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(mixed, "SAMPLE", most)
    train = read_split(tiny_data / "splits/train.jsonl")
    model = RetrievalModel.from_pretrained(tiny_model)
    encoded = encode(model, train, 7, 0)
    images = [0, 4, 9, 14, 19] if most == 5 else [*range(24)]
    captions = [caption for image in images for caption in (2 * image, 2 * image + 1)]
    found = mixed.training_means(model, train, 7, 0)
    torch.testing.assert_close(torch.from_numpy(found.image), encoded.image_embeds[images].mean(dim=0))
    torch.testing.assert_close(torch.from_numpy(found.text), encoded.text_embeds[captions].mean(dim=0))


def test_an_evaluation_has_both_scales_where_it_is_given_the_training_split(
    tiny_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    files = {name: tiny_data / f"splits/{name}.jsonl" for name in ("train", "test")}
    matrix, section = tmp_path / "relevance.npy", config.Scoring(candidates=4, workers=0, subsets=["first-5"])
    relevance.write(read_split(files["test"]), config.Relevance(), matrix)
    found = {}
    for name, train in {"with": files["train"], "without": None}.items():
        output = tmp_path / name
        stage.evaluate(section, "initial-a", 0, tiny_model, files["test"], matrix, output, train)
        found[name] = json.loads((output / "test.json").read_text())["protocols"]
    for protocol in ("corrected", "corrected/first-5"):
        added = found["with"][protocol].keys() - found["without"][protocol].keys()
        assert added == {f"{way}_centred_ndcg@{k}" for way in ("i2it", "t2it") for k in (10, 20, 50)}
        assert found["with"][protocol] == found["without"][protocol] | {
            name: found["with"][protocol][name] for name in added
        }
        assert "t2it_plain_ndcg@10" in found["without"][protocol]
    assert not [name for name in found["with"]["paper"] if "plain" in name or "centred" in name]
