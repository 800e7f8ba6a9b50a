"""Losses between relations of examples against loops written from the docstrings."""

from __future__ import annotations

import math
from functools import partial
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer import MATCH_LOSS_MAP
from textbrewer.errors import MatchError
from textbrewer.losses import COUNT_UNITS, embedding_mse_loss, principal_components

INF = math.inf
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-5, torch.bfloat16: 2e-5}
LEAST = {"rkd_distance": 2, "rkd_angle": 3, "similarity_preserving": 2, "embedding_mse": 1}
OF_PAIRS = [name for name in LEAST if name != "embedding_mse"]
MASKS = {
    "no mask": None,
    "ragged": [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]],
    "gaps": [[False, True, True], [True, False, True], [True, True, True], [False, False, True]],
    "an empty row": [[1.0, 0.5, -2.0], [0.0, 0.0, 0.0], [7.0, 1e-30, 0.0], [1.0, 1.0, 1.0]],
}


def mean(values):
    values = list(values)
    return math.fsum(values) / max(len(values), 1)


def dot(x, y):
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def minus(x, y):
    return [a - b for a, b in zip(x, y, strict=True)]


def length(x):
    return math.sqrt(dot(x, x))


def unit(x):
    return [a / (length(x) or 1) for a in x]


def huber(apart):
    return apart**2 / 2 if abs(apart) <= 1 else abs(apart) - 1 / 2


def rkd_distance(S, T):
    pairs = list(permutations(range(len(S)), 2))

    def distances(X):
        far = {(i, j): length(minus(X[i], X[j])) for i, j in pairs}
        return {pair: d / (mean(far.values()) or 1) for pair, d in far.items()}

    of_S, of_T = distances(S), distances(T)
    return mean(huber(of_S[pair] - of_T[pair]) for pair in pairs)


def rkd_angle(S, T):
    def cosine(X, i, j, k):
        return dot(unit(minus(X[i], X[j])), unit(minus(X[k], X[j])))

    return mean(huber(cosine(S, *at) - cosine(T, *at)) for at in permutations(range(len(S)), 3))


def similarity_preserving(S, T):
    of_S, of_T = ([unit([dot(x, y) for y in X]) for x in X] for X in (S, T))
    return mean((a - b) ** 2 for s, t in zip(of_S, of_T, strict=True) for a, b in zip(s, t, strict=True))


def embedding_mse(S, T):
    return mean(mean(d * d for d in minus(s, t)) for s, t in zip(S, T, strict=True))


ORACLES = {name: globals()[name] for name in LEAST}


def pooled(state, mask, pooling):
    """The vectors of examples with a valid token."""
    rows = state.detach().double().tolist()
    if state.dim() == 2:
        return [row for b, row in enumerate(rows) if mask is None or any(mask[b])]
    kept = [[t for i, t in enumerate(tokens) if mask is None or mask[b][i]] for b, tokens in enumerate(rows)]
    if pooling == "first":
        return [tokens[0] for tokens, left in zip(rows, kept, strict=True) if left]
    return [[mean(column) for column in zip(*tokens, strict=True)] for tokens in kept if tokens]


def naive(name, S, T, mask=None, pooling="mean"):
    found = ORACLES[name](pooled(S, mask, pooling), pooled(T, mask, pooling))
    # The mean is over all rows, so that the rows of a step can be counted.
    return found * (sum(map(any, mask)) / len(mask) if name == "embedding_mse" and mask else 1)


def sides(name, dtype=torch.float64, seed=0, tokens=3, rows=4):
    """Student and teacher, of other widths where the loss allows it."""
    generator = torch.Generator().manual_seed(seed)
    widths = (3, 3) if name == "embedding_mse" else (3, 5)
    shapes = [(rows, tokens, width) if tokens else (rows, width) for width in widths]
    student, teacher = (torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)
    return student.requires_grad_(), teacher


