"""Stage `evaluate`: a model and a split -> every number of every protocol.

Leaves `SPLIT.json` (numbers with configuration, seed, commit and data checksums), and `rankings.npz`: the ids of the
first 100 items of every query's list and the per-query values, so that figures and re-scoring need no model.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rvlr import config, io, relevance
from rvlr.data.records import Split, read_split
from rvlr.evaluation import protocols
from rvlr.evaluation.encode import encode
from rvlr.evaluation.rerank import rerank
from rvlr.log import logger
from rvlr.models import build
from rvlr.models.retrieval import RetrievalModel


def device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def score(
    model: RetrievalModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    relevant: np.ndarray | None,
    section: config.Scoring,
) -> protocols.Inputs:
    """Encode a split and re-rank the candidates; `relevant` is the relevance matrix where it is needed."""
    encoded = encode(model, tokenizer, split, section.batch_size, section.workers)
    scores_i2t, scores_t2i = rerank(model, encoded, section.candidates)
    shape = (len(split.captions), len(split.records))
    return protocols.Inputs(
        image_embeds=encoded.image_embeds.float().cpu().numpy(),
        text_embeds=encoded.text_embeds.float().cpu().numpy(),
        scores_i2t=scores_i2t.numpy(),
        scores_t2i=scores_t2i.numpy(),
        relevance=np.broadcast_to(np.float32(0), shape) if relevant is None else relevant,
        caption_image=split.caption_image,
    )


def evaluate(
    section: config.Scoring, run: str, seed: int, model_folder: Path, split_file: Path, matrix: Path, output: Path
) -> None:
    """Evaluate one model on one split, with both protocols."""
    split = read_split(split_file)
    relevant = relevance.read(matrix, split)
    model, tokenizer = build.load(model_folder)
    inputs = score(model.to(device()), tokenizer, split, relevant, section)
    corrected, paper = protocols.corrected(inputs), protocols.paper(inputs)
    result = {
        "run": run,
        "seed": seed,
        "split": split.name,
        "counts": {"images": len(split.records), "captions": len(split.captions)},
        "protocols": {"corrected": corrected.numbers, "paper": paper.numbers},
        "config": section.model_dump(mode="json"),
        "inputs": {
            "split_checksum": split.checksum,
            "relevance_sha256": io.sha256(matrix),
            "model_sha256": io.sha256(model_folder / "model.safetensors"),
        },
        "provenance": io.provenance(),
    }
    _write_rankings(output / "rankings.npz", split, corrected)
    io.write_json(output / f"{split.name}.json", result)
    logger.info(
        "%s on %s: %s", run, split.name, ", ".join(f"{name} {value:.2f}" for name, value in corrected.numbers.items())
    )


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
    with io.atomic_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)
