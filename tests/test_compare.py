"""Differences between models: those of their numbers, seed by seed; faulty files are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rvlr.data.records import Record, Split
from rvlr.errors import UserError
from rvlr.evaluation import corrected, rankings
from rvlr.evaluation.inputs import Inputs
from rvlr.report import compare

SHOWN = ["i2t_r@1", "t2t_ndcg@10"]
CAPTIONS = [1, 3, 2, 4, 2, 5, 1, 2, 3, 2, 1, 4]  # of each of 12 images
Evaluate = Callable[..., tuple[Path, dict[str, float]]]


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Writes the rankings of a made-up model with the package's own protocol, and returns their path and its numbers.

    Nothing is relevant to the captions of image 3, so image 3 has no value of i2i.
    """
    owners = np.repeat(np.arange(12), CAPTIONS)
    records = [Record(f"a#{number}", "x.png", ("text",) * count) for number, count in enumerate(CAPTIONS)]

    def write(name: str, model: int) -> tuple[Path, dict[str, float]]:
        data, noise = np.random.default_rng(0), np.random.default_rng(model)
        content, relevance = data.normal(size=(12, 6)), data.random((len(owners), 12), dtype=np.float32)
        relevance[owners == 3] = 0
        images, texts = (content[rows] + noise.normal(size=(len(rows), 6)) for rows in (np.arange(12), owners))
        logits = (images @ texts.T).astype(np.float32)
        result = corrected.evaluate(Inputs(images, texts, logits, logits.T, relevance, owners))
        rankings.write(tmp_path / f"{name}.npz", Split("test", records, tmp_path), result)
        return tmp_path / f"{name}.npz", result.numbers

    return write


def test_differences_are_those_of_the_numbers(evaluate: Evaluate) -> None:
    runs = {"teacher-t": {0: evaluate("t0", 1), 5: evaluate("t5", 2)}, "student-s": {0: evaluate("s0", 3)}}
    runs["student-s"][5] = evaluate("s5", 4)
    (found,) = compare.compare_runs([runs], SHOWN)
    assert (found.run, found.reference, found.images) == ("student-s", "teacher-t", 12)
    assert found.seeds == found.reference_seeds == [0, 5]
    assert found.covers == ["images", "seeds"]
    numbers = {run: [source[1] for source in seeds.values()] for run, seeds in runs.items()}
    assert found.differences.keys() == {name for name in numbers["teacher-t"][0] if "median" not in name}
    for name, one in found.differences.items():
        means = [np.mean([seed[name] for seed in numbers[run]]) for run in ("student-s", "teacher-t")]
        assert one.value == pytest.approx(means[0] - means[1], abs=1e-4)
        assert one.low <= one.value <= one.high
        assert one.low < one.high
        assert 0 < one.p <= 1
    mean, total = found.differences["r_mean"], found.differences["r_sum"]
    assert (total.low, total.high) == pytest.approx((6 * mean.low, 6 * mean.high))
    assert total.p == mean.p
    assert compare.compare_runs([runs], SHOWN) == [found]


def test_the_interval_of_one_training_is_students_over_images(evaluate: Evaluate) -> None:
    """For a metric with one query an image, the mean and its textbook interval; image 3 has no value of i2i."""
    path, numbers = evaluate("t0", 1)
    found = compare.intervals_of([{"teacher-t": {0: (path, numbers)}}], "teacher-t")
    assert found.keys() == compare.REPORTED.keys()
    values = rankings.read_values(path, numbers).values["i2t_r@1"]
    assert len(values) == 12
    half = stats.t.ppf(0.975, 11) * np.std(values, ddof=1) / 12**0.5
    assert found["i2t_r@1"] == pytest.approx((np.mean(values) - half, np.mean(values) + half), rel=1e-6)
    assert all(low <= numbers[name] + 1e-4 and numbers[name] - 1e-4 <= high for name, (low, high) in found.items())


def test_equal_models_do_not_differ(evaluate: Evaluate) -> None:
    runs = {run: {0: evaluate(run, 1)} for run in ("teacher-t", "student-s")}
    (found,) = compare.compare_runs([runs], ["r_mean"])
    assert found.differences.pop("r_mean") == compare.Difference(0, 0, 0, 1, (0,), 1)
    assert set(found.differences.values()) == {compare.Difference(0, 0, 0, 1, (0,))}


