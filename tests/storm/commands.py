"""What belongs to no stage in particular: options, paths, outputs that are somebody else's."""

from pathlib import Path

from storm import Case, World


def _relevance_of_nothing(world: World, folder: Path) -> list[str]:
    return ["relevance", "--captions", "captions.json", "--output", "relevance.npy"]


CASES = [
    Case("relevance: no captions file", _relevance_of_nothing, (r"captions\.json",)),
]
