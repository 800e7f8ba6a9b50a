"""Batches of rows of about the same length, and batches cut to their longest row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from textbrewer.batching import LengthGroupedBatches, trimmed
from textbrewer.errors import ConfigError


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    batch_size=st.integers(1, 7),
    pool=st.integers(1, 4),
    drop_last=st.booleans(),
)
def test_every_row_once_in_batches_of_the_size_asked_for(lengths, batch_size, pool, drop_last):
    sampler = LengthGroupedBatches(lengths, batch_size, pool=pool, drop_last=drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)
    sizes = sorted(len(batch) for batch in batches)
    full = len(lengths) // batch_size
    assert sizes[len(sizes) - full :] == [batch_size] * full
    if not drop_last:
        assert sorted(rows) == list(range(len(lengths)))


def padding(lengths, batches):
    return sum(max(lengths[r] for r in batch) * len(batch) - sum(lengths[r] for r in batch) for batch in batches)


def test_there_is_much_less_padding_than_in_shuffled_batches():
    lengths = torch.randint(1, 200, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = torch.randperm(1000, generator=torch.Generator().manual_seed(1)).split(20)
    grouped = padding(lengths, LengthGroupedBatches(lengths, 20, pool=10))
    assert grouped < padding(lengths, [batch.tolist() for batch in shuffled]) / 4


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = [i % 7 + 1 for i in range(40)]
    first, again, other = (LengthGroupedBatches(lengths, 3, seed=seed) for seed in (0, 0, 1))
    one, two = list(first), list(first)
    assert one != two and one == list(again) and one != list(other)
    again.set_epoch(1)
    assert list(again) == two


def test_it_is_a_batch_sampler_of_pytorch():
    loader = DataLoader(torch.arange(10), batch_sampler=LengthGroupedBatches([1] * 10, 4))
    assert sorted(torch.cat(list(loader)).tolist()) == list(range(10)) and len(loader) == 3


def test_arguments_that_cannot_be_used_are_named_together():
    with pytest.raises(ConfigError) as raised:
        LengthGroupedBatches([], 0, pool=0)
    assert {problem.path for problem in raised.value.problems} == {"batch_size", "pool", "number of lengths"}


def batch(**more):
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]])
    return {"input_ids": torch.arange(10).reshape(2, 5), "attention_mask": mask, "labels": torch.tensor([0, 1]), **more}


def test_columns_that_are_padding_in_every_row_are_cut():
    given = batch(token_type_ids=torch.zeros(2, 5), wider=torch.ones(2, 7))
    cut = trimmed(given)
    assert {name: tuple(value.shape) for name, value in cut.items()} == {
        "input_ids": (2, 3),
        "attention_mask": (2, 3),
        "labels": (2,),
        "token_type_ids": (2, 3),
        "wider": (2, 7),
    }
    assert torch.equal(cut["input_ids"], given["input_ids"][:, :3]) and given["input_ids"].shape == (2, 5)


@pytest.mark.parametrize(
    "kept",
    [
        {"unknown": torch.ones(2, 5)},
        {"attention_mask": torch.ones(2, 5)},
        {"attention_mask": torch.ones(2, 1, 5, 5)},
        {"attention_mask": None},
    ],
    ids=["another input is as wide", "no padding", "a mask of pairs", "no mask"],
)
def test_what_cannot_be_cut_safely_comes_back_as_it_is(kept):
    given = batch(**kept)
    assert trimmed(given) is given


def test_a_tuple_comes_back_as_it_is():
    given = (torch.ones(2, 3), torch.zeros(2, 3))
    assert trimmed(given) is given


def test_rows_that_are_all_padding_keep_a_column():
    assert trimmed(batch(attention_mask=torch.zeros(2, 5)))["input_ids"].shape == (2, 1)


def test_labels_of_classes_are_not_cut_like_those_of_tokens():
    mask = torch.tensor([[1, 1, 0, 0]])
    batch = {"attention_mask": mask, "input_ids": mask, "labels": torch.rand(1, 4)}
    assert trimmed(batch) is batch
    assert trimmed({**batch, "labels": mask})["labels"].shape == (1, 2)
