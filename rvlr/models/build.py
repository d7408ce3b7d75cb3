"""Stage `initialise`: the model a training starts from, as a folder.

Input: the `models` section, the seed, and the training captions, of which a vocabulary is made where the text encoder
has none. Output: `model/` with config.json, model.safetensors and the tokenizer's files.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from rvlr import config, files
from rvlr.data.text import clean_caption, learn_tokenizer
from rvlr.log import logger, result
from rvlr.models import hub, pretrained, tokens, weights
from rvlr.models.retrieval import RetrievalModel
from rvlr.models.settings import RetrievalConfig


def initialise(section: config.Model, seed: int, captions: Sequence[str], output: Path) -> None:
    """Build the model from its settings and pretrained weights; parts without weights start from `seed`.

    Raises UserError if weights or tokenizer are missing, incomplete or do not belong together.
    """
    torch.manual_seed(seed)
    text, vision = section.text, section.vision
    tokenizer, source = _text_start(text, captions)
    if source is None:
        assert text.size is not None  # as the section demands of random weights
        size = BertConfig(vocab_size=len(tokenizer), **text.size.model_dump())
    else:
        size = source.config
    settings = RetrievalConfig(
        vision=vision.model_dump(exclude={"weights"}),
        text=text.model_dump(exclude={"weights", "size"}),
        bert=size,
        embed_dim=section.embed_dim,
        contrast_temperature=section.temperature,
        relation_temperature=section.relation_temperature,
    )
    weights.outline(lambda: RetrievalModel(settings), "the model cannot be built")
    model = RetrievalModel(settings, None if vision.weights == "random" else vision.weights)
    if source is not None:
        _copy_bert(source, model)
    model.tokenizer = tokenizer
    with files.atomic_folder(output) as folder:
        model.save_pretrained(folder)
    result("%.1f million parameters", model.num_parameters() / 1e6)


def _text_start(text: config.Text, captions: Sequence[str]) -> tuple[PreTrainedTokenizerBase, BertModel | None]:
    """The tokenizer, and the BERT that the text encoder starts from, None for random weights."""
    cleaned = [clean_caption(caption, text.max_words) for caption in captions]
    if text.weights == "random":
        tokenizer: PreTrainedTokenizerBase = learn_tokenizer(captions)
        tokens.check_words(tokenizer, cleaned, "the vocabulary made from the captions")
        return tokenizer, None
    key = "text.weights"
    folder = hub.find(text.weights, key, hub.WEIGHTS, hub.VOCABULARIES)
    source = pretrained.load_bert(folder, key, text)
    tokenizer = tokens.load_for_bert(folder, key, source.config.vocab_size)
    tokens.check_words(tokenizer, cleaned, f"{key}: {folder}")
    return tokenizer, source


def _copy_bert(source: BertModel, model: RetrievalModel) -> None:
    """The first layers become the text encoder, the others the fusion layers, whose cross-attention stays random."""
    count = len(model.text_encoder.encoder.layer)
    model.text_encoder.embeddings.load_state_dict(source.embeddings.state_dict())
    for target, layer in zip(model.text_encoder.encoder.layer, source.encoder.layer, strict=False):
        target.load_state_dict(layer.state_dict())
    rest = source.encoder.layer[count:]
    for target, layer in zip(model.fusion_layers, rest, strict=False):
        missing, unexpected = target.load_state_dict(layer.state_dict(), strict=False)
        if unexpected or any(not key.startswith("crossattention.") for key in missing):
            raise RuntimeError(f"transformers changed the names of BertLayer: {missing=} {unexpected=}")
    fresh = len(model.fusion_layers) - len(rest)
    if fresh > 0:
        logger.info(
            "the checkpoint has no layers left for %d of the fusion layers; they start from random weights", fresh
        )
