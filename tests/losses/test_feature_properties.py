"""What every feature loss that ignores padding promises: gradients, masks, counts, orders, extremes, half precision."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import given, settings, strategies

from textbrewer.losses import (
    RelationLoss,
    VariationalLoss,
    at_loss,
    cka_loss,
    feature_map_loss,
    nst_gaussian_loss,
    nst_polynomial_loss,
    unit_of,
)

LOSSES = {
    "relation_kl": RelationLoss(2),
    "query_key_kl": RelationLoss(2, "query_key_kl"),
    "query_key_mse": RelationLoss(2, "query_key_mse"),
    "at": at_loss,
    "nst_polynomial": nst_polynomial_loss,
    "nst_gaussian": nst_gaussian_loss,
    "feature_map": feature_map_loss,
    "cka": cka_loss,
    "vid": VariationalLoss(4, variance=2.0),
}
PAIRED = {"query_key_kl", "query_key_mse"}
OF_ONE_WIDTH = {"feature_map", "vid"}
# Not zero at equality: the variance stays.
LIKELIHOODS = {"vid"}
COUNTED = {
    **dict.fromkeys(["relation_kl", "query_key_kl", "feature_map", "vid"], "tokens"),
    "query_key_mse": "token_pairs",
    **dict.fromkeys(["at", "nst_polynomial", "nst_gaussian"], "rows"),
}
MASKS = {
    "no mask": None,
    "ragged": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]],
    "gaps": [[False, False, True, True], [True, False, True, False], [True, True, True, False]],
    "an empty row": [[1.0, 0.5, -2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [7.0, 1e-30, 0.0, -0.0]],
}
LENGTHS = strategies.lists(strategies.integers(0, 4), min_size=3, max_size=3)


def sides(name, dtype=torch.float64, seed=0, scale=1.0):
    """Student and teacher, each a list of layers; of unequal widths where the loss allows it."""
    generator = torch.Generator().manual_seed(seed)
    layers, width_T = range(2 if name in PAIRED else 1), 4 if name in OF_ONE_WIDTH else 6

    def layer(width):
        return (torch.randn(3, 4, width, generator=generator, dtype=torch.float64) * scale).to(dtype)

    return [layer(4).requires_grad_() for _ in layers], [layer(width_T) for _ in layers]


def found(name, S, T, mask=None, **options):
    S, T = (list(side) if name in PAIRED else side[0] for side in (S, T))
    return LOSSES[name](S, T, mask=None if mask is None else torch.tensor(mask), **options)


def mask_of(lengths, longest=4):
    return [[int(position < length) for position in range(longest)] for length in lengths]


def repadded(layer, lengths, longest, garbage):
    """The same valid places in a batch of another length, with garbage everywhere else."""
    wide = layer.new_full((len(lengths), longest, layer.shape[2]), garbage)
    for row, n in enumerate(lengths):
        wide[row, :n] = layer.detach()[row, :n]
    return wide


@pytest.mark.parametrize("name", LOSSES)
def test_the_unit_it_counts_by(name):
    assert unit_of(LOSSES[name]) == COUNTED.get(name, "")


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name, mask):
    S, T = sides(name)
    assert torch.autograd.gradcheck(lambda *layers: found(name, layers, T, mask), S)


@pytest.mark.parametrize("value", [1.0, 0.0, nan, inf], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_everything_masked_is_a_zero_on_the_graph(name, value):
    S, T = sides(name)
    with torch.no_grad():
        for layer in [*S, *T]:
            layer.mul_(value)
    cost = found(name, S, T, [[0] * 4] * 3)
    cost.backward()
    assert cost.item() == 0
    assert all(torch.equal(layer.grad, torch.zeros_like(layer)) for layer in S)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25, deadline=None)
@given(strategies.sampled_from([nan, inf, -inf, 1e30]), LENGTHS, strategies.integers(4, 6))
def test_padding_does_not_reach_the_value(name, garbage, lengths, longest):
    S, T = sides(name)
    wide_S, wide_T = ([repadded(layer, lengths, longest, garbage) for layer in side] for side in (S, T))
    expected = found(name, S, T, mask_of(lengths)).item()
    cost = found(name, wide_S, wide_T, mask_of(lengths, longest)).item()
    assert cost == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("garbage", [1e4, nan, inf])
@pytest.mark.parametrize("name", LOSSES)
def test_padding_does_not_reach_the_gradient(name, garbage):
    lengths, (S, T) = [4, 2, 0], sides(name)
    found(name, S, T, mask_of(lengths)).backward()
    wide_S, wide_T = ([repadded(layer, lengths, 6, garbage) for layer in side] for side in (S, T))
    found(name, [layer.requires_grad_() for layer in wide_S], wide_T, mask_of(lengths, 6)).backward()
    for wide, layer in zip(wide_S, S, strict=True):
        torch.testing.assert_close(wide.grad, repadded(layer.grad, lengths, 6, 0.0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_rows_does_not_matter(name, mask):
    S, T = sides(name)
    order = [2, 0, 1]
    turned = [[layer[order] for layer in side] for side in (S, T)]
    cost = found(name, *turned, mask and [mask[row] for row in order]).item()
    assert cost == pytest.approx(found(name, S, T, mask).item(), rel=1e-12)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - LIKELIHOODS))
def test_equal_sides_cost_nothing(name, seed, mask):
    S, _ = sides(name, seed=seed)
    assert found(name, S, S, mask).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - LIKELIHOODS))
def test_unequal_sides_cost_something(name):
    assert found(name, *sides(name)).item() > 1e-3


@pytest.mark.parametrize("name", COUNTED)
@settings(max_examples=25, deadline=None)
@given(LENGTHS, strategies.booleans())
def test_parts_with_the_count_of_the_whole_add_up(name, lengths, masked):
    S, T = sides(name)
    lengths, mask = (lengths, mask_of(lengths)) if masked else ([4, 4, 4], None)
    units = {"rows": 3, "tokens": sum(lengths), "token_pairs": sum(n * n for n in lengths)}
    total = 0.0
    for part in (slice(1), slice(1, None)):
        part_S, part_T = ([layer[part] for layer in side] for side in (S, T))
        total += found(name, part_S, part_T, mask and mask[part], count=torch.tensor(units[COUNTED[name]])).item()
    assert total == pytest.approx(found(name, S, T, mask).item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("mask", [MASKS["no mask"], MASKS["ragged"]], ids=["no mask", "ragged"])
@pytest.mark.parametrize("scale", [1e4, 1e-4, 0.0])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_features_stay_finite(name, scale, mask):
    S, T = sides(name, torch.float32, scale=scale)
    cost = found(name, S, T, mask)
    cost.backward()
    assert cost.isfinite()
    assert all(layer.grad.isfinite().all() for layer in S)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name, dtype):
    S, T = sides(name, dtype)
    cost = found(name, S, T, MASKS["ragged"])
    exact = found(name, [layer.float() for layer in S], [layer.float() for layer in T], MASKS["ragged"])
    cost.backward()
    assert cost.dtype == torch.float32 and torch.equal(cost, exact)
    assert all(layer.grad.dtype == dtype and layer.grad.isfinite().all() for layer in S)


@pytest.mark.parametrize("name", LOSSES)
def test_sides_of_two_precisions(name):
    S, T = sides(name)
    exact = found(name, S, T).item()
    for one, other in ((torch.float32, torch.float64), (torch.float64, torch.bfloat16)):
        cost = found(name, [layer.to(one) for layer in S], [layer.to(other) for layer in T])
        assert cost.item() == pytest.approx(exact, rel=0.05, abs=0.01)
