"""Differences between models: compared with exact values, with images as units; faulty files are refused."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from rvlr.data.records import Record, Split
from rvlr.errors import UserError
from rvlr.evaluation import corrected, rankings
from rvlr.evaluation.inputs import Inputs
from rvlr.report import compare

ONE = np.ones((1, 1))
CAPTIONS = [1, 3, 2, 4, 2, 5, 1, 2, 3, 2, 1, 4]  # of each of 12 images
Evaluate = Callable[..., tuple[Path, dict[str, float]]]


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def clusters(values: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts (N, M) of per-query differences (Q, M) over the image (Q,) of each query."""
    sums = np.zeros((images.max() + 1, values.shape[1]))
    np.add.at(sums, images, values)
    return sums, np.repeat(np.bincount(images)[:, None].astype(float), values.shape[1], axis=1)


# --- statistics ---------------------------------------------------------------------------------------------


def test_difference_is_the_mean_over_queries_not_over_images() -> None:
    # (6 + 0) / 4 queries; of the second metric (1 + 2) / 2; mixed half and half
    sums, counts = np.array([[6.0, 1.0], [0.0, 2.0]]), np.array([[3.0, 1.0], [1.0, 1.0]])
    mix = np.array([[1, 0, 0.5], [0, 1, 0.5]])
    assert compare.difference(sums, counts, mix).tolist() == [1.5, 1.5, 1.5]


@pytest.mark.parametrize("images", [1, 4, 9])
def test_p_value_is_that_of_all_sign_flips(images: int) -> None:
    generator = np.random.default_rng(images)
    sums = np.round(generator.normal(0.8, 1.0, (images, 4)), 1)
    counts = np.repeat(generator.integers(1, 5, (images, 1)).astype(float), 4, axis=1)
    mix = np.hstack([np.eye(4), np.full((4, 1), 0.25)])
    parts = sums / counts.sum(axis=0) @ mix
    flipped = np.abs(np.array([signs @ parts for signs in itertools.product((-1.0, 1.0), repeat=images)]))
    exact = (flipped >= np.abs(parts.sum(axis=0)) - 1e-12).mean(axis=0)
    found = compare.permutation(sums, counts, mix)
    assert np.abs(found - exact).max() < 4 * 0.5 / compare.RESAMPLES**0.5
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / compare.RESAMPLES).max() + 1e-4)


def test_p_value_is_never_zero() -> None:
    assert compare.permutation(column(*[1.0] * 50), column(*[1.0] * 50), ONE) == 1 / (1 + compare.RESAMPLES)


def test_equal_sums_count_as_equal_despite_rounding() -> None:
    # 10 of 16 sums are 0.4 or larger; in floating point, only 8 are as large as 0.1 + 0.2 - 0.3 + 0.4
    found = compare.permutation(column(0.1, 0.2, -0.3, 0.4), column(1, 1, 1, 1), ONE)
    assert found == pytest.approx(10 / 16, abs=0.02)


def test_interval_of_few_images_is_exact() -> None:
    # one of 27 resamples of three images contains one image three times: 3.7 %, more than the 2.5 % beyond the interval
    low, high = compare.bootstrap(column(8, -3, 0), column(4, 3, 1), ONE)
    assert (low.item(), high.item()) == (-1, 2)


def test_interval_is_that_of_scipy() -> None:
    generator = np.random.default_rng(5)
    counts = generator.integers(1, 8, 60).astype(float)
    sums = generator.gamma(1.0, 2.0, 60) * counts - 1
    other = stats.bootstrap(
        (sums, counts),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=40_000,
        rng=np.random.default_rng(1),
    )
    low, high = compare.bootstrap(column(*sums), column(*counts), ONE)
    close = {"abs": 0.12 * other.standard_error}  # the quantile of 10,000 resamples has 0.027 standard errors itself
    assert low.item() == pytest.approx(other.confidence_interval.low, **close)
    assert high.item() == pytest.approx(other.confidence_interval.high, **close)


def test_intervals_cover_and_p_values_reject_as_often_as_they_say() -> None:
    """500 made-up test sets at once, one per column: the captions of an image have a part in common."""
    generator = np.random.default_rng(11)
    images = np.repeat(np.arange(100), generator.integers(1, 8, 100))
    values = generator.normal(0, 2, (100, 500))[images] + generator.normal(0, 1, (len(images), 500))
    sums, counts = clusters(values, images)
    each = np.eye(500)
    low, high = compare.bootstrap(sums, counts, each)
    assert 0.91 < ((low < 0) & (high > 0)).mean() < 0.98
    assert 0.02 < (compare.permutation(sums, counts, each) < 0.05).mean() < 0.08
    # with each caption as a unit of its own: intervals far too narrow
    alone = np.ones_like(values)
    low, high = compare.bootstrap(values, alone, each)
    assert ((low < 0) & (high > 0)).mean() < 0.8
    assert (compare.permutation(values, alone, each) < 0.05).mean() > 0.2


