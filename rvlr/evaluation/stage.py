"""Stage `evaluate`: a model and a split -> every number of every protocol.

Output: `SPLIT.json` (numbers and diagnostics with configuration, seed, commit and data checksums) and `rankings.npz`,
see `rvlr.evaluation.rankings`. The former contains a digest of the latter, which shows that the two belong together.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import nn

from rvlr import config, provenance
from rvlr.data.features import checksum, read_features
from rvlr.data.records import Split, read_split
from rvlr.evaluation import corrected, diagnostics, judged, mixed, paper, record, subsets, truth
from rvlr.evaluation.encode import Encoded, encode
from rvlr.evaluation.inputs import Inputs, Result
from rvlr.evaluation.protocols import judge
from rvlr.evaluation.scoring import device, score_encoded
from rvlr.models.retrieval import RetrievalModel

PROTOCOLS = {"corrected": corrected.evaluate, "paper": paper.evaluate}
"""A new protocol is a module with such a function, and an entry here."""


def evaluate(
    section: config.Scoring,
    run: str,
    seed: int,
    model_folder: Path,
    split_file: Path,
    matrix: Path,
    output: Path,
    train_file: Path | None = None,
    scenes: Path | None = None,
    teachers: Mapping[str, Path] = MappingProxyType({}),
    ratings: Path | None = None,
) -> None:
    """Evaluate one model on one split and its subsets, with both protocols, and by people's judgements.

    run, seed: those of the model, for the record. matrix: the split's relevance, see `rvlr.relevance`. train_file: the
    training split; without it there are no centred rankings, see `rvlr.evaluation.mixed`. scenes: the split's relevance
    by scenes, for protocol `corrected/scenes`. teachers: name -> the folder of its features of the split, whose
    structure is looked for in the model. ratings: the folder with the ratings of CxC, if `section` asks for them.
    Raises UserError for inputs that do not belong together, for subsets that the split is too small for, and as
    `rvlr.evaluation.diagnostics.structure`.
    """
    known = truth.read(section, split_file, matrix, scenes, ratings)
    split = known.split
    features = {name: read_features(folder, split) for name, folder in teachers.items()}
    model = RetrievalModel.from_pretrained(model_folder)
    nn.Module.to(model, device())  # transformers' own `to` has no types
    means = None
    if train_file is not None:
        means = mixed.training_means(model, read_split(train_file), section.batch_size, section.workers)
    encoded = encode(model, split, section.batch_size, section.workers)

    def corrected_with_scales(inputs: Inputs) -> Result:
        result = corrected.evaluate(inputs)
        mixed.add(result, inputs, means)
        return result

    protocols = {**PROTOCOLS, "corrected": corrected_with_scales}

    def numbers_of(first: int, last: int) -> dict[str, dict[str, float]]:
        part = _part(encoded, split, known.relevance, first, last)
        found = judge(protocols, score_encoded(model, *part, section.candidates), known.scenes_of(first, last))
        return {name: result.numbers for name, result in found.items()}

    inputs = score_encoded(model, encoded, split.caption_image, known.relevance, section.candidates)
    whole = judge(protocols, inputs, known.by_scenes)
    numbers = {name: result.numbers for name, result in whole.items()} | subsets.measure(known.galleries, numbers_of)
    by_people = judged.measure(known.people, inputs)
    space = inputs.image_units, inputs.text_units, split.caption_image
    diagnosed = diagnostics.measure(*space)
    for teacher, rows in features.items():
        kept = diagnostics.structure(*space, rows.image, rows.text)
        diagnosed |= {f"{name}/{teacher}": value for name, value in kept.items()}
    model_sha256 = provenance.sha256(model_folder / "model.safetensors")
    digests: dict[str, Any] = {**known.digests, "model_sha256": model_sha256}
    if teachers:
        digests["teachers"] = {name: checksum(folder) for name, folder in teachers.items()}
    record.write(output, run, seed, split, split_file, section, digests, whole, numbers, by_people, diagnosed)


def _part(
    encoded: Encoded, split: Split, relevant: np.ndarray, first: int, last: int
) -> tuple[Encoded, np.ndarray, np.ndarray]:
    """Images [first, last) and their captions as a split of its own: encoded, caption_image, relevance."""
    captions = slice(*split.offsets[[first, last]])
    tokens = encoded.text_offsets[captions.start : captions.stop + 1]
    part = Encoded(
        image_tokens=encoded.image_tokens[first:last],
        text_tokens=encoded.text_tokens[tokens[0] : tokens[-1]],
        text_offsets=tokens - tokens[0],
        image_embeds=encoded.image_embeds[first:last],
        text_embeds=encoded.text_embeds[captions],
    )
    return part, split.caption_image[captions] - first, relevant[captions, first:last]
