"""Correlations of predictions against loops written from the docstring."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer.errors import MatchError
from textbrewer.losses import dist_loss

INF = math.inf


def some(shape, dtype=torch.float64, seed=0, scale=3.0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values * scale).to(dtype)


def softmax(row, tau):
    largest = max(row)
    weights = [math.exp((value - largest) / tau) for value in row]
    return [weight / math.fsum(weights) for weight in weights]


def mean(values):
    values = list(values)
    return math.fsum(values) / max(len(values), 1)


def distance(x, y):
    varies = [max(side) > min(side) for side in (x, y)]
    if not all(varies):
        return float(any(varies))
    x, y = ([a / max(side) for a in side] for side in (x, y))
    x, y = ([a - mean(side) for a in side] for side in (x, y))
    square = math.fsum(a * a for a in x) * math.fsum(b * b for b in y)
    return 1 - math.fsum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(square)


def naive(student, teacher, temperature=1, mask=None, beta=1.0, gamma=1.0):
    flat_S, flat_T = (side.detach().double().reshape(-1, side.shape[-1]).tolist() for side in (student, teacher))
    taus = torch.as_tensor(temperature).double().expand(student.shape[:-1]).flatten().tolist()
    valid = [True] * len(flat_S) if mask is None else mask.flatten().bool().tolist()
    kept = [row for row, ok in enumerate(valid) if ok]
    q, p = ([softmax(side[row], taus[row]) for row in kept] for side in (flat_S, flat_T))
    of_rows = mean(taus[row] ** 2 * distance(a, b) for row, a, b in zip(kept, q, p, strict=True))
    classes = zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)
    of_classes = mean(distance(a, b) for a, b in classes) * mean(taus[row] ** 2 for row in kept)
    return beta * of_rows + gamma * of_classes


@pytest.mark.parametrize("kind", [1, 4.0, torch.tensor(2.0), "by row"], ids=str)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (5, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_it_is_the_naive_formula(dtype, shape, kind):
    computed_in = torch.promote_types(dtype, torch.float32)
    student, teacher = some(shape, dtype).requires_grad_(), some(shape, dtype, 1)
    taus = torch.linspace(1, 3, math.prod(shape[:-1]), dtype=computed_in).reshape(shape[:-1])
    temperature = taus if kind == "by row" else kind
    found = dist_loss(student, teacher, temperature, beta=0.5, gamma=2.0)
    found.backward()
    assert (found.shape, found.dtype) == ((), computed_in)
    assert student.grad.isfinite().all()
    close = 1e-11 if dtype == torch.float64 else 1e-5
    assert found.item() == pytest.approx(naive(student, teacher, temperature, beta=0.5, gamma=2.0), rel=close)


@pytest.mark.parametrize("garbage", [0.0, 1e4, math.nan, INF, -INF])
def test_masked_rows_take_no_part(garbage):
    student, teacher, mask = some((2, 3, 4)), some((2, 3, 4), seed=1), torch.tensor([[1, 0, 1], [1, 1, 0]])
    student[mask == 0] = teacher[mask == 0] = garbage
    found = dist_loss(student.requires_grad_(), teacher, 2, mask)
    found.backward()
    kept = student.detach()[mask != 0].requires_grad_()
    expected = dist_loss(kept, teacher[mask != 0], 2)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert expected.item() == pytest.approx(naive(student, teacher, 2, mask), rel=1e-11)
    torch.testing.assert_close(student.grad[mask != 0], kept.grad, rtol=1e-11, atol=1e-14)
    assert student.grad[mask == 0].abs().sum() == 0


@pytest.mark.parametrize("valid", [[0, 0, 0], [0, 1, 0]], ids=["none", "one"])
def test_hardly_anything_valid_stays_on_the_graph(valid):
    student = some((3, 4)).requires_grad_()
    found = dist_loss(student, some((3, 4), seed=1), 2, torch.tensor(valid), beta=0)
    found.backward()
    assert found.item() == 0
    assert student.grad.abs().sum() == 0


def test_no_rows_at_all_is_a_zero_on_the_graph():
    student = torch.zeros(0, 4, requires_grad=True)
    found = dist_loss(student, torch.zeros(0, 4))
    found.backward()
    assert (found.item(), student.grad.shape) == (0, (0, 4))


@pytest.mark.parametrize("mask", [None, [1, 1, 0, 1]])
@pytest.mark.parametrize("tau", [1, 3.0])
def test_gradcheck(tau, mask):
    student, teacher = some((4, 3), scale=1).requires_grad_(), some((4, 3), seed=1)
    mask = None if mask is None else torch.tensor(mask)
    assert torch.autograd.gradcheck(lambda logits: dist_loss(logits, teacher, tau, mask), student)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)), st.permutations(range(5)), st.floats(-50, 50))
def test_the_order_of_rows_and_classes_and_a_shift_do_not_matter(rows, classes, shift):
    student, teacher = some((4, 5)), some((4, 5), seed=1)
    found = dist_loss(student[rows][:, classes] + shift, teacher[rows][:, classes], 2)
    torch.testing.assert_close(found, dist_loss(student, teacher, 2), rtol=1e-9, atol=0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1.0, 1e4]))
def test_nothing_is_left_to_learn_at_equality(seed, scale):
    student = some((4, 3), seed=seed, scale=scale).requires_grad_()
    found = dist_loss(student, student.detach())
    (gradient,) = torch.autograd.grad(found, student)
    assert found.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_logits_stay_finite(dtype):
    student = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [3, 3, 3]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0], [-1e4, 1e4, -1e4], [1e4, 0, -INF]], dtype=dtype)
    found = dist_loss(student, teacher, 2)
    found.backward()
    assert found.item() == pytest.approx(naive(student, teacher, 2), rel=1e-5)
    assert student.grad.isfinite().all()


def test_a_student_that_says_the_same_of_everything_is_at_distance_one():
    """Its probabilities 1/11 are no number of float32, so that their mean is not quite theirs."""
    student = torch.zeros(11, 11, requires_grad=True)
    found = dist_loss(student, some((11, 11), torch.float32))
    found.backward()
    assert found.item() == 2
    assert student.grad.abs().sum() == 0
    assert dist_loss(student, torch.ones(11, 11)).item() == 0


def test_rare_classes_count_as_much_as_others():
    """A class of probability about 1e-20 has a pattern over the rows like any other."""
    student = some((4, 3), torch.float32)
    student[:, 2] -= 46
    teacher = student.clone()
    teacher[:, 2] = student[:, 2].flip(0)
    found = dist_loss(student, teacher, beta=0)
    assert found.item() == pytest.approx(naive(student, teacher, beta=0), rel=1e-3)
    assert found > 0.1


def test_a_single_row_is_told_with_the_way_out():
    with pytest.raises(MatchError) as caught:
        dist_loss(torch.zeros(1, 3), torch.zeros(1, 3))
    assert str(caught.value) == (
        "dist: rows are compared with each other, and the logits [1, 3] have but one; use a larger batch, and "
        "drop_last=True in the loader, or gamma=0"
    )
    assert dist_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]]), gamma=0).item() == pytest.approx(2)


def test_wrong_shapes_are_told():
    with pytest.raises(MatchError, match=r"dist: the student has 3 classes .* and the teacher 4"):
        dist_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(MatchError, match=r"dist: mask \[3\] does not fit logits \[2, 3\]: needs \[2\]"):
        dist_loss(torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(3))
