"""The config.json of our own model folders, which may come from anywhere: checked like a configuration, and against the
weights beside it."""

from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from rvlr import config
from rvlr.config.sections import Fraction, Positive, Section, Temperature
from rvlr.errors import UserError
from rvlr.models import bert, pretrained, weights

_KEY = "model folder"
_WIDTHS = {
    "embed_dim": ("vision_proj.weight", 0),
    "teacher_widths.0": ("teacher_vision_proj.weight", 1),
    "teacher_widths.1": ("teacher_text_proj.weight", 1),
    "relation_projections.0": ("relation_image_proj.0.weight", 0),
    "relation_projections.1": ("relation_image_proj.2.weight", 0),
}


class _Saved(Section):
    """The keys of `RetrievalConfig`; those that transformers adds are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vision: config.Vision
    text: config.Text
    bert: bert.Bert
    embed_dim: Positive
    contrast_temperature: Temperature
    relation_temperature: Temperature
    fusion_weight: Fraction = 0.5
    teacher_widths: tuple[Positive, Positive] | None = None
    relation_projections: tuple[Positive, Positive] | None = None
    fresh_heads: bool = True


def read_config(folder: Path, shapes: weights.Shapes) -> dict[str, Any]:
    """The arguments of the `RetrievalConfig` in a model folder whose weights have these shapes.

    Raises UserError with the file and the key of what is missing, out of range, or of another size than the weights.
    """
    path = folder / "config.json"
    found = pretrained.read_config(folder, _KEY)
    if found.get("model_type") != "rvlr":
        raise UserError(
            f"{_KEY}: {path} describes a {found.get('model_type')!r} model, not one that rvlr made; give the folder "
            "that `rvlr initialise`, a training or `rvlr import-checkpoint` has written"
        )
    checked: _Saved = config.parse(found, str(path), _Saved)
    text, size = checked.text, checked.bert
    if text.max_tokens > size.max_position_embeddings:
        raise UserError(
            f"{path}: text.max_tokens is {text.max_tokens}, bert has {size.max_position_embeddings} positions"
        )
    bert.compare(_stated(checked), _actual(shapes), path, _KEY)
    arguments = checked.model_dump(
        mode="json", exclude={"vision": {"weights"}, "text": {"weights", "size"}, "bert": True}
    )
    return {name: value for name, value in found.items() if name not in arguments} | arguments


def _stated(checked: _Saved) -> dict[str, int]:
    sizes = {f"bert.{name}": value for name, value in checked.bert.model_dump().items()}
    sizes |= {f"text.{name}": getattr(checked.text, name) for name in ("text_layers", "fusion_layers")}
    for name in ("teacher_widths", "relation_projections"):
        sizes |= {f"{name}.{place}": width for place, width in enumerate(getattr(checked, name) or ())}
    return sizes | {"embed_dim": checked.embed_dim}


def _actual(shapes: weights.Shapes) -> dict[str, int]:
    sizes = {f"bert.{name}": size for name, size in bert.sizes(shapes, "text_encoder.").items()}
    sizes["text.text_layers"] = bert.layers(shapes, "text_encoder.encoder.layer.")
    sizes["text.fusion_layers"] = bert.layers(shapes, "fusion_layers.")
    return sizes | bert.pick(shapes, _WIDTHS)
