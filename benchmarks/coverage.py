"""How often 95 % intervals contain the truth: `python benchmarks/coverage.py`, about a minute.

Makes up the differences of thousands of studies whose truth is known: a test set of 100 images, one query each. The
part of a seed, of an image, and of both together are normal; what seed and image have together is 10, 50 or 100 % of
what the choice of images makes vary. Compares the intervals of `rvlr.report.intervals` with those over images alone
and with percentile intervals of seeds and images drawn again (pigeonhole bootstrap). Prints Markdown tables, in
percent: the lowest and the highest of those three. docs/METHOD.md, "Differences between runs", has them.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from rvlr.report import intervals
from rvlr.report.intervals import Estimate

IMAGES, STUDIES, BATCHES, RESAMPLES = 100, 1000, 4, 400
SHARES = (0.1, 0.5, 1.0)
RATIOS = (0.0, 0.5, 1.0, 2.0, 5.0, 20.0)


def differences(generator: np.random.Generator, seeds: int, share: float, ratio: float) -> np.ndarray:
    """Values (S, N, studies). The choice of images gives each mean a variance of 1, that of seeds one of `ratio`."""
    image = generator.normal(0, np.sqrt((1 - share) * IMAGES), (1, IMAGES, STUDIES))
    both = generator.normal(0, np.sqrt(share * IMAGES * seeds), (seeds, IMAGES, STUDIES))
    return generator.normal(0, np.sqrt(ratio * seeds), (seeds, 1, STUDIES)) + image + both


def estimate(values: np.ndarray) -> Estimate:
    """The estimate of each study, of values (S, N, studies)."""
    return intervals.estimate([values], np.ones((IMAGES, STUDIES)), np.eye(STUDIES))


def covered(interval: tuple[np.ndarray, np.ndarray]) -> float:
    """How many intervals contain 0, the truth, in percent."""
    low, high = interval
    return 100 * float(((low <= 0) & (high >= 0)).mean())


def pigeonhole(values: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of means of seeds and images that are drawn again, each with replacement."""
    seeds = len(values)
    drawn = [generator.multinomial(size, [1 / size] * size, RESAMPLES) / size for size in (seeds, IMAGES)]
    by_seed = np.einsum("rn,snk->srk", drawn[1], values, optimize=True)
    low, high = np.percentile(np.einsum("rs,srk->rk", drawn[0], by_seed), (2.5, 97.5), axis=0)
    return low, high


def of_seeds(generator: np.random.Generator, seeds: int, share: float, ratio: float) -> dict[str, float]:
    """The coverage of each method for one test set and this number of seeds."""
    values = differences(generator, seeds, share, ratio)
    return {
        "images alone": covered(estimate(values.mean(axis=0, keepdims=True)).interval()),
        "pigeonhole bootstrap": covered(pigeonhole(values, generator)),
        "here": covered(estimate(values).interval()),
    }


def of_splits(generator: np.random.Generator, splits: int, share: float, ratio: float) -> dict[str, float]:
    """The coverage for this number of splits with three seeds each; seeds vary half as much as images. ratio: the
    variance of splits over that within a split."""
    parts = []
    for _ in range(splits):
        values = differences(generator, 3, share, 0.5)
        parts.append(estimate(values + generator.normal(0, np.sqrt(1.5 * ratio), STUDIES)))
    within = Estimate(  # as if there could be no other splits
        np.mean([one.values for one in parts], axis=0),
        {name: np.sum([one.spreads[name] for one in parts], axis=0) / splits**2 for name in parts[0].spreads},
        {name: splits * freedom for name, freedom in parts[0].freedom.items()},
        np.sum([one.shared for one in parts], axis=0) / splits**2,
    )
    return {"images and seeds alone": covered(within.interval()), "here": covered(intervals.average(parts).interval())}


def rows(what: str, counts: tuple[int, ...], study: Callable[..., dict[str, float]]) -> Iterator[dict[str, object]]:
    """One row for each count and method, with a column for each ratio."""
    for count in counts:
        cells: dict[str, dict[str, str]] = {}
        for ratio in RATIOS:
            found: dict[str, list[float]] = {}
            for share in SHARES:
                generator = np.random.default_rng([count, int(10 * ratio), int(10 * share)])
                runs = [study(generator, count, share, ratio) for _ in range(BATCHES)]
                for method in runs[0]:
                    found.setdefault(method, []).append(float(np.mean([run[method] for run in runs])))
            for method, values in found.items():
                cells.setdefault(method, {})[f"{ratio:g}"] = f"{min(values):.0f}-{max(values):.0f}"
        for method, row in cells.items():
            yield {what: count, "intervals": method, **row}


if __name__ == "__main__":
    for what, counts, study in (("seeds", (2, 3, 5), of_seeds), ("splits", (2, 3, 5), of_splits)):
        table = pd.DataFrame(rows(what, counts, study)).to_markdown(index=False, disable_numparse=True)
        sys.stdout.write(f"{table}\n\n")
