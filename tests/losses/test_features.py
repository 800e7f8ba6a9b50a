"""Feature losses against loops over elements written from the docstrings alone."""

from __future__ import annotations

from itertools import product
from math import exp, fsum, inf, log, nan, sqrt

import pytest
import torch
from hypothesis import given, settings, strategies

from textbrewer import MATCH_LOSS_MAP, losses
from textbrewer.errors import MatchError
from textbrewer.losses import COUNT_UNITS
from textbrewer.presets import PAIRED_MATCH_LOSSES

# Rounding of sums above 16 bits; in 16 bits some units in the last place, for losses computed in the type itself.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 5e-3, torch.bfloat16: 4e-2}
MASKS = {
    "no mask": None,
    "ragged": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]],
    "gaps": [[False, False, True, True], [True, False, True, False], [True, True, True, False]],
    "an empty row": [[1.0, 0.5, -2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [7.0, 1e-30, 0.0, -0.0]],
    "everything masked": [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
}
NAMES = [name for name, loss in MATCH_LOSS_MAP.items() if loss.__module__ == "textbrewer.losses.features"]
COUNTED = [name for name in NAMES if MATCH_LOSS_MAP[name] in COUNT_UNITS]
OVER_VALID_PLACES = [*COUNTED, "hidden_mse", "cos", "attention_mse", "attention_mse_sum", "gram"]
OF_PROBABILITIES = {"attention_mse_valid", "attention_kl"}
OVER_HEADS = {"attention_mse_sum": torch.sum, "attention_ce_mean": torch.mean}
LENGTHS = strategies.lists(strategies.integers(0, 4), min_size=3, max_size=3)


def mean(values):
    values = list(values)
    return fsum(values) / max(len(values), 1)


def softmax(row):
    return [exp(value - max(row)) / fsum(exp(other - max(row)) for other in row) for value in row]


def dot(x, y):
    return fsum(a * b for a, b in zip(x, y, strict=True))


def places(mask, b, length):
    return [p for p in range(length) if mask is None or mask[b][p]]


def vectors(S, T, mask):
    return [(S[b][p], T[b][p]) for b in range(len(S)) for p in places(mask, b, len(S[b]))]


def rows(S, T, mask):
    """Student's and teacher's row and its valid keys, for every head and valid query."""
    for b, heads in enumerate(S):
        keys = places(mask, b, len(heads[0]))
        yield from ((heads[h][q], T[b][h][q], keys) for h in range(len(heads)) for q in keys)


def one_head(maps, reduce):
    length = range(len(maps[0][0]))
    return [[[[reduce(head[q][k] for head in heads) for k in length] for q in length]] for heads in maps]


def attention_mse(S, T, mask, least=-1e-3):
    least = least if mask is None else -inf
    return mean(((s[k] > least) * s[k] - (t[k] > least) * t[k]) ** 2 for s, t, keys in rows(S, T, mask) for k in keys)


def attention_ce(S, T, mask):
    def row(s, t, keys):
        return -fsum(softmax(t)[k] * log(softmax(s)[k]) for k in keys if mask is not None or t[k] > -1e-3)

    return mean(row(*sides) for sides in rows(S, T, mask))


def hidden_mse(S, T, mask):
    return mean((a - b) ** 2 for s, t in vectors(S, T, mask) for a, b in zip(s, t, strict=True))


def cos(S, T, mask):
    return mean(1 - dot(s, t) / sqrt(dot(s, s) * dot(t, t)) for s, t in vectors(S, T, mask))


def gram(S, T, mask):
    def entry(X, Y, b, i, j):
        return mean(X[b][p][i] * Y[b][p][j] for p in places(mask, b, len(X[b])))

    entries = product(range(len(S[0])), range(len(S[0][0][0])), range(len(S[1][0][0])))
    return mean((entry(*S, *at) - entry(*T, *at)) ** 2 for at in entries)


def mmd(S, T, mask, odd=True):
    def similarity(X, Y, b, i, j):
        return dot(X[b][i], Y[b][j]) / len(X[0] if odd and mask is not None else X[0][0])

    pairs = [(b, *at) for b in range(len(S[0])) for at in product(places(mask, b, len(S[0][b])), repeat=2)]
    return mean((similarity(*S, *at) - similarity(*T, *at)) ** 2 for at in pairs)


ORACLES = {
    "attention_mse_sum": lambda S, T, mask: attention_mse(one_head(S, fsum), one_head(T, fsum), mask),
    "attention_mse": attention_mse,
    "attention_mse_valid": lambda S, T, mask: attention_mse(S, T, mask, least=-inf),
    "attention_ce_mean": lambda S, T, mask: attention_ce(one_head(S, mean), one_head(T, mean), mask),
    "attention_ce": attention_ce,
    "attention_kl": lambda S, T, m: mean(fsum(t[k] * log(t[k] / s[k]) for k in keys) for s, t, keys in rows(S, T, m)),
    # ‖u − v‖² = 2 − 2 u·v for unit vectors.
    "pkd": lambda S, T, mask: 2 * cos(*([x[:1] for b, x in enumerate(X) if places(mask, b, 4)] for X in (S, T)), None),
    **dict.fromkeys(["hidden_mse", "hidden_mse_valid"], hidden_mse),
    **dict.fromkeys(["cos", "cos_valid"], cos),
    **dict.fromkeys(["gram", "fsp", "gram_valid"], gram),
    **dict.fromkeys(["mmd", "nst"], mmd),
    "mmd_valid": lambda S, T, mask: mmd(S, T, mask, odd=False),
}


def sides(name, dtype=torch.float64, seed=0, scale=1.0):
    """Student and teacher, each a list of layers; of unequal heads or widths where the loss allows it."""
    generator = torch.Generator().manual_seed(seed)

    def layer(size):
        shape = (3, size, 4, 4) if "attention" in name else (3, 4, size)
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return (values.softmax(-1) if name in OF_PROBABILITIES else values).to(dtype)

    layers = range(2 if name in PAIRED_MATCH_LOSSES else 1)
    size_T = 3 if name in {*OVER_HEADS, "mmd", "nst", "mmd_valid"} else 2
    return [layer(2).requires_grad_() for _ in layers], [layer(size_T) for _ in layers]


def found(name, S, T, mask=None, **options):
    S, T = (side if name in PAIRED_MATCH_LOSSES else side[0] for side in (S, T))
    return MATCH_LOSS_MAP[name](S, T, mask=None if mask is None else torch.tensor(mask), **options)


def naive(name, S, T, mask=None):
    numbers = ([layer.detach().double().tolist() for layer in side] for side in (S, T))
    return ORACLES[name](*(side if name in PAIRED_MATCH_LOSSES else side[0] for side in numbers), mask)


def mask_of(lengths, longest=4):
    return [[int(position < length) for position in range(longest)] for length in lengths]


def repadded(layer, lengths, longest, garbage):
    """The same valid places in a batch of other rows and length, with garbage everywhere else."""
    square = layer.dim() == 4
    shape = (layer.shape[1], longest, longest) if square else (longest, layer.shape[2])
    wide = layer.new_full((len(lengths), *shape), garbage)
    for row, n in enumerate(lengths[: len(layer)]):
        valid = (row, ..., slice(n), slice(n)) if square else (row, slice(n))
        wide[valid] = layer.detach()[valid]
    return wide


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_naive_formula(name, dtype, mask):
    S, T = sides(name, dtype)
    value = found(name, S, T, mask)
    computed_in = torch.float32 if dtype.itemsize == 2 and name in {*COUNTED, *PAIRED_MATCH_LOSSES} else dtype
    assert (value.shape, value.dtype) == ((), computed_in)
    close = TOLERANCE[computed_in]
    assert value.item() == pytest.approx(naive(name, S, T, mask), rel=close, abs=close)


@pytest.mark.parametrize("mask", [MASKS[kind] for kind in ("no mask", "ragged", "an empty row")])
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name, mask):
    S, T = sides(name)
    assert torch.autograd.gradcheck(lambda *layers: found(name, layers, T, mask), S)


