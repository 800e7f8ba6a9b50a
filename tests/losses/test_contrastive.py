"""Contrastive distillation with its memory, against loops written from the docstring."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer.errors import MatchError
from textbrewer.losses import CRDLoss

EXAMPLES, WIDTH_S, WIDTH_T, WIDTH, NEGATIVES = 9, 3, 5, 4, 6
INDEX = torch.tensor([2, 0, 8])
OTHERS = torch.tensor([[0, 1, 3, 8, 8, 5], [1, 2, 3, 4, 5, 6], [7, 6, 5, 4, 0, 1]])


def crd(dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    options = {"width": WIDTH, "negatives": NEGATIVES, **options}
    return CRDLoss(EXAMPLES, WIDTH_S, WIDTH_T, **options).to(dtype)


def sides(dtype=torch.float64, seed=0, tokens=0, rows=3):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, tokens, width) if tokens else (rows, width) for width in (WIDTH_S, WIDTH_T)]
    student, teacher = (torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)
    return student.requires_grad_(), teacher


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def dot(x, y):
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def unit(x):
    return [a / math.sqrt(dot(x, x)) for a in x]


class Naive:
    """The docstring by hand: takes a loss's maps, memory and constants, and goes on by itself."""

    def __init__(self, loss):
        state = {name: value.double().tolist() for name, value in loss.state_dict().items()}
        self.maps = {side: (state[f"project_{side}.weight"], state[f"project_{side}.bias"]) for side in "ST"}
        self.memory = {side: state[f"memory_{side}"] for side in "ST"}
        self.Z = [None if math.isnan(z) else math.exp(z) for z in state["log_Z"]]
        self.tau, self.momentum = loss.temperature, loss.momentum

    def z(self, side, vector):
        weight, bias = self.maps[side]
        return unit([dot(row, vector) + b for row, b in zip(weight, bias, strict=True)])

    def __call__(self, S, T, index, others):
        z = {"S": [self.z("S", x) for x in S], "T": [self.z("T", x) for x in T]}
        total = 0.0
        for place, (anchor, other) in enumerate(["ST", "TS"]):
            rows = []
            for b, a in enumerate(z[anchor]):
                near = [z[other][b], *(self.memory[other][k] for k in others[b])]
                rows.append([math.exp(dot(a, v) / self.tau) for v in near])
            if self.Z[place] is None:
                self.Z[place] = EXAMPLES * mean(e for row in rows for e in row)
            noise = self.Z[place] * (len(rows[0]) - 1) / EXAMPLES
            total += mean(
                -math.log(row[0] / (row[0] + noise)) - math.fsum(math.log(1 - e / (e + noise)) for e in row[1:])
                for row in rows
            )
        for side, memory in self.memory.items():
            for b, i in enumerate(index):
                memory[i] = unit(
                    [self.momentum * m + (1 - self.momentum) * v for m, v in zip(memory[i], z[side][b], strict=True)]
                )
        return total


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_three_calls_are_the_naive_formula(dtype, temperature):
    loss = crd(dtype, temperature=temperature)
    naive, close = Naive(loss), 1e-9 if dtype == torch.float64 else 1e-4
    for seed in range(3):
        student, teacher = sides(dtype, seed)
        index, others = (INDEX + seed) % EXAMPLES, (OTHERS + seed) % EXAMPLES
        found = loss(student, teacher, index=index, negatives=others)
        expected = naive(student.tolist(), teacher.tolist(), index.tolist(), others.tolist())
        assert found.dtype == dtype
        assert found.item() == pytest.approx(expected, rel=close)
        torch.testing.assert_close(loss.log_Z.exp(), torch.tensor(naive.Z, dtype=dtype), rtol=close, atol=0)
        for side in "ST":
            memory = torch.tensor(naive.memory[side], dtype=dtype)
            torch.testing.assert_close(getattr(loss, f"memory_{side}"), memory, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_features_meet_full_maps_and_half_maps_a_full_loss(dtype):
    student, teacher = sides(dtype)
    exact = crd()(student.double(), teacher.double(), index=INDEX, negatives=OTHERS)
    found = crd(torch.float32)(student, teacher, index=INDEX, negatives=OTHERS)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)
    in_half = crd(dtype)(student, teacher, index=INDEX, negatives=OTHERS)
    assert in_half.dtype == torch.float32
    assert in_half.isfinite()


