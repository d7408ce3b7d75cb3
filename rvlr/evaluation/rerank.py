"""Re-ranking: the match logit of the most similar candidates.

docs/METHOD.md, "Evaluation": cosine similarity picks the top k of each query, the fusion encoder's logit of class 1
re-ranks them, everything else gets -100. Each (image, caption) pair is scored once, though it may be a candidate in
both directions; an image's keys and values are projected once for all its captions; the first self-attention of the
fusion encoder, which depends on the caption alone, is computed once per caption; the last layer computes [CLS] alone;
and captions are packed by length.
"""

from typing import cast

import torch

from rvlr.evaluation.encode import Encoded
from rvlr.evaluation.inputs import NOT_A_CANDIDATE
from rvlr.log import Progress
from rvlr.models.fusion import FusionLayer, KeysValues
from rvlr.models.retrieval import RetrievalModel

TOKENS_AT_ONCE = {"cpu": 8_192, "cuda": 131_072}


@torch.inference_mode()
def rerank(model: RetrievalModel, encoded: Encoded, candidates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Score matrices image->text (N, C) and text->image (C, N), float32 on the CPU: match logits of the top
    `candidates` of each row, `NOT_A_CANDIDATE` elsewhere."""
    similarity = encoded.image_embeds @ encoded.text_embeds.T
    images, captions = similarity.shape
    of_image = similarity.topk(min(candidates, captions), dim=1).indices.cpu()
    of_caption = similarity.T.topk(min(candidates, images), dim=1).indices.cpu()
    wanted_by_image = torch.zeros(images, captions, dtype=torch.bool)
    wanted_by_image.scatter_(1, of_image, True)
    wanted_by_caption = torch.zeros(captions, images, dtype=torch.bool)
    wanted_by_caption.scatter_(1, of_caption, True)
    scores = match_scores(model, encoded, wanted_by_image | wanted_by_caption.T)
    return (
        scores.masked_fill(~wanted_by_image, NOT_A_CANDIDATE),
        scores.T.masked_fill(~wanted_by_caption, NOT_A_CANDIDATE),
    )


@torch.inference_mode()
def match_scores(model: RetrievalModel, encoded: Encoded, wanted: torch.Tensor) -> torch.Tensor:
    """Match logits (N, C), float32 on the CPU, of the wanted pairs (N, C) bool; 0 elsewhere."""
    offsets = encoded.text_offsets
    lengths = (offsets[1:] - offsets[:-1]).cpu()
    by_length = lengths.argsort(stable=True)
    attended = _attend_captions(model, encoded, lengths, by_length)
    scores = torch.zeros(wanted.shape)
    done, progress = 0, Progress("re-ranking", int(wanted.sum()), "pairs")
    budget = TOKENS_AT_ONCE[model.device.type]
    for image, row in enumerate(wanted):
        keys_values = model.image_keys_values(encoded.image_tokens[image : image + 1])
        chosen = by_length[row[by_length]]
        for group in _groups(chosen, lengths, budget):
            starts = offsets[group.to(offsets.device)]
            scores[image, group] = _score(model, attended, starts, lengths[group], keys_values).float().cpu()
            done += len(group)
        progress.update(done)
    return scores


def _groups(captions: torch.Tensor, lengths: torch.Tensor, budget: int) -> list[torch.Tensor]:
    """Cut captions, indices sorted by length, into groups of at most `budget` padded tokens."""
    sizes, groups, start = lengths[captions].tolist(), [], 0
    for end in range(1, len(sizes) + 1):
        if end == len(sizes) or (end + 1 - start) * sizes[end] > budget:
            groups.append(captions[start:end])
            start = end
    return groups


def _padded(rows: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions taken out of unpadded rows (T, D): (P, L, D), and their mask (P, L) bool. Padding repeats a row of the
    same caption, which the mask hides."""
    steps = torch.arange(int(lengths.max()), device=rows.device)
    lengths = lengths.to(rows.device)
    index = starts[:, None] + torch.minimum(steps[None, :], lengths[:, None] - 1)
    return rows[index], steps[None, :] < lengths[:, None]


def _attend_captions(
    model: RetrievalModel, encoded: Encoded, lengths: torch.Tensor, by_length: torch.Tensor
) -> torch.Tensor:
    """The first fusion layer's self-attention of every caption, unpadded, (T, D)."""
    layer, attended = _layers(model)[0], torch.empty_like(encoded.text_tokens)
    for group in _groups(by_length, lengths, TOKENS_AT_ONCE[model.device.type]):
        starts = encoded.text_offsets[group.to(attended.device)]
        hidden, mask = _padded(encoded.text_tokens, starts, lengths[group])
        hidden = layer.self_block(hidden, hidden, mask[:, None, None, :])
        steps = torch.arange(mask.shape[1], device=mask.device)
        attended[(starts[:, None] + steps)[mask]] = hidden[mask]
    return attended


def _layers(model: RetrievalModel) -> list[FusionLayer]:
    return cast("list[FusionLayer]", list(model.fusion_layers))  # PyTorch's lists of modules are untyped


def _score(
    model: RetrievalModel,
    attended: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    keys_values: list[KeysValues],
) -> torch.Tensor:
    """Match logits (P,) of P captions with one image, whose keys and values are a batch of 1."""
    hidden, mask = _padded(attended, starts, lengths)
    mask = mask[:, None, None, :]
    layers = _layers(model)
    for depth, (layer, image) in enumerate(zip(layers, keys_values, strict=True)):
        queries = hidden[:, :1] if depth == len(layers) - 1 else hidden
        if depth > 0:
            queries = layer.self_block(queries, hidden, mask)
        # all captions as one long sequence: they attend to the same image and not to each other
        shape = queries.shape
        hidden = layer.cross_block(queries.reshape(1, -1, shape[-1]), image).view(shape)
    return model.match(hidden[:, 0])[:, 1]
