"""What training starts from. Loading has checked that all numbers are finite; they may still be of no use."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from rvlr.data.features import Features
from rvlr.errors import UserError
from rvlr.models.retrieval import RetrievalModel

_ROWS = 1 << 14  # read at once


def check_temperatures(model: RetrievalModel, folder: Path) -> None:
    """Raise UserError if a temperature of a start model is not positive: it would reverse the losses."""
    for name in ("temperature", "relation_temperature"):
        value = getattr(model, name).item()
        if value <= 0:
            raise UserError(
                f"{folder / 'model.safetensors'}: {name} is {value:.3g}, but it must be positive; give another model"
            )


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
