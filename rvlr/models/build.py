"""Stage `initialise`: the model a training starts from, as a folder.

Enters: the `models` section, the seed, the training captions (for a vocabulary where the text encoder brings none).
Leaves: `model/` with config.json, model.safetensors and the tokenizer's files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rvlr import config, io
from rvlr.data.text import learn_tokenizer
from rvlr.errors import UserError
from rvlr.log import logger
from rvlr.models.hub import local_first
from rvlr.models.retrieval import RetrievalConfig, RetrievalModel


def initialise(section: config.Model, seed: int, captions: Sequence[str], output: Path) -> None:
    """Build the model from its settings and pretrained weights; what has none starts from `seed`."""
    torch.manual_seed(seed)
    text = section.text
    if text.weights == "random":
        tokenizer: PreTrainedTokenizerBase = learn_tokenizer(captions)
        bert, source = BertConfig(vocab_size=len(tokenizer), **text.size.model_dump()), None
    else:
        source = load_bert(text)
        bert, tokenizer = source.config, local_first(AutoTokenizer.from_pretrained, text.weights)
    vision = section.vision
    model = RetrievalModel(
        RetrievalConfig(
            vision=vision.model_dump(exclude={"weights"}),
            text=text.model_dump(exclude={"weights", "size"}),
            bert=bert.to_diff_dict(),
            embed_dim=section.embed_dim,
            contrast_temperature=section.temperature,
            relation_temperature=section.relation_temperature,
        ),
        None if vision.weights == "random" else vision.weights,
    )
    if source is not None:
        _copy_bert(source, model)
    save(model, tokenizer, output)
    logger.info("initial model with %.1f million parameters in %s", model.num_parameters() / 1e6, output)


def load_bert(text: config.Text) -> BertModel:
    """A pretrained BERT from a local folder or the hub. Raises UserError if it is none or has too few layers."""
    try:
        found = local_first(AutoConfig.from_pretrained, text.weights)
    except (OSError, ValueError) as error:
        raise UserError(
            f"text.weights: {text.weights!r} is no folder with a BERT, nor a name in the hub's cache or on the hub: "
            f"{error}\nwithout a network, give a folder, or fetch it where there is one: hf download "
            f"{text.weights}"
        ) from error
    if found.model_type != "bert":
        raise UserError(
            f"text.weights: {text.weights} holds a {found.model_type!r} model; the text encoder must be a BERT"
        )
    if found.num_hidden_layers < text.text_layers:
        raise UserError(
            f"text.text_layers: {text.text_layers} asked for, {text.weights} has {found.num_hidden_layers} layers"
        )
    if text.max_tokens > found.max_position_embeddings:
        raise UserError(
            f"text.max_tokens: {text.max_tokens} exceeds the {found.max_position_embeddings} of {text.weights}"
        )
    return local_first(BertModel.from_pretrained, text.weights, add_pooling_layer=False, dtype=torch.float32)


def _copy_bert(source: BertModel, model: RetrievalModel) -> None:
    """The first layers become the text encoder, those after them the fusion layers (cross-attention stays fresh)."""
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


def load(folder: Path, teacher: dict[str, Any] | None = None) -> tuple[RetrievalModel, PreTrainedTokenizerBase]:
    """A model folder -> the model in evaluation mode and its tokenizer; `teacher` as in `from_pretrained`."""
    return RetrievalModel.from_pretrained(folder, teacher), AutoTokenizer.from_pretrained(folder)


def save(model: RetrievalModel, tokenizer: PreTrainedTokenizerBase | None, output: Path) -> None:
    """Write a model folder, complete or not at all."""
    disable_progress_bar()
    with io.atomic_folder(output) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
