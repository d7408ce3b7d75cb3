"""Protocols against the authors' numbers, slow versions written item by item, and hand-made cases."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rvlr.errors import UserError
from rvlr.evaluation import corrected, paper, queries
from rvlr.evaluation.inputs import LISTS, NOT_A_CANDIDATE, PER_QUERY, Inputs, unit_length

GOLDEN = Path(__file__).parent / "golden"
COUNTS = ([1, 1, 1, 1], [5] * 12, [1, 2, 3, 4, 5, 6, 1, 6, 2, 3, 1, 4, 5])


def made_up(counts: list[int], candidates: int = 4, seed: int = 0) -> Inputs:
    """Random embeddings in which captions resemble their image, with match logits and relevance that do too."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(counts)), counts)
    images = rng.standard_normal((len(counts), 6)).astype(np.float32)
    texts = (images[owner] + rng.standard_normal((len(owner), 6))).astype(np.float32)
    cosines = unit_length(images, "") @ unit_length(texts, "").T
    own = owner == np.arange(len(counts))[:, None]

    def logits(similarity: np.ndarray, own: np.ndarray) -> np.ndarray:
        scores = similarity * 5 + own + rng.standard_normal(similarity.shape)
        last = np.sort(similarity, axis=1)[:, -min(candidates, similarity.shape[1]), None]
        return np.where(similarity >= last, scores, NOT_A_CANDIDATE).astype(np.float32)

    relevance = np.where(own.T, 1, rng.random(own.T.shape)).astype(np.float32)
    return Inputs(images, texts, logits(cosines, own), logits(cosines.T, own.T), relevance, owner)


# --- the slow versions -------------------------------------------------------------------------------------------


def slow_ndcg(items: list[tuple[float, float]], k: int, published: bool = False) -> float:
    """Of the (score, relevance) of every item in the list; `published`: ties in the order of a reversed argsort."""

    def gain(gains: list[float]) -> float:
        return sum(value / math.log2(rank + 1) for rank, value in enumerate(gains[:k], 1))

    ranked = [relevance for _, relevance in sorted(items, key=lambda item: (-item[0], item[1]))]
    if published:
        ranked = [items[index][1] for index in np.argsort(np.array([score for score, _ in items], np.float32))[::-1]]
    ideal = gain(sorted(ranked, reverse=True))
    return gain(ranked) / ideal if ideal else 0.0


def standard(scores: list[float]) -> list[float]:
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    return [(score - mean) / deviation for score in scores]


def cosines(inputs: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images, texts = (e / np.linalg.norm(e, axis=1)[:, None] for e in (inputs.image_embeds, inputs.text_embeds))
    return images @ images.T, images @ texts.T, texts @ texts.T


def slow_paper(inputs: Inputs) -> dict[str, list[list[tuple[float, float]]]]:
    """Direction -> for every query the (score, relevance) of its items."""
    image_image, _, text_text = cosines(inputs)
    relevance, first = inputs.relevance, [list(inputs.caption_image).index(i) for i in range(len(inputs.image_embeds))]
    images, captions = range(len(first)), range(len(inputs.text_embeds))
    lists: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in LISTS}
    for q in images:
        f = first[q]
        lists["i2i"].append([(0, 0) if j == q else (image_image[q, j], relevance[f, j]) for j in images])
        lists["t2t"].append([(0, 0) if d == f else (text_text[f, d], relevance[d, q]) for d in captions])
        near = [(image_image[q, j], relevance[f, j]) for j in images]
        lists["i2it"].append(near + [(inputs.scores_i2t[q, d], relevance[d, q]) for d in captions])
        near = [(text_text[f, d], relevance[d, q]) for d in captions]
        lists["t2it"].append(near + [(inputs.scores_t2i[first[j], q], relevance[first[j], q]) for j in images])
    return lists


