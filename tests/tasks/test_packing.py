"""Every token of every document stands in one block, in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="needs the extra `hf`")

import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from tests.tasks.small import SlowTokenizer, tokenizer_of
from textbrewer.errors import DataError
from textbrewer.tasks.packing import Packer, framed
from textbrewer.tasks.tokens import Frame

TOKENIZER = tokenizer_of(["cat", "sat"])
TEXTS = st.lists(st.text(alphabet="abc .", min_size=0, max_size=40), max_size=12)


def blocks_of(texts, length, words=False, tokenizer=TOKENIZER):
    packer = Packer(tokenizer, length, words)
    return packer, list(packer.packed(packer.tokenised(enumerate(texts))))


@settings(deadline=None, max_examples=60)
@given(texts=TEXTS, length=st.integers(4, 12))
def test_every_token_is_there_once(texts, length):
    packer, blocks = blocks_of(texts, length)
    expected = [i for text in texts for i in TOKENIZER(text, add_special_tokens=False)["input_ids"]]
    found = [i for block, _ in blocks for i, start in zip(block.ids, block.starts, strict=True) if start >= 0]
    assert found == expected
    assert all(0 < len(block.ids) <= packer.capacity for block, _ in blocks)
    # At most a separator is missing in any but the last.
    assert all(len(block.ids) >= packer.capacity - 1 for block, _ in blocks[:-1])


@settings(deadline=None, max_examples=60)
@given(texts=TEXTS, length=st.integers(4, 12))
def test_separators_stand_between_documents_and_nowhere_else(texts, length):
    _, blocks = blocks_of(texts, length)
    # Which document each token is of, from the tokens alone.
    owners = [d for d, text in enumerate(texts) for _ in TOKENIZER(text, add_special_tokens=False)["input_ids"]]
    at = 0
    for block, _ in blocks:
        inner = block.starts >= 0
        assert inner[0] and inner[-1] and (block.ids[~inner] == TOKENIZER.sep_token_id).all()
        for here, following in zip(range(len(inner)), range(1, len(inner)), strict=False):
            if inner[here] and inner[following]:
                assert owners[at] == owners[at + 1]
            elif not inner[here]:
                assert owners[at - 1] < owners[at]
            at += bool(inner[here])
        at += 1


@settings(deadline=None, max_examples=40)
@given(texts=TEXTS, length=st.integers(4, 10))
def test_packing_goes_on_behind_any_block(texts, length):
    packer, blocks = blocks_of(texts, length)
    for i, (_, (document, skip)) in enumerate(blocks):
        rest = packer.packed(packer.tokenised(list(enumerate(texts))[document:]), skip)
        again = [(block.ids.tolist(), block.starts.tolist(), place) for block, place in rest]
        assert again == [(block.ids.tolist(), block.starts.tolist(), place) for block, place in blocks[i + 1 :]]


def test_words_begin_where_the_tokenizer_says():
    _, [(block, _)] = blocks_of(["cat dog, sat"], 16, words=True)
    tokens = TOKENIZER.convert_ids_to_tokens(block.ids.tolist())
    assert tokens == ["cat", "d", "##o", "##g", ",", "sat"] and block.starts.tolist() == [1, 1, 0, 0, 1, 1]
    _, [(block, _)] = blocks_of(["cat dog, sat"], 16)
    assert block.starts.tolist() == [1] * 6


@pytest.mark.parametrize("pieces", ["bytes", "characters"])
def test_an_ideograph_is_a_word_wherever_the_tokenizer_divides(pieces):
    if pieces == "bytes":
        divider, letters = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel.alphabet()
    else:
        divider, letters = pre_tokenizers.Metaspace(prepend_scheme="never"), list("▁catdog我们爱。，")
    tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate(["?", *letters])}, [], unk_token="?"))
    tokenizer.pre_tokenizer = divider
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    _, [(block, _)] = blocks_of(["cat我们dog 爱，"], 64, words=True, tokenizer=tokenizer)
    each = 3 if pieces == "bytes" else 1
    character = [1] + [0] * (each - 1)
    # A space belongs to the word behind it; all bytes of a character are one word.
    expected = [1, 0, 0, *character, *character, 1, 0, 0, 1, *[0] * each, *character]
    assert block.starts.tolist() == expected


def test_a_block_is_framed_as_the_tokenizer_frames_a_text():
    _, [(block, _)] = blocks_of(["cat dog"], 16)
    tokens, types = framed(block, Frame(TOKENIZER))
    whole = TOKENIZER("cat dog")
    assert tokens.ids.tolist() == whole["input_ids"] and types.tolist() == whole["token_type_ids"]
    assert tokens.starts.tolist() == [-1, 1, 1, 1, 1, -1] and tokens.ids.dtype == np.int32
    slow = SlowTokenizer(["cat"])
    _, [(block, _)] = blocks_of(["cat cat"], 16, tokenizer=slow)
    tokens, types = framed(block, Frame(slow))
    assert tokens.ids.tolist() == slow("cat cat")["input_ids"] and types is None


def test_what_a_tokenizer_must_tell():
    with pytest.raises(DataError, match="masking whole words needs the place of every token"):
        Packer(SlowTokenizer(), 8, words=True)
    with pytest.raises(DataError, match="max_length=20, but the model of this BertTokenizer takes 16"):
        Packer(tokenizer_of(model_max_length=16), 20, words=False)
