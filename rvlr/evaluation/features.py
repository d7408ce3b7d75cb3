"""Stored features and a split -> what two encoders know that nothing has trained here: the numbers of I->I and T->T.

Both encoders have spaces of their own, so the cross-modal and the mixed directions do not exist. Output: the files of
the stage `evaluate`, with these directions alone.
"""

from pathlib import Path

import numpy as np

from rvlr import config
from rvlr.data.features import checksum, read_features
from rvlr.errors import UserError, show
from rvlr.evaluation import corrected, judged, paper, record, subsets, truth
from rvlr.evaluation.inputs import Inputs, Result
from rvlr.evaluation.protocols import judge

PROTOCOLS = {"corrected": corrected.single_modal, "paper": paper.single_modal}
"""The single-modal part of each protocol of the stage `evaluate`."""


def evaluate(
    section: config.Scoring,
    run: str,
    seed: int,
    folder: Path,
    split_file: Path,
    matrix: Path,
    output: Path,
    scenes: Path | None = None,
    ratings: Path | None = None,
) -> None:
    """Evaluate stored features of a split, see `rvlr.data.features`, by their cosines.

    run, seed: those of the teacher, for the record. Other arguments and errors are those of `rvlr.evaluation.truth`;
    raises UserError also for a feature that is all zeros.
    """
    known = truth.read(section, split_file, matrix, scenes, ratings)
    split = known.split
    features = read_features(folder, split)
    _check_directions(features.image, folder / "image.npy", [record.image for record in split.records])
    _check_directions(features.text, folder / "text.npy", split.captions)

    def inputs_of(first: int, last: int) -> Inputs:
        captions = known.captions(first, last)
        return Inputs.of_features(
            features.image[first:last],
            features.text[captions],
            known.relevance[captions, first:last],
            split.caption_image[captions] - first,
        )

    def results(first: int, last: int) -> dict[str, Result]:
        return judge(PROTOCOLS, inputs_of(first, last), known.scenes_of(first, last))

    def numbers(first: int, last: int) -> dict[str, dict[str, float]]:
        return {name: result.numbers for name, result in results(first, last).items()}

    whole = results(0, len(split.records))
    by_people = judged.measure(known.people, inputs_of(0, len(split.records)), across=False)
    measured = {name: result.numbers for name, result in whole.items()} | subsets.measure(known.galleries, numbers)
    digests = {**known.digests, "features_sha256": checksum(folder)}
    record.write(output, run, seed, split, split_file, section, digests, whole, measured, by_people)


def _check_directions(rows: np.ndarray, path: Path, items: list[str]) -> None:
    zero = np.flatnonzero(~np.any(rows, axis=1))
    if len(zero):
        raise UserError(
            f"{path}: row {zero[0]} (counted from 0), of {show(items[zero[0]])}, is all zeros, so it has no "
            "cosine; make the features again"
        )