def slow_corrected(inputs: Inputs) -> dict[str, list[list[tuple[float, float]]]]:
    image_image, image_text, text_text = cosines(inputs)
    relevance, owner = inputs.relevance, inputs.caption_image
    images, captions = range(len(inputs.image_embeds)), range(len(inputs.text_embeds))
    lists: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in LISTS}

    def add(single: str, mixed: str, near: list[tuple[float, float]], far: list[tuple[float, float]]) -> None:
        lists[single].append(near)
        standardised = [
            (score, gain)
            for part in (near, far)
            for score, (_, gain) in zip(standard([score for score, _ in part]), part, strict=True)
        ]
        lists[mixed].append(standardised)

    for q in images:
        own = [c for c in captions if owner[c] == q]
        near = [(image_image[q, j], sum(relevance[c, j] for c in own) / len(own)) for j in images if j != q]
        add("i2i", "i2it", near, [(image_text[q, d], relevance[d, q]) for d in captions])
    for c in captions:
        near = [(text_text[c, d], relevance[d, owner[c]]) for d in captions if d != c]
        add("t2t", "t2it", near, [(image_text[j, c], relevance[c, j]) for j in images])
    return lists


def slow_recall(scores: np.ndarray, relevant: np.ndarray, k: int) -> float:
    hits = 0
    for row, good in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda item: (-row[item], good[item]))
        hits += any(good[item] for item in order[:k])
    return 100 * hits / len(scores)


# --- the paper's -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [60, 150])
def test_paper_gives_the_authors_numbers(size: int) -> None:
    arrays = dict(np.load(GOLDEN / f"metrics_{size}.npz"))
    golden = json.loads((GOLDEN / f"metrics_{size}.json").read_text())
    found = paper.evaluate(Inputs(**arrays, caption_image=np.arange(5 * size) // 5)).numbers
    names = {name: name.replace("_@", "_r@" if name[0].islower() else "_ndcg@").lower() for name in golden}
    assert len(names) == 21
    assert {name: found[ours] for name, ours in names.items()} == pytest.approx(golden, abs=1e-6, rel=0)
    assert set(found) == {*names.values(), "r_sum"}


@pytest.mark.parametrize(("images", "copies"), [(400, 0), (1000, 0), (400, 60)])
def test_paper_equals_the_published_order_of_operations_to_1e_6(images: int, copies: int) -> None:
    """Whole matrices in torch and one reversed argsort a query, as the published code has it. Among so many items some
    scores tie, or differ in their last bit; `copies` makes ties in every list."""
    inputs = made_up([5] * images, candidates=128)
    if copies:
        inputs.image_embeds[1 : 1 + copies] = inputs.image_embeds[0]
        inputs.text_embeds[5 : 5 + 5 * copies] = inputs.text_embeds[0]
    found = paper.evaluate(inputs).numbers
    first, relevance = slice(None, None, 5), inputs.relevance

    def cosines(embeds: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(embeds)
        matrix = tensor.matmul(tensor.T)
        matrix /= torch.norm(tensor, dim=-1)[:, None]
        matrix /= torch.norm(tensor, dim=-1)[None]
        return matrix.numpy()

    image_image, text_text = cosines(inputs.image_embeds), cosines(inputs.text_embeds)[first]
    lists = {
        "i2it": (np.hstack([image_image, inputs.scores_i2t]), np.hstack([relevance[first], relevance.T])),
        "t2it": (np.hstack([text_text, inputs.scores_t2i.T[:, first]]), np.hstack([relevance.T, relevance[first].T])),
        "i2i": (image_image.copy(), relevance[first].copy()),
        "t2t": (text_text.copy(), relevance.T.copy()),
    }
    for query in range(images):
        for direction, own in (("i2i", query), ("t2t", 5 * query)):
            for matrix in lists[direction]:
                matrix[query, own] = 0
    for direction, (scores, gains) in lists.items():
        for k in (10, 20, 50):
            values = []
            for row, gain in zip(scores, gains, strict=True):
                discount = 1 / np.log2(np.arange(2, k + 2))
                values.append(gain[np.argsort(row)[::-1][:k]] @ discount / (np.sort(gain)[::-1][:k] @ discount))
            assert found[f"{direction}_ndcg@{k}"] == pytest.approx(100 * np.mean(values), abs=1e-6, rel=0), (
                direction,
                k,
            )


@pytest.mark.parametrize("counts", COUNTS)
def test_paper_equals_the_slow_version(counts: list[int]) -> None:
    inputs = made_up(counts)
    found = paper.evaluate(inputs).numbers
    for direction, lists in slow_paper(inputs).items():
        for k in (10, 20, 50):
            expected = 100 * np.mean([slow_ndcg(items, k, published=True) for items in lists])
            assert found[f"{direction}_ndcg@{k}"] == pytest.approx(expected, abs=1e-4), (direction, k)
    own = inputs.caption_image == np.arange(len(counts))[:, None]
    for k in (1, 5, 10):
        assert found[f"i2t_r@{k}"] == pytest.approx(slow_recall(inputs.scores_i2t, own, k))
        assert found[f"t2i_r@{k}"] == pytest.approx(slow_recall(inputs.scores_t2i, own.T, k))


# --- corrected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", COUNTS)
def test_corrected_equals_the_slow_version(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "QUERIES_AT_ONCE", 5)
    inputs = made_up(counts)
    found = corrected.evaluate(inputs).numbers
    for direction, lists in slow_corrected(inputs).items():
        for k in (10, 20, 50):
            expected = 100 * np.mean([slow_ndcg(items, k) for items in lists])
            assert found[f"{direction}_ndcg@{k}"] == pytest.approx(expected, abs=1e-4), (direction, k)


def test_balanced_is_the_mean_of_the_three_ways() -> None:
    inputs = made_up(COUNTS[2])
    found = corrected.balanced(inputs)
    lists = {name: 100 * np.mean([slow_ndcg(one, 10) for one in all_]) for name, all_ in slow_corrected(inputs).items()}
    single_modal, mixed = (lists["i2i"] + lists["t2t"]) / 2, (lists["i2it"] + lists["t2it"]) / 2
    expected = {f"{name}_ndcg@10": value for name, value in lists.items()}
    expected |= {"single_modal": single_modal, "mixed": mixed}
    expected["balanced"] = (found["r_mean"] + single_modal + mixed) / 3
    assert found == pytest.approx(corrected.recalls(inputs) | expected, abs=1e-4)


def test_recall_by_hand() -> None:
    # caption 0 and 1 belong to image 0, caption 2 to image 1; image 1 prefers caption 0, caption 1 prefers image 1
    i2t = np.array([[0.1, 0.9, 0.2], [0.8, 0.1, 0.5]], np.float32)
    t2i = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.6]], np.float32)
    embeds = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    inputs = Inputs(embeds[:2], embeds[2:], i2t, t2i, np.ones((3, 2), np.float32), np.array([0, 0, 1]))
    for numbers in (corrected.evaluate(inputs).numbers, corrected.recalls(inputs)):
        assert [numbers[f"i2t_r@{k}"] for k in (1, 5, 10)] == [50, 100, 100]
        assert [numbers[f"t2i_r@{k}"] for k in (1, 5, 10)] == pytest.approx([200 / 3, 100, 100])
        assert numbers["i2t_mean"] == pytest.approx(250 / 3)
        assert numbers["r_sum"] == pytest.approx(250 + 800 / 3)
        assert numbers["r_mean"] == pytest.approx(numbers["r_sum"] / 6)
        assert (numbers["i2t_median_rank"], numbers["t2i_median_rank"]) == (1.5, 1)


