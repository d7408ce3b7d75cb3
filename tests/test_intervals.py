"""Intervals and p-values: worked by hand, equal to a slow version, and right as often as they say on made-up data whose
truth is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from rvlr.report import compare, intervals
from rvlr.report.intervals import Estimate

ONE = np.ones((1, 1))


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def single(values: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The arguments of `estimate` for values (S, N, K), one query an image, every metric reported as it is."""
    return [values], np.ones(values.shape[1:]), np.eye(values.shape[2])


def covered(found: Estimate, truth: float = 0.0) -> float:
    """How many of the intervals contain the truth. p-values must say the same about 0."""
    low, high = found.interval()
    assert np.array_equal(found.p_values() < 0.05, (low > 0) | (high < 0))
    return float(((low <= truth) & (truth <= high)).mean())


# --- worked by hand -----------------------------------------------------------------------------------------


def test_the_mean_is_over_queries_not_over_images() -> None:
    # (6 + 0) / 4 queries; of the second metric (1 + 2) / 2; mixed half and half
    sums, counts = np.array([[[6.0, 1.0], [0.0, 2.0]]]), np.array([[3.0, 1.0], [1.0, 1.0]])
    mix = np.array([[1, 0, 0.5], [0, 1, 0.5]])
    assert intervals.estimate([sums], counts, mix).values.tolist() == [1.5, 1.5, 1.5]


def test_spreads_by_hand() -> None:
    # two seeds, three images. Means of images 1, 3, 8, of all 4: squares 9 + 1 + 16 = 26; / 2 = 13; / 3 images
    # means of seeds 3, 5: squares 1 + 1 = 2; / 1 = 2; / 2 seeds
    found = intervals.estimate(*single(np.array([[[0.0], [2], [7]], [[2], [4], [9]]])))
    assert found.values == 4
    assert found.spreads["images"] == pytest.approx(13 / 3)
    assert found.spreads["seeds"] == pytest.approx(1)
    assert found.freedom == {"images": 2, "seeds": 1}
    assert found.shared == pytest.approx(0)  # both seeds rank the images alike
    assert found.variance == pytest.approx(16 / 3)
    # t of 2 degrees of freedom 4.303, of 1 12.706, weighted with 13/3 and 1: (18.645 + 12.706) / (16/3) = 5.878
    low, high = found.interval()
    assert (high - low) / 2 == pytest.approx(5.878 * (16 / 3) ** 0.5, rel=1e-3)
    assert (high + low) / 2 == pytest.approx(4)


def test_what_images_and_seeds_share_is_counted_once() -> None:
    # means of images 2, 4: squares 1 + 1 = 2; / 1 = 2; / 2 images. Means of seeds 1, 5: squares 4 + 4 = 8; / 1; / 2 = 4
    # left over: 0 - 1 - 2 + 3 = 0 and so on, but for +-1 in [[1, -1], [-1, 1]]: squares 4; / (1 * 1); / (2 * 2) = 1
    found = intervals.estimate(*single(np.array([[[1.0], [1]], [[3], [7]]])))
    assert (found.values, found.shared) == (3, pytest.approx(1))
    assert {source: spread.item() for source, spread in found.spreads.items()} == pytest.approx(
        {"images": 1, "seeds": 4}
    )
    assert found.variance == pytest.approx(1 + 4 - 1)
    # seeds that differ less than their accidents with images explain add nothing
    found = intervals.estimate(*single(np.array([[[0.0], [6]], [[4], [2]]])))
    assert (found.spreads["seeds"], found.variance) == (0, found.spreads["images"])