@pytest.mark.parametrize("scale", [1, 0], ids=["any", "zeros"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_everything_masked_is_a_zero_on_the_graph(name, dtype, scale):
    S, T = sides(name, dtype, scale=scale)
    value = found(name, S, T, MASKS["everything masked"])
    value.backward()
    assert value.item() == 0
    assert all(torch.equal(layer.grad, torch.zeros_like(layer)) for layer in S)


@pytest.mark.parametrize("name", OVER_VALID_PLACES)
@settings(max_examples=25, deadline=None)
@given(strategies.sampled_from([nan, inf, -inf, 1e30, -1e4]), LENGTHS, strategies.integers(4, 6))
def test_padding_does_not_reach_the_value(name, garbage, lengths, longest):
    S, T = sides(name)
    wider = lengths if "gram" in name else [*lengths, 0, 0]
    wide_S, wide_T = ([repadded(layer, wider, longest, garbage) for layer in side] for side in (S, T))
    value = found(name, wide_S, wide_T, mask_of(wider, longest)).item()
    assert value == pytest.approx(naive(name, S, T, mask_of(lengths)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("garbage", [1e4, -1e30, nan, inf, -inf])
@pytest.mark.parametrize("name", OVER_VALID_PLACES)
def test_padding_does_not_reach_the_gradient(name, garbage):
    lengths, (S, T) = [4, 2, 0], sides(name)
    found(name, S, T, mask_of(lengths)).backward()
    wide_T = [repadded(layer, lengths, 6, garbage) for layer in T]
    for of_student in (1.0, garbage):
        wide_S = [repadded(layer, lengths, 6, of_student).requires_grad_() for layer in S]
        found(name, wide_S, wide_T, mask_of(lengths, 6)).backward()
        for wide, layer in zip(wide_S, S, strict=True):
            torch.testing.assert_close(wide.grad, repadded(layer.grad, lengths, 6, 0.0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"attention_ce", "attention_ce_mean"}))
@settings(max_examples=25, deadline=None)
@given(strategies.integers(0, 10**6), strategies.sampled_from(list(MASKS.values())))
def test_equal_sides_cost_nothing(name, seed, mask):
    S, _ = sides(name, seed=seed)
    assert found(name, S, S, mask).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", COUNTED)
@settings(max_examples=25, deadline=None)
@given(LENGTHS, strategies.booleans())
def test_parts_with_the_count_of_the_whole_add_up(name, lengths, masked):
    lengths, mask, (S, T) = (lengths, mask_of(lengths), sides(name)) if masked else ([4, 4, 4], None, sides(name))
    units = {"rows": 3, "tokens": sum(lengths), "token_pairs": sum(n * n for n in lengths)}
    count, total = max(units[COUNT_UNITS[MATCH_LOSS_MAP[name]]], 1), 0.0
    for part in (slice(1), slice(1, None)):
        part_S, part_T = ([layer[part] for layer in side] for side in (S, T))
        total += found(name, part_S, part_T, mask and mask[part], count=count).item()
    assert total == pytest.approx(naive(name, S, T, mask), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("mask", [MASKS["no mask"], MASKS["ragged"]], ids=["no mask", "ragged"])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_features_stay_finite(name, mask):
    S, T = sides(name, torch.float32, scale=1e4)
    value = found(name, S, T, mask)
    value.backward()
    assert 0 < value.item() < inf
    assert all(layer.grad.isfinite().all() for layer in S)


@pytest.mark.parametrize("name", OVER_HEADS)
def test_maps_without_heads_count_as_reduced(name):
    S, T = sides(name)
    value = found(name, [OVER_HEADS[name](S[0], dim=1)], T, MASKS["ragged"]).item()
    assert value == pytest.approx(naive(name, S, T, MASKS["ragged"]), rel=1e-12)


@pytest.mark.parametrize("loss", [losses.mmd_loss, losses.mmd_valid_loss, losses.fsp_loss, losses.gram_valid_loss])
def test_two_layers_of_one_side_must_be_of_one_batch(loss):
    fine = [torch.ones(2, 3, 4), torch.ones(2, 3, 4)]
    with pytest.raises(MatchError, match=r"got \[\[2, 3, 4\], \[2, 5, 4\]\]"):
        loss(fine, [torch.ones(2, 3, 4), torch.ones(2, 5, 4)])


@pytest.mark.parametrize("loss", [losses.mmd_loss, losses.mmd_valid_loss])
def test_similarities_need_one_width_a_side(loss):
    with pytest.raises(MatchError, match="widths 4 and 6"):
        loss([torch.ones(2, 3, 4), torch.ones(2, 3, 6)], [torch.ones(2, 3, 4), torch.ones(2, 3, 4)])


def test_attention_kl_of_two_precisions_is_finite_at_zero():
    student = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    assert losses.attention_kl_loss(student.double(), student).isfinite()
    assert losses.attention_kl_loss(student, student.double()).isfinite()
