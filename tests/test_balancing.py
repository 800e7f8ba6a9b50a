"""Totals other than a weighted sum, against the formulas of their docstrings written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from textbrewer.balancing import GradientNorms, UncertaintyWeights
from textbrewer.errors import MatchError, UnsupportedError


def alone(value):
    return [value]


class Student(nn.Module):
    """Two parameters, of which a term may use one or both."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(-3.0, dtype=torch.float64))

    def terms(self):
        return {0: self.a**2, 2: 5 * (self.a * self.b) ** 2, 3: (self.b - 1).exp()}


WEIGHTS = {0: 1.0, 2: 0.5, 3: 2.0}


def uncertainty(student, values=(0.3, 9.0, -0.2, 0.7)):
    """With four terms, of which the second rests."""
    balance = UncertaintyWeights()
    balance.begin(len(values), student, alone)
    with torch.no_grad():
        balance.log_variances.copy_(torch.tensor(values))
    return balance


def test_the_total_and_its_gradient_are_the_formula():
    student = Student()
    balance = uncertainty(student)
    total = balance(student.terms(), WEIGHTS, 1)
    total.backward()
    losses = {0: 4.0, 2: 5 * 36.0, 3: math.exp(-4)}
    s = balance.log_variances.tolist()
    expected = sum(WEIGHTS[i] * math.exp(-s[i]) * losses[i] + s[i] / 2 for i in losses)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    gradient = [-WEIGHTS[i] * math.exp(-s[i]) * losses[i] + 0.5 if i in losses else 0.0 for i in range(4)]
    assert balance.log_variances.grad.tolist() == pytest.approx(gradient, rel=1e-5)
    of_a = math.exp(-s[0]) * 2 * 2 + 0.5 * math.exp(-s[2]) * 5 * 2 * 2 * 9
    assert student.a.grad.item() == pytest.approx(of_a, rel=1e-6)


def test_parts_of_a_step_add_up_to_the_step():
    student = Student()
    balance = uncertainty(student)
    whole = balance(student.terms(), WEIGHTS, 1)
    parts = sum(balance({i: value / 3 for i, value in student.terms().items()}, WEIGHTS, 3) for _ in range(3))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)


def test_uncertainties_settle_at_twice_the_weighted_loss():
    balance = uncertainty(Student(), (0.0, 0.0))
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.1)
    values = {0: torch.tensor(0.25), 1: torch.tensor(40.0)}
    for _ in range(1500):
        optimizer.zero_grad()
        balance(values, {0: 1.0, 1: 0.5}, 1).backward()
        optimizer.step()
    assert balance.log_variances.exp().tolist() == pytest.approx([2 * 0.25, 2 * 0.5 * 40], rel=1e-3)


def test_the_learning_rate_is_that_of_a_group_without_decay():
    assert UncertaintyWeights(lr=0.1).group_options == {"weight_decay": 0.0, "lr": 0.1}
    assert UncertaintyWeights().group_options == {"weight_decay": 0.0}


def test_another_number_of_terms_is_told():
    student = Student()
    balance = uncertainty(student)
    balance.begin(4, student, alone)
    with pytest.raises(MatchError, match="uncertainty: the objective has 5 terms, and 4 before; make a new distiller"):
        balance.begin(5, student, alone)


def norms_of(student):
    """Of each term's gradient, by hand."""
    norms = {}
    for place, value in student.terms().items():
        gradients = torch.autograd.grad(value, list(student.parameters()), allow_unused=True)
        norms[place] = math.sqrt(sum(float(g) ** 2 for g in gradients if g is not None))
    return norms


def test_each_term_pulls_as_hard_as_its_weight_says():
    student = Student()
    balance = GradientNorms()
    balance.begin(4, student, alone)
    norms, values = norms_of(student), student.terms()
    total = balance(values, WEIGHTS, 1)
    mean = sum(WEIGHTS[i] * norms[i] for i in norms) / sum(WEIGHTS.values())
    used = {i: WEIGHTS[i] * mean / norms[i] for i in norms}
    assert total.item() == pytest.approx(sum(used[i] * values[i].item() for i in used), rel=1e-9)
    total.backward()
    each = zip(*gradients_of(student), strict=True)
    expected = [sum(used[i] * g for i, g in zip(used, gradients, strict=True)) for gradients in each]
    assert [student.a.grad.item(), student.b.grad.item()] == pytest.approx(expected)


