"""Losses between summaries of hidden states against loops over rows, tokens and neurons."""

from __future__ import annotations

from itertools import product
from math import exp, fsum, sqrt

import pytest
import torch

from textbrewer.errors import MatchError
from textbrewer.losses import at_loss, feature_map_loss, nst_gaussian_loss, nst_polynomial_loss

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
MASKS = {
    "no mask": None,
    "ragged": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]],
    "gaps": [[0, 0, 1, 1], [1, 0, 1, 0], [1, 1, 1, 0]],
    "an empty row": [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]],
    "everything masked": [[0] * 4] * 3,
}
WIDTHS = {at_loss: 5, nst_polynomial_loss: 5, nst_gaussian_loss: 5, feature_map_loss: 3}


def mean(values):
    values = list(values)
    return fsum(values) / max(len(values), 1)


def unit(vector):
    length = sqrt(fsum(value * value for value in vector))
    return [value / length if length else 0.0 for value in vector]


def squared_distance(x, y):
    return fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def rows(S, T, mask):
    """The valid tokens of each row, of the student and of the teacher."""
    for b in range(len(S)):
        tokens = [p for p in range(4) if mask is None or mask[b][p]]
        yield [S[b][p] for p in tokens], [T[b][p] for p in tokens]


def naive_at(S, T, mask):
    def activity(tokens):
        return unit([fsum(value**2 for value in token) for token in tokens])

    return mean(squared_distance(activity(s), activity(t)) for s, t in rows(S, T, mask))


def neurons(tokens, width):
    return [unit([token[channel] for token in tokens]) for channel in range(width)]


def naive_mmd(S, T, mask, kernel_of):
    def row(s, t):
        s, t = neurons(s, len(S[0][0])), neurons(t, len(T[0][0]))
        kernel = kernel_of(t)
        of_T, of_S, between = (mean(kernel(x, y) for x, y in product(*sides)) for sides in ((t, t), (s, s), (s, t)))
        return of_T + of_S - 2 * between

    return mean(row(s, t) for s, t in rows(S, T, mask))


def polynomial(t):
    return lambda x, y: fsum(a * b for a, b in zip(x, y, strict=True)) ** 2


def gaussian(t):
    bandwidth = mean(squared_distance(x, y) for x, y in product(t, t)) or 1.0
    return lambda x, y: exp(-squared_distance(x, y) / (2 * bandwidth))


def naive_feature_map(S, T, mask, a=50.0, b=0.05):
    def moments(x):
        return mean(x), mean((value - mean(x)) ** 2 for value in x)

    def token(s, t):
        (mean_s, var_s), (mean_t, var_t) = moments(s), moments(t)
        normal_s, normal_t = (
            [(v - m) / sqrt(var + 1e-12) for v in x] for x, (m, var) in ((s, moments(s)), (t, moments(t)))
        )
        shape = squared_distance(normal_s, normal_t) / len(s)
        return shape + a * (mean_s - mean_t) ** 2 + b * abs(var_s - var_t)

    return mean(token(s, t) for of_S, of_T in rows(S, T, mask) for s, t in zip(of_S, of_T, strict=True))


ORACLES = {
    at_loss: naive_at,
    nst_polynomial_loss: lambda S, T, mask: naive_mmd(S, T, mask, polynomial),
    nst_gaussian_loss: lambda S, T, mask: naive_mmd(S, T, mask, gaussian),
    feature_map_loss: naive_feature_map,
}


def state(width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, width, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("loss", ORACLES, ids=lambda loss: loss.__name__)
def test_it_is_the_naive_formula(loss, dtype, mask):
    S, T = state(3, 1, dtype), state(WIDTHS[loss], 2, dtype)
    value = loss(S, T, None if mask is None else torch.tensor(mask))
    expected = ORACLES[loss](S.double().tolist(), T.double().tolist(), mask)
    assert (value.shape, value.dtype) == ((), dtype)
    assert value.item() == pytest.approx(expected, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])


@pytest.mark.parametrize("loss", [at_loss, nst_polynomial_loss, nst_gaussian_loss], ids=lambda loss: loss.__name__)
def test_what_a_loss_of_summaries_does_not_see(loss):
    S, T = state(3, 1), state(3, 2)
    expected = loss(S, T).item()
    assert loss(7 * S, T).item() == pytest.approx(expected, rel=1e-9)
    assert loss(S[..., [2, 0, 1]], T).item() == pytest.approx(expected, rel=1e-9)
    assert loss(S[..., [0, 0, 1, 1, 2, 2]], S).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("weights", [(50.0, 0.05), (0.0, 0.0), (1.0, 3.0)])
def test_statistics_of_feature_maps_weigh_as_asked(weights):
    S, T = state(3, 1), state(3, 2)
    value = feature_map_loss(S, T, mean_weight=weights[0], variance_weight=weights[1]).item()
    assert value == pytest.approx(naive_feature_map(S.tolist(), T.tolist(), None, *weights), rel=1e-12)


def test_normalised_feature_maps_do_not_see_a_shift_and_a_scale():
    S = state(3, 1)
    assert feature_map_loss(4 * S + 9, S, mean_weight=0.0, variance_weight=0.0).item() == pytest.approx(0, abs=1e-12)


def test_neurons_that_are_all_alike_have_a_kernel_too():
    alike = torch.ones(1, 4, 3, dtype=torch.float64)
    assert nst_gaussian_loss(alike, alike) == 0
    assert nst_gaussian_loss(state(3, 1)[:1], alike).isfinite()


@pytest.mark.parametrize("loss", [at_loss, nst_polynomial_loss, nst_gaussian_loss], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("shape", [(3, 5, 3), (2, 4, 3), (3, 2, 4, 4)], ids=str)
def test_what_is_not_of_one_batch_is_told(loss, shape):
    with pytest.raises(MatchError) as raised:
        loss(torch.ones(3, 4, 3), torch.ones(shape))
    name = loss.__name__.removesuffix("_loss")
    assert str(raised.value).startswith(f"{name}: student [3, 4, 3] and teacher {list(shape)} are not of one batch")
