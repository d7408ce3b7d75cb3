"""Pretrained models that transformers loads from folders: any model for features, and a BERT for a text encoder.

No code in a folder (`auto_map`) is run. Transformers asks nothing of the terminal and nothing of the network:
only `hub.find` does. Every parameter that is used comes from the folder.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import ConfigDict
from transformers import AutoConfig, BertConfig, BertModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from rvlr import config, files
from rvlr.config.base import Epsilon, Positive
from rvlr.config.models import BertSize
from rvlr.errors import UserError
from rvlr.models import hub, weights

P = TypeVar("P", bound=PreTrainedModel)
_REFUSED = {
    "auto_map": "it asks for Python code of its own, and rvlr runs no code that comes with a model; use a model that "
    "transformers supports, or remove auto_map if this is one",
    "quantization_config": "its weights are quantised; use those that are not",
    "transformers_weights": "it names another file of weights; remove it and call the weights model.safetensors",
}
_ADAPTER = "adapter_config.json"
_HEADS = re.compile(r"(cls|pooler|bert\.pooler|classifier|qa_outputs)\.|.*(position_ids|token_type_ids)$")
"""Heads that BERT is pretrained or used with, and buffers of old files: no parts of the encoder."""
_SIZES = {
    "vocab_size": ("embeddings.word_embeddings.weight", 0),
    "hidden_size": ("embeddings.word_embeddings.weight", 1),
    "max_position_embeddings": ("embeddings.position_embeddings.weight", 0),
    "type_vocab_size": ("embeddings.token_type_embeddings.weight", 0),
    "intermediate_size": ("encoder.layer.0.intermediate.dense.weight", 0),
}


class Bert(BertSize):
    """What a BERT's config.json must contain for its encoder to be used here; other keys are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vocab_size: Positive = 30_522
    type_vocab_size: Positive = 2
    layer_norm_eps: Epsilon = 1e-12
    is_decoder: Literal[False] = False


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing tables and progress bars: our own messages replace them."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def read_config(folder: Path, key: str) -> dict[str, Any]:
    """The content of a folder's config.json. Raises UserError as `read_mapping` does, and for adapters."""
    path = folder / "config.json"
    if (folder / _ADAPTER).exists():
        raise UserError(f"{key}: {folder} contains an adapter ({_ADAPTER}), no model; merge it into its model first")
    if not path.is_file():
        raise UserError(f"{key}: no config.json in {folder}; give the folder of a model that transformers has saved")
    return read_mapping(path, key)