def gradients_of(student):
    parameters = list(student.parameters())
    for value in student.terms().values():
        yield [0.0 if g is None else float(g) for g in torch.autograd.grad(value, parameters, allow_unused=True)]


def test_norms_are_measured_now_and_then_and_move_slowly():
    student = Student()
    balance = GradientNorms(every=2, momentum=0.75)
    balance.begin(4, student, alone)
    seen = []
    for value in (2.0, 3.0, 4.0):
        with torch.no_grad():
            student.a.fill_(value)
        balance({0: student.a**2}, {0: 1.0}, 1)
        seen.append(float(balance.norms[0]))
    assert seen == [4.0, 4.0, 0.75 * 4 + 0.25 * 8]
    balance({3: student.terms()[3]}, {3: 1.0}, 1)  # one that is new is measured at once
    assert balance.norms[3].isfinite() and balance.norms[2].isnan()


def test_a_batch_that_overflows_is_not_remembered():
    student = Student()
    balance = GradientNorms(every=1, momentum=0.75)
    balance.begin(1, student, alone)
    balance({0: student.a**2}, {0: 1.0}, 1)
    known = float(balance.norms[0])
    balance({0: student.a**2 * torch.inf}, {0: 1.0}, 1)
    assert float(balance.norms[0]) == known
    first = GradientNorms(every=10)
    first.begin(1, student, alone)
    first({0: student.a**2 * torch.inf}, {0: 1.0}, 1)
    assert first({0: student.a**2}, {0: 1.0}, 1).isfinite() and float(first.norms[0]) == known


def test_norms_are_those_of_the_whole_step_and_of_all_processes():
    student = Student()
    balance = GradientNorms()
    balance.begin(1, student, lambda own: [own, [3 * value for value in own]])
    balance({0: student.a**2 / 5}, {0: 1.0}, 5)
    assert float(balance.norms[0]) == pytest.approx(2 * 4.0)


def test_a_term_without_a_gradient_leaves_the_others_theirs():
    student = Student()
    balance = GradientNorms()
    balance.begin(2, student, alone)
    total = balance({0: student.a**2, 1: 0 * student.b}, {0: 1.0, 1: 1.0}, 1)
    assert total.item() == pytest.approx(4.0 / 2)  # half of the mean norm is there
    constant = GradientNorms()
    constant.begin(1, student, alone)
    assert constant({0: torch.tensor(3.0)}, {0: 2.0}, 1).item() == 6.0


def test_the_state_goes_on(tmp_path):
    student = Student()
    one, other = GradientNorms(every=3), GradientNorms(every=3)
    for balance in (one, other):
        balance.begin(4, student, alone)
    one(student.terms(), WEIGHTS, 1)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        student.a.fill_(7.0)
    assert torch.equal(one(student.terms(), WEIGHTS, 1), other(student.terms(), WEIGHTS, 1))


def test_options_out_of_range_and_frozen_students_are_told():
    with pytest.raises(MatchError, match="gradient_norm: every=0"):
        GradientNorms(every=0)
    with pytest.raises(MatchError, match="momentum=1"):
        GradientNorms(momentum=1)
    with pytest.raises(UnsupportedError, match="no parameter of the student requires a gradient"):
        GradientNorms().begin(1, Student().requires_grad_(False), alone)


class ThroughHalf(torch.autograd.Function):
    """Passes a value on, and its gradient as float16 has it."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.half().to(gradient)


def test_small_gradients_are_measured_though_they_pass_through_float16():
    student = Student()
    balance = GradientNorms()
    balance.begin(2, student, alone)
    small, large = 1e-9 * ThroughHalf.apply(student.a), ThroughHalf.apply(student.b) * 3e4
    balance({0: small, 1: large}, {0: 1.0, 1: 1.0}, 1)
    assert balance.norms.tolist() == pytest.approx([1e-9, 3e4], rel=1e-2)


def test_a_first_batch_that_overflows_is_weighed_as_configured():
    student = Student()
    balance = GradientNorms()
    balance.begin(2, student, alone)
    total = balance({0: student.a * math.inf, 1: 2 * student.b}, {0: 0.0, 1: 1.5}, 1)
    assert balance.norms[1] == 2 and not balance.norms[0].isfinite() and total.isnan()
    assert balance({1: 2 * student.b}, {1: 1.5}, 1).item() == pytest.approx(-9.0)
