"""Relations of tokens against loops over heads, queries and keys, and against the attention of a real layer."""

from __future__ import annotations

import copy
import pickle
from math import exp, fsum, log, sqrt

import pytest
import torch

from textbrewer import MATCH_LOSS_MAP
from textbrewer.errors import MatchError, UnknownNameError
from textbrewer.losses import RelationLoss, attention_kl_loss, query_key_kl_loss, query_key_mse_loss, relation_kl_loss

TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}
MASKS = {
    "no mask": None,
    "ragged": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
    "gaps": [[0, 0, 1, 1, 0], [1, 0, 1, 0, 1]],
    "an empty row": [[0, 0, 0, 0, 0], [1, 1, 1, 0, 0]],
    "everything masked": [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
}


def states(width, seed, number=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(number, 2, 5, width, generator=generator, dtype=torch.float64).to(dtype))


def score(X, Y, b, h, q, k, heads):
    """``X_q · Y_k / √d`` of one head."""
    d = len(X[b][q]) // heads
    columns = range(h * d, (h + 1) * d)
    return fsum(X[b][q][c] * Y[b][k][c] for c in columns) / sqrt(d)


def softmax(row):
    return [exp(value - max(row)) / fsum(exp(other - max(row)) for other in row) for value in row]


def valid(mask, b):
    return [p for p in range(5) if mask is None or mask[b][p]]


def mean(values):
    values = list(values)
    return fsum(values) / max(len(values), 1)


def naive_kl(pair_S, pair_T, heads, mask):
    def row(b, h, q):
        R_S, R_T = (softmax([score(*pair, b, h, q, k, heads) for k in valid(mask, b)]) for pair in (pair_S, pair_T))
        return fsum(t * (log(t) - log(s)) for s, t in zip(R_S, R_T, strict=True))

    return mean(row(b, h, q) for b in range(2) for h in range(heads) for q in valid(mask, b))


def naive_mse(pair_S, pair_T, heads, mask):
    places = [(b, h, q, k) for b in range(2) for h in range(heads) for q in valid(mask, b) for k in valid(mask, b)]
    return mean((score(*pair_S, *at, heads) - score(*pair_T, *at, heads)) ** 2 for at in places)


def numbers(layers):
    return [layer.double().tolist() for layer in layers]


def tensor(mask):
    return None if mask is None else torch.tensor(mask)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_it_is_the_naive_formula(heads, dtype, mask):
    S, T = states(6, 1, 2, dtype), states(12, 2, 2, dtype)
    close = {"rel": TOLERANCE[dtype], "abs": TOLERANCE[dtype]}
    one = relation_kl_loss(S[0], T[0], tensor(mask), heads=heads)
    assert (one.shape, one.dtype) == ((), dtype)
    assert one.item() == pytest.approx(naive_kl(2 * numbers(S[:1]), 2 * numbers(T[:1]), heads, mask), **close)
    for loss, naive in ((query_key_kl_loss, naive_kl), (query_key_mse_loss, naive_mse)):
        found = loss(S, T, tensor(mask), heads=heads).item()
        assert found == pytest.approx(naive(numbers(S), numbers(T), heads, mask), **close)


@pytest.mark.parametrize("heads", [2, 4])
def test_with_the_models_heads_it_is_the_divergence_of_their_attention_maps(heads):
    def maps(queries, keys):
        queries, keys = (side.unflatten(-1, (heads, -1)).transpose(1, 2) for side in (queries, keys))
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        return scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf).softmax(-1)

    S, T, mask = states(8, 1, 2), states(16, 2, 2), tensor(MASKS["ragged"])
    expected = attention_kl_loss(maps(*S), maps(*T), mask)
    torch.testing.assert_close(query_key_kl_loss(S, T, mask, heads=heads), expected)


def test_more_heads_see_differences_that_one_head_does_not():
    state = states(4, 1)[0]
    swapped = state[..., [2, 3, 0, 1]]  # the same inner products over the whole width
    assert relation_kl_loss(swapped, state, heads=1).item() == pytest.approx(0, abs=1e-12)
    assert relation_kl_loss(swapped, state, heads=2).item() > 1e-3


@pytest.mark.parametrize(
    ("kind", "unit"), [("relation_kl", "tokens"), ("query_key_kl", "tokens"), ("query_key_mse", "token_pairs")]
)
def test_an_object_with_its_heads_is_the_function(kind, unit):
    S, T = states(6, 1, 2), states(12, 2, 2)
    sides = (S[0], T[0]) if kind == "relation_kl" else (S, T)
    loss, mask = RelationLoss(3, kind), tensor(MASKS["gaps"])
    for own in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert own == loss and hash(own) == hash(loss)
        assert (own.__name__, own.count_unit) == (f"{kind}_3", unit)
        found = own(*sides, mask, count=7)
        torch.testing.assert_close(found, MATCH_LOSS_MAP[kind](*sides, mask, heads=3, count=7))
    assert RelationLoss(2, kind) != loss


@pytest.mark.parametrize("heads", [0, -1, 1.5, True, "12", None], ids=str)
def test_heads_that_are_no_number(heads):
    with pytest.raises(MatchError, match="a whole number above 0 is needed"):
        RelationLoss(heads)


def test_a_kind_that_is_not_there():
    with pytest.raises(UnknownNameError, match="got 'query_key'; did you mean 'query_key_kl'"):
        RelationLoss(1, "query_key")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: relation_kl_loss(torch.ones(2, 5, 18), torch.ones(2, 5, 24)),
            r"relation_kl: 12 relation heads do not divide the widths 18 \(student\) and 24 \(teacher\); "
            r"write loss: \['relation_kl', heads\] with heads one of \[1, 2, 3, 6\]",
        ),
        (
            lambda: query_key_mse_loss([torch.ones(2, 5, 8)] * 2, [torch.ones(2, 5, 8)] * 2, heads=0),
            "query_key_mse: 0 relation heads do not divide",
        ),
        (
            lambda: relation_kl_loss(torch.ones(2, 5, 12), torch.ones(2, 4, 12)),
            r"student \[2, 5, 12\] and teacher \[2, 4, 12\] are not of one batch",
        ),
        (
            lambda: relation_kl_loss(torch.ones(2, 5, 12), torch.ones(2, 3, 5, 4)),
            r"one \(batch, length, width\) a side is needed, got \[2, 3, 5, 4\]; for queries and keys",
        ),
        (
            lambda: relation_kl_loss([torch.ones(2, 5, 12)] * 2, torch.ones(2, 5, 12)),
            "got 2 layers; for queries and keys take query_key_kl",
        ),
        (
            lambda: query_key_kl_loss(torch.ones(2, 5, 12), torch.ones(2, 5, 12)),
            r"query_key_kl: two layers a side are needed, got one; write layer_T: \[i, j\]",
        ),
        (
            lambda: query_key_kl_loss([torch.ones(2, 5, 12), torch.ones(2, 5, 24)], [torch.ones(2, 5, 12)] * 2),
            r"query_key_kl: the two layers of a side must have one width, got \[12, 24\] of the student",
        ),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(MatchError, match=message):
        call()
