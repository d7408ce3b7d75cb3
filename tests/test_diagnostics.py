"""Diagnostics against slow versions written pair by pair, cases worked by hand, and cases whose answer is known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rvlr import config, relevance
from rvlr.cli.options import named_folders
from rvlr.data.features import checksum, write_index
from rvlr.data.records import read_split
from rvlr.errors import UserError
from rvlr.evaluation import diagnostics, stage
from rvlr.evaluation.encode import encode
from rvlr.models.retrieval import RetrievalModel

COUNTS = ([2] * 6, [1, 2, 3, 4, 5, 6, 1, 2, 3, 1, 4, 5, 2, 2], [5] * 70)


def units(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made_up(counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of images, and of captions that resemble their image, and the images of the captions."""
    rng, owner = np.random.default_rng(len(counts)), np.repeat(np.arange(len(counts)), counts)
    images = rng.standard_normal((len(counts), 6)) + 1
    texts = images[owner] + rng.standard_normal((len(owner), 6)) - 1
    return units(images), units(texts), owner


# --- slow versions -----------------------------------------------------------------------------------------------


def distance(x: np.ndarray, y: np.ndarray) -> float:
    return sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))


def slow_measure(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    def within(rows: np.ndarray) -> float:
        return float(
            np.mean([math.exp(-2 * distance(x, y)) for i, x in enumerate(rows) for y in np.delete(rows, i, 0)])
        )

    across = np.mean([math.exp(-2 * distance(x, y)) for x in images for y in texts])
    return {
        "modality_gap": math.sqrt(distance(np.mean(images, axis=0), np.mean(texts, axis=0))),
        "mmd2": within(images) + within(texts) - 2 * across,
        "alignment": np.mean([distance(images[image], text) for image, text in zip(owner, texts, strict=True)]),
        "uniformity_image": math.log(within(images)),
        "uniformity_text": math.log(within(texts)),
    }


def slow_overlap(one: np.ndarray, other: np.ndarray, owner: np.ndarray) -> float:
    shares = []
    for i in range(len(one)):
        others = [j for j in range(len(one)) if owner[j] != owner[i]]
        near = [set(sorted(others, key=lambda j: -float(space[i] @ space[j]))[:10]) for space in (one, other)]
        shares.append(len(near[0] & near[1]) / len(near[0]))
    return float(np.mean(shares))


def u_centred(rows: np.ndarray) -> np.ndarray:
    """The kernel of rows, U-centred entry by entry (Szekely and Rizzo, Annals of Statistics 42, 2014)."""
    kernel = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(kernel, 0)
    n, sums = len(kernel), kernel.sum(axis=0)
    centred = np.zeros_like(kernel)
    for i in range(n):
        for j in range(n):
            if i != j:
                centred[i, j] = kernel[i, j] - sums[i] / (n - 2) - sums[j] / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return centred


def slow_cka(one: np.ndarray, other: np.ndarray) -> float:
    k, m = u_centred(one), u_centred(other)
    return float((k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum()))


# --- tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", COUNTS)
def test_geometry_equals_the_slow_version(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_ROWS", 5)
    given = made_up(counts)
    assert diagnostics.measure(*given) == pytest.approx(slow_measure(*given), abs=1e-6)


def test_geometry_by_hand() -> None:
    # images at 0 and 90 degrees, their captions at 90 and 180
    images, texts = np.array([[1, 0], [0, 1]], np.float32), np.array([[0, 1], [-1, 0]], np.float32)
    found = diagnostics.measure(images, texts, np.array([0, 1]))
    assert found == pytest.approx(
        {
            "modality_gap": 1,  # of (0.5, 0.5) and (-0.5, 0.5)
            # squared distances within a modality: 2; across: 2, 4, 0 and 2
            "mmd2": 2 * math.exp(-4) - (2 * math.exp(-4) + math.exp(-8) + 1) / 2,
            "alignment": 2,
            "uniformity_image": -4,
            "uniformity_text": -4,
        }
    )


def test_geometry_of_embeddings_that_are_all_the_same() -> None:
    same, other = np.tile(np.float32([1, 0]), (3, 1)), np.tile(np.float32([-1, 0]), (6, 1))
    found = diagnostics.measure(same, other, np.repeat(np.arange(3), 2))
    assert found == pytest.approx(
        {
            "modality_gap": 2,
            "mmd2": 2 - 2 * math.exp(-8),
            "alignment": 4,
            "uniformity_image": 0,
            "uniformity_text": 0,
        }
    )


def test_discrepancy_of_samples_of_one_distribution_is_0_on_average() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        images, texts = units(rng.standard_normal((8, 4))), units(rng.standard_normal((12, 4)))
        found.append(diagnostics.measure(images, texts, np.repeat(np.arange(4), 3))["mmd2"])
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))
    assert np.std(found) > 0.001


