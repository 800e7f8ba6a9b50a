"""Records: what is packed comes back, at any type, shape and padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer.errors import CacheError
from textbrewer.teachers.cache.records import DTYPES, Shape, batched, packed

FLOATS = list(DTYPES.values())
EPS = {dtype: torch.finfo(dtype).eps for dtype in FLOATS}


def through(values, shape=Shape(), lengths=None, dtype=torch.float32, top_k=0, length=None):  # noqa: B008
    return batched(packed(values, shape, lengths, dtype, top_k), length)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dims", [(), (3,), (2, 3), (2, 3, 4), (1, 1), (0,), (2, 0)])
def test_rows_of_any_shape_come_back_rounded_to_the_type(dtype, dims):
    values = torch.randn(5, *dims, dtype=torch.float64)
    found = through(values, dtype=dtype)
    assert found.dtype == dtype
    assert torch.equal(found, values.to(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("given_as", [*FLOATS, torch.int64, torch.int32, torch.bool])
def test_whole_numbers_and_booleans_are_kept_as_they_are(given_as, dtype):
    values = (torch.arange(6).reshape(3, 2) * 1001).to(given_as)
    found = through(values, dtype=dtype)
    if given_as.is_floating_point:
        assert torch.equal(found, values.to(dtype))
    else:
        assert torch.equal(found.to(given_as), values)
        assert found.dtype == (torch.bool if given_as is torch.bool else torch.int64)


def test_a_second_rounding_changes_nothing():
    values = torch.randn(3, 4)
    once = through(values, dtype=torch.float16)
    assert torch.equal(through(once, dtype=torch.float16), once)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    more=st.integers(0, 3),
    axes=st.sampled_from([(0,), (0, 1), (1, 2), (1,)]),
    fill=st.sampled_from([0.0, -1e4, -math.inf]),
    dtype=st.sampled_from(FLOATS),
)
def test_token_axes_are_cut_and_filled_again_to_any_length(lengths, more, axes, fill, dtype):
    longest = max(lengths)
    values = torch.randn(len(lengths), *(longest if axis in axes else 3 for axis in range(3)))
    found = through(values, Shape(axes, fill), lengths, dtype, length=longest + more)
    for row, length in enumerate(lengths):
        expected = torch.full(found.shape[1:], fill, dtype=dtype)
        place = tuple(slice(length) if axis in axes else slice(None) for axis in range(3))
        expected[place] = values[row][place].to(dtype)
        assert torch.equal(found[row], expected)


def test_a_value_beyond_the_type_is_kept_in_float32():
    values = torch.tensor([[1.0, 1e5], [2.0, -math.inf], [math.nan, 0.1]])
    found = through(values, dtype=torch.float16)
    assert found.dtype == torch.float32
    assert torch.equal(found.nan_to_num(7), values.nan_to_num(7))


def test_infinity_and_nan_are_no_overflow():
    values = torch.tensor([[1.0, -math.inf, math.inf, math.nan]])
    found = through(values, dtype=torch.float16)
    assert found.dtype == torch.float16
    assert found.isneginf().tolist() == [[False, True, False, False]] and bool(found[0, 3].isnan())


def test_rows_in_different_types_become_one_batch():
    small = packed(torch.tensor([[0.1]]), Shape(), None, torch.float16, 0)
    large = packed(torch.tensor([[1e5]]), Shape(), None, torch.float16, 0)
    found = batched(small + large, None)
    assert found.dtype == torch.float32
    assert found.tolist() == [[pytest.approx(0.1, rel=1e-3)], [1e5]]


def test_a_filling_beyond_the_type_widens_the_batch():
    found = through(torch.ones(1, 2), Shape((0,), -1e5), [1], torch.float16, length=3)
    assert found.tolist() == [[1.0, -1e5, -1e5]]


def test_rows_that_differ_beside_the_text_are_refused():
    one = packed(torch.ones(1, 2, 3), Shape((0,)), [2], torch.float32, 0)
    other = packed(torch.ones(1, 2, 4), Shape((0,)), [2], torch.float32, 0)
    with pytest.raises(CacheError, match=r"a part of shape \[2, 3\] and another one of \[2, 4\]"):
        batched(one + other, 5)


def naive_top_k(row, k):
    """The largest k as they are, the others with the logarithm of their mean exponential, in float64."""
    row = row.astype(np.float64)
    order = np.argsort(-row, kind="stable")
    kept, others = order[:k], order[k:]
    largest = row[others].max()
    mass = largest + np.log(np.exp(row[others] - largest).sum()) if np.isfinite(largest) else -np.inf
    expected = np.full(len(row), mass - np.log(len(others)))
    expected[kept] = row[kept]
    return expected


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), classes=st.integers(4, 30), k=st.integers(1, 28), scale=st.sampled_from([0.1, 3, 30])
)
def test_top_k_keeps_the_largest_and_the_probability_of_the_rest(seed, classes, k, scale):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, classes, generator=generator) * scale
    found = through(values, top_k=k)
    if k + 1 >= classes:
        assert torch.equal(found, values)
        return
    for row, given_row in zip(found.double(), values.numpy(), strict=True):
        np.testing.assert_allclose(row.numpy(), naive_top_k(given_row, k), rtol=1e-5, atol=1e-5)
        true = torch.tensor(given_row).double().softmax(-1)
        kept = torch.tensor(given_row).topk(k).indices
        tail = 1 - true[kept].sum()
        assert float(1 - row.softmax(-1)[kept].sum()) == pytest.approx(float(tail), abs=1e-6)


def test_top_k_is_close_in_divergence_where_the_teacher_is_sure():
    """What is lost is how the rest is spread: its probability times the divergence from an even spread."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(8, 1000, generator=generator, dtype=torch.float64)
    values.scatter_(1, values.topk(16).indices, 12.0 + torch.rand(8, 16, generator=generator, dtype=torch.float64))
    true = values.log_softmax(-1)
    rest = true.sort(dim=-1, descending=True).values[:, 64:]
    lost = (rest.exp() * (rest - rest.exp().mean(-1, keepdim=True).log())).sum(-1)
    for dtype in (torch.float32, torch.float16):
        found = through(values, dtype=dtype, top_k=64).double().log_softmax(-1)
        divergence = (true.exp() * (true - found)).sum(-1)
        assert float(divergence.max()) < 2e-4
        torch.testing.assert_close(divergence, lost, rtol=0, atol=1e-6 if dtype is torch.float32 else 1e-5)


