"""The authors' checkpoints: `checkpoint_best.pth` of a teacher or student -> our model.

Enters: a file `{"model": state_dict, "config": ..., ...}` or a bare state_dict, and the two JSON files that the
authors' code builds the model from. Leaves: a model folder with the same outputs, and in it `import.json`, which says
what became of every key. docs/METHOD.md, "The authors' files".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, PreTrainedTokenizerBase

from rvlr import config, files, provenance
from rvlr.errors import UserError
from rvlr.log import logger
from rvlr.models import weights
from rvlr.models.retrieval import RetrievalModel
from rvlr.models.settings import RetrievalConfig

SWIN = "swin_base_patch4_window12_384"
_VISION_KEYS = {"image_res": int, "window_size": int, "embed_dim": int, "depths": list, "num_heads": list}
_TEXT_KEYS = {"fusion_layer": int, "num_hidden_layers": int, "max_position_embeddings": int}
_RENAMED = {
    "vision_encoder.": "vision_encoder.backbone.",
    "itm_head.": "match_head.",
    "sig_vision_proj.": "teacher_vision_proj.",
    "sig_text_proj.": "teacher_text_proj.",
    "img_wd_proj.": "relation_image_proj.",
    "text_wd_proj.": "relation_text_proj.",
}
_SCALARS = {"temp": "temperature", "temp2": "relation_temperature", "lamba": "fusion_weight"}
_SETTINGS = {"temp": "temp", "temp2": "temp2", "lamba": "lamda"}  # what their config calls the scalars
_IGNORED = {
    r"(position_ids|relative_position_index|attn_mask)$": "a buffer, computed from the sizes",
    r"^text_encoder\.(cls|pooler)\.": "a head of BERT's pretraining, not part of the model",
    r"^vision_encoder\.head\.": "a classifier, not part of the model",
}
_STUDENTS_ONLY = {
    r"^(img_wd_proj\.|text_wd_proj\.|lamba$)": "used by students only, and this checkpoint is a teacher's"
}

State = weights.State


@dataclass(frozen=True)
class Imported:
    """A model made from the authors' checkpoint, and what became of the keys.

    used: their name -> ours. ignored: their name -> why. missing: our name -> why that is sound. sources: the files.
    """

    model: RetrievalModel
    used: dict[str, str]
    ignored: dict[str, str]
    missing: dict[str, str]
    sources: dict[str, Path]


def read(checkpoint: Path, vision_file: Path, text_file: Path) -> Imported:
    """Build our model from the authors' files. Pickles are read with `weights_only`.

    Raises UserError if a file is not what it should be, or if a key is missing, misshapen or left unexplained.
    """
    state, settings = _load(checkpoint)
    vision, text = _read_sizes(vision_file, _VISION_KEYS), _read_sizes(text_file, _TEXT_KEYS)
    plain = {key: key.removeprefix("module.").replace("text_encoder.bert.", "text_encoder.", 1) for key in state}
    found = {plain[key]: value for key, value in state.items()}
    _check_sizes(found, vision, text, settings, f"{checkpoint}: does not fit {vision_file} and {text_file}")
    student = "sig_vision_proj.weight" in found
    reasons = _IGNORED if student else _IGNORED | _STUDENTS_ONLY
    ignored = {key: why for key in state for pattern, why in reasons.items() if re.search(pattern, plain[key])}
    used = {key: _our_name(plain[key], text["fusion_layer"]) for key in state if key not in ignored}
    if len(set(used.values())) < len(used):
        raise UserError(f"{checkpoint}: has some parameters twice, with and without a 'module.' or 'bert.' prefix")
    given = {"checkpoint": checkpoint, "vision_config": vision_file, "text_config": text_file}
    arguments = _model_config(given, found, student, vision, text, settings)
    outlined = weights.outline(
        lambda: RetrievalModel(RetrievalConfig(**arguments)),
        f"{vision_file} and {text_file} describe no model that can be built",
    )
    described, expected = outlined.config, outlined.state_dict()
    converted = {ours: state[key] for key, ours in used.items()}
    for ours in _SCALARS.values():
        if ours in converted and converted[ours].numel() == 1:  # theirs are of shape () or (1,)
            converted[ours] = converted[ours].reshape(())
    absent = _absent_scalars(described, expected, converted, student, settings)
    converted |= {ours: value for ours, (value, _) in absent.items()}
    _check(converted, expected, used, f"{checkpoint}: does not fit the model of {vision_file} and {text_file}")
    weights.check_kinds(weights.kinds_of(state), str(checkpoint))
    model = RetrievalModel(described)
    model.load_state_dict(converted)
    torch.nn.Module.eval(model)
    return Imported(model, used, ignored, {ours: why for ours, (_, why) in absent.items()}, given)


def save(found: Imported, tokenizer: PreTrainedTokenizerBase | None, output: Path) -> None:
    """Write the model folder with `import.json`, complete or not at all, and log what became of the keys."""
    if tokenizer is not None:
        found.model.tokenizer = tokenizer
    with files.atomic_folder(output) as folder:
        found.model.save_pretrained(folder)
        keys = {"used": found.used, "ignored": found.ignored, "missing": found.missing}
        sources = {name: provenance.identify(path) for name, path in found.sources.items()}
        files.write_json(folder / "import.json", {**keys, "sources": sources, "provenance": provenance.collect()})
    logger.info("keys used: %d; import.json in %s lists them", len(found.used), output)
    for what, reasons in (("ignored", found.ignored), ("missing", found.missing)):
        groups: dict[str, list[str]] = {}
        for key, why in reasons.items():
            groups.setdefault(why, []).append(key)
        named = "; ".join(f"{', '.join(keys)} ({why})" for why, keys in groups.items())
        logger.info("keys %s: %d%s", what, len(reasons), named and f": {named}")


def _load(path: Path) -> tuple[State, Mapping[str, Any]]:
    """The state_dict of a checkpoint and its `config`, empty if it has none."""
    saved = weights.read(path, lambda file: torch.load(file, map_location="cpu", weights_only=True))
    if not isinstance(saved, Mapping):
        raise UserError(f"{path}: contains a {type(saved).__name__}, not a checkpoint with the key 'model'")
    state = next((saved[key] for key in ("model", "state_dict") if isinstance(saved.get(key), Mapping)), saved)
    strange = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))]
    if strange or not state:
        raise UserError(
            f"{path}: neither a checkpoint with the key 'model' nor a state_dict; no tensors: {strange[:5] or 'at all'}"
        )
    settings = saved.get("config")
    return dict(state), settings if isinstance(settings, Mapping) else {}


def _read_sizes(path: Path, keys: Mapping[str, type]) -> dict[str, Any]:
    """The JSON file of an encoder, with its sizes: whole numbers above 0, or lists of them."""
    sizes: dict[str, Any] = files.read_json(path)
    wrong = [key for key, kind in keys.items() if not _is_size(sizes.get(key), kind)]
    if wrong:
        raise UserError(f"{path}: no sizes {', '.join(wrong)}; give the JSON file that the authors' code was given")
    return sizes


def _is_size(value: Any, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and value != [] and all(_is_size(each, int) for each in value)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_sizes(
    found: State, vision: dict[str, Any], text: dict[str, Any], settings: Mapping[str, Any], complaint: str
) -> None:
    """Raise UserError where the files contradict each other in ways that no parameter's shape shows."""
    projection = found.get("vision_proj.weight")
    width = projection.shape[-1] if projection is not None and projection.ndim == 2 else None
    for what, stated, actual in (
        ("image_res", vision["image_res"], settings.get("image_res")),
        ("vision_width", vision.get("vision_width"), width),
        ("encoder_width", text.get("encoder_width"), width),
    ):
        if None not in (stated, actual) and stated != actual:
            raise UserError(f"{complaint}: {what} is {stated} there and {actual} in the checkpoint")
    if text["fusion_layer"] >= text["num_hidden_layers"]:
        raise UserError(
            f"{complaint}: fusion_layer is {text['fusion_layer']} of {text['num_hidden_layers']} layers; it must leave "
            "layers on both sides"
        )