def read_mapping(path: Path, key: str) -> dict[str, Any]:
    """The content of a JSON file. Raises UserError if it is no mapping, or asks for something that is refused.

    key: the key of the configuration or the option that gives the folder, for messages.
    """
    try:
        found: dict[str, Any] = files.read_json(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    for name, why in _REFUSED.items():
        if found.get(name):
            raise UserError(f"{key}: {path}: {name}: {why}")
    kernels = [name for name in found if "attn_implementation" in name and "/" in str(found[name])]
    if kernels:
        raise UserError(f"{key}: {path}: {kernels[0]} is {found[kernels[0]]!r}, code from the hub; remove it")
    return found


def load_config(folder: Path, key: str) -> PretrainedConfig:
    """The configuration of a folder's model, of any type that transformers supports. Raises UserError."""
    found = read_config(folder, key)
    if not isinstance(found.get("model_type"), str):
        raise UserError(f"{key}: {folder / 'config.json'}: model_type is {found.get('model_type')!r}, not a name")
    described: PretrainedConfig = from_folder(AutoConfig.from_pretrained, folder, f"{key}: {folder / 'config.json'}")
    return described


def from_folder(load: Callable[..., Any], folder: Path, complaint: str, **options: Any) -> Any:
    """`load(folder, **options)`, a `from_pretrained`, without code from the folder and without the network."""
    try:
        with quiet():
            return load(str(folder), trust_remote_code=False, local_files_only=True, **options)
    except Exception as error:  # those of transformers and tokenizers have no common base
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{complaint} does not load: {why}") from error


def load_model(
    folder: Path,
    key: str,
    build: Callable[[], P],
    load: Callable[..., Any],
    ignored: Callable[[PreTrainedModel, str], bool],
    optional: Callable[[PreTrainedModel, str], bool] = lambda model, name: False,
    **options: Any,
) -> P:
    """A folder's model in evaluation mode, float32, with every parameter that is used from the folder.

    build: makes the model without weights. load: its `from_pretrained`, called with the options. ignored: whether a
    name in the file is no part of the model. optional: whether a parameter may keep random values, since it is not
    used. Raises UserError with the numbers and the first names of parameters that are missing, unknown or misshapen.
    """
    path = weights_file(folder, key)
    outlined = weights.outline(build, f"{key}: {folder / 'config.json'} describes no model that can be built")
    _compare(outlined, weights.shapes(path, key), f"{key}: {path}")
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
    model: P
    model, report = from_folder(load, folder, f"{key}: {path}", **options)
    missing = sorted(name for name in report["missing_keys"] if not optional(model, name))
    unknown = sorted(name for name in report["unexpected_keys"] if not ignored(model, name))
    misshapen = sorted(f"{name} is {tuple(have)}, not {tuple(want)}" for name, have, want in report["mismatched_keys"])
    if missing or unknown or misshapen:
        lists = {"missing": missing, "unexpected": unknown, "misshapen": misshapen}
        raise UserError(
            f"{key}: {path} does not contain the model of {len(model.state_dict())} tensors that config.json "
            f"describes; {weights.describe(lists)}; give the folder of a complete checkpoint"
        )
    loaded = {name: value for name, value in model.state_dict().items() if name not in report["missing_keys"]}
    weights.check_finite(loaded, f"{key}: {path}")
    return model


def weights_file(folder: Path, key: str) -> Path:
    """The file of weights, or the index of several, that transformers would read. Raises UserError if there is none."""
    path = hub.file_in(folder, hub.WEIGHTS)
    if path is None:
        raise UserError(f"{key}: no weights in {folder}: none of {', '.join(hub.WEIGHTS)}")
    return path


def _compare(model: PreTrainedModel, found: weights.Shapes, source: str) -> None:
    """Raise UserError where a file has a parameter in another shape than the model."""
    prefix = f"{model.base_model_prefix}."
    plain = {_modern(name).removeprefix(prefix): shape for name, shape in found.items()}
    expected = weights.shapes_of(model)
    common = expected.keys() & plain.keys()
    wrong = weights.differences(*({name: given[name] for name in common} for given in (expected, plain)))
    if wrong:
        raise UserError(f"{source}: config.json beside it describes another model; {wrong}")


def _modern(name: str) -> str:
    """The name of a parameter today; layer norms had other ones."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


# --- BERT --------------------------------------------------------------------------------------------------------


def load_bert(folder: Path, key: str, text: config.Text) -> BertModel:
    """The encoder of a BERT. Raises UserError if the model is no BERT, is incomplete, or is too small for `text`."""
    path = folder / "config.json"
    stated = read_config(folder, key)
    if stated.get("model_type") != "bert":
        raise UserError(
            f"{key}: {path} describes a {stated.get('model_type')!r} model; the text encoder must be a BERT"
        )
    config.parse(stated, f"{key}: {path}", Bert)
    found = load_config(folder, key)
    assert isinstance(found, BertConfig)  # its model_type is "bert"
    shapes = weights.shapes(weights_file(folder, key), key)
    prefix = "bert." if any(name.startswith("bert.") for name in shapes) else ""
    wanted = {name: getattr(found, name) for name in (*_SIZES, "num_hidden_layers")}
    actual = bert_sizes(shapes, prefix) | {"num_hidden_layers": weights.layers(shapes, f"{prefix}encoder.layer.")}
    weights.compare_sizes(wanted, actual, f"{key}: {path}")
    if found.num_hidden_layers < text.text_layers:
        raise UserError(
            f"text.text_layers: {text.text_layers} asked for, {folder} has {found.num_hidden_layers} layers"
        )
    if text.max_tokens > found.max_position_embeddings:
        raise UserError(f"text.max_tokens: {text.max_tokens} exceeds the {found.max_position_embeddings} of {folder}")
    return load_model(
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


def bert_sizes(shapes: weights.Shapes, prefix: str) -> dict[str, int]:
    """The sizes that the weights of a BERT have, by their names in its configuration."""
    return weights.sizes(shapes, {key: (prefix + name, axis) for key, (name, axis) in _SIZES.items()})
