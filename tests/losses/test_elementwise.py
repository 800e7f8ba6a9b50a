"""How losses between outputs taken one by one stand to each other; their formulas are in test_logit_rows.py."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from textbrewer.losses import bce_loss, binary_kl_loss, huber_loss, kl_loss, logit_mse_loss


def some(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("tau", [1, 4.0])
def test_both_for_several_labels_have_one_gradient(tau):
    student, teacher = some((3, 4)).requires_grad_(), some((3, 4), 1)
    gradients = [torch.autograd.grad(loss(student, teacher, tau), student)[0] for loss in (bce_loss, binary_kl_loss)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


def test_without_temperature_it_is_the_usual_cross_entropy():
    student, teacher = some((3, 4)), some((3, 4), 1)
    expected = binary_cross_entropy_with_logits(student, teacher.sigmoid())
    torch.testing.assert_close(bce_loss(student, teacher), expected, rtol=1e-12, atol=0)


def test_one_label_is_a_choice_of_two_classes():
    student, teacher = some((5, 1)), some((5, 1), 1)
    as_classes = [torch.cat([side, torch.zeros_like(side)], dim=1) for side in (student, teacher)]
    torch.testing.assert_close(binary_kl_loss(student, teacher, 3), kl_loss(*as_classes, 3), rtol=1e-11, atol=0)


def test_the_gradient_of_labels_keeps_its_size_as_the_temperature_grows():
    """In the limit τ → ∞ it is an eighth of the squared difference."""
    student, teacher = some((5, 4)), some((5, 4), 1)
    limit = logit_mse_loss(student, teacher) / 8
    torch.testing.assert_close(binary_kl_loss(student, teacher, 1e4), limit, rtol=1e-3, atol=0)


def test_hubers_loss_is_half_the_square_until_delta_and_straight_beyond():
    student, teacher = some((3, 2)), some((3, 2), 1)
    torch.testing.assert_close(huber_loss(student, teacher, delta=1e3), logit_mse_loss(student, teacher) / 2)
    far = torch.tensor([[100.0]], requires_grad=True)
    huber_loss(far, torch.zeros(1, 1), delta=0.5).backward()
    assert far.grad.item() == 0.5


@pytest.mark.parametrize("loss", [logit_mse_loss, huber_loss])
def test_regression_has_no_temperature(loss):
    student, teacher = some((3, 1)), some((3, 1), 1)
    assert loss(student, teacher, 4) == loss(student, teacher, 1) == loss(student.squeeze(), teacher.squeeze(), 8)
