"""What training starts from. Loading has checked that all numbers are finite; they may still be of no use."""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from rvlr.data.features import Features
from rvlr.data.images import evaluation_transform, load_image
from rvlr.data.records import Split
from rvlr.errors import UserError
from rvlr.models.retrieval import RetrievalModel

_ROWS = 1 << 14  # read at once
_ALIGNED = 1_000  # images


def check_temperatures(model: RetrievalModel, folder: Path) -> None:
    """Raise UserError if a temperature of a start model is not positive: it would reverse the losses."""
    for name in ("temperature", "relation_temperature"):
        value = getattr(model, name).item()
        if value <= 0:
            raise UserError(
                f"{folder / 'model.safetensors'}: {name} is {value:.3g}, but it must be positive; give another model"
            )


@torch.inference_mode()
def align_teacher_projections(model: RetrievalModel, split: Split, features: Features, batch_size: int) -> None:
    """Set the projections of teacher features to the principal components of these features, rotated onto the model's
    own embeddings (orthogonal Procrustes problem, Schoenemann 1966), from at most 1,000 images of the split and one
    caption of each. The cosines between projected features are then those between the centred features, and pairs of
    student and teacher are as close as a rotation can bring them."""
    images = np.sort(np.random.default_rng(0).permutation(len(split.records))[:_ALIGNED])
    captions = split.offsets[images]
    vision = model.config.vision
    transform = evaluation_transform(vision.image_size, vision.mean, vision.std)
    own_images = []
    for rows in np.array_split(images, math.ceil(len(images) / batch_size)):
        pixels = torch.stack([transform(load_image(split.path(int(row)), transform.at_least)) for row in rows])
        own_images.append(model.embed_image(model.encode_image(pixels)[:, 0]))
    own_texts = model.encode_captions([split.captions[row] for row in captions], batch_size)
    _align(model.teacher_vision_proj, torch.from_numpy(features.image[images]), torch.cat(own_images))
    _align(model.teacher_text_proj, torch.from_numpy(features.text[captions]), own_texts)


def _align(projection: nn.Linear, features: torch.Tensor, embeddings: torch.Tensor) -> None:
    mean = features.mean(dim=0)
    centred = features - mean
    axes = torch.linalg.svd(centred, full_matrices=False)[2][: embeddings.shape[1]]
    left, _, right = torch.linalg.svd((centred @ axes.T).T @ (embeddings - embeddings.mean(dim=0)), full_matrices=False)
    projection.weight.copy_((axes.T @ left @ right).T)
    projection.bias.copy_(-projection.weight @ mean)


def sizes(folder: Path, features: Features | None) -> str:
    """The largest weight of a start model and the largest teacher features, in words."""
    weights = {name: _largest(value) for name, value in load_file(folder / "model.safetensors").items()}
    where = max(weights, key=lambda name: weights[name])
    parts = [f"weights of {folder} up to {weights[where]:.3g} ({where})"]
    if features is not None:
        for name, rows in (("image", features.image), ("text", features.text)):
            blocks = (torch.from_numpy(rows[first : first + _ROWS].copy()) for first in range(0, len(rows), _ROWS))
            parts.append(f"teacher {name} features up to {max(map(_largest, blocks)):.3g}")
    return ", ".join(parts)


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