def test_recalls_are_those_of_corrected() -> None:
    inputs = made_up([2, 3, 1, 5, 4, 2])
    whole = corrected.evaluate(inputs).numbers
    recalls = corrected.recalls(dataclasses.replace(inputs, relevance=np.broadcast_to(np.float32(0), (17, 6))))
    assert recalls == {name: value for name, value in whole.items() if "ndcg" not in name}


def test_order_of_the_gallery_does_not_matter() -> None:
    inputs = made_up([1, 2, 3, 4, 5, 6, 1, 6, 2, 3])
    images = np.random.default_rng(1).permutation(10)
    captions = np.concatenate([np.flatnonzero(inputs.caption_image == image)[::-1] for image in images])
    shuffled = Inputs(
        inputs.image_embeds[images],
        inputs.text_embeds[captions],
        inputs.scores_i2t[np.ix_(images, captions)],
        inputs.scores_t2i[np.ix_(captions, images)],
        inputs.relevance[np.ix_(captions, images)],
        np.argsort(images)[inputs.caption_image[captions]],
    )
    assert corrected.evaluate(shuffled).numbers == pytest.approx(corrected.evaluate(inputs).numbers, abs=1e-4)


def test_a_model_that_gives_all_items_the_same_score_gains_nothing() -> None:
    inputs = made_up([3] * 12)
    same = dataclasses.replace(
        inputs,
        image_embeds=np.ones_like(inputs.image_embeds),
        text_embeds=np.ones_like(inputs.text_embeds),
        scores_i2t=np.zeros_like(inputs.scores_i2t),
        scores_t2i=np.zeros_like(inputs.scores_t2i),
    )
    for result in (corrected.evaluate(same), paper.evaluate(same)):
        assert result.numbers["r_sum"] == 0
        assert set(result.per_query["i2t_rank"]) == {34}
        assert set(result.per_query["t2i_rank"]) == {12}
    numbers = corrected.evaluate(same).numbers
    for direction in LISTS:
        assert numbers[f"{direction}_ndcg@10"] < corrected.evaluate(inputs).numbers[f"{direction}_ndcg@10"]


