"""Stage `evaluate`: a model and a split -> every number of every protocol.

Output: `SPLIT.json` (numbers and diagnostics with configuration, seed, commit and data checksums) and `rankings.npz`,
see `rvlr.evaluation.rankings`. The former contains a digest of the latter, which shows that the two belong together.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import nn

from rvlr import config, files, provenance, relevance
from rvlr.data.records import Split, read_split
from rvlr.errors import UserError
from rvlr.evaluation import corrected, diagnostics, paper, rankings
from rvlr.evaluation.encode import Encoded, encode
from rvlr.evaluation.record import numbers_sha256
from rvlr.evaluation.scoring import device, score_encoded
from rvlr.log import logger
from rvlr.models.retrieval import RetrievalModel

PROTOCOLS = {"corrected": corrected.evaluate, "paper": paper.evaluate}
"""A new protocol is a module with such a function, and an entry here."""


def evaluate(
    section: config.Scoring, run: str, seed: int, model_folder: Path, split_file: Path, matrix: Path, output: Path
) -> None:
    """Evaluate one model on one split and its subsets, with both protocols.

    run, seed: those of the model, for the record. matrix: the split's relevance, see `rvlr.relevance`. Raises UserError
    for inputs that do not belong together, and for subsets that the split is too small for.
    """
    split = read_split(split_file)
    ranges = {subset: _ranges(subset, len(split.records)) for subset in section.subsets}
    relevant = relevance.read(matrix, split)
    model = RetrievalModel.from_pretrained(model_folder)
    nn.Module.to(model, device())  # transformers' own `to` has no types
    encoded = encode(model, split, section.batch_size, section.workers)
    inputs = score_encoded(model, encoded, split.caption_image, relevant, section.candidates)
    results = {name: protocol(inputs) for name, protocol in PROTOCOLS.items()}
    numbers = {name: result.numbers for name, result in results.items()}
    diagnosed = diagnostics.measure(inputs.image_units, inputs.text_units, split.caption_image)
    done: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    for subset, parts in ranges.items():
        for first, last in parts:
            if (first, last) not in done:
                part = _part(encoded, split, relevant, first, last)
                inputs = score_encoded(model, *part, section.candidates)
                done[first, last] = {name: protocol(inputs).numbers for name, protocol in PROTOCOLS.items()}
        for protocol_name in PROTOCOLS:
            folds = [done[part][protocol_name] for part in parts]
            numbers[f"{protocol_name}/{subset}"] = {name: fmean(fold[name] for fold in folds) for name in folds[0]}
    about = files.read_json(split_file.parent / "dataset.json")
    ranked = output / "rankings.npz"
    rankings.write(ranked, split, results["corrected"])
    record: dict[str, Any] = {
        "run": run,
        "seed": seed,
        "split": split.name,
        "counts": {"images": len(split.records), "captions": len(split.captions)},
        "notes": about.get("notes", []),
        "protocols": numbers,
        "diagnostics": diagnosed,
        "config": section.model_dump(mode="json"),
        "inputs": {
            "split_checksum": split.checksum,
            "relevance_sha256": provenance.sha256(matrix),
            "model_sha256": provenance.sha256(model_folder / "model.safetensors"),
        },
        "provenance": provenance.collect(),
    }
    record["outputs"] = {"rankings_sha256": provenance.sha256(ranked), "numbers_sha256": numbers_sha256(record)}
    files.write_json(output / f"{split.name}.json", record)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in numbers["corrected"].items())
    logger.info("%s on %s: %s", run, split.name, shown)


def _ranges(subset: str, images: int) -> list[tuple[int, int]]:
    """The images [first, last) of each gallery: `first-N` is the first N, `folds-N` all disjoint parts of N."""
    kind, _, size = subset.partition("-")
    count = int(size)
    if count >= images:
        raise UserError(f"evaluation.subsets: {subset!r}, but the split has {images} images; name fewer than that")
    return [(start, start + count) for start in range(0, 1 if kind == "first" else images - count + 1, count)]


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
