"""BERT from a folder: its settings against its weights, and the loading of an encoder in which nothing is random."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict
from transformers import BertModel, PreTrainedModel

from rvlr import config
from rvlr.config.sections import BertSize, Epsilon, Positive
from rvlr.errors import UserError
from rvlr.models import pretrained, weights

_HEADS = re.compile(r"(cls|pooler|bert\.pooler|classifier|qa_outputs)\.|.*(position_ids|token_type_ids)$")
"""What BERT is pretrained or used with, and buffers of old files; no part of the encoder."""
_SIZES = {
    "vocab_size": ("embeddings.word_embeddings.weight", 0),
    "hidden_size": ("embeddings.word_embeddings.weight", 1),
    "max_position_embeddings": ("embeddings.position_embeddings.weight", 0),
    "type_vocab_size": ("embeddings.token_type_embeddings.weight", 0),
    "intermediate_size": ("encoder.layer.0.intermediate.dense.weight", 0),
}


class Bert(BertSize):
    """What a BERT's config.json must hold for its encoder to be used here; other keys are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vocab_size: Positive = 30_522
    type_vocab_size: Positive = 2
    layer_norm_eps: Epsilon = 1e-12
    is_decoder: Literal[False] = False


def load(folder: Path, key: str, text: config.Text) -> BertModel:
    """The encoder of a BERT. Raises UserError if it is none, is incomplete, or is too small for the settings."""
    path = folder / "config.json"
    stated = pretrained.read_config(folder, key)
    if stated.get("model_type") != "bert":
        raise UserError(
            f"{key}: {path} describes a {stated.get('model_type')!r} model; the text encoder must be a BERT"
        )
    config.parse(stated, f"{key}: {path}", Bert)
    found = pretrained.load_config(folder, key)
    shapes = weights.shapes(pretrained.weights_file(folder, key), key)
    prefix = "bert." if any(name.startswith("bert.") for name in shapes) else ""
    wanted = {name: getattr(found, name) for name in (*_SIZES, "num_hidden_layers")}
    compare(wanted, sizes(shapes, prefix) | {"num_hidden_layers": layers(shapes, f"{prefix}encoder.layer.")}, path, key)
    if found.num_hidden_layers < text.text_layers:
        raise UserError(
            f"text.text_layers: {text.text_layers} asked for, {folder} has {found.num_hidden_layers} layers"
        )
    if text.max_tokens > found.max_position_embeddings:
        raise UserError(f"text.max_tokens: {text.max_tokens} exceeds the {found.max_position_embeddings} of {folder}")
    return pretrained.load_model(
        folder,
        key,
        lambda: BertModel(found, add_pooling_layer=False),
        BertModel.from_pretrained,
        _is_head,
        config=found,
        add_pooling_layer=False,
    )


def _is_head(model: PreTrainedModel, name: str) -> bool:
    return _HEADS.match(name) is not None


def sizes(shapes: weights.Shapes, prefix: str) -> dict[str, int]:
    """The sizes that the weights of a BERT have, by their names in its configuration."""
    return pick(shapes, {key: (prefix + name, axis) for key, (name, axis) in _SIZES.items()})


def pick(shapes: weights.Shapes, places: dict[str, tuple[str, int]]) -> dict[str, int]:
    """Sizes of matrices by their keys; places: the name of the matrix and an axis. Without those that are not there."""
    found = {key: (shapes.get(name), axis) for key, (name, axis) in places.items()}
    return {key: shape[axis] for key, (shape, axis) in found.items() if shape is not None and len(shape) == 2}


def layers(shapes: weights.Shapes, prefix: str) -> int:
    """How many layers there are, numbered after `prefix`."""
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in shapes)
    return len({match[1] for match in found if match})


def compare(stated: dict[str, Any], actual: dict[str, int], path: Path, key: str) -> None:
    """Raise UserError where a configuration states another size than the weights beside it have. What only one of them
    has (0 layers, say) is left to the comparison of names."""
    wrong = [
        f"{name} is {stated[name]}, but the weights beside it have {size}"
        for name, size in actual.items()
        if size and name in stated and stated[name] != size
    ]
    if wrong:
        raise UserError("\n  ".join([f"{key}: {path}: sizes that are not those of the weights", *wrong]))