@pytest.mark.parametrize("mask", [None, [[1, 1], [0, 0], [1, 0]]], ids=["no mask", "an empty row"])
def test_gradcheck_of_features_and_maps(mask):
    loss = crd(temperature=0.5).eval()
    loss.log_Z.fill_(1.0)
    student, teacher = sides(tokens=2)
    mask = None if mask is None else torch.tensor(mask)

    def value(state, *parameters):
        return loss(state, teacher, mask, index=INDEX, negatives=OTHERS)

    assert torch.autograd.gradcheck(value, (student, *loss.parameters()))


def test_each_side_is_pooled_by_its_own_mask():
    student, (_, teacher) = sides(tokens=2)[0], sides(tokens=4)
    mask, mask_T = torch.tensor([[1, 1], [1, 0], [1, 0]]), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    found = crd()(student, teacher, mask, mask_T=mask_T, index=INDEX, negatives=OTHERS)
    vectors = [
        torch.stack([row[: int(kept.sum())].mean(dim=0) for row, kept in zip(side, one, strict=True)])
        for side, one in ((student, mask), (teacher, mask_T))
    ]
    torch.testing.assert_close(found, crd()(*vectors, index=INDEX, negatives=OTHERS))


def test_hidden_states_are_pooled_and_rows_without_a_token_take_no_part():
    student, teacher = sides(tokens=2)
    mask = torch.tensor([[1, 1], [0, 0], [1, 0]])
    padded_S = student.detach().masked_fill((mask == 0).unsqueeze(-1), math.nan).requires_grad_()
    loss, of_vectors = crd(), crd()
    before = loss.memory_S.clone()
    found = loss(padded_S, teacher, mask, index=INDEX, negatives=OTHERS)
    found.backward()
    vectors = [torch.stack([side[0].mean(dim=0), side[2, 0]]) for side in (student.detach(), teacher)]
    torch.testing.assert_close(found, of_vectors(*vectors, index=INDEX[[0, 2]], negatives=OTHERS[[0, 2]]))
    torch.testing.assert_close(loss.memory_S, of_vectors.memory_S)
    assert torch.equal(loss.memory_S[INDEX[1]], before[INDEX[1]])
    assert padded_S.grad.isfinite().all()
    first = crd(pooling="first")(student, teacher, index=INDEX, negatives=OTHERS)
    torch.testing.assert_close(first, crd()(student[:, 0], teacher[:, 0], index=INDEX, negatives=OTHERS))


def test_everything_masked_is_a_zero_on_the_graph_and_leaves_no_trace():
    loss, (student, teacher) = crd(), sides()
    # Of a zero without a bias there is no direction, and no gradient that could be NaN.
    torch.nn.init.ones_(loss.project_S.bias)
    before = copy.deepcopy(loss.state_dict())
    found = loss(student, teacher, torch.zeros(3), index=INDEX)
    found.backward()
    assert found.item() == 0
    assert all(x.grad.abs().sum() == 0 for x in (student, *loss.parameters()))
    for name, value in loss.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(3)))
def test_the_order_of_examples_does_not_matter(order):
    student, teacher = sides()
    found = crd()(student[order], teacher[order], index=INDEX[order], negatives=OTHERS[order])
    torch.testing.assert_close(found, crd()(student, teacher, index=INDEX, negatives=OTHERS), rtol=1e-12, atol=0)


def test_extreme_features_stay_finite():
    loss, (student, teacher) = crd(torch.float32), sides(torch.float32)
    student = (student.detach() * 1e4).requires_grad_()
    found = loss(student, teacher * 1e4, index=INDEX, negatives=OTHERS)
    found.backward()
    assert found.isfinite()
    assert all(x.grad.isfinite().all() for x in (student, *loss.parameters()))


def test_memory_moves_in_training_alone():
    loss, (student, teacher) = crd(), sides()
    loss(student, teacher, index=INDEX, negatives=OTHERS)
    moved = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        loss(student, teacher, index=INDEX, negatives=OTHERS)
    loss.eval()(student, teacher, index=INDEX, negatives=OTHERS)
    assert all(torch.equal(value, moved[name]) for name, value in loss.state_dict().items())
    torch.testing.assert_close(loss.memory_T.norm(dim=1), torch.ones(EXAMPLES).double())
    assert crd().eval()(student, teacher, index=INDEX, negatives=OTHERS).isfinite()


@pytest.mark.parametrize("side", [0, 1])
def test_what_overflows_is_not_remembered(side):
    loss, broken = crd(), list(sides())
    before = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        broken[side][0] = torch.nan
    loss(*broken, index=INDEX, negatives=OTHERS)
    for name in ("memory_S", "memory_T"):
        after = loss.state_dict()[name]
        assert after.isfinite().all() and torch.equal(after[INDEX[0]], before[name][INDEX[0]])
        assert not torch.equal(after[INDEX[1]], before[name][INDEX[1]])
    assert loss(*sides(), index=INDEX, negatives=OTHERS).isfinite()