def test_top_k_of_every_token_is_cut_and_padded_with_it():
    values = torch.randn(2, 4, 9)
    found = through(values, Shape((0,)), [2, 4], top_k=3, length=5)
    assert found.shape == (2, 5, 9)
    assert not found[0, 2:].any() and not found[1, 4:].any()
    for row, length in enumerate((2, 4)):
        for token in range(length):
            expected = naive_top_k(values[row, token].numpy(), 3)
            np.testing.assert_allclose(found[row, token].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_top_k_in_every_type(dtype):
    values = torch.randn(3, 12, dtype=torch.float64)
    kept = values.topk(4).indices
    found = through(values, dtype=dtype, top_k=4)
    assert torch.equal(found.gather(1, kept), values.gather(1, kept).to(dtype))


def test_top_k_with_classes_that_are_ruled_out():
    values = torch.full((1, 8), -math.inf)
    values[0, :2] = torch.tensor([1.0, 2.0])
    assert torch.equal(through(values, top_k=4), values)


def test_top_k_leaves_scores_of_positions_alone():
    """They are as many as the text has tokens, and a row is cut to its own."""
    values = torch.randn(2, 6)
    found = through(values, Shape((0,), -1e4), [2, 6], top_k=3, length=7)
    assert torch.equal(found[1, :6], values[1])
    assert found[0].tolist() == [*values[0, :2].tolist(), *[-1e4] * 5]


def test_a_record_takes_the_bytes_of_its_values_and_few_more():
    record = packed(torch.randn(1, 128, 16), Shape((0,)), [100], torch.float16, 0)[0]
    assert len(record) - 2 * 100 * 16 < 32


def test_records_are_read_from_memory_that_can_not_be_written():
    record = memoryview(packed(torch.ones(1, 3), Shape(), None, torch.bfloat16, 0)[0]).toreadonly()
    found = batched([record], None)
    found += 1
    assert found.tolist() == [[2.0, 2.0, 2.0]]
    assert bytes(record) == packed(torch.ones(1, 3), Shape(), None, torch.bfloat16, 0)[0]
