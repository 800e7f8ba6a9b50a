"""Rows of several sequences: what a batch of them is, and what a model is fed of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import tokenizer_of
from textbrewer.tasks.encoded import SEQUENCES
from textbrewer.tasks.groups import COLUMNS, GIVEN, PRESENT, GroupPadding, is_grouped, of_rows, sequences_of


def sequence(*ids):
    return {"input_ids": np.array(ids), "token_type_ids": np.zeros(len(ids), dtype=int)}


def both(*there):
    return {PRESENT: np.array(there, dtype=bool)}


FEATURES = [
    {SEQUENCES: [sequence(5, 6, 7), sequence(8)], "labels": np.array([1.0, 0.0], dtype=np.float32), **both(1, 1)},
    {SEQUENCES: [sequence(9, 10)], "labels": np.array([0.0, 0.0], dtype=np.float32), **both(1, 0)},
]


def test_a_batch_is_as_long_as_any_other_and_says_what_of_it_is_used():
    batch = GroupPadding(tokenizer_of(), 2, 6)(FEATURES)
    assert batch["input_ids"].tolist() == [
        [[5, 6, 7, 0, 0, 0], [8, 0, 0, 0, 0, 0]],
        [[9, 10, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
    ]
    # What is missing is a padding token, so that attention has something to fall on.
    assert batch["attention_mask"].sum(-1).tolist() == [[3, 1], [2, 1]]
    assert batch["labels"].dtype == torch.float32 and batch[COLUMNS] == (0, 3) and is_grouped(batch)
    assert batch[GIVEN] == (0, 1, 2) and GroupPadding(tokenizer_of(), 2, 6)(FEATURES[:1])[GIVEN] is None


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("told", [True, False])
def test_a_model_is_fed_the_sequences_there_are_without_empty_columns(side, told):
    batch = GroupPadding(tokenizer_of(padding_side=side), 2, 6)(FEATURES)
    if not told:
        del batch[COLUMNS], batch[GIVEN]
    shown = sequences_of(batch)
    right = side == "right"
    assert shown["input_ids"].tolist() == (
        [[5, 6, 7], [8, 0, 0], [9, 10, 0]] if right else [[5, 6, 7], [0, 0, 8], [0, 9, 10]]
    )
    assert shown["attention_mask"].tolist() == (
        [[1, 1, 1], [1, 0, 0], [1, 1, 0]] if right else [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    )
    assert set(shown) == {"input_ids", "attention_mask", "token_type_ids"}


def test_what_a_model_gives_comes_row_by_row_again():
    batch = GroupPadding(tokenizer_of(), 2, 6)(FEATURES)
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    rows = of_rows(values, batch, -torch.inf)
    assert rows.tolist() == [[1.0, 2.0], [3.0, -torch.inf]]
    rows[:, 0].sum().backward()
    assert values.grad.tolist() == [1.0, 0.0, 1.0]
    wide = of_rows(torch.arange(6.0).view(3, 2), batch, 0.0)
    assert wide.tolist() == [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [0.0, 0.0]]]
    # A bi-encoder reads a query too, which every row has.
    batch[PRESENT] = torch.tensor([[1], [0]])
    assert of_rows(values, batch, 0.0).tolist() == [[1.0, 2.0], [3.0, 0.0]]
    del batch[PRESENT]
    assert of_rows(torch.arange(4.0), batch, 0.0).tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_other_batches_are_fed_as_they_are():
    batch = {"input_ids": torch.ones(2, 3), "labels": torch.ones(2)}
    assert sequences_of(batch) is batch and not is_grouped(batch) and not is_grouped({})
