"""Vision encoder: any timm backbone that gives features, as tokens.

docs/METHOD.md, "Model": (B, 3, H, W) pixels -> (B, 1 + N, D) tokens, token 0 being the mean of the N patch tokens.
"""

import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import load_state_dict
from torch import nn

from rvlr.errors import UserError
from rvlr.models import weights as files
from rvlr.models.hub import cached_timm_weights, near


class VisionEncoder(nn.Module):
    """Tokens of a timm backbone with a feature map of any layout.

    name: a timm model name. options: further arguments of `timm.create_model` (depths, window_size, ...).
    image_size: side of the square input in pixels. weights: None for random ones, "pretrained" for timm's own
    (from its cache or the hub), or a local .safetensors or .pth file with the names of parameters that timm uses, or
    that timm converts, such as those of Microsoft's Swin checkpoints of 2021.
    """

    def __init__(self, name: str, image_size: int, options: dict[str, Any], weights: str | Path | None = None) -> None:
        super().__init__()
        self.backbone = _create(name, image_size, options, weights)
        self.backbone.eval()
        try:
            with torch.no_grad():
                self.width = self.forward(torch.zeros(1, 3, image_size, image_size)).shape[-1]
        except Exception as error:  # backbones that do not give one map of features fail in various ways
            raise UserError(
                f"vision: timm's {name!r} makes no tokens of an image of {image_size} pixels with options {options}: "
                f"{error}; choose another vision.name, image_size or options"
            ) from error
        _check_shared(self.backbone, name)
        if weights is not None:
            self._check_answer(image_size, f"vision.weights: {name} with {weights}")
        self.backbone.train()

    def _check_answer(self, image_size: int, source: str) -> None:
        """Raise UserError if the tokens of two images are the same, or not finite: finite weights can be useless too.

        The second image varies within and between the channels, since some first layers ignore constants.
        """
        count = 3 * image_size * image_size
        images = torch.stack((torch.zeros(count), torch.linspace(-1, 1, count))).view(2, 3, image_size, image_size)
        with torch.no_grad():
            first, second = self.forward(images)
        if not (first.isfinite().all() and second.isfinite().all()):
            fault = "tokens that are not finite (NaN or infinity)"
        elif torch.equal(first, second):
            fault = "the same tokens of every image"
        else:
            return
        raise UserError(f"{source}: the weights give {fault}; the file is damaged or was never trained: give others")

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised pixels -> (B, 1 + N, D) tokens."""
        features = cast("Callable[[torch.Tensor], torch.Tensor]", self.backbone.forward_features)(pixels)
        if features.ndim == 3:  # (B, prefix + N, D): ViT and similar; class and register tokens are left out
            patches = features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        else:
            # ConvNeXt and similar keep their last norm in the head, where it follows the pooling
            norm = getattr(getattr(self.backbone, "head", None), "norm", None)
            if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
                patches = features.flatten(1, 2)
            else:
                features = norm(features) if norm is not None else features
                patches = features.flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)


def _check_shared(backbone: nn.Module, name: str) -> None:
    """Raise UserError if layers share parameters: model folders do not support it."""
    names: dict[int, str] = {}
    for key, value in backbone.state_dict(keep_vars=True).items():
        if names.setdefault(id(value), key) != key:
            raise UserError(
                f"vision.name: timm's {name!r} shares parameters between layers ({names[id(value)]} and {key}), which "
                "model folders do not support; choose another vision.name"
            )


def _create(name: str, image_size: int, options: dict[str, Any], weights: str | Path | None) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"vision.name: timm has no model {name!r}; near it: {', '.join(near) or 'nothing'}")
    arguments = dict(options)
    described = timm.get_pretrained_cfg(name)
    if described is not None and described.fixed_input_size:
        arguments["img_size"] = image_size
    if weights == "pretrained" and (cached := cached_timm_weights(name)) is not None:
        arguments["pretrained_cfg_overlay"] = {"file": str(cached)}
    try:
        backbone = timm.create_model(name, pretrained=weights == "pretrained", num_classes=0, **arguments)
    except Exception as error:
        # timm passes on all that its constructors and the network raise; it follows from these settings
        raise UserError(
            f"vision: timm could not make {name!r} with weights {weights or 'random'}, image_size {image_size} and "
            f"options {options}: {error}"
        ) from error
    if weights == "pretrained":
        files.check_finite(backbone.state_dict(), f"vision.weights: timm's own of {name!r}")
    elif weights is not None:
        _load(backbone, name, Path(weights))
    return backbone


def _load(backbone: nn.Module, name: str, path: Path) -> None:
    """Load a local file; timm resizes and renames its parameters where it can. Only a classifier may remain unused.

    Swin's relative position bias tables are resized to the configured window: offsets near the centre keep their
    values, offsets farther out follow a geometric progression (BEiT), and values in between are linear.
    """
    if not path.exists() and not path.is_symlink():  # of a broken link, `read` says where it leads
        raise UserError(
            f"vision.weights: no file {path}{near(path)}; give a .safetensors or .pth file, 'pretrained' or 'random'"
        )
    adapt = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    state = files.read(path, lambda file: load_state_dict(str(file), weights_only=True), "vision.weights")
    try:
        state = adapt(state, backbone) if adapt is not None else state
        files.check_kinds(files.kinds_of(state), f"vision.weights: {path}")
        missing, unexpected = backbone.load_state_dict(state, strict=False)
    except UserError:
        raise
    except Exception as error:  # timm's converters fail in many ways on other checkpoints
        why = " ".join(str(error).split())
        raise UserError(
            f"vision.weights: {path} does not load into timm's {name!r}: {why}; give the vision.name and the "
            "vision.options that the file was made with"
        ) from error
    classifier = cast("dict[str, Any]", backbone.pretrained_cfg).get("classifier") or ()
    classifiers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    unexpected = [key for key in unexpected if not key.startswith(tuple(f"{part}." for part in classifiers))]
    if missing or unexpected:
        raise UserError(
            f"vision.weights: {path} is not a checkpoint of timm's {name!r}: "
            f"{files.describe({'parameters missing': missing, 'unknown': unexpected})}; give the vision.name and the "
            "vision.options that the file was made with, or a complete file"
        )
    files.check_finite(backbone.state_dict(), f"vision.weights: {path}")
