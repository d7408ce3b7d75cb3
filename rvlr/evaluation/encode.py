"""Encode a split once: token features and embeddings of all its images and captions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rvlr.data.images import evaluation_transform
from rvlr.data.loading import image_batches
from rvlr.data.records import Split
from rvlr.log import track
from rvlr.models.retrieval import RetrievalModel


@dataclass(frozen=True)
class Encoded:
    """What a model's encoders make of a split, on the model's device.

    image_tokens: (N, 1 + patches, image width). text_tokens: (T, text width), the tokens of all captions one after the
    other without padding; caption c has rows text_offsets[c] to text_offsets[c + 1] - 1. image_embeds: (N, E) and
    text_embeds: (C, E), unit length.
    """

    image_tokens: torch.Tensor
    text_tokens: torch.Tensor
    text_offsets: torch.Tensor
    image_embeds: torch.Tensor
    text_embeds: torch.Tensor


@torch.inference_mode()
def encode(
    model: RetrievalModel, split: Split, batch_size: int, workers: int, image_tokens: torch.Tensor | None = None
) -> Encoded:
    """Run both encoders over a split. Captions are sorted by length, so that little is padded.

    image_tokens: those of the split, where the vision encoder is frozen and has computed them before.
    """
    text_tokens, offsets = encode_captions(model, split.captions, batch_size)  # first: a faulty tokenizer shows at once
    if image_tokens is None:
        image_tokens = torch.cat(list(encode_images(model, split, batch_size, workers)))
    return Encoded(
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        text_offsets=offsets,
        image_embeds=model.embed_image(image_tokens[:, 0]),
        text_embeds=model.embed_text(text_tokens[offsets[:-1]]),
    )


@torch.inference_mode()
def encode_images(model: RetrievalModel, split: Split, batch_size: int, workers: int) -> Iterator[torch.Tensor]:
    """Token features (B, 1 + patches, image width) of a split's images, batch by batch."""
    vision = model.config.vision
    transform = evaluation_transform(vision.image_size, vision.mean, vision.std)
    batches = image_batches(split, transform, batch_size, workers)
    for pixels in track(batches, f"images of {split.name}", len(batches), "batches"):
        yield model.encode_image(pixels.to(model.device))


@torch.inference_mode()
def encode_captions(model: RetrievalModel, captions: list[str], batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token features of C captions without padding, (T, text width), and where the tokens of each begin, (C + 1,)."""
    pieces: list[torch.Tensor] = [torch.empty(0)] * len(captions)
    batches = model.caption_batches(captions, 4 * batch_size)
    for chosen, tokens, mask in track(batches, "captions", math.ceil(len(captions) / (4 * batch_size)), "batches"):
        for index, rows, length in zip(chosen, tokens, mask.sum(dim=1).tolist(), strict=True):
            pieces[index] = rows[:length]
    offsets = torch.tensor([0, *(len(piece) for piece in pieces)]).cumsum(0)
    return torch.cat(pieces), offsets.to(model.device)