def test_variance_of_splits_by_hand() -> None:
    # values 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14; / 2 = 7; / 3 splits = 7/3; images explain (1 + 2 + 3) / 9 of it
    parts = [
        Estimate(np.array([value]), {"images": np.array([variance])}, {"images": 10}, np.zeros(1))
        for value, variance in ((1.0, 1.0), (2.0, 2.0), (6.0, 3.0))
    ]
    found = intervals.average(parts)
    assert found.values == 3
    assert found.spreads["images"] == pytest.approx(6 / 9)
    assert found.spreads["splits"] == found.variance == pytest.approx(7 / 3)
    assert found.freedom == {"images": 30, "splits": 2}
    # t of 30 degrees of freedom 2.042, of 2 4.303, weighted with 6/9 and 21/9: (6 * 2.042 + 21 * 4.303) / 27 = 3.800
    low, high = found.interval()
    assert (high - low) / 2 == pytest.approx(3.800 * (7 / 3) ** 0.5, rel=1e-3)
    # splits that differ no more than their images explain
    alike = intervals.average([parts[0], parts[0]])
    assert (alike.spreads["splits"], alike.variance) == (0, 0.5)
    assert intervals.average(parts[:1]) is parts[0]


def test_one_seed_says_nothing_of_seeds() -> None:
    values = np.random.default_rng(0).normal(1, 3, (1, 40, 5))
    found = intervals.estimate(*single(values))
    assert [*found.spreads] == ["images"]
    wanted = stats.ttest_1samp(values[0], 0)
    assert found.p_values() == pytest.approx(wanted.pvalue)
    assert np.stack(found.interval()) == pytest.approx(np.stack(wanted.confidence_interval(0.95)))


def test_runs_without_common_seeds_each_add_their_own_variance() -> None:
    generator = np.random.default_rng(1)
    own, other = generator.normal(2, 1, (4, 30, 1)), generator.normal(0, 1, (3, 30, 1))
    found = intervals.estimate([own, -other], np.ones((30, 1)), ONE)
    assert found.values == pytest.approx(own.mean() - other.mean())
    means = [part.mean(axis=1).ravel() for part in (own, other)]
    assert found.spreads["seeds"] == pytest.approx(sum(np.var(one, ddof=1) / len(one) for one in means))
    assert found.freedom["seeds"] == 2
    assert found.spreads["images"] == pytest.approx(np.var(own.mean(axis=0) - other.mean(axis=0), ddof=1) / 30)
    assert "seeds" not in intervals.estimate([own, -other[:1]], np.ones((30, 1)), ONE).spreads


def test_p_values_of_what_does_not_vary() -> None:
    p = intervals.estimate(*single(np.zeros((2, 6, 1)) + np.array([0.0, 3.0]))).p_values()
    assert p[0] == 1
    assert 0 < p[1] < 1e-20


def test_holm_by_hand() -> None:
    # the least 4-fold, then 3-fold, 2-fold, once; none below one before it
    assert intervals.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert intervals.holm([0.5, 0.9]) == [1, 1]
    assert intervals.holm([]) == []


# --- slow and obvious ---------------------------------------------------------------------------------------


def test_estimate_is_that_of_loops_over_queries() -> None:
    """Jackknife-like: each image's part in the mean by hand, query by query."""
    generator = np.random.default_rng(3)
    seeds, images = 3, 12
    counts = [[int(generator.integers(1, 5)), int(generator.integers(0, 3))] for _ in range(images)]
    values = [[[generator.normal(size=n).tolist() for n in row] for row in counts] for _ in range(seeds)]
    mix = np.array([[1, 0, 0.5], [0, 1, 0.5]])
    total = [sum(row[metric] for row in counts) for metric in (0, 1)]
    sums = np.array([[[sum(queries) for queries in row] for row in one] for one in values])
    found = intervals.estimate([sums], np.array(counts, dtype=float), mix)
    for reported, weights in enumerate(([1, 0], [0, 1], [0.5, 0.5])):
        by_seed = []
        for one in values:
            flat = [list(itertools.chain.from_iterable(row[metric] for row in one)) for metric in (0, 1)]
            by_seed.append(sum(w * np.mean(queries) for w, queries in zip(weights, flat, strict=True)))
        assert found.values[reported] == pytest.approx(np.mean(by_seed))
        assert found.spreads["seeds"][reported] == pytest.approx(np.var(by_seed, ddof=1) / seeds)
        means = [np.mean([sum(map(sum, (row[m] for row in one))) for one in values]) / total[m] for m in (0, 1)]
        squares = 0.0
        for image in range(images):
            effect = 0.0
            for metric in (0, 1):
                average = np.mean([sum(one[image][metric]) for one in values])
                effect += weights[metric] * (average - counts[image][metric] * means[metric]) / total[metric]
            squares += effect**2
        assert found.spreads["images"][reported] == pytest.approx(squares * images / (images - 1))