def test_captions_that_repeat_each_other_add_nothing() -> None:
    values = np.random.default_rng(2).normal(0.1, 1, (80, 1))
    one = np.ones_like(values)
    low, high = compare.bootstrap(values, one, ONE)
    assert np.concatenate(compare.bootstrap(5 * values, 5 * one, ONE)) == pytest.approx(np.concatenate([low, high]))
    assert compare.permutation(5 * values, 5 * one, ONE) == compare.permutation(values, one, ONE)
    repeated = np.repeat(values, 5, axis=0)
    narrow_low, narrow_high = compare.bootstrap(repeated, np.ones_like(repeated), ONE)
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(5**0.5, rel=0.1)


def test_resamples_without_a_query_are_left_out() -> None:
    sums, counts = np.array([[1.0, 8.0], [2.0, 0.0], [3.0, 0.0]]), np.array([[1.0, 2.0], [1.0, 0.0], [1.0, 0.0]])
    low, high = compare.bootstrap(sums, counts, np.eye(2))
    assert (low[1], high[1]) == (4, 4)
    assert 1 <= low[0] < high[0] < 3  # never without the first image


@settings(max_examples=20, deadline=None)
@given(arrays.arrays(np.float64, (7, 2), elements=st.floats(-100, 100, width=32)))
def test_exchanging_the_models_mirrors_the_difference(sums: np.ndarray) -> None:
    counts, mix = np.ones_like(sums), np.array([[1, 0.5], [0, 0.5]])
    low, high = compare.bootstrap(sums, counts, mix)
    mirrored_low, mirrored_high = compare.bootstrap(-sums, counts, mix)
    assert mirrored_low == pytest.approx(-high, abs=1e-9)
    assert mirrored_high == pytest.approx(-low, abs=1e-9)
    assert np.array_equal(compare.permutation(-sums, counts, mix), compare.permutation(sums, counts, mix))
    assert (low <= compare.difference(sums, counts, mix) + 1e-9).all()
    assert (compare.difference(sums, counts, mix) <= high + 1e-9).all()


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
    (found,) = compare.compare_runs(runs)
    assert (found.run, found.reference, found.images) == ("student-s", "teacher-t", 12)
    assert found.seeds == found.reference_seeds == [0, 5]
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
    assert compare.compare_runs(runs) == [found]


def test_equal_models_do_not_differ(evaluate: Evaluate) -> None:
    (found,) = compare.compare_runs({"teacher-t": {0: evaluate("a", 1)}, "student-s": {0: evaluate("b", 1)}})
    assert set(found.differences.values()) == {compare.Difference(0, 0, 0, 1)}


def test_both_directions_share_the_images_that_were_drawn() -> None:
    # an image gains as a query what its captions lose: the sum is zero, however often the image is drawn
    gain = np.random.default_rng(0).normal(0, 30, (40, 1))
    sums, counts = np.zeros((40, 18)), np.ones((40, 18))
    sums[:, :3], sums[:, 3:6], counts[:, 3:6] = gain, -5 * gain, 5
    low, high = compare.bootstrap(sums, counts, compare.MIX)
    names = [*compare.REPORTED]
    assert high[names.index("i2t_mean")] - low[names.index("i2t_mean")] > 5
    assert (low[names.index("r_mean")], high[names.index("r_mean")]) == pytest.approx((0, 0), abs=1e-9)
    assert compare.permutation(sums, counts, compare.MIX)[names.index("r_sum")] == 1


def test_runs_are_compared_with_the_baseline_or_the_first(evaluate: Evaluate, tmp_path: Path) -> None:
    source = evaluate("a", 1)
    untrained = {"initial-base": {0: (tmp_path / "never read", {})}}
    order = ["teacher-t", "teacher-u", "student-a", "student-continued"]

    def pairs(*runs: str) -> list[tuple[str, str]]:
        found = compare.compare_runs(untrained | {run: {0: source} for run in runs})
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
        (found,) = compare.compare_runs(runs)
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
        compare.compare_runs(runs)
