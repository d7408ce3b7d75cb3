"""Fusion encoder: BERT layers with a cross-attention block between self-attention and feed-forward.

docs/METHOD.md, "Model": starts from the text tokens, attends to the image tokens, bidirectional. The blocks of a layer
can be called one by one, so that re-ranking projects an image's keys and values once for all its candidate captions.
Parameters have the names of transformers' BertLayer, which lets BERT checkpoints load as they are.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertIntermediate, BertOutput, BertSelfOutput

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, each (B, heads, N, D / heads)."""


class Attention(nn.Module):
    """Multi-head attention with residual and layer norm. `source_width` is the width of what is attended to."""

    def __init__(self, config: BertConfig, source_width: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.self = nn.ModuleDict(
            {
                "query": nn.Linear(width, width),
                "key": nn.Linear(source_width, width),
                "value": nn.Linear(source_width, width),
            }
        )
        self.output = BertSelfOutput(config)

    def _split(self, tensor: torch.Tensor) -> torch.Tensor:
        heads: torch.Tensor = tensor.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)

    def keys_values(self, source: torch.Tensor) -> KeysValues:
        """(B, N, source_width) -> keys and values."""
        return self._split(self.self["key"](source)), self._split(self.self["value"](source))

    def forward(self, hidden: torch.Tensor, keys_values: KeysValues, mask: torch.Tensor | None = None) -> torch.Tensor:
        """hidden: (B, L, D). mask: (B, 1, 1, N) bool, True where attention is allowed. Returns (B, L, D)."""
        query = self._split(self.self["query"](hidden))
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, *keys_values, attn_mask=mask, dropout_p=dropout)
        attended: torch.Tensor = self.output(context.transpose(1, 2).flatten(2), hidden)
        return attended


class FusionLayer(nn.Module):
    """Self-attention over the text, cross-attention to the image, feed-forward."""

    def __init__(self, config: BertConfig, image_width: int) -> None:
        super().__init__()
        self.attention = Attention(config, config.hidden_size)
        self.crossattention = Attention(config, image_width)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)

    def self_block(self, queries: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """queries: (B, Q, D), those rows of hidden (B, L, D) that are wanted; mask: (B, 1, 1, L) bool -> (B, Q, D).
        Does not depend on the image."""
        attended: torch.Tensor = self.attention(queries, self.attention.keys_values(hidden), mask)
        return attended

    def cross_block(self, hidden: torch.Tensor, image: KeysValues) -> torch.Tensor:
        """hidden: (B, L, D), the image's keys and values -> (B, L, D), feed-forward included."""
        attended = self.crossattention(hidden, image)
        fused: torch.Tensor = self.output(self.intermediate(attended), attended)
        return fused
