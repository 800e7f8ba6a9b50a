"""Means of several teachers against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from textbrewer.errors import MatchError
from textbrewer.losses.ensemble import (
    confidence_weights,
    label_loss_weights,
    mean_logits,
    mean_probabilities,
    normalised,
)

TEACHERS = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)]


def probabilities(row, tau=1.0):
    exponents = [math.exp(value / tau) for value in row]
    return [value / sum(exponents) for value in exponents]


def test_confident_teachers_weigh_more():
    found = confidence_weights(TEACHERS)
    assert torch.allclose(found.sum(dim=0), torch.ones(4, dtype=torch.float64))
    for row in range(4):
        sure = []
        for teacher in TEACHERS:
            entropy = -sum(p * math.log(p) for p in probabilities(teacher[row].tolist()))
            sure.append(1 - entropy / math.log(3) + 1e-6)
        for index, value in enumerate(sure):
            assert found[index, row].item() == pytest.approx(value / sum(sure), rel=1e-9)


def test_teachers_that_know_nothing_weigh_the_same():
    found = confidence_weights([torch.zeros(2, 5), torch.ones(2, 5)])
    assert torch.allclose(found, torch.full((2, 2), 0.5))


def test_a_teacher_that_is_wrong_weighs_less():
    labels = torch.tensor([0, 2, 1, -100])
    found = label_loss_weights(TEACHERS, labels)
    for index, teacher in enumerate(TEACHERS):
        for row, label in enumerate(labels.tolist()):
            loss = 0.0 if label < 0 else -math.log(probabilities(teacher[row].tolist())[label])
            assert found[index, row].item() == pytest.approx(1 / (1 + loss), rel=1e-9)


def test_a_label_outside_of_the_logits_is_told():
    with pytest.raises(MatchError, match=r"teacher_weights='loss': label 3, but the logits \[4, 3\] have 3 classes"):
        label_loss_weights(TEACHERS, torch.tensor([0, 3, 1, -100]))


def test_labels_of_tokens():
    tokens = [teacher.reshape(2, 2, 3) for teacher in TEACHERS]
    labels = torch.tensor([[0, 2], [1, -100]])
    torch.testing.assert_close(
        label_loss_weights(tokens, labels), label_loss_weights(TEACHERS, labels.flatten()).reshape(3, 2, 2)
    )


@pytest.mark.parametrize("tau", [1.0, 4.0, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)], ids=str)
def test_the_mean_of_softened_probabilities(tau):
    weights = normalised(torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9)))
    mixed = mean_probabilities(TEACHERS, weights, tau)
    for row in range(4):
        t = tau if isinstance(tau, float) else tau[row].item()
        each = [probabilities(teacher[row].tolist(), t) for teacher in TEACHERS]
        expected = [sum(weights[i, row].item() * each[i][c] for i in range(3)) for c in range(3)]
        assert probabilities(mixed[row].tolist(), t) == pytest.approx(expected, rel=1e-9)


def test_a_teacher_with_weight_zero_is_out():
    weights = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)[:, None].expand(3, 4)
    torch.testing.assert_close(mean_logits(TEACHERS, weights), (TEACHERS[1] + TEACHERS[2]) / 2)
    assert torch.isfinite(mean_probabilities(TEACHERS, weights, 2.0)).all()
    ruling_out = [TEACHERS[0].index_fill(1, torch.tensor([1]), -math.inf), *TEACHERS[1:]]
    assert torch.equal(mean_logits(ruling_out, weights), mean_logits(TEACHERS, weights))


def test_teachers_that_all_rule_out_the_label_weigh_the_same():
    ruling_out = [teacher.index_fill(1, torch.tensor([1]), -math.inf) for teacher in TEACHERS]
    found = normalised(label_loss_weights(ruling_out, torch.tensor([1, 1, 0, -100])))
    torch.testing.assert_close(found[:, :2], torch.full((3, 2), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(4, dtype=torch.float64))
