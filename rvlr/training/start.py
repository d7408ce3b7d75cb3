"""What training starts from: checked once, so that a loss that is not finite later is known to come from training."""

from pathlib import Path

import numpy as np
import torch

from rvlr.data.loading import Features
from rvlr.errors import UserError
from rvlr.models.retrieval import RetrievalModel

_ROWS = 1 << 14  # read at once


def check(model: RetrievalModel, folder: Path, features: Features | None, features_folder: Path | None) -> str:
    """Say how large the weights, pixels and teacher features are. Raises UserError, naming the file, if one of them is
    not finite, or if a temperature is not positive."""
    sizes = [_check_weights(model, folder / "model.safetensors"), _check_pixels(model, folder / "config.json")]
    if features is not None:
        for name, rows in (("image", features.image), ("text", features.text)):
            sizes.append(f"teacher {name} features up to {_check_rows(rows, features_folder / f'{name}.npy'):.3g}")
    return ", ".join(sizes)


def _check_weights(model: RetrievalModel, file: Path) -> str:
    largest, where = 0.0, ""
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or not value.numel():
            continue
        highest = float(value.abs().max())  # of NaN and others: NaN
        if not np.isfinite(highest):
            count = int((~torch.isfinite(value)).sum())
            raise UserError(
                f"{file}: {count} of the {value.numel()} values of {name} are not finite (NaN or infinite); start from "
                "another model folder, or make this one again"
            )
        if name.endswith("temperature") and float(value) <= 0:
            raise UserError(f"{file}: {name} is {float(value):.3g}, but must be positive; start from another model")
        if highest > largest:
            largest, where = highest, name
    return f"weights up to {largest:.3g} ({where})"


def _check_pixels(model: RetrievalModel, file: Path) -> str:
    """Pixels are 0 to 1 before mean and standard deviation are applied."""
    vision = model.config.vision
    mean, std = np.array(vision["mean"], dtype=float), np.array(vision["std"], dtype=float)
    if not np.isfinite(mean).all():
        raise UserError(f"{file}: vision.mean is {vision['mean']}; it must be finite, as pixels are 0 to 1")
    if not (np.isfinite(std).all() and (std > 0).all()):
        raise UserError(f"{file}: vision.std is {vision['std']}; it must be finite and positive")
    return f"pixels up to {(np.maximum(np.abs(mean), np.abs(1 - mean)) / std).max():.3g}"


def _check_rows(rows: np.ndarray, file: Path) -> float:
    largest = 0.0
    for start in range(0, len(rows), _ROWS):
        highest = np.abs(rows[start : start + _ROWS]).max(axis=1)
        if not np.isfinite(highest).all():
            row = start + int(np.flatnonzero(~np.isfinite(highest))[0])
            raise UserError(
                f"{file}: row {row} (counted from 0) holds values that are not finite; extract the features again"
            )
        largest = max(largest, float(highest.max()))
    return largest
