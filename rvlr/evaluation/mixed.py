"""Mixed lists ranked in two more ways, beside the standardised cosines of protocol `corrected`: plain and centred.

`plain`: the cosines as they are, of either kind of item. `centred`: the cosines of embeddings from which the mean of
their modality was taken, means of the training split, as Li et al. do, "Closing the Modality Gap for Mixed Modality
Search" (GR-CLIP), arXiv 2507.19054. Queries, lists and relevance are those of `rvlr.evaluation.corrected`; a number is
named after direction, scale and metric, such as `i2it_centred_ndcg@10`. N images, C captions, E: the embeddings' width.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from rvlr.data.records import Split
from rvlr.evaluation.corrected import judge_list, mixed_cosines, mixed_relevance
from rvlr.evaluation.encode import encode_captions, encode_images
from rvlr.evaluation.inputs import MIXED, Inputs, Result
from rvlr.evaluation.metrics import LIST_METRICS
from rvlr.evaluation.queries import judge_queries
from rvlr.models.retrieval import RetrievalModel

SAMPLE = 250
"""Most training images, with all their captions, that the means are taken of: encoding them costs time. On the demo,
NDCG@10 with 250 images is within 0.03 points of that with 1,000."""


@dataclass(frozen=True)
class Means:
    """The mean embeddings (E,), float32, of training images and of their captions."""

    image: np.ndarray
    text: np.ndarray


def sample(train: Split) -> Split:
    """At most `SAMPLE` images with all their captions, at equal distances in the order of the split."""
    count = len(train.records)
    size = min(count, SAMPLE)
    return replace(train, records=[train.records[index * count // size] for index in range(size)])


@torch.inference_mode()
def training_means(model: RetrievalModel, train: Split, batch_size: int, workers: int) -> Means:
    """The means of a sample of the training split."""
    chosen = sample(train)
    tokens, offsets = encode_captions(model, chosen.captions, batch_size)
    texts = model.embed_text(tokens[offsets[:-1]])
    # batch by batch: an image has many tokens, and its embedding is made of one
    batches = encode_images(model, chosen, batch_size, workers)
    images = torch.cat([model.embed_image(tokens[:, 0]) for tokens in batches])
    return Means(*(rows.double().mean(dim=0).float().cpu().numpy() for rows in (images, texts)))


def add(result: Result, inputs: Inputs, means: Means | None) -> None:
    """Add the numbers and per-query values of both ways to a result of protocol `corrected`. Without means of the
    training split there is no `centred`."""
    spaces = {"plain": (inputs.image_units, inputs.text_units)}
    if means is not None:
        spaces["centred"] = centre(inputs.image_units, means.image), centre(inputs.text_units, means.text)
    for scale, (images, texts) in spaces.items():
        for direction in MIXED:
            batch = partial(_lists, direction, images, texts)
            *_, gains, ideal = judge_queries(inputs, f"corrected {scale}", direction, batch, judge_list)
            defined = ideal[:, 0] > 0
            for name, metric in LIST_METRICS.items():
                result.add(f"{direction}_{scale}_{name}", metric(gains[defined], ideal[defined]))


def centre(units: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Embeddings (rows, E) of unit length without `mean` (E,), again of unit length. What is the mean itself has no
    direction: it becomes 0, with cosine 0 to everything."""
    moved = units - mean
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    centred: np.ndarray = moved / np.where(lengths > 0, lengths, 1)
    return centred


def _lists(
    direction: str, images: np.ndarray, texts: np.ndarray, inputs: Inputs, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and relevance (Q, N + C) of images and captions."""
    return np.hstack(mixed_cosines(direction, images, texts, rows)), mixed_relevance(direction, inputs, rows)
