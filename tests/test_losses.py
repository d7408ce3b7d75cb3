"""The losses against the published implementation's values and gradients, and against slow, obvious versions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rvlr.training import losses

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = json.loads((GOLDEN / "losses.json").read_text())
NAMES = {
    "itc": "itc",
    "iic": "image_distill",
    "ttc": "text_distill",
    "kd": "relation_kd",
    "kdi": "relation_kd_image",
    "kdt": "relation_kd_text",
}
FEATURES = ("image_feat", "text_feat", "image_teacher_feat", "text_teacher_feat", "fused_cls")


def test_relations_of_embeddings_are_compared_row_by_row_without_the_diagonal() -> None:
    """The Kullback-Leibler divergence, item by item, and that it does not see how large cosines are as a whole."""
    student, teacher = torch.randn(2, 7, 7, dtype=torch.float64)
    found = losses.relation_distillation_loss(student, teacher)
    total = 0.0
    for row in range(7):
        others = [column for column in range(7) if column != row]
        wanted = [math.exp(teacher[row, column]) for column in others]
        given = [math.exp(student[row, column]) for column in others]
        for one, other in zip(wanted, given, strict=True):
            share = one / sum(wanted)
            total += share * math.log(share / (other / sum(given)))
    assert found.item() == pytest.approx(total / 7, rel=1e-12)
    shifted = losses.relation_distillation_loss(student + 3.0, teacher)
    assert shifted.item() == pytest.approx(found.item(), rel=1e-12)
    assert losses.relation_distillation_loss(teacher, teacher + torch.diag(torch.ones(7))).item() == pytest.approx(0)


@pytest.mark.parametrize("case", PUBLISHED)
def test_losses_equal_published_values_and_gradients(case: str) -> None:
    published, arrays = PUBLISHED[case], np.load(GOLDEN / "losses.npz")
    tensors = {name: torch.tensor(arrays[name], requires_grad=True) for name in FEATURES}
    scalars = {
        name: torch.tensor(published[name], dtype=torch.float64, requires_grad=True)
        for name in ("temp", "relation_temp", "fusion_weight")
    }
    ids = torch.tensor(arrays["idx"])
    image, text = tensors["image_feat"], tensors["text_feat"]
    temperature, relation_temperature = scalars["temp"], scalars["relation_temp"]
    terms = {
        "itc": losses.contrastive_loss(image, text, ids, temperature),
        "iic": losses.representation_distillation_loss(image, tensors["image_teacher_feat"], ids, temperature),
        "ttc": losses.representation_distillation_loss(text, tensors["text_teacher_feat"], ids, temperature),
    }
    student = losses.relation_matrix(tensors["fused_cls"], relation_temperature)
    teacher_image = losses.relation_matrix(torch.tensor(arrays["teacher_image"]), relation_temperature)
    teacher_text = losses.relation_matrix(torch.tensor(arrays["teacher_text"]), relation_temperature)
    target = losses.fuse_relations(teacher_image, teacher_text, scalars["fusion_weight"])
    if published["distance"] == "wd":
        terms["kd"] = losses.wasserstein_distance(student, target, text)
        assert published["relation_kd_image"] == published["relation_kd_text"] == 0
    else:
        distance = losses.DISTANCES[{"kl": "cumulative"}.get(published["distance"], published["distance"])]
        terms["kd"] = distance(student, target)
        terms["kdi"], terms["kdt"] = distance(teacher_image, target), distance(teacher_text, target)
    for name, value in terms.items():
        assert value.item() == pytest.approx(published[NAMES[name]], rel=1e-9), name
    total = sum(published["weights"][NAMES[name]] * value for name, value in terms.items())
    assert total.item() == pytest.approx(published["weighted_total"], rel=1e-9)
    total.backward()
    for name, scalar in scalars.items():
        assert scalar.grad.item() == pytest.approx(published[f"grad_{name}"], rel=1e-9), name
    for name, tensor in tensors.items():
        expected = arrays[f"{case}/grad_{name}"]
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_contrastive_loss_by_hand() -> None:
    # two captions of one image and one of another: rows 0 and 1 share their targets
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    ids = torch.tensor([5, 5, 9])
    logits = (image @ text.T).tolist()
    targets = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]

    def cross_entropy(rows: list[list[float]]) -> float:
        total = 0.0
        for row, target in zip(rows, targets, strict=True):
            log_sum = np.log(np.exp(row).sum())
            total -= sum(share * (value - log_sum) for share, value in zip(target, row, strict=True))
        return total / len(rows)

    expected = (cross_entropy(logits) + cross_entropy(np.transpose(logits).tolist())) / 2
    assert losses.contrastive_loss(image, text, ids, torch.tensor(1.0)).item() == pytest.approx(expected, rel=1e-7)


def test_off_diagonal_goes_row_by_row() -> None:
    matrix = torch.arange(9).view(3, 3)
    assert losses.off_diagonal(matrix).tolist() == [1, 2, 3, 5, 6, 7]


def test_hard_negatives_are_never_of_the_same_image_and_follow_the_stated_probabilities() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([0, 0, 1, 2])
    similarity = torch.tensor([[0.9, 0.9, 0.2, 0.1]] * 4)
    temperature = torch.tensor(0.1)
    drawn = torch.stack([losses.hard_negatives(similarity, ids, temperature)[0] for _ in range(20_000)])
    weights = torch.softmax(similarity / temperature, dim=1) + 1e-5
    weights[ids[:, None] == ids[None, :]] = 0
    expected = weights / weights.sum(dim=1, keepdim=True)
    for row in range(4):
        share = torch.bincount(drawn[:, row], minlength=4) / len(drawn)
        assert share[ids == ids[row]].sum() == 0
        torch.testing.assert_close(share, expected[row], atol=0.015, rtol=0)


def test_hard_negatives_come_from_the_pool_of_their_row_with_the_probabilities_inside_it() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([0, 1, 2, 3, 0, 5, 6, 7])
    similarity, temperature = torch.randn(8, 8), torch.tensor(0.5)
    drawn = torch.stack([losses.hard_negatives(similarity, ids, temperature, 4)[0] for _ in range(20_000)])
    for first in (0, 4):
        pool = slice(first, first + 4)
        weights = torch.softmax(similarity[pool, pool] / temperature, dim=1) + 1e-5
        weights.fill_diagonal_(0)
        expected = weights / weights.sum(dim=1, keepdim=True)
        for row in range(4):
            share = torch.bincount(drawn[:, first + row], minlength=8) / len(drawn)
            torch.testing.assert_close(share[pool], expected[row], atol=0.015, rtol=0)
            assert share.sum() == share[pool].sum()


def test_a_pool_of_the_whole_batch_changes_no_bit() -> None:
    ids, similarity, temperature = torch.tensor([0, 1, 1, 3, 4, 5]), torch.randn(6, 6), torch.tensor(0.07)
    found = []
    for pool in (None, 6):
        torch.manual_seed(7)
        found.append(losses.hard_negatives(similarity, ids, temperature, pool))
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


def test_a_pool_of_one_image_has_no_negative() -> None:
    column, found = losses.hard_negatives(torch.zeros(4, 4), torch.tensor([3, 3, 4, 5]), torch.tensor(0.07), 2)
    assert found.tolist() == [False, False, True, True]
    assert column[2:].tolist() == [3, 2]


def test_pools_are_those_of_one_process_however_many_share_the_batch() -> None:
    """Pairs 0 to 11: one process with a pool of 3 draws for every pair from the same 3 pairs as 2 or 4 do."""
    ids, similarity, temperature = torch.arange(12), torch.randn(12, 12), torch.tensor(1.0)
    for processes in (1, 2, 4):
        share = 12 // processes
        for rank in range(processes):
            mine = slice(rank * share, (rank + 1) * share)
            drawn = [losses.hard_negatives(similarity[mine, mine], ids[mine], temperature, 3)[0] for _ in range(200)]
            for row, columns in enumerate(torch.stack(drawn).T, rank * share):
                first = row // 3 * 3
                assert set((columns + rank * share).tolist()) == {first, first + 1, first + 2} - {row}


def test_a_batch_that_pools_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="4 does not divide the batch of 6"):
        losses.hard_negatives(torch.zeros(6, 6), torch.arange(6), torch.tensor(1.0), 4)


@pytest.mark.parametrize("extreme", [0.0, 1e4, -1e4])
def test_hard_negatives_survive_extreme_similarities(extreme: float) -> None:
    ids = torch.arange(6)
    similarity = torch.zeros(6, 6)
    similarity[:, 0] = extreme
    column, found = losses.hard_negatives(similarity, ids, torch.tensor(1e-3))
    assert found.all()
    assert (column != ids).all()


def test_matching_loss_leaves_rows_without_a_negative_out() -> None:
    ids = torch.tensor([3, 3])
    column, found = losses.hard_negatives(torch.zeros(2, 2), ids, torch.tensor(0.07))
    assert not found.any()
    assert column.shape == (2,)
    positive, negative = torch.randn(2, 2), torch.randn(4, 2)
    only_positive = torch.nn.functional.cross_entropy(positive, torch.ones(2, dtype=torch.long))
    torch.testing.assert_close(losses.matching_loss(positive, negative, torch.cat([found, found])), only_positive)


def test_matching_loss_weighs_every_pair_alike() -> None:
    positive, negative = torch.randn(3, 2), torch.randn(6, 2)
    labels = torch.tensor([1] * 3 + [0] * 6)
    expected = torch.nn.functional.cross_entropy(torch.cat([positive, negative]), labels)
    torch.testing.assert_close(losses.matching_loss(positive, negative, torch.ones(6, dtype=torch.bool)), expected)


def test_wasserstein_is_scipys_row_by_row() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    left, right = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)
    text = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    weights = 1 - text @ text.T
    weights = weights.clamp_min(0)
    rows = [
        scipy_stats.wasserstein_distance((a * w).numpy(), (b * w).numpy(), w.numpy(), w.numpy())
        for a, b, w in zip(left, right, weights, strict=True)
    ]
    assert losses.wasserstein_distance(left, right, text).item() == pytest.approx(np.mean(rows), rel=1e-9)
