"""The losses of docs/METHOD.md, "Losses", a to i, as pure functions.

All but the matching loss expect tensors that are gathered over all processes; all return scalars. Features that are
called embeddings have unit length. ids: (B,) int64, the image of each pair; captions of one image share an id.

A new loss is a function here, a term in `rvlr.training.tasks`, and a weight in `rvlr.config.training` whose name is
that of the term.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def soft_targets(ids: torch.Tensor) -> torch.Tensor:
    """(B,) image ids -> (B, B) float32: each row sums to 1, in equal parts over the columns of the same image."""
    same = (ids[:, None] == ids[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def soft_cross_entropy(
    rows: torch.Tensor, columns: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of softmax(rows . columns^T / temperature) with soft targets (B, B). rows, columns: (B, D)."""
    logits = rows @ columns.T / temperature
    return F.cross_entropy(logits, targets.to(logits.dtype))


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, ids: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """ITC (a): the mean of both directions. image, text: (B, D) embeddings."""
    targets = soft_targets(ids)
    image_to_text = soft_cross_entropy(image, text, targets, temperature)
    return (image_to_text + soft_cross_entropy(text, image, targets, temperature)) / 2


def representation_distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, ids: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """IIC (c) and TTC (d): student embeddings (B, D) as rows, projected teacher embeddings (B, D) as columns."""
    return soft_cross_entropy(student, teacher, soft_targets(ids), temperature)


def hard_negatives(
    similarity: torch.Tensor, ids: torch.Tensor, temperature: torch.Tensor, pool: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one negative column for each row with probability softmax(similarity / temperature) + 1e-5, never one of
    the same image, for the matching loss.

    similarity: (B, B), of the local batch. pool: how many consecutive pairs negatives are drawn from, which must divide
    B; None: all B. Softmax and draw stay inside the pool of a row. The smaller the pool, the easier are its hardest
    negatives: published are 18 pairs, the share of one of 2 GPUs. A pool of that size makes the draw independent of the
    number of processes that share a batch, since each process gets whole pools, in order.

    Returns the columns (B,) and whether a row has any negative (B,) bool; where it has none, the column is meaningless.
    One vectorised draw (an exponential race) in float32, which neither waits for the device nor fails on extreme
    similarities as `torch.multinomial` does.
    """
    allowed = ids[:, None] != ids[None, :]
    logits = similarity.detach().float() / temperature.detach().float()
    if pool is not None:
        if len(ids) % pool:
            raise ValueError(f"pool: {pool} does not divide the batch of {len(ids)}")
        number = torch.arange(len(ids), device=ids.device) // pool
        inside = number[:, None] == number[None, :]
        allowed, logits = allowed & inside, logits.masked_fill(~inside, -torch.inf)
    weights = torch.softmax(logits, dim=1) + 1e-5
    weights = weights.masked_fill(~allowed, 0.0)
    race = weights / torch.empty_like(weights).exponential_().clamp_min(torch.finfo(torch.float32).tiny)
    return race.argmax(dim=1), allowed.any(dim=1)


def matching_loss(positive: torch.Tensor, negative: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """ITM (b): cross-entropy over B positive and up to 2B negative pairs of the local batch.

    positive: (B, 2) logits of the pairs, negative: (2B, 2) logits of images with wrong texts and texts with wrong
    images, valid: (2B,) bool, False for rows that have no negative, which are left out. The loss is local: negatives
    come from the pairs of one process, see `hard_negatives`.
    """
    logits = torch.cat([positive, negative])
    labels = torch.cat(
        [torch.ones(len(positive), device=logits.device), torch.zeros(len(negative), device=logits.device)]
    )
    labels = labels.long()
    labels[len(positive) :][~valid] = -100
    return F.cross_entropy(logits.float(), labels, ignore_index=-100)


def relation_matrix(features: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """(B, D) features -> (B, B) cosine similarities over `temperature`, 0 on the diagonal."""
    features = F.normalize(features, dim=-1)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    return (features @ features.T / temperature).masked_fill(itself, 0.0)


def fuse_relations(teacher_image: torch.Tensor, teacher_text: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """E = lambda T_txt + (1 - lambda) T_img: (B, B), from two relation matrices and the weight lambda."""
    return weight * teacher_text + (1 - weight) * teacher_image


def off_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """(B, B) -> (B * (B - 1),), row by row."""
    size = len(matrix)
    return matrix.flatten()[:-1].view(size - 1, size + 1)[:, 1:].flatten()


def mae(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """mean |x - y| over the off-diagonal entries of two relation matrices (B, B); the published default."""
    return off_diagonal(left - right).abs().mean()


def mse(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """mean (x - y)^2 over the off-diagonal entries of two relation matrices (B, B)."""
    return off_diagonal(left - right).square().mean()


def cumulative_distance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """mean |cumsum(x) - cumsum(y)| over the off-diagonal entries, row by row, of two relation matrices (B, B).

    The published code calls it `kl`; it is no Kullback-Leibler divergence.
    """
    return off_diagonal(left - right).cumsum(dim=0).abs().mean()


DISTANCES: dict[str, Distance] = {"mae": mae, "mse": mse, "cumulative": cumulative_distance}
"""KD (e), KDI (f) and KDT (g): name in the configuration -> distance of two relation matrices (B, B)."""


def relation_distillation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """RDI (h) and RDT (i): mean over rows of the Kullback-Leibler divergence of the softmax of a student's relations
    from that of a teacher's, the diagonal left out; two relation matrices (B, B). Which neighbours are near counts, and
    not how large the cosines of a model are as a whole."""
    size = len(student)
    logs = torch.log_softmax(off_diagonal(student).view(size, size - 1), dim=1)
    target = torch.log_softmax(off_diagonal(teacher).view(size, size - 1), dim=1)
    return F.kl_div(logs, target, reduction="batchmean", log_target=True)


def wasserstein_distance(left: torch.Tensor, right: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """KD (e) by the published `wd`: the mean over rows of the weighted 1-D Wasserstein distance between two relation
    matrices (B, B).

    text: (B, D) student text features, of any length. Row i's entries and their masses are scaled by
    1 - cos(text_i, text_j). The distance is the area between the two cumulative distributions. The values of both rows
    are sorted together, the masses of one count as positive, those of the other as negative; the distance is the sum of
    |cumulated mass| times the step to the next value.
    """
    text = F.normalize(text, dim=-1)
    weights = 1 - text @ text.T
    values = torch.cat([left * weights, right * weights], dim=1)
    masses = weights / weights.sum(dim=1, keepdim=True)
    values, order = values.sort(dim=1)
    cumulated = torch.cat([masses, -masses], dim=1).gather(1, order).cumsum(dim=1)[:, :-1]
    return (cumulated.abs() * values.diff(dim=1)).sum(dim=1).mean()