def test_variance_of_images_is_that_of_the_cluster_bootstrap() -> None:
    generator = np.random.default_rng(5)
    counts = generator.integers(1, 8, 300).astype(float)
    sums = generator.normal(1.0, 2.0, 300) * counts + generator.normal(0, 1, 300)
    other = stats.bootstrap(
        (sums, counts),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        n_resamples=10_000,
        rng=np.random.default_rng(1),
    )
    found = intervals.estimate([column(*sums)[None]], column(*counts), ONE)
    assert found.variance.item() ** 0.5 == pytest.approx(other.standard_error, rel=0.03)
    assert np.ravel(found.interval()) == pytest.approx([*other.confidence_interval], abs=0.15 * other.standard_error)


def test_the_interval_at_the_p_value_ends_at_zero() -> None:
    generator = np.random.default_rng(6)
    found = intervals.estimate(*single(generator.normal(0.3, 1, (4, 20, 50)) + generator.normal(0, 0.3, (4, 1, 50))))
    p = found.p_values()
    assert 1e-6 < p.min() < p.max() < 1
    for k, level in enumerate(p):
        quantiles = {source: stats.t.isf(level / 2, freedom) for source, freedom in found.freedom.items()}
        weights = {source: spread[k] for source, spread in found.spreads.items()}
        critical = sum(weights[source] * quantiles[source] for source in weights) / sum(weights.values())
        assert critical * found.variance[k] ** 0.5 == pytest.approx(abs(found.values[k]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=7), st.floats(0, 0.99))
def test_holm_is_the_step_down_procedure(p: list[float], level: float) -> None:
    rejected = set()
    for left, index in zip(range(len(p), 0, -1), np.argsort(p, kind="stable"), strict=True):
        if p[index] * left > level:
            break
        rejected.add(index)
    assert {index for index, one in enumerate(intervals.holm(p)) if one <= level} == rejected


@settings(max_examples=20, deadline=None)
@given(arrays.arrays(np.float64, (3, 7, 2), elements=st.floats(-100, 100, width=32)))
def test_exchanging_the_models_mirrors_the_difference(sums: np.ndarray) -> None:
    counts, mix = np.ones((7, 2)), np.array([[1, 0.5], [0, 0.5]])
    found, mirrored = intervals.estimate([sums], counts, mix), intervals.estimate([-sums], counts, mix)
    assert np.array_equal(found.values, -mirrored.values)
    assert np.array_equal(np.stack(found.interval()), -np.stack(mirrored.interval())[::-1])
    assert np.array_equal(found.p_values(), mirrored.p_values())


def test_captions_that_repeat_each_other_add_nothing() -> None:
    values = np.random.default_rng(2).normal(0.1, 1, (3, 80, 1))
    one = np.ones((80, 1))
    found, five = intervals.estimate([values], one, ONE), intervals.estimate([5 * values], 5 * one, ONE)
    assert np.stack(five.interval()) == pytest.approx(np.stack(found.interval()))
    assert five.p_values() == pytest.approx(found.p_values())