def test_the_query_is_in_no_list_and_no_ideal_list() -> None:
    # every other item is on the far side of the query: its similarity is negative, the query's would be 0 or 1
    inputs = dataclasses.replace(
        made_up([1, 1, 1]),
        image_embeds=np.array([[1, 0], [-0.5, 0.8], [-0.5, -0.8]], np.float32),
        text_embeds=np.array([[-1, 0.1], [0.5, -0.8], [0.5, 0.8]], np.float32),
        relevance=np.array([[1, 0.5, 0.2], [0.4, 1, 0.3], [0.1, 0.6, 1]], np.float32),
    )
    result = corrected.evaluate(inputs)
    for direction, own in {"i2i": 0, "t2t": 0, "i2it": 0, "t2it": 3}.items():
        ranking = result.rankings[direction]
        assert ranking.indices.shape == (3, 2 if direction in ("i2i", "t2t") else 5)
        for query, items in zip(ranking.queries, ranking.indices, strict=True):
            assert query + own not in items
            assert len(set(items)) == len(items)
    # images 1 and 2 are equally far from image 0, hence the less relevant comes first
    ideal = 0.5 + 0.2 / math.log2(3)
    assert result.per_query["i2i_ndcg@10"][0] == pytest.approx(100 * (0.2 + 0.5 / math.log2(3)) / ideal)
    # the paper's query stays, first and worth nothing
    expected = 100 * (0.2 / math.log2(3) + 0.5 / 2) / ideal
    assert paper.evaluate(inputs).per_query["i2i_ndcg@10"][0] == pytest.approx(expected)


def test_candidates_come_first_and_the_rest_follows_by_cosine() -> None:
    inputs = made_up([5] * 12, candidates=4)
    scores, ranking = inputs.scores_i2t, corrected.evaluate(inputs).rankings["i2t"]
    _, image_text, _ = cosines(inputs)
    assert ranking.indices.shape == (12, 60)
    for query, items in enumerate(ranking.indices):
        assert set(items[:4]) == set(np.flatnonzero(scores[query] > NOT_A_CANDIDATE))
        assert (np.diff(scores[query, items[:4]]) <= 0).all()
        assert (np.diff(image_text[query, items[4:]]) <= 1e-6).all()
    assert (np.diff(ranking.scores, axis=1) <= 0).all()
    assert (ranking.scores > NOT_A_CANDIDATE).all()


def test_mixed_lists_keep_the_order_within_a_kind() -> None:
    rankings = corrected.evaluate(made_up([5] * 12)).rankings
    for mixed, single in zip(rankings["i2it"].indices, rankings["i2i"].indices, strict=True):
        assert mixed[mixed < 12].tolist() == single.tolist()
    for mixed, single in zip(rankings["t2it"].indices, rankings["t2t"].indices, strict=True):
        assert (mixed[mixed >= 12] - 12).tolist() == single.tolist()


def test_the_modality_gap_does_not_decide() -> None:
    """Moving all captions away from all images, as contrastive models do, changes plain cosines and no mixed list."""
    inputs = made_up([5] * 12)
    wide = [np.pad(embeds, ((0, 0), (0, 2))) for embeds in (inputs.image_units, inputs.text_units)]
    wide[0][:, 6] = wide[1][:, 7] = 3
    apart = dataclasses.replace(inputs, image_embeds=wide[0], text_embeds=wide[1])
    assert (apart.image_units @ apart.text_units.T).max() < (apart.image_units @ apart.image_units.T).min()
    before, after = corrected.evaluate(inputs).rankings, corrected.evaluate(apart).rankings
    for direction in LISTS:
        assert np.array_equal(before[direction].indices, after[direction].indices)