def test_runs_are_compared_with_the_baseline_or_the_first(evaluate: Evaluate, tmp_path: Path) -> None:
    source = evaluate("a", 1)
    untrained = {"initial-base": {0: (tmp_path / "never read", {})}}
    order = ["teacher-t", "teacher-u", "student-a", "student-continued"]

    def pairs(*runs: str) -> list[tuple[str, str]]:
        found = compare.compare_runs([untrained | {run: {0: source} for run in runs}], SHOWN)
        return [(one.run, one.reference) for one in found]

    assert pairs(*order) == [(run, "student-continued") for run in order[:3]]
    assert pairs(*order[:3]) == [("teacher-u", "teacher-t"), ("student-a", "teacher-t")]
    assert pairs("student-b", "student-a") == [("student-a", "student-b")]
    assert pairs("student-continued") == []
    assert pairs() == []


def test_seeds_are_paired_where_they_can_be(evaluate: Evaluate) -> None:
    models = {seed: evaluate(f"m{seed}", seed) for seed in range(4)}

    def seeds(own: list[int], other: list[int]) -> tuple[list[int], list[int], float, float]:
        runs = {"teacher-t": {seed: models[seed] for seed in other}, "student-s": {seed: models[seed] for seed in own}}
        (found,) = compare.compare_runs([runs], SHOWN)
        means = [np.mean([models[seed][1]["r_mean"] for seed in some]) for some in (own, other)]
        return found.seeds, found.reference_seeds, found.differences["r_mean"].value, means[0] - means[1]

    assert seeds([2, 0, 1], [1, 3, 2])[:3] == ([1, 2], [1, 2], 0)
    own, other, value, expected = seeds([2, 0], [3, 1])
    assert (own, other) == ([0, 2], [1, 3])
    assert value == pytest.approx(expected, abs=1e-4)


# --- files --------------------------------------------------------------------------------------------------


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with np.load(path) as stored:
            content = dict(stored)
        content[name] = change(content[name])
        np.savez(path, **content)

    return write


def with_nan(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) == 4, np.nan, values)


def unpacked(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "no such file"),
        (lambda path: path.write_bytes(b"nothing"), "not the rankings of a run"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "not the rankings of a run"),
        (damaged, "not the rankings of a run"),
        (lambda path: np.savez(path, image_ids=np.array(["a"])), "not the rankings of a run .*caption_ids"),
        (unpacked, "not the rankings of a run"),
        (changed("per_query/t2i_r@1", lambda values: values[:-1]), "t2i_r@1: 29 values for 30 queries"),
        (changed("per_query/t2t_query", lambda query: query[:0]), "t2t_ndcg@10: .* values for 0 queries"),
        (changed("per_query/t2t_ndcg@50", with_nan), "t2t_ndcg@50: the value of query 4 is not a finite number"),
        (changed("per_query/i2t_r@5", lambda values: values + 1), "i2t_r@5 averages to .*, the evaluation beside it"),
        (changed("per_query/i2t_r@5", lambda values: values[:, None]), r"i2t_r@5 is float32 of shape \(12, 1\)"),
        (changed("per_query/i2t_r@5", lambda values: values.astype(str)), "i2t_r@5 is <U"),
        (changed("per_query/i2it_query", lambda query: query + 1), "i2it_query has queries beyond the 12 there are"),
        (changed("per_query/t2it_query", lambda query: query - 1), "t2it_query has queries beyond the 30 there are"),
        (changed("caption_ids", lambda ids: np.char.add("b", ids)), "caption ba#0#0 is of no image"),
    ],
)
def test_faulty_rankings_are_refused(evaluate: Evaluate, spoil: Callable[[Path], object], message: str) -> None:
    path, numbers = evaluate("rankings", 1)
    spoil(path)
    with pytest.raises(UserError, match=message) as error:
        compare.read(path, numbers)
    assert str(error.value).startswith(str(path))
    assert str(error.value).endswith("run the evaluate stage again")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("per_query/i2t_query", lambda query: query[::-1]),
        ("image_ids", lambda ids: np.append(ids, "another")),
        ("caption_ids", lambda ids: ids[::-1]),
    ],
)
def test_values_of_other_queries_are_refused(evaluate: Evaluate, name: str, change: Callable) -> None:
    runs = {"teacher-t": {0: evaluate("one", 1)}, "student-s": {0: evaluate("two", 2)}}
    changed(name, change)(runs["student-s"][0][0])
    with pytest.raises(UserError, match=rf"two\.npz and .*one\.npz have values of different queries: .* in {name}"):
        compare.compare_runs([runs], SHOWN)
