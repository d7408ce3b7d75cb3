"""How much scenes of `shapes` have in common: what they show, not how it is said. docs/METHOD.md, "Evaluation".

Enters: scenes of which everything is known. Leaves: F-measures of their facts, float32, from 0 to 1.

The facts of a scene are its background; of each thing shape, colour, size, row and column (`ATTRIBUTES`); of each two
things which of them is left of the other and which is above the other, if they are in different columns or rows. Two
scenes share a fact if both have it, once each thing of one stands for another thing of the other scene, or for none.
Of all ways to pair the things the one with most shared facts counts.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from rvlr.datasets.shapes.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    COLUMNS,
    RADII,
    ROWS,
    SHAPES,
    THINGS,
    Scene,
    Thing,
)

SCENES_AT_ONCE = 64
_VALUES = dict(zip(ATTRIBUTES, (SHAPES, tuple(COLOURS), tuple(RADII), ROWS, COLUMNS), strict=True))


def similarity(scenes: Sequence[Scene]) -> Iterator[np.ndarray]:
    """Rows of the matrix (N, N) of 2 shared / (facts of one + facts of the other), `SCENES_AT_ONCE` rows at a time.

    The matrix is symmetric, and 1 for equal scenes alone. No scene has more things than `THINGS` says.

    Facts are 0 or 1 in a vector with a place for each fact about each slot, or pair of slots, that things stand in. Two
    scenes share as many as the product of their vectors says. Trying all orders of the things in the slots of one of
    both is trying all pairs; slots that stay empty share nothing.
    """
    background, things, relations = _encode(scenes)
    orders = [list(order) for order in itertools.permutations(range(things.shape[1]))]
    items = _join(background, things, relations)
    facts = items.sum(axis=1)
    for first in range(0, len(scenes), SCENES_AT_ONCE):
        rows = slice(first, first + SCENES_AT_ONCE)
        shared = np.zeros((len(items[rows]), len(items)), dtype=np.float32)
        for order in orders:
            reordered = _join(background[rows], things[rows][:, order], relations[rows][:, order][:, :, order])
            np.maximum(shared, reordered @ items.T, out=shared)
        yield 2 * shared / (facts[rows, None] + facts)


def _encode(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Facts as float32 of 0 and 1: backgrounds (N, 5), things (N, S, values of all attributes), relations (N, S, S, 2),
    for S slots: thing s is left of thing t, and above it."""
    slots = max(THINGS)
    background = np.zeros((len(scenes), len(BACKGROUNDS)), dtype=np.float32)
    things = np.zeros((len(scenes), slots, sum(map(len, _VALUES.values()))), dtype=np.float32)
    place = np.full((len(scenes), slots, 2), np.nan, dtype=np.float32)  # nan is neither less nor more
    for index, scene in enumerate(scenes):
        background[index] = [name == scene.background for name in BACKGROUNDS]
        for slot, thing in enumerate(scene.things):
            things[index, slot] = _attributes(thing)
            place[index, slot] = COLUMNS.index(thing.column), ROWS.index(thing.row)
    return background, things, (place[:, :, None] < place[:, None]).astype(np.float32)


def _attributes(thing: Thing) -> list[bool]:
    return [getattr(thing, name) == value for name, values in _VALUES.items() for value in values]


def _join(*parts: np.ndarray) -> np.ndarray:
    return np.hstack([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts])
