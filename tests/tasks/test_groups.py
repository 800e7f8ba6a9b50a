"""Rows of several sequences: what a batch of them is, and what a model is fed of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import tokenizer_of
from textbrewer.tasks.encoded import SEQUENCES
from textbrewer.tasks.groups import COLUMNS, GroupPadding, is_grouped, sequences_of


def sequence(*ids):
    return {"input_ids": np.array(ids), "token_type_ids": np.zeros(len(ids), dtype=int)}


FEATURES = [
    {SEQUENCES: [sequence(5, 6, 7), sequence(8)], "labels": np.array([1.0, 0.0], dtype=np.float32)},
    {SEQUENCES: [sequence(9, 10)], "labels": np.array([0.0, 0.0], dtype=np.float32)},
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


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("told", [True, False])
def test_a_model_is_fed_each_sequence_without_empty_columns(side, told):
    batch = GroupPadding(tokenizer_of(padding_side=side), 2, 6)(FEATURES)
    if not told:
        del batch[COLUMNS]
    shown = sequences_of(batch)
    right = side == "right"
    assert shown["input_ids"].tolist() == (
        [[5, 6, 7], [8, 0, 0], [9, 10, 0], [0, 0, 0]] if right else [[5, 6, 7], [0, 0, 8], [0, 9, 10], [0, 0, 0]]
    )
    assert shown["attention_mask"].tolist() == (
        [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]] if right else [[1, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 1]]
    )
    assert set(shown) == {"input_ids", "attention_mask", "token_type_ids"}


def test_other_batches_are_fed_as_they_are():
    batch = {"input_ids": torch.ones(2, 3), "labels": torch.ones(2)}
    assert sequences_of(batch) is batch and not is_grouped(batch) and not is_grouped({})
