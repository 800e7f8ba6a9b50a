"""What losses that rank do with lists of candidates; their formulas are in test_logit_rows.py."""

from __future__ import annotations

import math

import pytest
import torch

from textbrewer.errors import MatchError
from textbrewer.losses import kl_loss, listnet_loss, margin_mse_loss, ranknet_loss

LOSSES = {"ranknet": ranknet_loss, "listnet": listnet_loss, "margin_mse": margin_mse_loss}
INF = math.inf


def some(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("name", LOSSES)
def test_only_differences_of_scores_count(name):
    student, teacher = some((3, 4)), some((3, 4), 1)
    shifts = some((2, 3, 1), 2) * 10
    found = LOSSES[name](student + shifts[0], teacher + shifts[1], 2)
    torch.testing.assert_close(found, LOSSES[name](student, teacher, 2), rtol=1e-11, atol=0)


@pytest.mark.parametrize("fill_S", [-INF, 0.0, 1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_candidates_that_one_side_leaves_out_change_nothing(name, fill_S):
    """Lists of other lengths are filled with −∞ by the teacher's adaptor; the student may score the filling."""
    student, teacher = some((3, 4)), some((3, 4), 1)
    longer_S = torch.cat([student, torch.full((3, 2), fill_S)], dim=1).requires_grad_()
    longer_T = torch.cat([teacher, torch.full((3, 2), -INF)], dim=1)
    found = LOSSES[name](longer_S, longer_T, 2)
    found.backward()
    torch.testing.assert_close(found, LOSSES[name](student, teacher, 2), rtol=1e-12, atol=0)
    assert longer_S.grad[:, 4:].abs().sum() == 0
    assert longer_S.grad.isfinite().all()


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_a_list_with_nothing_to_compare_costs_nothing(name, kept):
    student, teacher = some((1, 3)).requires_grad_(), some((1, 3), 1)
    teacher[:, kept:] = -INF
    found = LOSSES[name](student, teacher)
    found.backward()
    assert found.item() == 0
    assert student.grad.tolist() == [[0, 0, 0]]


def test_an_order_is_a_teacher():
    """RankNet with a teacher that is sure of each pair: the mean of log(1 + e^(s_worse − s_better))."""
    student, ranks = some((1, 4)), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    pairs = [(i, j) for i in range(4) for j in range(4) if ranks[0, i] < ranks[0, j]]
    expected = [math.log1p(math.exp(student[0, j] - student[0, i])) for i, j in pairs]
    found = ranknet_loss(student, -1e4 * ranks)
    assert found.item() == pytest.approx(math.fsum(expected) / len(expected), rel=1e-9)


def test_listnet_has_the_gradient_of_the_divergence():
    student, teacher = some((3, 4)).requires_grad_(), some((3, 4), 1)
    gradients = [torch.autograd.grad(loss(student, teacher, 4), student)[0] for loss in (listnet_loss, kl_loss)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


def test_margins_are_taken_from_the_first():
    student, teacher = torch.tensor([[5.0, 1.0, 2.0]]), torch.tensor([[9.0, 2.0, 6.0]])
    assert margin_mse_loss(student, teacher).item() == ((4 - 7) ** 2 + (3 - 3) ** 2) / 2


@pytest.mark.parametrize("name", LOSSES)
def test_a_single_candidate_is_told_with_the_way_out(name):
    with pytest.raises(MatchError) as caught:
        LOSSES[name](torch.zeros(8, 1), torch.zeros(8, 1))
    assert str(caught.value) == (
        f"{name}: at least two candidates a row are needed, got logits [8, 1]; let the adaptors give one row a query, "
        "as in logits.view(queries, candidates)"
    )
