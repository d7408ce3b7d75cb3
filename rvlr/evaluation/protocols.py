"""Every protocol of an evaluation, and protocol `corrected` again with the relevance of scenes: `corrected/scenes`."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from rvlr.evaluation.inputs import Inputs, Result

SCENES = "corrected/scenes"


def judge(
    protocols: Mapping[str, Callable[[Inputs], Result]], inputs: Inputs, scenes: np.ndarray | None
) -> dict[str, Result]:
    """The result of each protocol; scenes: the relevance (C, N) by scenes that gives `SCENES`, if it is wanted."""
    results = {name: protocol(inputs) for name, protocol in protocols.items()}
    if scenes is not None:
        results[SCENES] = protocols["corrected"](replace(inputs, relevance=scenes))
    return results
