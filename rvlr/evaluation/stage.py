"""Stage `evaluate`: a model and a split -> every number of every protocol.

Leaves `SPLIT.json` (numbers with configuration, seed, commit and data checksums), and `rankings.npz`: the ids of the
first 100 items of every query's list and the per-query values, so that figures and re-scoring need no model. The
former holds a digest of the latter, by which the two are known to belong together.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rvlr import config, devices, files, provenance, relevance
from rvlr.data.records import Split, read_split
from rvlr.errors import UserError
from rvlr.evaluation import MEASURED, protocols
from rvlr.evaluation.encode import Encoded, encode
from rvlr.evaluation.rerank import rerank
from rvlr.log import logger
from rvlr.models import build
from rvlr.models.retrieval import RetrievalModel


def device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if devices.usable() else "cpu")


def score(
    model: RetrievalModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    relevant: np.ndarray | None,
    section: config.Scoring,
) -> protocols.Inputs:
    """Encode a split and re-rank the candidates; `relevant` is the relevance matrix where it is needed."""
    encoded = encode(model, tokenizer, split, section.batch_size, section.workers)
    return _rerank(model, encoded, split.caption_image, relevant, section.candidates)


def evaluate(
    section: config.Scoring, run: str, seed: int, model_folder: Path, split_file: Path, matrix: Path, output: Path
) -> None:
    """Evaluate one model on one split and its subsets, with both protocols."""
    split = read_split(split_file)
    ranges = {subset: _ranges(subset, len(split.records)) for subset in section.subsets}
    relevant = relevance.read(matrix, split)
    model, tokenizer = build.load(model_folder)
    model = model.to(device())
    encoded = encode(model, tokenizer, split, section.batch_size, section.workers)
    inputs = _rerank(model, encoded, split.caption_image, relevant, section.candidates)
    corrected, paper = protocols.corrected(inputs), protocols.paper(inputs)
    numbers = {"corrected": corrected.numbers, "paper": paper.numbers}
    done: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    for subset, parts in ranges.items():
        for first, last in parts:
            if (first, last) not in done:
                part = _part(encoded, split, relevant, first, last)
                done[first, last] = _both(_rerank(model, *part, section.candidates))
        for protocol in ("corrected", "paper"):
            folds = [done[part][protocol] for part in parts]
            numbers[f"{protocol}/{subset}"] = {name: fmean(fold[name] for fold in folds) for name in folds[0]}
    about = files.read_json(split_file.parent / "dataset.json")
    rankings = output / "rankings.npz"
    _write_rankings(rankings, split, corrected)
    result: dict[str, Any] = {
        "run": run,
        "seed": seed,
        "split": split.name,
        "counts": {"images": len(split.records), "captions": len(split.captions)},
        "notes": about.get("notes", []),
        "protocols": numbers,
        "config": section.model_dump(mode="json"),
        "inputs": {
            "split_checksum": split.checksum,
            "relevance_sha256": provenance.sha256(matrix),
            "model_sha256": provenance.sha256(model_folder / "model.safetensors"),
        },
        "provenance": provenance.collect(),
    }
    numbers_sha256 = provenance.digest({key: result[key] for key in MEASURED})
    result["outputs"] = {"rankings_sha256": provenance.sha256(rankings), "numbers_sha256": numbers_sha256}
    files.write_json(output / f"{split.name}.json", result)
    logger.info(
        "%s on %s: %s", run, split.name, ", ".join(f"{name} {value:.2f}" for name, value in corrected.numbers.items())
    )


def _both(inputs: protocols.Inputs) -> dict[str, dict[str, float]]:
    return {"corrected": protocols.corrected(inputs).numbers, "paper": protocols.paper(inputs).numbers}


def _rerank(
    model: RetrievalModel, encoded: Encoded, caption_image: np.ndarray, relevant: np.ndarray | None, candidates: int
) -> protocols.Inputs:
    scores_i2t, scores_t2i = rerank(model, encoded, candidates)
    shape = (len(encoded.text_embeds), len(encoded.image_embeds))
    return protocols.Inputs(
        image_embeds=encoded.image_embeds.float().cpu().numpy(),
        text_embeds=encoded.text_embeds.float().cpu().numpy(),
        scores_i2t=scores_i2t.numpy(),
        scores_t2i=scores_t2i.numpy(),
        relevance=np.broadcast_to(np.float32(0), shape) if relevant is None else relevant,
        caption_image=caption_image,
    )


def _ranges(subset: str, images: int) -> list[tuple[int, int]]:
    """The images [first, last) of each gallery: `first-N` is the first N, `folds-N` as many disjoint N as there are."""
    kind, _, size = subset.partition("-")
    count = int(size)
    if count >= images:
        raise UserError(f"evaluation.subsets: {subset!r}, but the split has {images} images; name fewer than that")
    return [(start, start + count) for start in range(0, 1 if kind == "first" else images - count + 1, count)]


def _part(
    encoded: Encoded, split: Split, relevant: np.ndarray, first: int, last: int
) -> tuple[Encoded, np.ndarray, np.ndarray]:
    """What images [first, last) and their captions are by themselves: encoded, caption_image, relevance."""
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


def _write_rankings(path: Path, split: Split, result: protocols.Result) -> None:
    arrays: dict[str, Any] = {
        "image_ids": np.array([record.image_id for record in split.records]),
        "caption_ids": np.array(
            [f"{record.image_id}#{number}" for record in split.records for number in range(len(record.captions))]
        ),
    }
    for direction, ranking in result.rankings.items():
        arrays[direction] = ranking.indices
        arrays[f"{direction}_query"] = ranking.queries
        arrays[f"{direction}_score"] = ranking.scores
    for name, values in result.per_query.items():
        arrays[f"per_query/{name}"] = values
    for direction, queries in result.queries.items():
        arrays[f"per_query/{direction}_query"] = queries
    with files.atomic_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)
