"""Projections against loops over widths, and how their weights start."""

from __future__ import annotations

import math

import pytest
import torch

from textbrewer import PROJ_MAP

ACTIVATIONS = {"linear": float, "relu": lambda value: max(value, 0.0), "tanh": math.tanh}


def weights(module):
    """The one weight matrix and the one bias."""
    matrix, bias = module.parameters()
    return matrix, bias


def built(name, dim_in=5, dim_out=3, seed=0):
    torch.manual_seed(seed)
    return PROJ_MAP[name](dim_in, dim_out)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 5), (0, 4, 5)], ids=str)
@pytest.mark.parametrize("name", PROJ_MAP)
def test_it_is_the_naive_formula(name, shape):
    module = built(name).double()
    matrix, bias = weights(module)
    with torch.no_grad():
        matrix.mul_(50)
        bias.uniform_(-1, 1)
    x = torch.randn(shape, dtype=torch.float64)
    rows = list(zip(matrix.tolist(), bias.tolist(), strict=True))
    expected = [
        ACTIVATIONS[name](math.fsum(w * value for w, value in zip(row, vector, strict=True)) + b)
        for vector in x.reshape(-1, 5).tolist()
        for row, b in rows
    ]
    found = module(x)
    assert found.shape == (*shape[:-1], 3)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", PROJ_MAP)
def test_weights_start_normal_and_biases_at_zero(name):
    matrix, bias = weights(built(name, 400, 300))
    # 120 000 draws: the deviations allowed are about five standard errors.
    assert matrix.shape == (300, 400)
    assert matrix.mean().item() == pytest.approx(0, abs=3e-4)
    assert matrix.std().item() == pytest.approx(0.02, abs=2e-4)
    assert (matrix.abs() < 0.02).double().mean().item() == pytest.approx(0.6827, abs=7e-3)
    assert matrix.abs().max() > 0.06
    assert bias.shape == (300,)
    assert not bias.any()


@pytest.mark.parametrize("name", PROJ_MAP)
def test_the_seed_decides_the_weights(name):
    first, same, other = (built(name, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(weights(first)[0], weights(same)[0])
    assert not torch.equal(weights(first)[0], weights(other)[0])


@pytest.mark.parametrize("name", PROJ_MAP)
def test_weights_and_features_are_trained(name):
    module, x = built(name), torch.randn(2, 4, 5, requires_grad=True)
    module(x).square().sum().backward()
    matrix, bias = weights(module)
    for tensor in (matrix, bias, x):
        assert tensor.requires_grad
        assert tensor.grad.any()


@pytest.mark.parametrize("name", PROJ_MAP)
def test_gradcheck(name):
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(built(name).double(), x)
