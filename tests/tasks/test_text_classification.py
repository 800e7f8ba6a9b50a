"""Texts to batches to scores, with a tokenizer made here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from textbrewer.errors import DataError
from textbrewer.tasks.text_classification import encode, evaluate, loader_of

TEXTS = ["one two three four", "two", "three one", "four four four four four four"]
LABELS = [0, 1, 2, 0]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "one", "two", "three", "four"])}
    fast = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]")


def test_rows_are_cut_and_labelled(tokenizer):
    rows = encode(TEXTS, LABELS, tokenizer, max_length=3)
    assert [row["input_ids"] for row in rows] == [[2, 3, 4], [3], [4, 2], [5, 5, 5]]
    assert [row["labels"] for row in rows] == LABELS


def test_texts_and_labels_must_be_as_many(tokenizer):
    with pytest.raises(DataError, match="4 texts, but 3 labels"):
        encode(TEXTS, LABELS[:3], tokenizer, 8)


def test_batches_are_padded_to_their_longest_row(tokenizer):
    batches = list(loader_of(encode(TEXTS, LABELS, tokenizer, 8), tokenizer, 2))
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 4), (2, 6)]
    assert batches[0]["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batches[1]["labels"].tolist() == [2, 0]


def test_a_seed_fixes_the_order_and_epochs_differ(tokenizer):
    rows = encode(TEXTS * 5, LABELS * 5, tokenizer, 8)

    def order(loader):
        return [batch["input_ids"].tolist() for batch in loader]

    first, again = loader_of(rows, tokenizer, 4, shuffle_seed=3), loader_of(rows, tokenizer, 4, shuffle_seed=3)
    one = order(first)
    assert one == order(again)
    assert one != order(first)


def test_no_rows(tokenizer):
    with pytest.raises(DataError, match="no rows"):
        loader_of([], tokenizer, 2)


class Guesser(torch.nn.Module):
    """Guesses the first token's id modulo 3."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Linear(1, 1)

    def forward(self, input_ids, attention_mask, **others):
        assert "labels" not in others
        assert not self.training
        return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids[:, 0] % 3, 3).float())


def test_scores(tokenizer):
    model = Guesser().train()
    loader = loader_of(encode(TEXTS, LABELS, tokenizer, 8), tokenizer, 3)
    # First tokens 2, 3, 4, 5 give the guesses 2, 0, 1, 2; with these labels two of four are right.
    for batch in loader:
        batch["labels"].copy_(batch["labels"])
    scores = evaluate(model, [{**b, "labels": (b["input_ids"][:, 0] % 3) * (b["labels"] != 1)} for b in loader])
    assert scores["accuracy"] == 1.0
    wrong = evaluate(model, list(loader))
    assert wrong["accuracy"] == 0.0 and wrong["macro_f1"] == 0.0
    assert model.training