def mask_of(mask):
    return None if mask is None else torch.tensor(mask)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("tokens", [0, 3], ids=["vectors", "hidden states"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", LEAST)
def test_it_is_the_naive_formula(name, dtype, mask, tokens, pooling):
    student, teacher = sides(name, dtype, tokens=tokens)
    found = MATCH_LOSS_MAP[name](student, teacher, mask=mask_of(mask), pooling=pooling)
    found.backward()
    assert (found.shape, found.dtype) == ((), torch.promote_types(dtype, torch.float32))
    assert student.grad.isfinite().all()
    close = TOLERANCE[dtype]
    assert found.item() == pytest.approx(naive(name, student, teacher, mask, pooling), rel=close, abs=close)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("tokens", [0, 3], ids=["vectors", "hidden states"])
@pytest.mark.parametrize("mask", [MASKS["no mask"], MASKS["an empty row"]], ids=["no mask", "an empty row"])
@pytest.mark.parametrize("name", LEAST)
def test_gradcheck(name, mask, tokens, pooling):
    student, teacher = sides(name, tokens=tokens)
    loss = partial(MATCH_LOSS_MAP[name], pooling=pooling)
    assert torch.autograd.gradcheck(lambda state: loss(state, teacher, mask=mask_of(mask)), student)


@pytest.mark.parametrize("mask_shape", [(4,), (4, 7)], ids=str)
@pytest.mark.parametrize("name", LEAST)
def test_vectors_take_a_mask_of_examples_or_of_tokens(name, mask_shape):
    student, teacher = sides(name, tokens=0)
    mask = torch.ones(mask_shape)
    mask[2] = 0
    found = MATCH_LOSS_MAP[name](student, teacher, mask=mask)
    expected = naive(name, student, teacher, [[1], [1], [0], [1]])
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("name", LEAST)
def test_sides_with_tokens_of_their_own_are_pooled_each_by_its_mask(name, pooling):
    student, (_, teacher) = sides(name)[0], sides(name, seed=1, tokens=5)
    mask = torch.tensor(MASKS["ragged"])
    mask_T = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    teacher = teacher.masked_fill((mask_T == 0).unsqueeze(-1), math.nan)
    found = MATCH_LOSS_MAP[name](student, teacher, mask, mask_T=mask_T, pooling=pooling)
    found.backward()
    # Row 2 has no token on one side, and takes no part.
    rows = [0, 1, 3]
    vectors = [
        torch.tensor(pooled(side[rows], one[rows].tolist(), pooling), dtype=torch.float64)
        for side, one in ((student, mask), (teacher, mask_T))
    ]
    share = 3 / 4 if name == "embedding_mse" else 1
    torch.testing.assert_close(found, MATCH_LOSS_MAP[name](*vectors) * share)
    assert student.grad.isfinite().all() and not student.grad[2].any()


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("valid", [[0, 0, 0, 0], [0, 0, 1, 0]], ids=["none", "one"])
@pytest.mark.parametrize("name", LEAST)
def test_nothing_valid_is_a_zero_on_the_graph(name, valid, pooling):
    if name == "embedding_mse" and any(valid):
        return
    student, teacher = sides(name)
    mask = torch.tensor(valid).unsqueeze(1).expand(4, 3)
    found = MATCH_LOSS_MAP[name](student, teacher, mask=mask, pooling=pooling)
    found.backward()
    if name == "similarity_preserving":
        # An example is as like itself as can be on both sides.
        assert found.item() == pytest.approx(0, abs=1e-15)
        torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-12)
    else:
        assert found.item() == 0
        assert student.grad.abs().sum() == 0


@pytest.mark.parametrize("garbage", [1e4, math.nan, INF, -INF])
@pytest.mark.parametrize("name", LEAST)
def test_padding_reaches_neither_the_value_nor_the_gradient(name, garbage):
    student, teacher = sides(name)
    mask = torch.tensor(MASKS["an empty row"])
    padded = [side.detach().masked_fill((mask == 0).unsqueeze(-1), garbage) for side in (student, teacher)]
    padded_S = padded[0].requires_grad_()
    found, expected = (MATCH_LOSS_MAP[name](*pair, mask=mask) for pair in ((padded_S, padded[1]), (student, teacher)))
    found.backward()
    expected.backward()
    assert torch.equal(found, expected)
    assert torch.equal(padded_S.grad, student.grad)
    assert padded_S.grad[mask == 0].abs().sum() == 0


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(LEAST)), st.permutations(range(4)))
def test_the_order_of_examples_does_not_matter(name, order):
    student, teacher = sides(name)
    mask = torch.tensor(MASKS["ragged"])
    found = MATCH_LOSS_MAP[name](student[order], teacher[order], mask=mask[order])
    torch.testing.assert_close(found, MATCH_LOSS_MAP[name](student, teacher, mask=mask), rtol=1e-10, atol=0)


