"""Words to pieces by any tokenizer, one word at a time."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="needs the extra `hf`")

import transformers

from tests.tasks.small import SlowTokenizer, tokenizer_of
from textbrewer.errors import DataError
from textbrewer.tasks.tokens import WordPieces, require_fit, require_offsets

SENTENCES = [["the", "cats", "sat", "."], ["我", "爱", "北", "京"], ["un-happy", "I", "(x)"], ["The", "Ünder"]]


def byte_level(**options):
    from tokenizers import pre_tokenizers

    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return transformers.RobertaTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[], **options)


@pytest.mark.parametrize("tokenizer", [tokenizer_of(["the", "cat"]), byte_level(add_prefix_space=True)])
@pytest.mark.parametrize("words", SENTENCES)
def test_pieces_are_those_of_the_sentence(tokenizer, words):
    pieces = WordPieces(tokenizer)
    whole = tokenizer(words, is_split_into_words=True)
    found = pieces.of(words)
    framed = pieces.framed([piece for word in found for piece in word])
    assert framed == {key: whole[key] for key in framed}
    assert set(framed) == set(whole) - {"attention_mask"}
    assert [i for i, word in enumerate(found) for _ in word] == [i for i in whole.word_ids() if i is not None]


def test_a_tokenizer_in_python_needs_no_offsets():
    tokenizer = SlowTokenizer(["cat"])
    pieces = WordPieces(tokenizer)
    assert pieces.of(["cat", "dog"]) == [[tokenizer.known["cat"]], [tokenizer.unk_token_id]]
    assert pieces.framed([7]) == {"input_ids": [tokenizer.cls_token_id, 7, tokenizer.sep_token_id]}


def test_words_of_nothing_are_unknown():
    tokenizer = tokenizer_of()
    assert WordPieces(tokenizer).of(["\u200b", "a"]) == [[tokenizer.unk_token_id], [tokenizer.vocab["a"]]]


def test_token_types_of_every_part():
    pieces = WordPieces(tokenizer_of())
    pieces.types = ([2], 0, [1])
    assert pieces.framed([7, 8])["token_type_ids"] == [2, 0, 0, 1]


def test_words_must_be_the_same_alone_and_in_a_sentence():
    with pytest.raises(DataError, match="add_prefix_space=True"):
        WordPieces(byte_level(add_prefix_space=False))


def test_limits_and_offsets():
    tokenizer = tokenizer_of(model_max_length=16)
    require_fit(tokenizer, 16)
    with pytest.raises(DataError, match="max_length=17, but the model of this BertTokenizer takes 16 tokens"):
        require_fit(tokenizer, 17)
    require_offsets(tokenizer, "this")
    with pytest.raises(DataError, match=r"this needs the place of every token .* SlowTokenizer does not tell it"):
        require_offsets(SlowTokenizer(), "this")
