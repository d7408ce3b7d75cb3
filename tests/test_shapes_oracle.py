"""The data set `shapes` can be solved, and the less so the more imbalanced it is.

The oracle knows what a caption states and what an image shows. It counts the n test images that fit a
caption, and expects from guessing among them text to image R@1 = mean(1 / n) and R@10 = mean(min(1, 10 / n)).
"""

import itertools
from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np

from rvlr.config import Shapes
from rvlr.datasets import shapes
from rvlr.datasets.shapes import grammar
from rvlr.datasets.shapes.grammar import Told
from rvlr.datasets.shapes.scene import ATTRIBUTES, COLUMNS, ROWS, Scene, Thing


class Oracle:
    """The scenes as arrays (images, 4), "" where the image shows nothing, "-" where there is no thing."""

    def __init__(self, shown: Sequence[Scene]) -> None:
        self.background = np.array([item.background or "" for item in shown])
        self.count = np.array([len(item.things) for item in shown])
        self.values = {
            name: np.array([self._row([getattr(thing, name) or "" for thing in item.things]) for item in shown])
            for name in ATTRIBUTES
        }
        self.places = {
            "above": np.array([self._row([ROWS.index(thing.row) for thing in item.things], -1) for item in shown]),
            "left": np.array([self._row([COLUMNS.index(thing.column) for thing in item.things], -1) for item in shown]),
        }

    @staticmethod
    def _row(values: list, filler: str | int = "-") -> list:
        return values + [filler] * (4 - len(values))

    def _fits_thing(self, told: Thing) -> np.ndarray:
        """(images, 4) bool: which things may be the one that is told of."""
        fits = np.arange(4) < self.count[:, None]
        for name, value in zip(ATTRIBUTES, astuple(told), strict=True):
            if value is not None:
                fits &= np.isin(self.values[name], (value, ""))
        return fits

    def fits(self, told: Told) -> np.ndarray:
        """(images,) bool: the images that contradict nothing told; each told thing is another one."""
        possible = np.isin(self.background, (told.scene.background, "")) | (told.scene.background is None)
        if told.count is not None:
            possible &= self.count == told.count
        mentioned = {index: thing for index, thing in enumerate(told.scene.things) if thing != Thing()}
        single = {index: self._fits_thing(thing) for index, thing in mentioned.items()}
        found = np.zeros_like(possible)
        for places in itertools.permutations(range(4), len(mentioned)):
            at = dict(zip(mentioned, places, strict=True))
            here = possible.copy()
            for index, column in at.items():
                here &= single[index][:, column]
            if told.relation:
                place = self.places[told.relation.kind]
                here &= place[:, at[told.relation.first]] < place[:, at[told.relation.second]]
            found |= here
        return found


def expected_recall(section: Shapes) -> tuple[float, float]:
    """Text to image R@1 and R@10 of the oracle on the test split, in percent."""
    drawn = shapes.scenes(section)["test"]
    oracle = Oracle([shapes.shown(section, "test", index, item) for index, item in enumerate(drawn)])
    fitting = []
    for index, item in enumerate(drawn):
        for _, told in shapes.captions(section, "test", index, item):
            fits = oracle.fits(told)
            assert fits[index], "the caption contradicts its own image"
            fitting.append(fits.sum())
    counts = np.array(fitting)
    return 100 * np.mean(1 / counts), 100 * np.mean(np.minimum(1, 10 / counts))


def test_oracle_on_a_worked_example():
    circle, star = (
        Thing("circle", "red", "small", "top", "left"),
        Thing("star", "blue", "large", "bottom", "left"),
    )
    scenes = [
        Scene("white", (circle, star)),
        Scene("white", (replace(circle, column="right"), star)),
        Scene(None, (replace(circle, colour=None), star, star)),
    ]
    oracle = Oracle(scenes)

    def fits(background, things, **more):
        return oracle.fits(Told(Scene(background, things), **more)).tolist()

    assert fits(None, (Thing("circle"), Thing())) == [True, True, True]
    assert fits(None, (Thing(colour="red"), Thing())) == [True, True, True]
    assert fits(None, (Thing(size="small", column="right"), Thing())) == [False, True, False]
    assert fits(None, (Thing("star"), Thing("star"))) == [False, False, True]
    assert fits("black", (Thing("star"), Thing())) == [False, False, True]
    assert fits(None, (Thing("star"), Thing()), count=2) == [True, True, False]
    left = grammar.Relation(1, "left", 0)
    assert fits(None, (Thing("circle"), Thing("star")), relation=left) == [False, True, False]


def test_text_to_image_is_solvable_and_the_imbalance_makes_it_less_so():
    recall = {knob: expected_recall(Shapes(imbalance=knob)) for knob in (-1, -0.5, 0, 0.5, 1)}
    assert recall[0][1] >= 92
    assert 55 <= recall[0][0] <= 80
    assert recall[1][1] < recall[0.5][1] - 10 < recall[0][1] - 20
    assert recall[-1][1] < recall[-0.5][1] - 10 < recall[0][1] - 20
