"""The settings of a model, config.json of its folder. A folder may come from anywhere, so its settings are checked like
a configuration, and against the weights beside them."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict
from transformers import AutoConfig, BertConfig, PretrainedConfig

from rvlr import config
from rvlr.config.base import Fraction, Positive, Section, Temperature
from rvlr.errors import UserError
from rvlr.models import pretrained, weights

S = TypeVar("S", bound=Section)
KEY = "model folder"
_WIDTHS = {
    "embed_dim": ("vision_proj.weight", 0),
    "teacher_widths.0": ("teacher_vision_proj.weight", 1),
    "teacher_widths.1": ("teacher_text_proj.weight", 1),
    "relation_projections.0": ("relation_image_proj.0.weight", 0),
    "relation_projections.1": ("relation_image_proj.2.weight", 0),
}


class RetrievalConfig(PretrainedConfig):
    """Everything needed to build the model and to present images and captions to it.

    vision, text, bert: as they are, or as mappings. teacher_widths: widths of the stored image and text features of the
    teacher for a student, None for a teacher. relation_projections: hidden and output width of the learnt MLPs that
    teacher features pass before their relations are taken, for the Wasserstein distance, or None. fresh_heads:
    whether projections and matching head have not been trained yet. Raises UserError for settings of no model.
    """

    model_type = "rvlr"

    def __init__(
        self,
        vision: config.VisionSettings | Mapping[str, Any] | None = None,
        text: config.TextSettings | Mapping[str, Any] | None = None,
        bert: BertConfig | Mapping[str, Any] | None = None,
        embed_dim: int = 256,
        contrast_temperature: float = 0.07,
        relation_temperature: float = 0.07,
        fusion_weight: float = 0.5,
        teacher_widths: list[int] | None = None,
        relation_projections: list[int] | None = None,
        fresh_heads: bool = True,
        **arguments: Any,
    ) -> None:
        self.vision = _section(vision, "vision", config.VisionSettings)
        self.text = _section(text, "text", config.TextSettings)
        self.bert = bert if isinstance(bert, BertConfig) else BertConfig(**(bert or {}))
        self.embed_dim = embed_dim
        self.contrast_temperature, self.relation_temperature = contrast_temperature, relation_temperature
        self.fusion_weight = fusion_weight
        self.teacher_widths = teacher_widths
        self.relation_projections = relation_projections
        self.fresh_heads = fresh_heads
        super().__init__(**arguments)

    def to_dict(self) -> dict[str, Any]:
        """All settings, as JSON has them."""
        return super().to_dict() | self._nested()

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json contains: all settings but transformers' own defaults."""
        return super().to_diff_dict() | self._nested()

    def _nested(self) -> dict[str, Any]:
        sections = {"vision": self.vision, "text": self.text}
        return {name: section.model_dump(mode="json") for name, section in sections.items()} | {
            "bert": self.bert.to_diff_dict()
        }


AutoConfig.register(RetrievalConfig.model_type, RetrievalConfig, exist_ok=True)


def _section(given: S | Mapping[str, Any] | None, key: str, kind: type[S]) -> S:
    if isinstance(given, kind):
        return given
    return config.parse(given or {}, key, kind)


class _Saved(Section):
    """The keys of `RetrievalConfig`; those that transformers adds are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vision: config.VisionSettings
    text: config.TextSettings
    bert: pretrained.Bert
    embed_dim: Positive
    contrast_temperature: Temperature
    relation_temperature: Temperature
    fusion_weight: Fraction = 0.5
    teacher_widths: tuple[Positive, Positive] | None = None
    relation_projections: tuple[Positive, Positive] | None = None
    fresh_heads: bool = True


def check(found: dict[str, Any], source: str, shapes: weights.Shapes) -> dict[str, Any]:
    """The arguments of the `RetrievalConfig` that a config.json describes, for weights of these shapes.

    source: names the settings in messages. Raises UserError with the key of a setting that is missing, out of range, or
    of another size than the weights.
    """
    if found.get("model_type") != RetrievalConfig.model_type:
        raise UserError(
            f"{KEY}: {source} describes a {found.get('model_type')!r} model, not one that rvlr made; give the folder "
            "that `rvlr initialise`, a training or `rvlr import-checkpoint` has written"
        )
    checked = config.parse(found, source, _Saved)
    text, size = checked.text, checked.bert
    if text.max_tokens > size.max_position_embeddings:
        raise UserError(
            f"{source}: text.max_tokens is {text.max_tokens}, bert has {size.max_position_embeddings} positions"
        )
    weights.compare_sizes(_stated(checked), _actual(shapes), f"{KEY}: {source}")
    return found | checked.model_dump(mode="json", exclude={"bert"})


def _stated(checked: _Saved) -> dict[str, int]:
    sizes = {f"bert.{name}": value for name, value in checked.bert.model_dump().items()}
    sizes |= {f"text.{name}": getattr(checked.text, name) for name in ("text_layers", "fusion_layers")}
    for name in ("teacher_widths", "relation_projections"):
        sizes |= {f"{name}.{place}": width for place, width in enumerate(getattr(checked, name) or ())}
    return sizes | {"embed_dim": checked.embed_dim}


def _actual(shapes: weights.Shapes) -> dict[str, int]:
    sizes = {f"bert.{name}": size for name, size in pretrained.bert_sizes(shapes, "text_encoder.").items()}
    sizes["text.text_layers"] = weights.layers(shapes, "text_encoder.encoder.layer.")
    sizes["text.fusion_layers"] = weights.layers(shapes, "fusion_layers.")
    return sizes | weights.sizes(shapes, _WIDTHS)
