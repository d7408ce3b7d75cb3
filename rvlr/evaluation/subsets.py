"""Smaller galleries, `evaluation.subsets`: which images they have, and the numbers measured on them."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from rvlr.errors import UserError

Parts = list[tuple[int, int]]
"""The images [first, last) of each gallery of a subset."""


def ranges(subsets: Sequence[str], images: int) -> dict[str, Parts]:
    """The galleries of each subset: of `first-N` the first N images, of `folds-N` all disjoint parts of N. Raises
    UserError for a subset that a split of so many images is too small for."""
    return {subset: _ranges(subset, images) for subset in subsets}


def measure(
    subsets: Mapping[str, Parts], part: Callable[[int, int], dict[str, dict[str, float]]]
) -> dict[str, dict[str, float]]:
    """PROTOCOL/SUBSET -> its numbers, means over the subset's galleries; `part(first, last)` measures one gallery, and
    gives the numbers of each protocol."""
    done: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    found = {}
    for subset, parts in subsets.items():
        for one in parts:
            if one not in done:
                done[one] = part(*one)
        for protocol in done[parts[0]]:
            folds = [done[one][protocol] for one in parts]
            found[f"{protocol}/{subset}"] = {name: fmean(fold[name] for fold in folds) for name in folds[0]}
    return found


def _ranges(subset: str, images: int) -> Parts:
    kind, _, size = subset.partition("-")
    count = int(size)
    if count >= images:
        raise UserError(f"evaluation.subsets: {subset!r}, but the split has {images} images; name fewer than that")
    return [(start, start + count) for start in range(0, 1 if kind == "first" else images - count + 1, count)]