@pytest.mark.parametrize("counts", COUNTS)
def test_structure_equals_the_slow_version(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_ROWS", 5)
    images, texts, owner = made_up(counts)
    rng = np.random.default_rng(1)
    # features of any length that resemble the embeddings
    teacher_images = 7 * images @ rng.standard_normal((6, 9)) + rng.standard_normal((len(images), 9))
    teacher_texts = 3 * texts @ rng.standard_normal((6, 4)) + rng.standard_normal((len(texts), 4))
    found = diagnostics.structure(images, texts, owner, teacher_images, teacher_texts)
    alone = np.arange(len(images))
    rows = [[c for image in alone for c in np.flatnonzero(owner == image)[[n]]] for n in range(min(counts))]
    assert found == pytest.approx(
        {
            "image_neighbours": slow_overlap(images, units(teacher_images), alone),
            "text_neighbours": slow_overlap(texts, units(teacher_texts), owner),
            "image_cka": slow_cka(images, units(teacher_images)),
            "text_cka": np.mean([slow_cka(texts[part], units(teacher_texts)[part]) for part in rows]),
        },
        abs=1e-6,
    )
    assert len(counts) < 12 or 0.1 < found["image_neighbours"] < 1


def test_a_turned_and_scaled_copy_keeps_all_of_the_structure() -> None:
    images, texts, owner = made_up([3] * 40)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    found = diagnostics.structure(images, texts, owner, 5 * images @ turn, 0.1 * texts @ turn)
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-4)


def test_unrelated_features_have_no_structure_in_common() -> None:
    """Also with more features than items, where the CKA that is not debiased comes near 1."""
    rng = np.random.default_rng(0)
    found = [diagnostics.linear_cka(rng.standard_normal((12, 40)), rng.standard_normal((12, 60))) for _ in range(200)]
    assert abs(np.mean(found)) < 0.03
    overlaps = []
    for _ in range(40):
        one, other = units(rng.standard_normal((41, 5))), units(rng.standard_normal((41, 7)))
        overlaps.append(diagnostics.neighbour_overlap(one, other, np.arange(41)))
    assert np.mean(overlaps) == pytest.approx(10 / 40, abs=0.02)


def test_overlap_by_hand() -> None:
    # twelve items on a line; the other space exchanges items 0 and 11: far ends, each the other's one non-neighbour
    angles = np.linspace(0, 1.1, 12)
    line = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    swapped = line[[11, *range(1, 11), 0]]
    alone = np.arange(12)
    assert diagnostics.neighbour_overlap(line, line, alone) == 1
    # eleven others, ten neighbours: 1 to 5 lack 11 and then 0, 6 to 10 the other way round; 0 and 11 lack one another
    assert diagnostics.neighbour_overlap(line, swapped, alone) == pytest.approx((10 * 0.9 + 2 * 1) / 12)
    # 1 and 11 of one owner are no neighbours: ten others are left to either, all of them neighbours
    assert diagnostics.neighbour_overlap(line, swapped, np.array([*range(11), 1])) == pytest.approx((9 * 0.9 + 3) / 12)


