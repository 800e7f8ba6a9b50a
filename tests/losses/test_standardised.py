"""Logits on one scale, and any loss between them."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from textbrewer.losses import (
    StandardisedLoss,
    dist_loss,
    dkd_loss,
    kd_ce_loss,
    kl_loss,
    logit_mse_loss,
    standardised_kl_loss,
    standardised_logits,
)


def some(shape, seed=0, dtype=torch.float64):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3).to(dtype)


def test_each_row_has_mean_zero_and_deviation_one():
    found = standardised_logits(some((2, 3, 5)) * 7 + 100)
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.std(-1, correction=0), torch.ones(2, 3).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_scale_and_shift_of_either_side_do_not_matter(dtype):
    student, teacher = some((3, 4), 0, dtype), some((3, 4), 1, dtype)
    found = standardised_kl_loss(student * 8 + 64, teacher * 0.25, 2)
    exact = standardised_kl_loss((student * 8 + 64).double(), (teacher * 0.25).double(), 2)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)
    if dtype == torch.float64:
        torch.testing.assert_close(found, standardised_kl_loss(student, teacher, 2), rtol=1e-11, atol=0)


def test_a_head_that_starts_at_zero_has_a_gradient_of_a_usable_size():
    student, teacher = torch.full((3, 4), 0.1, requires_grad=True), some((3, 4), dtype=torch.float32)
    standardised_kl_loss(student, teacher).backward()
    assert 0 < student.grad.abs().max() < 1e3
    for equal in (student, torch.full((2, 3), 12345.678)):
        assert torch.equal(standardised_logits(equal), torch.zeros_like(equal))


def test_classes_ruled_out_are_left_out_of_both():
    logits = torch.tensor([[1.0, -math.inf, 3.0], [-math.inf, -math.inf, -math.inf], [-math.inf, 4.0, -math.inf]])
    expected = [[-1, -math.inf, 1], [-math.inf] * 3, [-math.inf, 0, -math.inf]]
    assert standardised_logits(logits).tolist() == expected


@pytest.mark.parametrize("loss", [kl_loss, kd_ce_loss, logit_mse_loss], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_positions_of_padding_do_not_change_what_is_learned(loss, dtype):
    """At padding adaptors write a finite −1e4, which would be all there is to a deviation."""
    student, teacher = some((3, 5), 0, dtype), some((3, 5), 1, dtype)
    padding = torch.full((3, 4), -1e4, dtype=dtype)
    gradients = []
    for behind in ([], [padding]):
        own = student.clone().requires_grad_()
        StandardisedLoss(loss)(torch.cat([own, *behind], -1), torch.cat([teacher, *behind], -1), 2).backward()
        gradients.append(own.grad)
    scale = 9 / 5 if loss is logit_mse_loss else 1  # a mean over the outputs too
    torch.testing.assert_close(gradients[1] * scale, gradients[0], rtol=1e-2, atol=1e-4)
    assert gradients[1].abs().max() > 1e-3


@pytest.mark.parametrize("loss", [kl_loss, kd_ce_loss, dist_loss], ids=lambda loss: loss.__name__)
def test_any_loss_can_be_between_them(loss):
    student, teacher = some((3, 4)), some((3, 4), 1)
    found = StandardisedLoss(loss)(student, teacher, 2)
    assert found == loss(standardised_logits(student), standardised_logits(teacher), 2)


def test_mask_labels_and_count_reach_the_loss():
    student, teacher, mask, labels = some((3, 4)), some((3, 4), 1), torch.tensor([1, 0, 1]), torch.tensor([3, 99, 0])
    student[1] = teacher[1] = math.nan
    student.requires_grad_()
    found = StandardisedLoss(dkd_loss)(student, teacher, 2, mask, labels=labels, count=5)
    found.backward()
    kept = [standardised_logits(side.detach()[::2]) for side in (student, teacher)]
    torch.testing.assert_close(found, dkd_loss(*kept, 2, labels=labels[::2], count=5), rtol=1e-12, atol=0)
    assert student.grad[1].tolist() == [0] * 4
    assert student.grad.isfinite().all()


def test_it_can_be_compared_named_and_stored():
    loss = StandardisedLoss(dkd_loss)
    assert loss == StandardisedLoss(dkd_loss) == pickle.loads(pickle.dumps(loss)) != StandardisedLoss(kl_loss)
    assert pickle.loads(pickle.dumps(loss)).__name__ == "standardised_dkd_loss"
