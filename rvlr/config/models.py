"""The section `models`: encoders, their sizes and the weights that they start from."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from rvlr.config.base import (
    NUMBER,
    Fraction,
    Layers,
    PlainText,
    Section,
    Temperature,
    Tokens,
    Triple,
    UserPath,
    Width,
    Words,
    pixels,
    plain_values,
)

_NO_OPTIONS = (
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_model_args"),
    *("checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit", "device", "dtype", "num_classes"),
    "model_name",
)
"""Arguments of `timm.create_model` that load something, or that are set by us."""


class VisionSettings(Section):
    """A timm backbone and how images are presented to it: what travels with a model."""

    name: PlainText = "swin_base_patch4_window12_384"
    """Any timm backbone that gives features."""
    options: Annotated[dict[PlainText, Any], AfterValidator(plain_values)] = {}
    """Further arguments of `timm.create_model`, such as `{drop_path_rate: 0.2}`."""
    image_size: Annotated[int, pixels(16, 2048), NUMBER] = 384
    """Side of the square that images are resized to."""
    mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    """Mean of the red, green and blue channel that images are normalised with, in units of 0 to 1 (divide values of
    0 to 255 by 255); give the values that the weights were trained with."""
    std: Triple = (0.26862954, 0.26130258, 0.27577711)
    """Standard deviation of the three channels, in the same units, each at least 0.001."""
    frozen: bool = False
    """`true`: the encoder keeps its weights and learns nothing."""

    @field_validator("options")
    @classmethod
    def _options_of_the_architecture(cls, value: dict[str, Any]) -> dict[str, Any]:
        refused = [name for name in value if name in _NO_OPTIONS]
        if refused:
            raise ValueError(
                f"{', '.join(refused)}: no option of an architecture; remove it. The key weights names "
                "weights, and the rest is set by rvlr"
            )
        return value

    @field_validator("mean", "std")
    @classmethod
    def _of_values_from_0_to_1(cls, value: Triple, info: ValidationInfo) -> Triple:
        least = 0.001 if info.field_name == "std" else 0  # pixels are divided by std
        if not all(least <= each <= 1 for each in value):
            raise ValueError(
                f"{list(value)}: each must be from {least} to 1; they are in units of 0 to 1, so divide those of "
                "pixels from 0 to 255 by 255"
            )
        return value


class Vision(VisionSettings):
    """A vision encoder and the weights that it starts from."""

    weights: Literal["random", "pretrained"] | UserPath = "random"
    """`random`; `pretrained`: timm's own weights, from its cache or fetched; or a local `.safetensors` or `.pth`
    file in timm's key layout or, for Swin, Microsoft's of 2021, interpolated to `image_size` where timm can do
    so."""


class BertSize(Section):
    """Sizes of a text encoder that starts from random weights; the names are those of transformers' BertConfig."""

    hidden_size: Width = 768
    """Width, a multiple of `num_attention_heads`."""
    num_attention_heads: Width = 12
    """Number of attention heads."""
    intermediate_size: Width = 3072
    """Width of the feed-forward part."""
    hidden_dropout_prob: Fraction = 0.1
    """Dropout probability of the layers."""
    attention_probs_dropout_prob: Fraction = 0.1
    """Dropout probability of the attention."""
    max_position_embeddings: Annotated[int, Field(ge=1, le=2**16, json_schema_extra={"unit": "tokens"}), NUMBER] = 512
    """Longest input; at least `max_tokens`."""
    initializer_range: Annotated[float, Field(gt=0, le=1), NUMBER] = 0.02
    """Standard deviation of the initial weights."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


class TextSettings(Section):
    """A BERT, cut in two, and how captions are presented to it: what travels with a model."""

    text_layers: Layers = 6
    """Number of layers of the text encoder: the first layers of the BERT."""
    fusion_layers: Layers = 6
    """Number of layers of the fusion encoder: the layers of the BERT after those. Where the BERT has too few, the
    rest starts from random weights; cross-attention always does."""
    max_tokens: Tokens = 40
    """Tokens of a caption, [CLS] and [SEP] included; the rest is cut off."""
    max_words: Words = 30
    """Words of a caption in evaluation and features; for training see `training`."""
    frozen: bool = False
    """`true`: the text encoder learns nothing; the fusion encoder still does."""


class Text(TextSettings):
    """A text encoder and the weights, or the size, that it starts from."""

    weights: Literal["random"] | PlainText = "bert-base-uncased"
    """`random`, or a BERT: a folder with `config.json`, weights and tokenizer, or a name on the Hugging Face hub,
    `NAME` or `OWNER/NAME`; what looks like a path is never looked up there. All weights must load, at most half of
    the captions' words may be unknown to the tokenizer, and no code from the folder runs (`auto_map` is
    refused)."""
    size: BertSize | None = None
    """Widths of an encoder with random weights; required with `weights: random`, refused otherwise."""

    @model_validator(mode="after")
    def _size_belongs_to_random(self) -> Self:
        if (self.weights == "random") != (self.size is not None):
            raise ValueError(
                f"weights is {self.weights!r} and size is {'given' if self.size else 'missing'}; give a size if, and "
                "only if, weights is 'random' (pretrained weights bring their own)"
            )
        if self.size and self.max_tokens > self.size.max_position_embeddings:
            raise ValueError(
                f"max_tokens {self.max_tokens} exceeds size.max_position_embeddings {self.size.max_position_embeddings}"
            )
        return self


class Model(Section):
    """The retrieval model: docs/METHOD.md, "Model"."""

    title = "a model"
    vision: Vision = Vision()
    """The image encoder."""
    text: Text = Text()
    """The text and fusion encoders."""
    embed_dim: Width = 256
    """Width of the shared embedding space."""
    temperature: Temperature = 0.07
    """Temperature tau of the contrasts: the initial value, it is learnt."""
    relation_temperature: Temperature = 0.07
    """Temperature tau2 of the relations: the initial value, it is learnt."""