def test_items_that_are_alike_in_both_spaces_are_the_same_neighbours() -> None:
    """Equal captions of many images: which of them are found does not depend on how a product was rounded."""
    rng = np.random.default_rng(0)
    kinds = np.tile(np.arange(3), 20)
    one, other = (units(rng.standard_normal((3, 128)))[kinds] for _ in range(2))
    noise = 1 + 1e-7 * rng.standard_normal(other.shape).astype(np.float32)
    assert diagnostics.neighbour_overlap(one, other * noise, np.arange(60)) == 1


def test_a_model_without_structure_keeps_none() -> None:
    images, texts, owner = made_up([2] * 6)
    found = diagnostics.structure(np.ones((6, 4)), np.ones((12, 4)), owner, images, texts)
    assert (found["image_cka"], found["text_cka"]) == (0, 0)


def test_items_that_are_all_equally_far_apart_have_no_structure() -> None:
    rows = np.random.default_rng(0).standard_normal((6, 3))
    assert diagnostics.linear_cka(np.eye(6), rows) == diagnostics.linear_cka(rows, np.eye(6)) == 0
    assert diagnostics.linear_cka(np.eye(6) * np.linspace(1, 2, 6)[:, None], np.eye(6)) == 0


def test_what_has_no_structure_is_refused() -> None:
    images, texts, owner = made_up([2] * 6)
    empty = images.copy()
    empty[2] = 0
    with pytest.raises(UserError, match=r"the teacher's image features: row 2 has length 0\.0"):
        diagnostics.structure(images, texts, owner, empty, texts)
    with pytest.raises(UserError, match=r"the split has 3 image\(s\); .* is defined for 4 or more"):
        diagnostics.structure(images[:3], texts[:6], owner[:6], images[:3], texts[:6])


def test_an_evaluation_has_the_diagnostics_of_its_model(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    file = tiny_data / "splits/test.jsonl"
    split, matrix = read_split(file), tmp_path / "relevance.npy"
    relevance.write(split, config.Relevance(), matrix)
    rng, known = np.random.default_rng(0), {}
    for name, folder in (("a", tmp_path / "a"), ("b.c", tmp_path / "b")):
        folder.mkdir()
        known[name] = rng.standard_normal((12, 7)), rng.standard_normal((24, 5))
        for part, rows in zip(("image", "text"), known[name], strict=True):
            np.save(folder / f"{part}.npy", rows.astype(np.float32))
        write_index(folder, split)
    teachers = {"a": tmp_path / "a", "b.c": tmp_path / "b"}
    section = config.Scoring(candidates=4, workers=0)
    stage.evaluate(section, "initial-a", 0, tiny_model, file, matrix, tmp_path, teachers=teachers)
    encoded = encode(RetrievalModel.from_pretrained(tiny_model), split, 64, 0)
    embeds = encoded.image_embeds.numpy(), encoded.text_embeds.numpy()
    expected = slow_measure(*embeds, split.caption_image)
    for name, features in known.items():
        kept = diagnostics.structure(*embeds, split.caption_image, *features)
        expected |= {f"{metric}/{name}": value for metric, value in kept.items()}
    record = json.loads((tmp_path / "test.json").read_text())
    assert record["diagnostics"] == pytest.approx(expected, abs=1e-5)
    assert record["inputs"]["teachers"] == {name: checksum(folder) for name, folder in teachers.items()}
    # features of other data are no teacher's of this split
    train = read_split(tiny_data / "splits/train.jsonl")
    write_index(tmp_path / "a", train)
    with pytest.raises(UserError, match="features of 24 images, the test split has 12"):
        stage.evaluate(section, "initial-a", 0, tiny_model, file, matrix, tmp_path, teachers=teachers)


def test_teachers_are_named_with_their_folders() -> None:
    found = named_folders("--teacher", ["a=some where", "b.c=x=y"])
    assert found == {"a": Path("some where"), "b.c": Path("x=y")}
    for values, message in (
        (["folder"], "--teacher: found 'folder'; give NAME=FOLDER"),
        (["a="], "found 'a='"),
        (["a/b=c"], "found 'a/b=c'"),
        (["a=b", "a=c"], "--teacher: a is given twice"),
    ):
        with pytest.raises(UserError, match=message):
            named_folders("--teacher", values)
