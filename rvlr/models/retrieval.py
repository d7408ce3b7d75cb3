"""The retrieval model of METHOD.md, "Model", as a transformers `PreTrainedModel`.

It knows no losses: training tasks call its parts and join the results.
"""

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, BertConfig, BertModel, PretrainedConfig, PreTrainedModel

from rvlr.errors import UserError
from rvlr.models import hub, saved, weights
from rvlr.models.fusion import FusionLayer, KeysValues
from rvlr.models.outline import outline
from rvlr.models.vision import VisionEncoder

_STUDENT_PARTS = (
    "teacher_vision_proj.",
    "teacher_text_proj.",
    "fusion_weight",
    "relation_image_proj.",
    "relation_text_proj.",
)


def _without(named: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not name.startswith(prefixes)}


def _mlp(width: int, hidden: int, output: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, output))


class RetrievalConfig(PretrainedConfig):
    """Everything needed to build the model and to present images and captions to it.

    vision: name, options, image_size, mean, std, frozen. text: text_layers, fusion_layers, max_tokens,
    max_words, frozen. bert: a BertConfig as a dictionary. teacher_widths: widths of the stored image and text teacher
    features for a student, None for a teacher. relation_projections: hidden and output width of the learnt MLPs
    that teacher features pass before their relations are taken, as the Wasserstein distance wants it, or None.
    fresh_heads: whether projections and matching head have not been trained yet.
    """

    model_type = "rvlr"

    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        bert: dict[str, Any] | None = None,
        embed_dim: int = 256,
        contrast_temperature: float = 0.07,
        relation_temperature: float = 0.07,
        fusion_weight: float = 0.5,
        teacher_widths: list[int] | None = None,
        relation_projections: list[int] | None = None,
        fresh_heads: bool = True,
        **arguments: Any,
    ) -> None:
        self.vision, self.text, self.bert = vision, text, bert
        self.embed_dim = embed_dim
        self.contrast_temperature, self.relation_temperature = contrast_temperature, relation_temperature
        self.fusion_weight = fusion_weight
        self.teacher_widths = teacher_widths
        self.relation_projections = relation_projections
        self.fresh_heads = fresh_heads
        super().__init__(**arguments)


