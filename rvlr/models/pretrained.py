"""The one place where transformers loads: configurations, models and tokenizers, from folders and without their code.

Nothing is run that lies in a folder (`auto_map`), nothing is asked of the terminal or, beyond `hub.find`, of the
network, and no parameter that is used keeps random values.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from rvlr import files
from rvlr.errors import UserError
from rvlr.models import hub, weights
from rvlr.models.outline import outline

_REFUSED = {
    "auto_map": "it asks for Python code of its own, and rvlr runs no code that comes with a model; use a model that "
    "transformers knows, or remove auto_map if it is one",
    "quantization_config": "its weights are quantised; use those that are not",
    "transformers_weights": "it names another file of weights; remove it and call the weights model.safetensors",
}
_ADAPTER = "adapter_config.json"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing tables and progress, which our own messages replace."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def read_config(folder: Path, key: str) -> dict[str, Any]:
    """The content of a folder's config.json, which is a mapping and asks for nothing that is refused.

    Raises UserError.
    """
    path = folder / "config.json"
    if (folder / _ADAPTER).exists():
        raise UserError(f"{key}: {folder} holds an adapter ({_ADAPTER}), no model; merge it into its model first")
    if not path.is_file():
        raise UserError(f"{key}: no config.json in {folder}; give the folder of a model that transformers has saved")
    return _mapping(path, key)


def _mapping(path: Path, key: str) -> dict[str, Any]:
    try:
        found = files.read_json(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{key}: {path}: a mapping expected, a {type(found).__name__} found")
    for name, why in _REFUSED.items():
        if found.get(name):
            raise UserError(f"{key}: {path}: {name}: {why}")
    kernels = [name for name in found if "attn_implementation" in name and "/" in str(found[name])]
    if kernels:
        raise UserError(f"{key}: {path}: {kernels[0]} is {found[kernels[0]]!r}, code from the hub; remove it")
    return found


def load_config(folder: Path, key: str) -> PretrainedConfig:
    """The configuration of a folder's model, of any kind that transformers knows. Raises UserError."""
    found = read_config(folder, key)
    if not isinstance(found.get("model_type"), str):
        raise UserError(f"{key}: {folder / 'config.json'}: model_type is {found.get('model_type')!r}, not a name")
    return _transformers(AutoConfig.from_pretrained, folder, f"{key}: {folder / 'config.json'}")


def load_tokenizer(folder: Path, key: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, which pads on the right, so that token 0 is a token.

    Raises UserError if there is none, if it does not load, or if it knows nothing but special tokens.
    """
    for path in (folder / "tokenizer_config.json", folder / "config.json", folder / "tokenizer.json"):
        if path.exists():
            _mapping(path, key)
    try:
        found = _transformers(AutoTokenizer.from_pretrained, folder, f"{key}: the tokenizer of {folder}")
        wanted = tuple(found.vocab_files_names.values())  # none: it reads bytes
    except UserError:
        if hub.file_in(folder, hub.VOCABULARIES) is not None:
            raise
        wanted = hub.VOCABULARIES
    if wanted and hub.file_in(folder, (*hub.VOCABULARIES, *wanted)) is None:
        raise UserError(
            f"{key}: no tokenizer in {folder}: none of {', '.join(wanted)}; put the files of the tokenizer that the "
            "model was trained with there"
        )
    if not found.get_vocab().keys() - set(found.all_special_tokens):
        raise UserError(f"{key}: the tokenizer of {folder} knows no words, only {', '.join(found.all_special_tokens)}")
    found.padding_side = "right"
    return found


def _transformers(load: Callable[..., Any], folder: Path, complaint: str, **options: Any) -> Any:
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
    build: Callable[[], PreTrainedModel],
    load: Callable[..., Any],
    ignored: Callable[[PreTrainedModel, str], bool],
    optional: Callable[[PreTrainedModel, str], bool] = lambda model, name: False,
    **options: Any,
) -> PreTrainedModel:
    """A folder's model in evaluation mode, float32, with every parameter that is used from the folder.

    build: makes it without weights. load: its `from_pretrained`; options: of that. ignored: whether a name in the file
    is no part of the model. optional: whether a parameter may keep random values, since it is not used.
    Raises UserError with the numbers and the first names of parameters that are missing, unknown or misshapen.
    """
    path = weights_file(folder, key)
    outlined = outline(build, f"{key}: {folder / 'config.json'} describes no model that can be built")
    _compare(outlined, weights.shapes(path, key), f"{key}: {path}")
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
    model, report = _transformers(load, folder, f"{key}: {path}", **options)
    missing = sorted(name for name in report["missing_keys"] if not optional(model, name))
    unknown = sorted(name for name in report["unexpected_keys"] if not ignored(model, name))
    misshapen = sorted(f"{name} is {tuple(have)}, not {tuple(want)}" for name, have, want in report["mismatched_keys"])
    if missing or unknown or misshapen:
        lists = {"missing": missing, "unexpected": unknown, "misshapen": misshapen}
        raise UserError(
            f"{key}: {path} does not hold the model of {len(model.state_dict())} tensors that config.json describes; "
            f"{weights.describe(lists)}; give the folder of a complete checkpoint"
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