def turned(state):
    """The same relations by other coordinates."""
    generator = torch.Generator().manual_seed(7)
    width = state.shape[-1]
    return state @ torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=state.dtype)).Q


@pytest.mark.parametrize("name", LEAST)
def test_equal_sides_leave_nothing_to_learn(name):
    student, _ = sides(name)
    found = MATCH_LOSS_MAP[name](student, student.detach())
    found.backward()
    assert found.item() == 0
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_relations_do_not_see_coordinates_and_scale(name):
    student, teacher = sides(name)
    found = MATCH_LOSS_MAP[name](turned(student) * 100, turned(teacher) / 3)
    torch.testing.assert_close(found, MATCH_LOSS_MAP[name](student, teacher), rtol=1e-9, atol=0)
    shifted = MATCH_LOSS_MAP[name](student + 5, teacher - 3)
    same = torch.allclose(shifted, MATCH_LOSS_MAP[name](student, teacher), rtol=1e-9, atol=0)
    assert same == name.startswith("rkd")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LEAST)
def test_extreme_features_stay_finite(name, dtype):
    student, teacher = (side.detach() * 1e4 for side in sides(name, dtype))
    found = MATCH_LOSS_MAP[name](student.requires_grad_(), teacher)
    found.backward()
    assert found.item() == pytest.approx(naive(name, student, teacher), rel=1e-4)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", LEAST)
def test_equal_and_zero_examples_have_finite_gradients(name):
    """As a batch may hold one text twice, and a student may give zeros."""
    student, teacher = (side.detach() for side in sides(name, tokens=0))
    student[1] = student[0]
    student[2] = 0
    found = MATCH_LOSS_MAP[name](student.requires_grad_(), teacher)
    found.backward()
    assert found.item() == pytest.approx(naive(name, student, teacher), rel=1e-10)
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 10
    collapsed = torch.ones_like(student).requires_grad_()
    MATCH_LOSS_MAP[name](collapsed, teacher).backward()
    assert collapsed.grad.isfinite().all()


def test_small_distances_between_large_vectors_are_kept():
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(40, 8, generator=generator)
    found = MATCH_LOSS_MAP["rkd_distance"](near + 1000, near)
    assert found.item() < 1e-5


@pytest.mark.parametrize("name", LEAST)
def test_two_precisions_meet_in_the_higher(name):
    student, teacher = sides(name)
    teacher = teacher.bfloat16()
    found = MATCH_LOSS_MAP[name](student, teacher)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(naive(name, student, teacher), rel=1e-10)


def test_parts_with_the_rows_of_the_whole_add_up():
    student, teacher = sides("embedding_mse")
    mask = torch.tensor(MASKS["an empty row"])
    parts = [embedding_mse_loss(student[h], teacher[h], mask[h], count=4) for h in (slice(1), slice(1, None))]
    torch.testing.assert_close(sum(parts), embedding_mse_loss(student, teacher, mask), rtol=1e-12, atol=0)
    assert [COUNT_UNITS.get(MATCH_LOSS_MAP[name]) for name in LEAST] == [None, None, None, "rows"]


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_batch_too_small_for_relations_is_told_with_the_way_out(name):
    student, teacher = sides(name, rows=LEAST[name] - 1)
    with pytest.raises(MatchError) as caught:
        MATCH_LOSS_MAP[name](student, teacher)
    assert str(caught.value) == (
        f"{name}: relations need at least {LEAST[name]} examples, got a batch of {LEAST[name] - 1} "
        f"({list(student.shape)}); use a larger batch, and drop_last=True in the loader"
    )
    assert MATCH_LOSS_MAP[name](*sides(name, rows=LEAST[name])).isfinite()