def test_both_directions_share_the_images() -> None:
    # an image gains as a query what its captions lose: the sum is zero, whichever images are chosen
    gain = np.random.default_rng(0).normal(0, 30, (40, 1))
    sums, counts = np.zeros((1, 40, 18)), np.ones((40, 18))
    sums[0, :, :3], sums[0, :, 3:6], counts[:, 3:6] = gain, -5 * gain, 5
    found = intervals.estimate([sums], counts, compare.MIX)
    names = [*compare.REPORTED]
    low, high = found.interval()
    assert high[names.index("i2t_mean")] - low[names.index("i2t_mean")] > 5
    assert (low[names.index("r_mean")], high[names.index("r_mean")]) == pytest.approx((0, 0), abs=1e-9)
    assert found.p_values()[names.index("r_mean")] == 1
    assert found.p_values()[names.index("i2t_mean")] < 1


# --- data whose truth is known ------------------------------------------------------------------------------


def made_up(seeds: int, ratio: float, images: int = 100, studies: int = 1500, seed: int = 0) -> np.ndarray:
    """Differences (S, N, studies) without effect. ratio: the variance that the choice of seeds gives the mean, over the
    variance from the choice of images; seed and image together vary as much as images alone."""
    generator = np.random.default_rng([seed, seeds, int(100 * ratio)])
    of_seeds = np.sqrt(ratio * (1 / images + 1 / images / seeds) * seeds) * generator.normal(size=(seeds, 1, studies))
    of_images = generator.normal(size=(1, images, studies))
    return of_seeds + of_images + generator.normal(size=(seeds, images, studies))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("ratio", [0, 1, 5])
def test_intervals_over_images_and_seeds_cover_the_truth(seeds: int, ratio: float) -> None:
    values = made_up(seeds, ratio)
    assert 0.93 < covered(intervals.estimate(*single(values))) < 0.995
    if ratio:
        # the images alone, which is what one seed can say: too narrow
        assert covered(intervals.estimate(*single(values.mean(axis=0, keepdims=True)))) < 0.88


def test_intervals_of_hits_by_clusters_of_captions_cover_the_truth() -> None:
    """Hits of two models, 1 to 7 captions an image: an image has a part that its captions share."""
    generator = np.random.default_rng(11)
    images = np.repeat(np.arange(100), generator.integers(1, 8, 100))
    hard = generator.normal(0, 1, (100, 800))[images]
    hits = [
        (hard + generator.normal(0, 1, (100, 800))[images] + generator.normal(0, 1, hard.shape) > 0.5) for _ in range(6)
    ]
    differences = [one.astype(float) - other for one, other in zip(hits[:3], hits[3:], strict=True)]
    sums = np.zeros((3, 100, 800))
    for index, values in enumerate(differences):
        np.add.at(sums[index], images, values)
    counts = np.repeat(np.bincount(images)[:, None].astype(float), 800, axis=1)
    assert 0.93 < covered(intervals.estimate([sums], counts, np.eye(800))) < 0.995
    # with each caption as a unit of its own: far too narrow
    alone = intervals.estimate([np.stack(differences[:1])], np.ones_like(differences[0]), np.eye(800))
    assert covered(alone) < 0.9


@pytest.mark.parametrize("ratio", [0, 1, 5])
def test_intervals_over_splits_cover_the_truth(ratio: float) -> None:
    """Three splits with three seeds each; ratio: the variance between splits over that within a split."""
    generator = np.random.default_rng(4)
    parts = []
    for split in range(3):
        values = made_up(3, 0.5, seed=1 + split)
        within = 1.5 * (1 / 100 + 1 / 300)
        parts.append(
            intervals.estimate(*single(values + generator.normal(0, np.sqrt(ratio * within), values.shape[2])))
        )
    assert 0.93 < covered(intervals.average(parts)) < 0.999
    if ratio == 5:
        # one split as if there could be no other
        assert covered(parts[0]) < 0.85


def test_as_many_false_findings_as_the_level_says() -> None:
    """Of 200 made-up tables of eight comparisons without effect, adjusted p-values are wrong in at most about 5 %."""
    p = intervals.estimate(*single(made_up(5, 0.5, studies=1600))).p_values().reshape(200, 8)
    assert (p < 0.05).any(axis=1).mean() > 0.15
    assert np.mean([min(intervals.holm(row.tolist())) < 0.05 for row in p]) < 0.09