class RetrievalModel(PreTrainedModel):
    """Vision encoder, text encoder, fusion encoder, projections, matching head and the three learnt scalars."""

    config_class = RetrievalConfig
    base_model_prefix = "rvlr"

    def __init__(self, config: RetrievalConfig, vision_weights: str | Path | None = None) -> None:
        super().__init__(config)
        vision, text = config.vision, config.text
        bert = BertConfig(**{**config.bert, "num_hidden_layers": text["text_layers"]})
        bert._attn_implementation = "sdpa"
        self.vision_encoder = VisionEncoder(vision["name"], vision["image_size"], vision["options"], vision_weights)
        self.text_encoder = BertModel(bert, add_pooling_layer=False)
        image_width, text_width, dim = self.vision_encoder.width, bert.hidden_size, config.embed_dim
        self.fusion_layers = nn.ModuleList(FusionLayer(bert, image_width) for _ in range(text["fusion_layers"]))
        self.vision_proj = nn.Linear(image_width, dim)
        self.text_proj = nn.Linear(text_width, dim)
        self.match_head = nn.Sequential(
            nn.Linear(text_width, 2 * text_width), nn.LayerNorm(2 * text_width), nn.GELU(), nn.Linear(2 * text_width, 2)
        )
        self.temperature = nn.Parameter(torch.tensor(config.contrast_temperature))
        self.relation_temperature = nn.Parameter(torch.tensor(config.relation_temperature))
        if config.teacher_widths is not None:
            self.teacher_vision_proj = nn.Linear(config.teacher_widths[0], dim)
            self.teacher_text_proj = nn.Linear(config.teacher_widths[1], dim)
            self.fusion_weight = nn.Parameter(torch.tensor(config.fusion_weight))
        if config.relation_projections is not None:
            self.relation_image_proj = _mlp(config.teacher_widths[0], *config.relation_projections)
            self.relation_text_proj = _mlp(config.teacher_widths[1], *config.relation_projections)
        for encoder, section in ((self.vision_encoder, vision), (self.text_encoder, text)):
            if section["frozen"]:
                encoder.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every part initialises itself when it is built, see `from_pretrained`."""

    @classmethod
    def from_pretrained(cls, source: str | Path, teacher: dict[str, Any] | None = None) -> Self:
        """Load a folder (or a hub name) written by `save_pretrained`.

        teacher: settings of `RetrievalConfig` that make a student of it (`teacher_widths`, `fusion_weight`,
        `relation_projections`); the parts that only students have start afresh from PyTorch's random state. Any other
        missing, unexpected or misshapen key raises UserError.
        """
        folder = hub.find(source, "model folder", ("model.safetensors",))
        path = folder / "model.safetensors"
        if not path.exists() and not path.is_symlink():
            inner = folder / "model"  # of a run's folder
            where = inner if inner.is_dir() else "the folder that `rvlr initialise` or a training has written"
            raise UserError(f"model folder: {path}: no such file; give {where}")
        shapes = weights.shapes(path, "model folder")
        config = RetrievalConfig(**saved.read_config(folder, shapes))
        for key, value in (teacher or {}).items():
            setattr(config, key, value)
        student = _STUDENT_PARTS if teacher is not None else ()
        described = outline(lambda: cls(config), f"{folder / 'config.json'} describes no model that can be built")
        wrong = weights.differences(*(_without(given, student) for given in (weights.shapes_of(described), shapes)))
        if wrong:
            raise UserError(f"{folder}: model.safetensors and config.json disagree; {wrong}")
        model = cls(config)
        state = _without(weights.read(path, load_file, "model folder"), student)
        weights.check_finite(state, str(path))
        model.load_state_dict(state, strict=False)  # a student's own parts are not there
        return model.eval()

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch, but frozen encoders stay in evaluation mode: no dropout, no batch statistics."""
        super().train(mode)
        for encoder, section in ((self.vision_encoder, self.config.vision), (self.text_encoder, self.config.text)):
            if section["frozen"]:
                encoder.eval()
        return self

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 1 + N, image width) tokens."""
        return self.vision_encoder(pixels)

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L), (B, L) -> (B, L, text width) tokens."""
        return self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def embed_image(self, feature: torch.Tensor) -> torch.Tensor:
        """(B, image width) token 0 -> (B, embed_dim), unit length."""
        return F.normalize(self.vision_proj(feature).float(), dim=-1)

    def embed_text(self, feature: torch.Tensor) -> torch.Tensor:
        """(B, text width) token 0 -> (B, embed_dim), unit length."""
        return F.normalize(self.text_proj(feature).float(), dim=-1)

    def embed_teacher(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stored teacher features (B, teacher widths) -> (B, embed_dim) each, unit length. Students only."""
        image, text = self.teacher_vision_proj(image), self.teacher_text_proj(text)
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)

    def project_relations(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stored teacher features (B, teacher widths) -> (B, output width), where `relation_projections` is set."""
        return self.relation_image_proj(image), self.relation_text_proj(text)

    def image_keys_values(self, image_tokens: torch.Tensor) -> list[KeysValues]:
        """(B, 1 + N, image width) -> the cross-attention's keys and values, layer by layer."""
        return [layer.crossattention.keys_values(image_tokens) for layer in self.fusion_layers]

    def fuse(
        self,
        text_tokens: torch.Tensor,
        attention_mask: torch.Tensor,
        keys_values: list[KeysValues],
        image: torch.Tensor | None = None,
        cls_only: bool = False,
    ) -> torch.Tensor:
        """Fuse captions with images.

        text_tokens: (P, L, D), attention_mask: (P, L), keys_values: of B images, image: (P,) which of them each
        caption is fused with (None: the first with the first, and so on). Returns (P, L, D), or with `cls_only`
        (P, 1, D): the last layer then works for [CLS] alone, which is all that matching needs.
        """
        mask = attention_mask.bool()[:, None, None, :]
        hidden = text_tokens
        for layer, (keys, values) in zip(self.fusion_layers, keys_values, strict=True):
            if image is not None:
                keys, values = keys.index_select(0, image), values.index_select(0, image)
            queries = hidden[:, :1] if cls_only and layer is self.fusion_layers[-1] else hidden
            hidden = layer.cross_block(layer.self_block(queries, hidden, mask), (keys, values))
        return hidden

    def match(self, fused_cls: torch.Tensor) -> torch.Tensor:
        """(P, D) fused [CLS] -> (P, 2) logits; class 1 means "they belong together"."""
        return self.match_head(fused_cls)

    def forward(
        self, pixels: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Embeddings of B images and B captions, and the match logits of each image with its caption."""
        image, text = self.encode_image(pixels), self.encode_text(input_ids, attention_mask)
        fused = self.fuse(text, attention_mask, self.image_keys_values(image))
        return {
            "image_embeds": self.embed_image(image[:, 0]),
            "text_embeds": self.embed_text(text[:, 0]),
            "match_logits": self.match(fused[:, 0]),
        }


# lets AutoTokenizer recognise a model folder
AutoConfig.register(RetrievalConfig.model_type, RetrievalConfig, exist_ok=True)