def test_a_result_has_the_values_that_its_numbers_are_means_of() -> None:
    inputs = made_up([1, 2, 3, 4, 5, 6] * 5)
    for result in (corrected.evaluate(inputs), paper.evaluate(inputs)):
        assert [name for name in result.per_query if not name.endswith("_rank")] == PER_QUERY
        for name, values in result.per_query.items():
            assert values.dtype == np.float32
            assert values.shape == result.queries[name.split("_")[0]].shape
            if not name.endswith("_rank"):
                assert result.numbers[name] == pytest.approx(values.mean(), rel=1e-5)
    result = corrected.evaluate(inputs)
    assert list(result.rankings) == ["i2t", "t2i", *LISTS]
    sizes = {"i2t": 100, "t2i": 30, "i2i": 29, "t2t": 100, "i2it": 100, "t2it": 100}
    for direction, ranking in result.rankings.items():
        assert ranking.indices.shape == ranking.scores.shape == (len(ranking.queries), sizes[direction])
        assert (ranking.indices.dtype, ranking.scores.dtype, ranking.queries.dtype) == ("i4", "f4", "i4")
    best = inputs.caption_image[result.rankings["i2t"].indices] == np.arange(30)[:, None]
    assert result.numbers["i2t_r@5"] == pytest.approx(100 * best[:, :5].any(axis=1).mean())


def test_queries_without_a_relevant_item() -> None:
    inputs = made_up([2, 1, 3])
    relevance = inputs.relevance.copy()
    relevance[0] = relevance[1] = relevance[:, 0] = 0  # nothing answers image 0 or its captions, nor do they
    some = dataclasses.replace(inputs, relevance=relevance)
    result = corrected.evaluate(some)
    expected = {"i2i": [1, 2], "t2t": [2, 3, 4, 5], "i2it": [1, 2], "t2it": [2, 3, 4, 5]}
    assert {direction: result.queries[direction].tolist() for direction in LISTS} == expected
    for direction, lists in slow_corrected(some).items():
        values = [slow_ndcg(lists[query], 10) for query in expected[direction]]
        assert result.numbers[f"{direction}_ndcg@10"] == pytest.approx(100 * np.mean(values), abs=1e-4)
        assert len(result.rankings[direction].queries) == len(lists)
    assert paper.evaluate(some).per_query["i2i_ndcg@10"][0] == 0
    with pytest.raises(UserError, match="i2i: no query has a relevant item"):
        corrected.evaluate(dataclasses.replace(inputs, relevance=np.zeros_like(relevance)))


def test_the_relevance_file_is_only_read(tmp_path: Path) -> None:
    inputs = made_up([2, 3, 1, 4])
    np.save(tmp_path / "relevance.npy", inputs.relevance)
    mapped = dataclasses.replace(inputs, relevance=np.load(tmp_path / "relevance.npy", mmap_mode="r"))
    before = [array.copy() for array in dataclasses.astuple(inputs)]
    for protocol in (paper.evaluate, corrected.evaluate):
        assert protocol(mapped).numbers == protocol(inputs).numbers
    for array, copy in zip(dataclasses.astuple(inputs), before, strict=True):
        assert np.array_equal(array, copy)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("scores_i2t", lambda array: array.T, r"scores_i2t: shape \(6, 3\) found, \(3, 6\) expected"),
        ("relevance", lambda array: array[:, :2], r"relevance: shape \(6, 2\) found, \(6, 3\) expected"),
        ("text_embeds", lambda array: array[:, :2], r"text_embeds: shape \(6, 2\) found, \(6, 6\) expected"),
        ("caption_image", lambda array: array[::-1], "in the order of their images"),
        ("caption_image", lambda array: np.minimum(array, 1), "every image needs a caption"),
    ],
)
def test_inputs_must_fit_together(field: str, change: object, message: str) -> None:
    inputs = made_up([2, 1, 3])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(inputs, **{field: change(getattr(inputs, field))})


def test_what_a_diverged_model_gives_is_refused() -> None:
    inputs = made_up([2, 1, 3])
    embeds, scores = inputs.text_embeds.copy(), inputs.scores_i2t.copy()
    embeds[4, 0] = np.nan
    with pytest.raises(UserError, match="text_embeds: row 4 has length nan; the model has diverged"):
        corrected.evaluate(dataclasses.replace(inputs, text_embeds=embeds))
    scores[1] = np.nan
    for protocol in (paper.evaluate, corrected.evaluate):
        with pytest.raises(ValueError, match=r"NaN|not numbers"):
            protocol(dataclasses.replace(inputs, scores_i2t=scores))
    with pytest.raises(UserError, match="1 image"):
        made_up([3])
