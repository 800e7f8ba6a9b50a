"""The masked mean against a loop over elements, and the precision that losses are computed in."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer.errors import MatchError
from textbrewer.losses import full_precision, masked_mean

# A sum of a few dozen numbers in the type itself: some units in the last place.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SHAPES = [(), (1,), (5,), (3, 4), (2, 3, 4), (2, 0, 3)]
NOT_FINITE = [math.nan, math.inf, -math.inf]


def naive(values, mask=None, count=None):
    """The docstring's formula, one element at a time."""
    elements = values.double().flatten().tolist()
    chosen = [True] * len(elements) if mask is None else [m != 0 for m in mask.flatten().tolist()]
    total = math.fsum(element for element, here in zip(elements, chosen, strict=True) if here)
    return total / (max(sum(chosen), 1) if count is None else count)


def some(shape, dtype=torch.float64, seed=0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_()


def half_of(shape):
    return torch.arange(math.prod(shape)).reshape(shape) % 2


@pytest.mark.parametrize("count", [None, 2, 0.5])
@pytest.mark.parametrize("mask_of", [lambda shape: None, torch.ones, half_of], ids=["none", "all", "half"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_it_is_the_naive_mean(dtype, shape, mask_of, count):
    values, mask = some(shape, dtype), mask_of(shape)
    found = masked_mean(values, mask, count=count)
    assert found.shape == ()
    assert found.dtype == dtype
    assert found.item() == pytest.approx(naive(values, mask, count), rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])


@pytest.mark.parametrize("mask", [[1, 0, 7], [True, False, True], [0.5, 0.0, -2.0], [1e-30, -0.0, math.inf]], ids=str)
def test_any_mask_entry_but_zero_is_valid(mask):
    assert masked_mean(torch.tensor([1.0, 10.0, 5.0]), torch.tensor(mask)).item() == 3


@pytest.mark.parametrize("count", [None, 4, torch.tensor(4.0), 0, 0.0, torch.tensor(0), torch.tensor(0.0)], ids=str)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape], ids=str)
def test_without_valid_elements_it_is_a_zero_on_the_graph(shape, count):
    values = some(shape)
    found = masked_mean(values, torch.zeros(shape), count=count)
    found.backward()
    assert found.item() == 0
    assert torch.equal(values.grad, torch.zeros(shape, dtype=values.dtype))


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_what_is_masked_out_reaches_neither_value_nor_gradient(bad):
    values = torch.tensor([[1.0, bad], [3.0, bad]], requires_grad=True)
    found = masked_mean(values, torch.tensor([[1, 0], [1, 0]]))
    found.backward()
    assert found.item() == 2
    assert values.grad.tolist() == [[0.5, 0], [0.5, 0]]


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_what_is_valid_is_never_hidden(bad):
    assert not masked_mean(torch.tensor([1.0, bad, 3.0]), torch.tensor([1, 1, 0])).isfinite()


@pytest.mark.parametrize("mask", [None, torch.tensor([[1, 0, 1], [0, 1, 0]])], ids=["no mask", "mask"])
@pytest.mark.parametrize("count", [None, 3, torch.tensor(3)], ids=str)
def test_gradcheck(mask, count):
    assert torch.autograd.gradcheck(lambda values: masked_mean(values, mask, count=count), some((2, 3)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), min_size=1, max_size=30), st.data())
def test_parts_with_the_count_of_the_whole_add_up(elements, data):
    values, mask = (torch.tensor(column) for column in zip(*elements, strict=True))
    values = values.double()
    cut = data.draw(st.integers(0, len(elements)))
    count = max(int(mask.sum()), 1)
    parts = [masked_mean(values[part], mask[part], count=count) for part in (slice(cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), masked_mean(values, mask), rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize("mask_shape", [(3,), (1, 3), (2, 1), (3, 2), (2, 3, 1), ()], ids=str)
def test_a_mask_of_another_shape_is_not_broadcast(mask_shape):
    with pytest.raises(MatchError) as caught:
        masked_mean(torch.ones(2, 3), torch.ones(mask_shape))
    assert str(list(mask_shape)) in str(caught.value)
    assert "[2, 3]" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_goes_up_and_its_gradient_comes_back(dtype):
    half = some((4,), dtype)
    up = full_precision(half)
    up.square().sum().backward()
    assert up.dtype == torch.float32
    assert torch.equal(up.detach().to(dtype), half.detach())
    assert half.grad.dtype == dtype
    assert torch.equal(half.grad, 2 * half.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool], ids=str)
def test_other_types_pass_untouched(dtype):
    tensor = torch.ones(3, dtype=dtype)
    assert full_precision(tensor) is tensor
