"""Schedules of weights and temperatures against loops over rows written from the docstrings alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer import TEMPERATURE_SCHEDULER, WEIGHT_SCHEDULER
from textbrewer.losses import kl_loss
from textbrewer.schedules import Weight

# Some units in the last place of the type the logits come in.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
SCHEDULES = {
    "flsw": TEMPERATURE_SCHEDULER["flsw", 1.5, 2],
    "flsw, a fractional power": TEMPERATURE_SCHEDULER["flsw", -0.5, 0.5],
    "flsw, a large eps": TEMPERATURE_SCHEDULER["flsw", 1, 1, 0.5],
    "cwsm": TEMPERATURE_SCHEDULER["cwsm", 1.5],
    "cwsm, a negative beta": TEMPERATURE_SCHEDULER["cwsm", -2],
}


def flsw(beta, gamma, eps=1e-4):
    def weight(student, teacher):
        student, teacher = ([0.0 if value <= -1e4 else value for value in side] for side in (student, teacher))
        norm_S, norm_T = (math.sqrt(math.fsum(value**2 for value in side)) + eps for side in (student, teacher))
        cosine = math.fsum(s * t for s, t in zip(student, teacher, strict=True)) / (norm_S * norm_T)
        return (1 - cosine) ** gamma

    return beta, weight


def cwsm(beta):
    def weight(student, teacher):
        return 1 / (1 / math.fsum(math.exp(value - max(student)) for value in student) + 1e-3)

    return beta, weight


ORACLES = {
    "flsw": flsw(1.5, 2),
    "flsw, a fractional power": flsw(-0.5, 0.5),
    "flsw, a large eps": flsw(1, 1, 0.5),
    "cwsm": cwsm(1.5),
    "cwsm, a negative beta": cwsm(-2),
}


def naive(name, student, teacher, base):
    """``max(base + β (mean w − w), 0.1)`` of each row, in the order of the rows."""
    beta, weight = ORACLES[name]
    rows = (side.double().reshape(-1, side.shape[-1]).tolist() for side in (student, teacher))
    weights = [weight(*row) for row in zip(*rows, strict=True)]
    mean = math.fsum(weights) / len(weights)
    taus = [max(base + beta * (mean - weight), 0.1) for weight in weights]
    return torch.tensor(taus, dtype=torch.float64).reshape(student.shape[:-1])


def some(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1))
def test_weights_grow_and_decay_in_a_straight_line(progress):
    assert WEIGHT_SCHEDULER["linear_growth"](progress) == progress
    assert WEIGHT_SCHEDULER["linear_decay"](progress) == 1 - progress


@pytest.mark.parametrize("base", [1, 8.0])
def test_the_constant_temperature_is_the_base(base):
    assert TEMPERATURE_SCHEDULER["constant"](some((3, 4)), some((3, 4), seed=1), base) is base


@pytest.mark.parametrize("base", [1, 4.0, 8])
@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (2, 3, 5), (4, 1), (4,)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_naive_formula(name, dtype, shape, base):
    student, teacher = some(shape, dtype), some(shape, dtype, 1)
    tau = SCHEDULES[name](student, teacher, base)
    assert tau.shape == shape[:-1]
    assert tau.dtype == dtype
    close = TOLERANCE[dtype]
    torch.testing.assert_close(tau.double(), naive(name, student, teacher, base), rtol=close, atol=close)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.lists(st.lists(st.floats(-50, 50), min_size=4, max_size=4), min_size=1, max_size=5),
    st.floats(7, 20),  # above the widest spread of β w, so that no row has the least temperature
)
def test_the_mean_temperature_is_the_base(name, rows, base):
    logits = torch.tensor(rows, dtype=torch.float64)
    tau = SCHEDULES[name](logits[:, :2], logits[:, 2:], base)
    assert tau.mean().item() == pytest.approx(base, rel=1e-9)


def test_rows_that_agree_are_hotter_under_flsw():
    teacher = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    student = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    tau = TEMPERATURE_SCHEDULER["flsw", 1, 2](student, teacher, 4).tolist()
    assert tau == sorted(tau, reverse=True)
    assert len(set(tau)) == 4


def test_rows_with_a_sure_student_are_hotter_under_cwsm():
    student = torch.tensor([[5.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    tau = TEMPERATURE_SCHEDULER["cwsm", 1](student, torch.zeros(4, 2), 4).tolist()
    assert tau == sorted(tau, reverse=True)
    assert len(set(tau)) == 4


@pytest.mark.parametrize("logits", [some((64, 7), torch.float32), torch.zeros(3, 4), torch.full((3, 4), 0.1)], ids=len)
@pytest.mark.parametrize("gamma", [0.5, 1, 2.5])
def test_equal_sides_stay_near_the_base(logits, gamma):
    """Rounding takes some cosines above 1, whose fractional power would be NaN."""
    tau = TEMPERATURE_SCHEDULER["flsw", 1, gamma, 1e-9](logits, logits, 4)
    torch.testing.assert_close(tau, torch.full_like(tau, 4), rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_extreme_logits_give_finite_temperatures(name, dtype):
    student = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [0, 0, 0]], dtype=dtype)
    teacher = torch.tensor([[1e4, 1e4, 0], [-1e4, 1e4, 1e4], [1e4, 0, 0]], dtype=dtype)
    tau = SCHEDULES[name](student, teacher, 8)
    torch.testing.assert_close(tau.double(), naive(name, student, teacher, 8), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_gradient_flows_through_the_temperature(name):
    student, teacher = some((3, 4)).requires_grad_(), some((3, 4), seed=1)
    tau = SCHEDULES[name](student, teacher, 4)
    assert not tau.requires_grad
    (through_tau,) = torch.autograd.grad(kl_loss(student, teacher, tau), student)
    (fixed,) = torch.autograd.grad(kl_loss(student, teacher, naive(name, student.detach(), teacher, 4)), student)
    torch.testing.assert_close(through_tau, fixed, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("key", [("flsw", 1.5, 2, 1e-4, "more"), ("cwsm", 1.5, "more", None)], ids=lambda key: key[0])
def test_further_parameters_are_let_pass(key):
    student, teacher = some((3, 4)), some((3, 4), seed=1)
    tau = TEMPERATURE_SCHEDULER[key](student, teacher, 4)
    assert torch.equal(tau, SCHEDULES[key[0]](student, teacher, 4))


def test_classes_the_teacher_rules_out_leave_finite_temperatures():
    teacher = torch.tensor([[0.0, 1.0, -math.inf], [1.0, 2.0, 3.0]])
    assert TEMPERATURE_SCHEDULER["flsw", 1, 1](some((2, 3), torch.float32), teacher, 8).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_positions_of_padding_leave_the_temperature_as_it_is(dtype):
    student, teacher = some((4, 6), dtype), some((4, 6), dtype, 1)
    padding = torch.full((4, 3), -1e4, dtype=dtype)
    padded = (torch.cat([side, padding], dim=-1) for side in (student, teacher))
    found, expected = (SCHEDULES["flsw"](*both, 8) for both in (padded, (student, teacher)))
    assert expected.unique().numel() > 1
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("key", [("cwsm", 1), ("flsw", 30, 2)], ids=str)
def test_temperatures_stay_above_zero_with_many_classes(key):
    student = torch.zeros(3, 30_000)
    student[1, 0] = 60.0
    tau = TEMPERATURE_SCHEDULER[key](student, student * torch.tensor([[1.0], [1.0], [-1.0]]) - 1, 4)
    assert tau.min().item() == pytest.approx(0.1) and tau.max() > 4
    assert kl_loss(student, student.flip(1), tau).isfinite()


@pytest.mark.parametrize("until", [1.0, 0.5, 0.3])
@pytest.mark.parametrize(("start", "end"), [(1, 0), (0.2, 3), (8, 1)])
def test_lines_and_cosines_go_from_one_value_to_the_other_and_stay_there(start, end, until):
    for step in range(21):
        x = step / 20
        done = x / until if x < until else 1
        line = WEIGHT_SCHEDULER["linear", start, end, until](x)
        cosine = WEIGHT_SCHEDULER["cosine", start, end, until](x)
        assert line == pytest.approx((1 - done) * start + done * end)
        assert cosine == pytest.approx((start + end) / 2 + (start - end) / 2 * math.cos(math.pi * done))


def test_steps_are_equally_long_and_high():
    tens = [WEIGHT_SCHEDULER["steps", 7, 1, 7](step / 70) for step in range(70)]
    assert tens == [value for value in (7, 6, 5, 4, 3, 2, 1) for _ in range(10)]
    assert WEIGHT_SCHEDULER["steps", 7, 1, 7](1) == 1
    assert WEIGHT_SCHEDULER["steps", 7, 1, 1](0.7) == 7


def test_a_weight_counts_in_its_part_of_the_run_alone():
    weight = Weight(2, active=(0.25, 0.75))
    seen = []
    for progress in (0, 0.2, 0.25, 0.5, 0.75, 1):
        weight.advance(progress)
        seen.append((weight.now, weight.rests))
    assert seen == [(0, True), (0, True), (2, False), (2, False), (0, True), (0, True)]
    assert weight.ever


def test_a_schedule_replaces_the_weight_after_the_first_step():
    weight = Weight(5, lambda x: 10 * x)
    assert weight.now == 5
    weight.advance(0.25)
    assert weight.now == 2.5
    assert Weight(0, lambda x: x).ever and not Weight(0).ever
