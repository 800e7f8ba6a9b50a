"""Losses between logits against loops over rows and classes written from the docstrings alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer.errors import MatchError
from textbrewer.losses import kd_ce_loss, kd_mse_loss, kl_loss
from textbrewer.losses.logits import tempered

LOSSES = {"kd_ce": kd_ce_loss, "kd_mse": kd_mse_loss, "kl": kl_loss}
# kl is computed in float32 at least; the others in the type itself, where a few units in the last place get lost.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 5e-3, torch.bfloat16: 4e-2}
INF = math.inf
ROWS = st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=4)


def log_softmax(row, tau):
    largest = max(row)
    total = math.fsum(math.exp((value - largest) / tau) for value in row)
    return [(value - largest) / tau - math.log(total) for value in row]


def kd_ce(student, teacher, tau):
    pairs = zip(log_softmax(student, tau), log_softmax(teacher, tau), strict=True)
    return -math.fsum(math.exp(log_p) * log_q for log_q, log_p in pairs)


def kd_mse(student, teacher, tau):
    return math.fsum(((s - t) / tau) ** 2 for s, t in zip(student, teacher, strict=True)) / len(student)


def kl(student, teacher, tau):
    pairs = zip(log_softmax(student, tau), log_softmax(teacher, tau), strict=True)
    return tau**2 * math.fsum(math.exp(log_p) * (log_p - log_q) for log_q, log_p in pairs if log_p > -INF)


ROW_ORACLES = {"kd_ce": kd_ce, "kd_mse": kd_mse, "kl": kl}


def naive(name, student, teacher, temperature=1, mask=None):
    """The mean over (valid) rows of the row's formula."""
    flat_S, flat_T = (side.double().reshape(-1, side.shape[-1]).tolist() for side in (student, teacher))
    taus = torch.as_tensor(temperature).double().expand(student.shape[:-1]).flatten().tolist()
    valid = [True] * len(flat_S) if mask is None else mask.flatten().bool().tolist()
    rows = [ROW_ORACLES[name](s, t, tau) for s, t, tau, ok in zip(flat_S, flat_T, taus, valid, strict=True) if ok]
    return math.fsum(rows) / max(len(rows), 1)


def some(shape, dtype=torch.float64, seed=0, scale=3.0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values * scale).to(dtype)


def temperature_of(kind, shape, dtype=torch.float64):
    return torch.linspace(0.5, 5, math.prod(shape[:-1]), dtype=dtype).reshape(shape[:-1]) if kind == "by row" else kind


@pytest.mark.parametrize("kind", [1, 0.5, 8.0, torch.tensor(3.0), "by row"], ids=str)
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1), (2, 3, 2, 2), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_naive_formula(name, dtype, shape, kind):
    computed_in = torch.float32 if name == "kl" and dtype.itemsize == 2 else dtype
    student, teacher, temperature = some(shape, dtype), some(shape, dtype, 1), temperature_of(kind, shape, computed_in)
    found = LOSSES[name](student.requires_grad_(), teacher, temperature)
    found.backward()
    assert (found.shape, found.dtype) == ((), computed_in)
    assert student.grad.isfinite().all()
    close = TOLERANCE[computed_in]
    assert found.item() == pytest.approx(naive(name, student, teacher, temperature), rel=close, abs=close)


MASKS = {
    "ragged": [[1, 1, 1], [1, 1, 0]],
    "an empty row": [[0, 0, 0], [0, 1, 0]],
    "everything masked": [[0, 0, 0], [0, 0, 0]],
}


