"""Centred kernel alignment against loops, and what it is said not to see."""

from __future__ import annotations

from itertools import product
from math import fsum, sqrt

import pytest
import torch

from textbrewer.errors import MatchError
from textbrewer.losses import cka, cka_loss

MASKS = {
    "no mask": None,
    "ragged": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]],
    "gaps": [[0, 0, 1, 1], [1, 0, 1, 0], [1, 1, 1, 0]],
    "an empty row": [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]],
}


def state(width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, width, generator=generator, dtype=torch.float64).to(dtype)


def naive(X, Y, mask=None):
    """By its other form: the alignment of the centred matrices of inner products between tokens."""

    def tokens(state):
        pairs = [(b, p) for b, p in product(range(3), range(4)) if mask is None or mask[b][p]]
        return [state[b][p].double().tolist() for b, p in pairs]

    def kernel(vectors):
        n = range(len(vectors))
        K = [[fsum(a * b for a, b in zip(x, y, strict=True)) for y in vectors] for x in vectors]
        row = [fsum(K[i]) / len(n) for i in n]
        return [[K[i][j] - row[i] - row[j] + fsum(row) / len(n) for j in n] for i in n]

    def product_of(K, L):
        return fsum(k * other for rows in zip(K, L, strict=True) for k, other in zip(*rows, strict=True))

    K, L = kernel(tokens(X)), kernel(tokens(Y))
    return product_of(K, L) / sqrt(product_of(K, K) * product_of(L, L))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 5e-6)], ids=str)
def test_it_is_the_naive_formula(dtype, close, mask):
    X, Y = state(3, 1, dtype), state(5, 2, dtype)
    own = None if mask is None else torch.tensor(mask)
    assert cka(X, Y, own).item() == pytest.approx(naive(X, Y, mask), rel=close, abs=close)
    assert cka_loss(X, Y, own).item() == pytest.approx(1 - naive(X, Y, mask), rel=close, abs=close)


def test_a_rotation_a_scale_and_a_shift_are_not_seen():
    X, Y = state(4, 1), state(6, 2)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    expected = cka(X, Y).item()
    assert 0 < expected < 1
    assert cka(-3 * X @ rotation + 5, Y).item() == pytest.approx(expected, rel=1e-12)
    assert cka(X, X @ rotation).item() == pytest.approx(1, rel=1e-12)
    assert cka(Y, X).item() == pytest.approx(expected, rel=1e-12)


def test_another_linear_map_is_seen():
    X = state(4, 1)
    assert cka(X, X * torch.tensor([1.0, 10.0, 0.1, 3.0])).item() < 0.99


def test_representations_that_share_no_direction_of_examples_have_none():
    X = torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    assert cka(X, torch.tensor([[0.0], [0.0], [1.0], [-1.0]])).item() == 0


def test_any_leading_axes_are_vectors():
    X, Y = state(3, 1), state(5, 2)
    assert cka(X, Y).item() == pytest.approx(cka(X.flatten(0, 1), Y.flatten(0, 1)).item(), rel=1e-15)


def test_what_does_not_vary_is_not_alike_and_pulls_nowhere():
    constant = torch.ones(3, 4, 2, dtype=torch.float64, requires_grad=True)
    loss = cka_loss(constant, state(5, 2))
    loss.backward()
    assert loss.item() == 1
    assert torch.equal(constant.grad, torch.zeros_like(constant))


@pytest.mark.parametrize("mask", [[[0] * 4] * 3, [[0] * 4, [0, 1, 0, 0], [0] * 4]], ids=["none", "one"])
def test_fewer_than_two_tokens_have_nothing_to_compare(mask):
    X = state(3, 1).requires_grad_()
    loss = cka_loss(X, state(5, 2), torch.tensor(mask))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(X.grad, torch.zeros_like(X))


@pytest.mark.parametrize("loss", [cka, cka_loss])
def test_what_does_not_fit_is_told(loss):
    with pytest.raises(MatchError, match=r"cka: \[3, 4, 2\] and \[3, 5, 2\] are not vectors of the same tokens"):
        loss(torch.ones(3, 4, 2), torch.ones(3, 5, 2))
    with pytest.raises(MatchError, match=r"cka: the mask is \[3, 5\], but the feature \[3, 4, 2\] needs \[3, 4\]"):
        loss(torch.ones(3, 4, 2), torch.ones(3, 4, 2), torch.ones(3, 5))
