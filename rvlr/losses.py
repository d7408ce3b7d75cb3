"""The losses of METHOD.md, "Losses", as pure functions.

Contrast and distillation expect tensors already gathered over all processes; they return scalars. Features called
embeddings have unit length. `ids` are image identities: captions of one image share one.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def soft_targets(ids: torch.Tensor) -> torch.Tensor:
    """(B,) image ids -> (B, B) float32: rows spread evenly over the entries with an equal id."""
    same = (ids[:, None] == ids[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def contrast(
    rows: torch.Tensor, columns: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of softmax(rows . columns^T / temperature) with soft targets. rows, columns: (B, D)."""
    logits = rows @ columns.T / temperature
    return F.cross_entropy(logits, targets.to(logits.dtype))


def itc(image: torch.Tensor, text: torch.Tensor, ids: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Image-text contrast (a): the mean of both directions. image, text: (B, D) embeddings."""
    targets = soft_targets(ids)
    return (contrast(image, text, targets, temperature) + contrast(text, image, targets, temperature)) / 2


def representation_distillation(
    student: torch.Tensor, teacher: torch.Tensor, ids: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """IIC (c) and TTC (d): student embeddings (rows) against projected teacher embeddings, one direction."""
    return contrast(student, teacher, soft_targets(ids), temperature)


def hard_negatives(
    similarity: torch.Tensor, ids: torch.Tensor, temperature: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one negative column for each row with probability softmax(similarity / temperature) + 1e-5, never one of
    the same image (ITM, METHOD.md).

    similarity: (B, B), of the local batch. Returns the columns (B,) and whether a row has any negative (B,) bool; where
    it has none, the column is meaningless. One vectorised draw (an exponential race) in float32, which neither waits
    for the device nor fails on extreme similarities as `torch.multinomial` does.
    """
    allowed = ids[:, None] != ids[None, :]
    weights = torch.softmax(similarity.detach().float() / temperature.detach().float(), dim=1) + 1e-5
    weights = weights.masked_fill(~allowed, 0.0)
    race = weights / torch.empty_like(weights).exponential_().clamp_min(torch.finfo(torch.float32).tiny)
    return race.argmax(dim=1), allowed.any(dim=1)


def itm(positive: torch.Tensor, negative: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Image-text matching (b): cross-entropy over B positives and up to 2B negatives of the local batch.

    positive: (B, 2) logits of the pairs, negative: (2B, 2) logits of images with wrong texts and texts with wrong
    images, valid: (2B,) bool, False for rows that have no negative; these are left out. Unlike the other losses it is
    local: with more processes, negatives come from a smaller batch.
    """
    logits = torch.cat([positive, negative])
    labels = torch.cat(
        [torch.ones(len(positive), device=logits.device), torch.zeros(len(negative), device=logits.device)]
    )
    labels = labels.long()
    labels[len(positive) :][~valid] = -100
    return F.cross_entropy(logits.float(), labels, ignore_index=-100)


def relation(features: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """(B, D) features -> (B * (B - 1),) cosine similarities over `temperature`, row by row, diagonal left out."""
    features = F.normalize(features, dim=-1)
    return off_diagonal(features @ features.T) / temperature


def off_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """(B, B) -> (B * (B - 1),), row by row."""
    size = len(matrix)
    return matrix.flatten()[:-1].view(size - 1, size + 1)[:, 1:].flatten()


def structure_distillation(
    student: torch.Tensor,
    teacher_image: torch.Tensor,
    teacher_text: torch.Tensor,
    fusion_weight: torch.Tensor,
    distance: Distance,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """KD (e), KDI (f), KDT (g): relations of the student and of both teachers against the fused teacher relation
    E = lambda T_txt + (1 - lambda) T_img. Arguments are `relation`s and lambda."""
    fused = fusion_weight * teacher_text + (1 - fusion_weight) * teacher_image
    return distance(student, fused), distance(teacher_image, fused), distance(teacher_text, fused)


def mae(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """mean |x - y|"""
    return (left - right).abs().mean()


def mse(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """mean (x - y)^2"""
    return (left - right).square().mean()


DISTANCES: dict[str, Distance] = {"mae": mae, "mse": mse}