def test_a_stored_loss_goes_on_as_if_never_stopped(tmp_path):
    loss, other = crd(), crd(seed=5)
    loss(*sides(), index=INDEX, negatives=OTHERS)
    stored = io.BytesIO()
    torch.save(loss.state_dict(), stored)
    stored.seek(0)
    other.load_state_dict(torch.load(stored, weights_only=True))
    for seed in (1, 2):
        torch.manual_seed(seed)
        found = loss(*sides(seed=seed), index=INDEX)
        torch.manual_seed(seed)
        assert torch.equal(other(*sides(seed=seed), index=INDEX), found)


def test_negatives_are_drawn_from_all_other_examples_alike():
    loss = crd(negatives=6000)
    drawn = loss._drawn(INDEX)
    assert drawn.shape == (3, 6000)
    for row, own in zip(drawn, INDEX.tolist(), strict=True):
        times = torch.bincount(row, minlength=EXAMPLES)
        assert times[own] == 0
        others = times[torch.arange(EXAMPLES) != own]
        # 750 each, and five standard deviations.
        assert (others - 750).abs().max() < 5 * math.sqrt(750)


def test_training_brings_views_of_one_example_together():
    torch.manual_seed(0)
    teacher = torch.randn(40, WIDTH_T)
    student = torch.nn.Linear(WIDTH_T, WIDTH_S)
    loss = CRDLoss(40, WIDTH_S, WIDTH_T, width=8, negatives=20)
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], lr=0.02)

    def found_by_the_nearest():
        with torch.no_grad():
            z_S, z_T = loss._embedded(loss.project_S, student(teacher)), loss._embedded(loss.project_T, teacher)
        return ((z_S @ z_T.T).argmax(dim=1) == torch.arange(40)).float().mean()

    before = found_by_the_nearest()
    for _ in range(150):
        index = torch.randperm(40)[:16]
        optimizer.zero_grad()
        loss(student(teacher[index]), teacher[index], index=index).backward()
        optimizer.step()
    assert before < 0.3
    assert found_by_the_nearest() > 0.7


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "crd: index [3] is needed, which example of the data each row is (0..8); let the dataset give it with"),
        ({"index": torch.tensor([0, 1])}, "crd: index [2] (torch.int64), but whole numbers [3] are needed"),
        ({"index": torch.zeros(3)}, "crd: index [3] (torch.float32), but whole numbers [3] are needed"),
        ({"index": torch.tensor([0, 1, 9])}, "crd: index from 0 to 9, but the loss was built for 9 examples (0..8)"),
        ({"index": torch.tensor([0, -1, 3])}, "crd: index from -1 to 3, but the loss was built for 9 examples (0..8)"),
        (
            {"index": INDEX, "negatives": INDEX},
            "crd: negatives [3] (torch.int64), but whole numbers [3, any] are needed",
        ),
        (
            {"index": INDEX, "negatives": OTHERS + 1},
            "crd: negatives from 1 to 9, but the loss was built for 9 examples",
        ),
        ({"index": INDEX, "mask": torch.ones(4)}, "crd: the mask is [4], but the feature [3, 3] needs [3]"),
    ],
)
def test_what_does_not_fit_is_told(given, says):
    with pytest.raises(MatchError) as caught:
        crd()(*sides(), **given)
    assert str(caught.value).startswith(says)


def test_other_widths_are_told():
    with pytest.raises(MatchError) as caught:
        crd()(torch.zeros(3, 7), torch.zeros(3, 5), index=INDEX)
    assert str(caught.value) == "crd: built for widths (3, 5) of student and teacher, got (7, 5)"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"examples": 1}, "crd: examples=1, but at least 2 is needed"),
        ({"negatives": 0}, "crd: negatives=0, but at least 1 is needed"),
        ({"temperature": 0}, "crd: temperature=0, but a finite number above 0 is needed"),
        ({"momentum": 1.0}, "crd: momentum=1.0, but a number from 0 to below 1 is needed"),
    ],
)
def test_options_out_of_range_are_told(options, says):
    with pytest.raises(MatchError) as caught:
        CRDLoss(**{"examples": 9, "width_S": 3, "width_T": 5, **options})
    assert str(caught.value) == says


def test_a_single_row_is_enough_as_the_memory_has_the_others():
    student, teacher = sides(rows=1)
    assert crd()(student, teacher, index=INDEX[:1]).isfinite()