@pytest.mark.parametrize(
    ("shape_S", "shape_T", "options", "says"),
    [
        ((4, 3), (5, 3), {}, "teacher [5, 3] and student [4, 3] are not of one batch"),
        (
            (4, 2, 3, 3),
            (4, 3),
            {},
            "the student's feature is [4, 2, 3, 3], but (batch, width) or (batch, length, width)",
        ),
        ((4, 3), (4,), {}, "the teacher's feature is [4], but (batch, width) or (batch, length, width) is needed"),
        ((4, 3), (4, 3), {"pooling": "maen"}, "expected one of 'mean', 'first', got 'maen'; did you mean 'mean'?"),
        ((4, 3), (4, 3), {"mask": torch.ones(3)}, "the mask is [3], but the feature [4, 3] needs [4]"),
        ((4, 2, 3), (4, 3), {"mask": torch.ones(4)}, "the mask is [4], but the feature [4, 2, 3] needs [4, 2]"),
    ],
)
@pytest.mark.parametrize("name", LEAST)
def test_what_does_not_fit_is_told(name, shape_S, shape_T, options, says):
    with pytest.raises(MatchError) as caught:
        MATCH_LOSS_MAP[name](torch.ones(shape_S), torch.ones(shape_T), **options)
    assert str(caught.value).startswith(f"{name}: ")
    assert says in str(caught.value)


def test_embeddings_of_other_widths_are_told_with_both_ways_out():
    with pytest.raises(MatchError) as caught:
        embedding_mse_loss(torch.ones(2, 5, 3), torch.ones(2, 5, 8))
    assert str(caught.value) == (
        "embedding_mse: teacher [2, 5, 8] and student [2, 5, 3] differ in the last axis; add proj=['linear', 3, 8], or "
        "components=principal_components(teacher's embeddings, 3)"
    )
    with pytest.raises(MatchError) as caught:
        embedding_mse_loss(torch.ones(2, 3), torch.ones(2, 8), components=torch.ones(8, 3))
    assert str(caught.value) == (
        "embedding_mse: components [8, 3] do not fit; for a student of width 3 and a teacher of 8 they are [3, 8]"
    )


def embeddings(examples=200, width=6):
    """Of variances that fall from axis to axis, and a mean that is not zero."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)[:width]
    return turned(torch.randn(examples, width, generator=generator, dtype=torch.float64) * spread) + 4


@pytest.mark.parametrize("width", [1, 3, 6])
def test_components_are_orthonormal_and_keep_the_most_variance(width):
    given = embeddings()
    found = principal_components(given, width)
    torch.testing.assert_close(found @ found.T, torch.eye(width).double(), rtol=0, atol=1e-12)
    singular = torch.linalg.svdvals(given - given.mean(dim=0))[:width] ** 2 / (len(given) - 1)
    torch.testing.assert_close((given @ found.T).var(dim=0), singular, rtol=1e-9, atol=0)
    assert (found.gather(1, found.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_components_are_those_of_scikit_learn():
    PCA = pytest.importorskip("sklearn.decomposition").PCA
    expected = PCA(3).fit(embeddings().numpy()).components_
    found = principal_components(embeddings(), 3)
    torch.testing.assert_close(found.abs(), torch.from_numpy(expected).abs(), rtol=1e-8, atol=1e-10)


def test_components_project_the_teacher():
    student, teacher, components = torch.randn(4, 3).double(), embeddings(4), principal_components(embeddings(), 3)
    found = embedding_mse_loss(student, teacher, components=components)
    assert found.item() == pytest.approx(((student - teacher @ components.T) ** 2).mean().item(), rel=1e-12)
    assert principal_components(embeddings().half(), 3).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "width", "says"),
    [
        (torch.ones(5, 8), 6, "width=6 needs at least as many examples, of at least this width; got embeddings [5, 8]"),
        (torch.ones(9, 4), 6, "width=6 needs at least as many examples, of at least this width; got embeddings [9, 4]"),
        (torch.ones(9), 1, "got embeddings [9]"),
        (torch.ones(9, 4), 0, "width=0 needs"),
        (torch.tensor([[1.0, math.nan]]), 1, "embeddings [1, 2] are not all finite"),
    ],
)
def test_embeddings_that_have_no_components_are_told(given, width, says):
    with pytest.raises(MatchError) as caught:
        principal_components(given, width)
    assert str(caught.value).startswith("principal_components: ")
    assert says in str(caught.value)