@pytest.mark.parametrize("kind", [1, 4.0, "by row"])
@pytest.mark.parametrize("mask_type", [torch.long, torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_kl_with_a_mask_is_the_mean_over_valid_rows(mask, mask_type, kind):
    student, teacher, mask = some((2, 3, 4)).requires_grad_(), some((2, 3, 4), seed=1), torch.tensor(mask).to(mask_type)
    temperature = temperature_of(kind, student.shape)
    found = kl_loss(student, teacher, temperature, mask)
    found.backward()
    assert found.item() == pytest.approx(naive("kl", student, teacher, temperature, mask), rel=1e-12)
    assert student.grad.isfinite().all()
    assert torch.equal(student.grad.abs().sum(-1) != 0, mask != 0)


@pytest.mark.parametrize("kind", [1, 4.0, "by row"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name, kind):
    teacher, temperature = some((2, 3, 4), seed=1), temperature_of(kind, (2, 3, 4))
    student = some((2, 3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: LOSSES[name](logits, teacher, temperature), student)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_gradcheck_of_kl_with_a_mask_and_impossible_classes(mask):
    teacher = some((2, 3, 4), seed=1)
    teacher[..., 1] = -INF
    student = some((2, 3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: kl_loss(logits, teacher, 2, torch.tensor(mask), count=5), student)


@settings(max_examples=25, deadline=None)
@given(ROWS, st.floats(0.5, 10), st.floats(-100, 100), st.floats(-100, 100), st.randoms(use_true_random=False))
def test_softmaxes_do_not_see_a_shift(rows, tau, by_S, by_T, random):
    student = torch.tensor(rows, dtype=torch.float64)
    teacher = torch.tensor([random.sample(row, len(row)) for row in rows], dtype=torch.float64)
    for loss in (kl_loss, kd_ce_loss):
        found, expected = loss(student + by_S, teacher + by_T, tau), loss(student, teacher, tau)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert kl_loss(student, teacher, tau) > -1e-9


@settings(max_examples=25, deadline=None)
@given(ROWS, st.floats(0.5, 10))
def test_equal_sides_leave_nothing_to_learn(rows, tau):
    student = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    for loss in (kl_loss, kd_mse_loss):
        found = loss(student, student.detach(), tau)
        (gradient,) = torch.autograd.grad(found, student)
        assert found.item() == 0
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=8), st.data())
def test_parts_with_the_count_of_the_whole_add_up(valid, data):
    student, teacher, mask = some((len(valid), 3)), some((len(valid), 3), seed=1), torch.tensor(valid)
    count, cut = mask.sum().clamp(min=1), data.draw(st.integers(0, len(valid)))
    halves = (slice(cut), slice(cut, None))
    parts = [kl_loss(student[half], teacher[half], 2, mask[half], count=count) for half in halves]
    torch.testing.assert_close(sum(parts), kl_loss(student, teacher, 2, mask), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("garbage", [1e4, math.nan, INF, -INF])
def test_masked_rows_do_not_reach_the_gradient_of_kl(garbage):
    student, teacher, mask = some((3, 4)), some((3, 4), seed=1), torch.tensor([1, 0, 1])
    student[1] = teacher[1] = garbage
    student.requires_grad_()
    kl_loss(student, teacher, 2, mask).backward()
    kept = student.detach()[::2].requires_grad_()
    kl_loss(kept, teacher[::2], 2).backward()
    torch.testing.assert_close(student.grad[::2], kept.grad, rtol=1e-12, atol=1e-12)
    assert student.grad[1].tolist() == [0] * 4


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.sampled_from([math.nan, INF, -INF, 1e4, 1e30, 0.0]))
def test_masked_rows_do_not_reach_the_value_of_kl(added, garbage):
    student, teacher = some((3, 4)), some((3, 4), seed=1)
    rows = torch.full((added, 4), garbage, dtype=torch.float64)
    mask = torch.tensor([1] * 3 + [0] * added)
    found = kl_loss(torch.cat([student, rows]), torch.cat([teacher, rows]), 3, mask)
    assert found.item() == pytest.approx(naive("kl", student, teacher, 3), rel=1e-12)


@pytest.mark.parametrize("tau", [0.5, 1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name, dtype, tau):
    student = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0], [-1e4, 1e4, -1e4]], dtype=dtype)
    found = LOSSES[name](student, teacher, tau)
    found.backward()
    assert found.item() == pytest.approx(naive(name, student, teacher, tau), rel=1e-6)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("student_too", [False, True])
def test_classes_the_teacher_rules_out_cost_nothing_in_kl(dtype, student_too):
    teacher, student = some((3, 4), dtype, 1), some((3, 4), dtype)
    teacher[:, 2] = teacher[0, 3] = -INF
    if student_too:
        student[:, 2] = -INF
    student.requires_grad_()
    found = kl_loss(student, teacher, 2)
    found.backward()
    assert found.item() == pytest.approx(naive("kl", student, teacher, 2), rel=TOLERANCE[found.dtype])
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", [kd_ce_loss, kl_loss], ids=lambda loss: loss.__name__)
def test_classes_that_both_sides_rule_out_add_nothing(loss):
    student, teacher = some((2, 4)), some((2, 4), seed=1)
    ruled_out = torch.full((2, 1), -INF, dtype=torch.float64)
    wide = torch.cat([student, ruled_out], dim=-1).requires_grad_()
    value = loss(wide, torch.cat([teacher, ruled_out], dim=-1), 2)
    value.backward()
    torch.testing.assert_close(value, loss(student, teacher, 2))
    assert wide.grad.isfinite().all() and not wide.grad[:, -1].any()


def test_kl_keeps_its_size_as_the_temperature_grows():
    """In the limit τ → ∞ it is half the variance of the difference over classes (Hinton et al., section 2.1)."""
    student, teacher = some((5, 4)), some((5, 4), seed=1)
    limit = (student - teacher).var(dim=-1, correction=0).mean() / 2
    torch.testing.assert_close(kl_loss(student, teacher, 1e4), limit, rtol=2e-3, atol=0)


def test_tempered_divides_each_row_by_its_temperature():
    logits, taus = torch.tensor([[8.0, 4.0], [9.0, 3.0]]), torch.tensor([2.0, 3.0])
    assert tempered(logits, taus).tolist() == [[4, 2], [3, 1]]
    assert tempered(logits, 2).tolist() == tempered(logits, taus[0]).tolist() == [[4, 2], [4.5, 1.5]]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("shape_S", "shape_T", "says"),
    [
        (
            (2, 3),
            (2, 4),
            ["3 classes", "the teacher 4", "[2, 3]", "[2, 4]", "build the student with the teacher's labels"],
        ),
        ((2, 5, 3), (2, 3), ["[2, 5, 3]", "[2, 3]"]),
        ((1, 3), (2, 3), ["[1, 3]", "[2, 3]"]),
    ],
)
def test_wrong_shapes_are_told(name, shape_S, shape_T, says):
    with pytest.raises(MatchError) as caught:
        LOSSES[name](torch.zeros(shape_S), torch.zeros(shape_T))
    assert str(caught.value).startswith(f"{name}: ")
    assert all(part in str(caught.value) for part in says)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1)], ids=str)
def test_a_temperature_of_another_shape_is_not_broadcast(name, shape):
    with pytest.raises(MatchError) as caught:
        LOSSES[name](torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(shape))
    assert f"temperature {list(shape)} does not fit logits [2, 3]; expected a number or [2]" in str(caught.value)


def test_kl_squares_a_half_temperature_in_full_precision():
    student, teacher = some((2, 3), torch.float16, scale=300), some((2, 3), torch.float16, 1, scale=300)
    found = kl_loss(student, teacher, torch.tensor(300.0, dtype=torch.float16))
    assert found.item() == pytest.approx(naive("kl", student, teacher, 300), rel=1e-5)


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (2, 3)], ids=str)
def test_a_mask_of_another_shape_is_not_broadcast(shape):
    with pytest.raises(MatchError) as caught:
        kl_loss(torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(shape))
    assert str(caught.value) == f"kl: mask {list(shape)} does not fit logits [2, 3]: needs [2]"
