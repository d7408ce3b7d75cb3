"""What models and features of a split are judged by: relevance, scenes, people's judgements, and its smaller galleries.

Both evaluation stages read it here: `rvlr.evaluation.stage` and `rvlr.evaluation.features`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rvlr import config, provenance, relevance
from rvlr.data.records import Split, read_split
from rvlr.evaluation import judged, subsets


@dataclass(frozen=True)
class Truth:
    """A split of N images and C captions. relevance (C, N), by_scenes (C, N) for protocol `corrected/scenes` if it is
    wanted, people: judgements, galleries: those of each subset, digests: of all that was read, by name."""

    split: Split
    relevance: np.ndarray
    by_scenes: np.ndarray | None
    people: judged.Judged
    galleries: Mapping[str, subsets.Parts]
    digests: Mapping[str, str]

    def captions(self, first: int, last: int) -> slice:
        """The captions of the images [first, last)."""
        return slice(*self.split.offsets[[first, last]])

    def scenes_of(self, first: int, last: int) -> np.ndarray | None:
        """Relevance by scenes of the images [first, last) and their captions, if it is wanted."""
        return None if self.by_scenes is None else self.by_scenes[self.captions(first, last), first:last]


def read(section: config.Scoring, split_file: Path, matrix: Path, scenes: Path | None, ratings: Path | None) -> Truth:
    """Read what a split is judged by.

    matrix: the split's relevance, see `rvlr.relevance`; scenes: that by scenes; ratings: the folder with the ratings of
    CxC, if `section` asks for them. Raises UserError for inputs that do not belong together, and for subsets that the
    split is too small for.
    """
    split = read_split(split_file)
    people = judged.read(section.judgements, split, ratings)
    galleries = subsets.ranges(section.subsets, len(split.records))
    relevant = relevance.read(matrix, split)
    by_scenes = None if scenes is None else relevance.read(scenes, split, by_scenes=True)
    digests = {"relevance_sha256": provenance.sha256(matrix), **people.digests}
    if scenes is not None:
        digests["scenes_sha256"] = provenance.sha256(scenes)
    return Truth(split, relevant, by_scenes, people, galleries, digests)
