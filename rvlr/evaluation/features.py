"""Stored features and a split -> what two encoders know that nothing has trained here: the numbers of I->I and T->T.

Both encoders have spaces of their own, so the cross-modal and the mixed directions do not exist. Output: the files of
the stage `evaluate`, with these directions alone.
"""

from pathlib import Path

import numpy as np

from rvlr import config, provenance, relevance
from rvlr.data.features import checksum, read_features
from rvlr.data.records import read_split
from rvlr.errors import UserError, show
from rvlr.evaluation import corrected, judged, paper, record, subsets
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

    run, seed: those of the teacher, for the record. matrix: the split's relevance, see `rvlr.relevance`. scenes:
    its relevance by scenes, for protocol `corrected/scenes`. ratings: the folder with the ratings of CxC, if `section`
    asks for them. Raises UserError for inputs that do not belong together,
    for a feature that is all zeros, and for subsets that the split is too small for.
    """
    split = read_split(split_file)
    people = judged.read(section.judgements, split, ratings)
    parts = subsets.ranges(section.subsets, len(split.records))
    relevant = relevance.read(matrix, split)
    by_scenes = None if scenes is None else relevance.read(scenes, split, by_scenes=True)
    features = read_features(folder, split)
    _check_directions(features.image, folder / "image.npy", [record.image for record in split.records])
    _check_directions(features.text, folder / "text.npy", split.captions)

    def inputs_of(first: int, last: int) -> Inputs:
        captions = slice(*split.offsets[[first, last]])
        return Inputs.of_features(
            features.image[first:last],
            features.text[captions],
            relevant[captions, first:last],
            split.caption_image[captions] - first,
        )

    def results(first: int, last: int) -> dict[str, Result]:
        captions = slice(*split.offsets[[first, last]])
        scene_part = None if by_scenes is None else by_scenes[captions, first:last]
        return judge(PROTOCOLS, inputs_of(first, last), scene_part)

    def numbers(first: int, last: int) -> dict[str, dict[str, float]]:
        return {name: result.numbers for name, result in results(first, last).items()}

    whole = results(0, len(split.records))
    by_people = judged.measure(people, inputs_of(0, len(split.records)), across=False)
    measured = {name: result.numbers for name, result in whole.items()} | subsets.measure(parts, numbers)
    digests = {
        "relevance_sha256": provenance.sha256(matrix),
        "features_sha256": checksum(folder),
        **people.digests,
    }
    if scenes is not None:
        digests["scenes_sha256"] = provenance.sha256(scenes)
    record.write(output, run, seed, split, split_file, section, digests, whole, measured, by_people)


def _check_directions(rows: np.ndarray, path: Path, items: list[str]) -> None:
    zero = np.flatnonzero(~np.any(rows, axis=1))
    if len(zero):
        raise UserError(
            f"{path}: row {zero[0]} (counted from 0), of {show(items[zero[0]])}, is all zeros, so it has no "
            "cosine; make the features again"
        )
