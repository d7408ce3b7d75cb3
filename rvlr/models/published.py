"""The authors' checkpoints: `checkpoint_best.pth` of a teacher or student -> our model.

Enters: a file `{"model": state_dict, ...}` and the two JSON files that the authors' code builds the model from. Leaves:
a `RetrievalModel` with the same outputs. METHOD.md, "The authors' files".
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.swin_transformer import checkpoint_filter_fn
from transformers import BertConfig

from rvlr import config, io
from rvlr.errors import UserError
from rvlr.models.retrieval import RetrievalConfig, RetrievalModel

SWIN = "swin_base_patch4_window12_384"
_RENAMED = {
    "vision_proj.": "vision_proj.",
    "text_proj.": "text_proj.",
    "itm_head.": "match_head.",
    "sig_vision_proj.": "teacher_vision_proj.",
    "sig_text_proj.": "teacher_text_proj.",
    "img_wd_proj.": "relation_image_proj.",
    "text_wd_proj.": "relation_text_proj.",
}
_SCALARS = {"temp": "temperature", "temp2": "relation_temperature", "lamba": "fusion_weight"}
_BUFFERS = re.compile(r"(position_ids|relative_position_index|attn_mask)$")


@dataclass(frozen=True)
class Imported:
    """A model made from the authors' checkpoint, and what became of the checkpoint's keys."""

    model: RetrievalModel
    used: list[str]
    ignored: list[str]


def read(checkpoint: Path, vision_file: Path, text_file: Path) -> Imported:
    """Build our model from the authors' files. Pickles are read with `weights_only`.

    Raises UserError if the file is no such checkpoint, or if a key is missing or left unexplained.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    except FileNotFoundError:
        raise UserError(f"{checkpoint}: no such file") from None
    except Exception as error:
        # unpickling errors have no common base
        raise UserError(f"{checkpoint}: not a checkpoint with the key 'model': {error}") from error
    vision, text = io.read_json(vision_file), io.read_json(text_file)
    names = {key: key.replace("text_encoder.bert.", "text_encoder.") for key in state}
    ignored = [key for key in state if _BUFFERS.search(key)]
    found = {names[key]: value for key, value in state.items() if key not in ignored}
    converted = _convert(found, text["fusion_layer"])
    model = RetrievalModel(_model_config(found, vision, text))
    converted |= _vision_state(found, model)
    missing, unexpected = model.load_state_dict(converted, strict=False)
    missing = [key for key in missing if key not in _absent_from_teachers(found)]
    if missing or unexpected:
        raise UserError(
            f"{checkpoint}: does not fit the model of {vision_file} and {text_file}; missing: {missing}, "
            f"unexplained: {sorted(unexpected)}"
        )
    return Imported(model.eval(), [key for key in state if key not in ignored], ignored)


def _absent_from_teachers(found: dict[str, torch.Tensor]) -> tuple[str, ...]:
    """Scalars that stage 1 has no use for may be missing from its checkpoints."""
    return () if "sig_vision_proj.weight" in found else ("relation_temperature",)


def _model_config(found: dict[str, torch.Tensor], vision: dict[str, Any], text: dict[str, Any]) -> RetrievalConfig:
    student = "sig_vision_proj.weight" in found
    widths = [found[f"sig_{kind}_proj.weight"].shape[1] for kind in ("vision", "text")] if student else None
    options = {key: vision[key] for key in ("window_size", "embed_dim", "depths", "num_heads")}
    presented = config.Vision(name=SWIN, image_size=vision["image_res"], options=options)
    layers = {"text_layers": text["fusion_layer"], "fusion_layers": text["num_hidden_layers"] - text["fusion_layer"]}
    known = set(BertConfig().to_dict())
    return RetrievalConfig(
        vision=presented.model_dump(exclude={"weights"}),
        text=config.Text(**layers).model_dump(exclude={"weights", "size"}),
        bert={key: value for key, value in text.items() if key in known and key != "architectures"},
        embed_dim=found["vision_proj.weight"].shape[0],
        fresh_heads=False,
        teacher_widths=widths,
        relation_projections=[found[f"img_wd_proj.{part}.weight"].shape[0] for part in (0, 2)]
        if "img_wd_proj.0.weight" in found
        else None,
    )


def _vision_state(found: dict[str, torch.Tensor], model: RetrievalModel) -> dict[str, torch.Tensor]:
    """The Swin's parameters under timm's names, bias tables resized to the model's windows."""
    prefix = "vision_encoder."
    swin = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    adapted = checkpoint_filter_fn(swin, model.vision_encoder.backbone)
    return {f"vision_encoder.backbone.{key}": value for key, value in adapted.items()}


def _convert(found: dict[str, torch.Tensor], text_layers: int) -> dict[str, torch.Tensor]:
    """Everything but the vision encoder under our names; unknown keys keep theirs, and so are found unexplained."""
    converted = {}
    for key, value in found.items():
        if key.startswith("vision_encoder."):
            continue
        layer = re.match(r"text_encoder\.encoder\.layer\.(\d+)\.(.*)", key)
        if layer and int(layer[1]) >= text_layers:
            key = f"fusion_layers.{int(layer[1]) - text_layers}.{layer[2]}"
        elif key in _SCALARS:
            key, value = _SCALARS[key], value.reshape(())
        else:
            prefix = next((prefix for prefix in _RENAMED if key.startswith(prefix)), "")
            key = _RENAMED.get(prefix, "") + key.removeprefix(prefix)
        converted[key] = value
    return converted
