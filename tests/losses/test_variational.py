"""The Gaussian of the teacher's features: against PyTorch's own likelihood and loops, and what its variance learns."""

from __future__ import annotations

import copy
from math import exp, fsum, log, pi

import pytest
import torch
from torch.nn.parameter import UninitializedParameter

from textbrewer.errors import MatchError
from textbrewer.losses import VariationalLoss

MASKS = {
    "no mask": None,
    "ragged": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]],
    "an empty row": [[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]],
    "everything masked": [[0] * 4] * 3,
}


def state(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 2, generator=generator, dtype=torch.float64).to(dtype)


def loss_with(alpha):
    loss = VariationalLoss(2).double()
    with torch.no_grad():
        loss.alpha.copy_(torch.tensor(alpha))
    return loss


def naive(S, T, mask, alpha):
    variances = [log(1 + exp(a)) + 1e-5 for a in alpha]
    costs = [
        0.5 * (log(variances[c]) + (T[b][p][c] - S[b][p][c]) ** 2 / variances[c])
        for b in range(3)
        for p in range(4)
        if mask is None or mask[b][p]
        for c in range(2)
    ]
    return fsum(costs) / max(len(costs), 1)


@pytest.mark.parametrize("alpha", [[0.0, 1.0], [-9.0, 6.0]], ids=str)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_it_is_the_naive_formula(mask, alpha):
    S, T = state(1), state(2)
    value = loss_with(alpha)(S, T, None if mask is None else torch.tensor(mask))
    assert value.item() == pytest.approx(naive(S.tolist(), T.tolist(), mask, alpha), rel=1e-12, abs=1e-12)


def test_it_is_the_likelihood_of_a_gaussian():
    loss, S, T = loss_with([0.3, -1.0]), state(1), state(2)
    deviation = (torch.nn.functional.softplus(loss.alpha) + 1e-5).sqrt()
    likelihood = torch.distributions.Normal(S, deviation).log_prob(T).mean()
    torch.testing.assert_close(loss(S, T), -likelihood - 0.5 * log(2 * pi))


def test_gradcheck_of_the_variance_and_the_mean():
    T, mask = state(2), torch.tensor(MASKS["ragged"])

    def value(S, alpha):
        loss = VariationalLoss(2)
        return torch.func.functional_call(loss, {"alpha": alpha}, (S, T, mask))

    alpha = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (state(1).requires_grad_(), alpha))


@pytest.mark.parametrize("variance", [5.0, 1e-3, 1.0, 2000.0])
def test_it_starts_from_the_variance_asked_for(variance):
    loss = VariationalLoss(2, variance=variance)
    value = loss(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)).item()
    assert value == pytest.approx(0.5 * log(variance), rel=1e-4, abs=1e-6)


def test_the_variance_learns_how_well_each_channel_is_foretold():
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(64, 8, 2, generator=generator) * torch.tensor([0.1, 3.0])
    loss = VariationalLoss()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(torch.zeros_like(error), error).backward()
        optimizer.step()
    learned = torch.nn.functional.softplus(loss.alpha) + 1e-5
    torch.testing.assert_close(learned, (error**2).mean(dim=(0, 1)), rtol=0.02, atol=0.0)


def test_a_width_that_is_not_given_is_the_first_one_seen_and_then_stays():
    loss = VariationalLoss()
    parameters = list(loss.parameters())
    assert isinstance(parameters[0], UninitializedParameter)
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    loss(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)).backward()
    before = loss.alpha.detach().clone()
    optimizer.step()
    assert loss.alpha is parameters[0] and not torch.equal(before, loss.alpha)
    torch.testing.assert_close(before, VariationalLoss(3).alpha.detach())
    with pytest.raises(MatchError, match="vid: a teacher of width 4, but VariationalLoss has width 3"):
        loss(torch.zeros(1, 2, 4), torch.ones(1, 2, 4))


def test_everything_masked_leaves_the_variance_alone():
    loss = VariationalLoss(2)
    value = loss(state(1).requires_grad_(), torch.full((3, 4, 2), torch.inf), torch.zeros(3, 4))
    value.backward()
    assert value.item() == 0
    assert torch.equal(loss.alpha.grad, torch.zeros(2))


def test_objects_learn_apart_and_can_be_copied():
    one, other = VariationalLoss(2), VariationalLoss(2)
    assert one.alpha is not other.alpha and copy.deepcopy(one).alpha is not one.alpha
    assert (one.__name__, one.count_unit) == ("vid", "tokens")
    assert [name for name, _ in one.named_parameters()] == ["alpha"]


@pytest.mark.parametrize("variance", [0.0, -1.0, 1e-5, float("inf"), float("nan")])
def test_a_variance_to_start_from_must_be_above_the_least(variance):
    with pytest.raises(MatchError, match=r"vid: variance=.*, but a finite number above 1e-05 is needed"):
        VariationalLoss(2, variance)


def test_other_widths_are_told_with_the_projection():
    with pytest.raises(MatchError, match=r"vid: teacher \[3, 4, 6\].*add proj=\['linear', 2, 6\]"):
        VariationalLoss()(torch.ones(3, 4, 2), torch.ones(3, 4, 6))