def _our_name(key: str, text_layers: int) -> str:
    """Unknown keys keep their names, and so are found unexplained."""
    layer = re.fullmatch(r"text_encoder\.encoder\.layer\.(\d+)\.(.+)", key)
    if layer and int(layer[1]) >= text_layers:
        return f"fusion_layers.{int(layer[1]) - text_layers}.{layer[2]}"
    halving = re.fullmatch(r"vision_encoder\.layers\.(\d+)\.downsample\.(.+)", key)
    if halving:  # the original Swin halves the resolution at the end of a stage, timm at the start of the next
        return f"vision_encoder.backbone.layers.{int(halving[1]) + 1}.downsample.{halving[2]}"
    prefix = next((prefix for prefix in _RENAMED if key.startswith(prefix)), "")
    return _SCALARS.get(key, _RENAMED.get(prefix, "") + key.removeprefix(prefix))


def _model_config(
    given: dict[str, Path],
    found: State,
    student: bool,
    vision: dict[str, Any],
    text: dict[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of the model's `RetrievalConfig`."""
    checkpoint = given["checkpoint"]

    def size(key: str, axis: int) -> int:
        if key not in found or found[key].ndim != 2:
            raise UserError(f"{checkpoint}: no matrix {key}; not a checkpoint of the authors' retrieval model")
        return found[key].shape[axis]

    options = {key: vision[key] for key in _VISION_KEYS if key != "image_res"}
    text_layers, layers = text["fusion_layer"], text["num_hidden_layers"]
    tokens = settings.get("max_tokens", config.TextSettings().max_tokens)
    if not _is_size(tokens, int):
        raise UserError(f"{checkpoint}: max_tokens is {tokens!r} in its config; a whole number above 0 expected")
    presented = {"text_layers": text_layers, "fusion_layers": layers - text_layers}
    presented["max_tokens"] = min(tokens, text["max_position_embeddings"])
    seen = {"name": SWIN, "image_size": vision["image_res"], "options": options}
    known = set(BertConfig().to_dict()) - {"architectures"}
    with_relations = student and "img_wd_proj.0.weight" in found
    return {
        "vision": config.parse(seen, str(given["vision_config"]), config.VisionSettings),
        "text": config.parse(presented, str(given["text_config"]), config.TextSettings),
        "bert": {key: value for key, value in text.items() if key in known},
        "embed_dim": size("vision_proj.weight", 0),
        "fresh_heads": False,
        "teacher_widths": [size(f"sig_{kind}_proj.weight", 1) for kind in ("vision", "text")] if student else None,
        "relation_projections": [size(f"img_wd_proj.{part}.weight", 0) for part in (0, 2)] if with_relations else None,
    }


def _absent_scalars(
    described: RetrievalConfig, expected: State, converted: State, student: bool, settings: Mapping[str, Any]
) -> dict[str, tuple[torch.Tensor, str]]:
    """Values, and where they come from, of the scalars the checkpoint has no parameter for: those that were fixed, and
    the relation temperature, for which stage 1 has no use."""
    absent = {}
    for theirs, ours in _SCALARS.items():
        if ours not in expected or ours in converted:
            continue
        name = _SETTINGS[theirs]
        value = settings.get(name)
        if isinstance(value, int | float):
            absent[ours] = torch.tensor(float(value)), f"no parameter; {name} is {value} in the checkpoint's config"
        elif ours == "relation_temperature" and not student:
            start = described.relation_temperature
            absent[ours] = torch.tensor(start), f"stage 1 has none; set to {start:g}, where stage 2 begins"
    return absent


def _check(converted: State, expected: State, used: dict[str, str], complaint: str) -> None:
    """Raise UserError if keys are missing, unknown or misshapen, or values not finite."""
    missing = sorted(set(expected) - set(converted))
    unexplained = sorted(key for key, ours in used.items() if ours not in expected)
    misshapen = [
        f"{key} is {tuple(converted[ours].shape)}, not {tuple(expected[ours].shape)}"
        for key, ours in used.items()
        if ours in expected and converted[ours].shape != expected[ours].shape
    ]
    if missing or unexplained or misshapen:
        named = {"missing": missing, "unexplained": unexplained, "misshapen": misshapen}
        raise UserError(f"{complaint}; " + ", ".join(f"{what}: {_some(keys)}" for what, keys in named.items()))
    broken = [key for key, ours in used.items() if not converted[ours].isfinite().all()]
    if broken:
        raise UserError(f"{complaint}: values of {', '.join(broken)} are not finite")


def _some(keys: list[str]) -> str:
    """A list as messages print it, cut when it is long."""
    return f"{keys[:8]}{f' and {len(keys) - 8} more' if len(keys) > 8 else ''}"
