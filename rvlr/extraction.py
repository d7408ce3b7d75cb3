"""Stage `extract`: the teacher's single-modal features of a split, as memory-mapped .npy files.

Input: a trained teacher's model folder, or a pair of single-modal models, and the split. Output: the files of
`rvlr.data.features`, one row an image and one row a caption. Features are taken *before* the projections: image token 0
and text [CLS]; docs/METHOD.md, "Training".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from rvlr import config, provenance
from rvlr.config.training import TextFeatures
from rvlr.data.features import share, write_features
from rvlr.data.images import evaluation_transform
from rvlr.data.loading import image_batches
from rvlr.data.records import Split
from rvlr.data.text import tokenise
from rvlr.distributed import Processes, processes
from rvlr.errors import UserError
from rvlr.log import result, track
from rvlr.models import hub, pretrained, tokens, weights
from rvlr.models.retrieval import RetrievalModel
from rvlr.models.vision import VisionEncoder


@dataclass(frozen=True)
class Extractor:
    """Two functions that give feature rows: of an image batch (B, 3, H, W), and of B captions."""

    vision: config.VisionSettings
    image: Callable[[torch.Tensor], torch.Tensor]
    text: Callable[[list[str]], torch.Tensor]


def trained_extractor(folder: Path, device: torch.device) -> Extractor:
    """Features of a model that stage 1 trained."""
    model = RetrievalModel.from_pretrained(folder)
    nn.Module.to(model, device)  # transformers' own `to` has no types
    tokenizer, text = model.tokenizer, model.config.text

    def encode_text(captions: list[str]) -> torch.Tensor:
        batch = tokenise(tokenizer, captions, text.max_words, text.max_tokens)
        return model.encode_text(batch["input_ids"].to(device), batch["attention_mask"].to(device))[:, 0]

    return Extractor(model.config.vision, lambda pixels: model.encode_image(pixels)[:, 0], encode_text)


def single_modal_extractor(
    section: config.SingleModalTeacher, device: torch.device, captions: Sequence[str] = ()
) -> Extractor:
    """Features of any timm model and any transformers text encoder. Captions are not cleaned: such models were trained
    with punctuation and capitals.

    captions: those to be encoded, whose words the tokenizer is checked for. Raises UserError if weights or tokenizer
    are missing, incomplete or do not belong together.
    """
    torch.manual_seed(0)  # a vision model with random weights is the same one every time, and in every process
    encode_text = _text_encoder(section.text, device, captions)
    vision = section.vision
    start = None if vision.weights == "random" else vision.weights
    weights.outline(
        lambda: VisionEncoder(vision.name, vision.image_size, vision.options), "the teacher cannot be built"
    )
    encoder = VisionEncoder(vision.name, vision.image_size, vision.options, start).eval().to(device)
    return Extractor(vision, lambda pixels: encoder(pixels)[:, 0], encode_text)


def _text_encoder(
    text: TextFeatures, device: torch.device, captions: Sequence[str]
) -> Callable[[list[str]], torch.Tensor]:
    key = "text.weights"
    folder = hub.find(text.weights, key, hub.WEIGHTS, hub.VOCABULARIES)
    source = f"{key}: {folder}"
    model = _text_model(folder, key)
    tokenizer = tokens.load(folder, key)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UserError(f"{source}: the tokenizer has no pad_token and no eos_token; set one in tokenizer_config.json")
    tokens.check_ids(tokenizer, model.get_input_embeddings().get_parameter("weight").shape[0], source)
    tokens.check_words(tokenizer, captions, source)
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    nn.Module.to(model, device)
    positions = getattr(model.config, "max_position_embeddings", text.max_tokens)
    if text.max_tokens > positions:
        raise UserError(f"text.max_tokens: {text.max_tokens} exceeds the {positions} of {text.weights}")

    def encode(captions: list[str]) -> torch.Tensor:
        batch = tokenizer(captions, padding="longest", truncation=True, max_length=text.max_tokens, return_tensors="pt")
        batch = batch.to(device)
        ids, attended = batch["input_ids"], batch["attention_mask"]
        hidden: torch.Tensor = model(input_ids=ids, attention_mask=attended).last_hidden_state
        if text.pooling == "cls":
            return hidden[:, 0]
        mask: torch.Tensor = attended[:, :, None].to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)

    try:
        with torch.inference_mode():
            encode(["a", "a " * text.max_tokens])
    except Exception as error:  # a model that is no text encoder, or has fewer positions, may raise anything
        raise UserError(f"{source}: it does not encode captions of {text.max_tokens} tokens: {error}") from error
    return encode


def _text_model(folder: Path, key: str) -> PreTrainedModel:
    """Any model of transformers. Parts that features do not need may be missing: poolers, and decoders."""
    found = pretrained.load_config(folder, key)

    def is_unused(model: PreTrainedModel, name: str) -> bool:
        return name.startswith("pooler.") or (found.is_encoder_decoder and name.startswith("decoder."))

    def is_head(model: PreTrainedModel, name: str) -> bool:
        part = name.removeprefix(f"{model.base_model_prefix}.").split(".")[0]
        return part not in dict(model.named_children()) or is_unused(model, part + ".")

    model: PreTrainedModel = pretrained.load_model(
        folder,
        key,
        lambda: AutoModel.from_config(found, trust_remote_code=False),
        AutoModel.from_pretrained,
        is_head,
        is_unused,
        config=found,
    )
    return model


@torch.inference_mode()
def extract(section: config.Teacher, model: Path | None, split: Split, output: Path) -> None:
    """Write the features of a split. With several processes each computes its own rows.

    model: the folder of a trained teacher, None for a pair of single-modal models. Raises UserError for models that do
    not load, for more processes than images, and for features that are not finite.
    """
    with processes(section.processes) as group:
        device, count = group.accelerator.device, group.accelerator.num_processes
        if isinstance(section, config.SingleModalTeacher):
            extractor = single_modal_extractor(section, device, split.captions)
            teacher = section.model_dump(mode="json")
        elif model is not None:
            extractor = trained_extractor(model, device)
            teacher = {"model_sha256": provenance.sha256(model / "model.safetensors")}
        else:
            raise UserError("--model is missing: the teacher is a trained one, so give its model folder")
        if len(split.records) < count:
            raise UserError(f"{len(split.records)} images cannot be shared by {count} processes")
        blocks = {
            "image": _image_rows(extractor, split, section, group),
            "text": _text_rows(extractor, split, section, group),
        }
        write_features(output, split, blocks, group, teacher=teacher)
        if group.is_main:
            result("features of %d images and %d captions", len(split.records), len(split.captions))


def _image_rows(extractor: Extractor, split: Split, section: config.Teacher, group: Processes) -> Iterator[np.ndarray]:
    vision = extractor.vision
    transform = evaluation_transform(vision.image_size, vision.mean, vision.std)
    batches = image_batches(split, transform, section.batch_size, section.workers, *share(len(split.records), group))
    for pixels in track(batches, "image features", len(batches), "batches"):
        yield extractor.image(pixels.to(group.accelerator.device)).float().cpu().numpy()


def _text_rows(extractor: Extractor, split: Split, section: config.Teacher, group: Processes) -> Iterator[np.ndarray]:
    first, last = share(len(split.captions), group)
    starts = range(first, last, section.batch_size)
    for start in track(starts, "text features", len(starts), "batches"):
        yield extractor.text(split.captions[start : min(start + section.batch_size, last)]).float().cpu().numpy()
