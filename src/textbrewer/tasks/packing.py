"""Documents to blocks of tokens that a model takes, so that little is padded and nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .tokens import Frame, require_fit, require_offsets

# A tokenizer is faster with many texts at once, but a few may be as long as books.
_TEXTS, _CHARACTERS = 256, 2**20
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class Tokens(NamedTuple):
    """Tokens of a document, or of several.

    Attributes:
        ids: what they are, 32 bits each.
        starts: 1 where a word begins, 0 within a word, −1 for a special token, 8 bits each.
    """

    ids: Any
    starts: Any

    def part(self, start: int, stop: int) -> Tokens:
        """Some of them."""
        return Tokens(self.ids[start:stop], self.starts[start:stop])


class Packer:
    """Fills blocks with documents, with a separator between two of them; a long one goes on in the next block.

    Args:
        tokenizer: of Transformers.
        length: tokens of a block, special tokens included.
        words: whether ``starts`` tells words apart; without, every token begins one.

    Raises:
        DataError: the tokenizer's model takes fewer tokens, or its tokens tell of no words.
    """

    def __init__(self, tokenizer: Any, length: int, words: bool) -> None:
        require_fit(tokenizer, length)
        if words:
            require_offsets(tokenizer, "masking whole words")
        self.tokenizer, self.words = tokenizer, words
        self.capacity = length - len(Frame(tokenizer))
        separator = [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
        self.separator = _special(separator)

    def tokenised(self, documents: Iterable[tuple[Any, str]]) -> Iterator[tuple[Any, Tokens]]:
        """The tokens of documents, each with what came with it."""
        for some in _together(documents):
            found = self.tokenizer(
                [text for _, text in some],
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            for i, (place, text) in enumerate(some):
                ids = np.asarray(found["input_ids"][i], dtype=np.int32)
                starts = _starts(found.encodings[i], text) if self.words else [True] * len(ids)
                yield place, Tokens(ids, np.asarray(starts, dtype=np.int8))

    def packed(
        self, documents: Iterable[tuple[Any, Tokens]], skip: int = 0
    ) -> Iterator[tuple[Tokens, tuple[Any, int]]]:
        """Blocks, each with where the next one begins: a document, and how many of its tokens are behind it.

        Args:
            documents: from :meth:`tokenised`.
            skip: tokens of the first one that are left out.
        """
        held: list[Tokens] = []
        size = at = 0
        place: Any = None
        for place, tokens in documents:
            at, skip = skip, 0
            whole = len(tokens.ids)
            if held and at < whole:
                if size + len(self.separator.ids) < self.capacity:
                    held.append(self.separator)
                    size += len(self.separator.ids)
                else:
                    yield _joined(held), (place, at)
                    held, size = [], 0
            while at < whole:
                stop = min(whole, at + self.capacity - size)
                held.append(tokens.part(at, stop))
                size, at = size + stop - at, stop
                if size == self.capacity:
                    yield _joined(held), (place, at)
                    held, size = [], 0
        if held:
            yield _joined(held), (place, at)


def _starts(encoding: Any, text: str) -> list[bool]:
    """At which tokens a word begins: as the tokenizer divides the text, and at every ideograph and behind it.

    Many tokenizers divide at spaces alone, so that a sentence of Chinese is a word to them.
    """
    starts, word_before, end_before = [], None, 0
    for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        before, here = text[start - 1 : start], text[start : start + 1]
        # Tokens that overlap are bytes of one character; and the mark of a space goes with what is behind it.
        goes_on = start < end_before or before.isspace() or not (_IDEOGRAPH.match(before) or _IDEOGRAPH.match(here))
        starts.append(word != word_before or not goes_on)
        word_before, end_before = word, end
    return starts


def _together(documents: Iterable[tuple[Any, str]]) -> Iterator[list[tuple[Any, str]]]:
    held: list[tuple[Any, str]] = []
    size = 0
    for place, text in documents:
        held.append((place, text))
        size += len(text)
        if len(held) == _TEXTS or size >= _CHARACTERS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _special(ids: list[int]) -> Tokens:
    return Tokens(np.asarray(ids, dtype=np.int32), np.full(len(ids), -1, dtype=np.int8))


def _joined(parts: list[Tokens]) -> Tokens:
    return Tokens(np.concatenate([part.ids for part in parts]), np.concatenate([part.starts for part in parts]))


def framed(tokens: Tokens, frame: Frame) -> tuple[Tokens, Any]:
    """A block between the special tokens of a sequence, and its token types, or None."""
    types = None
    if frame.types is not None:
        first, inner, last = frame.types
        types = np.asarray([*first, *[inner] * len(tokens.ids), *last], dtype=np.int32)
    return _joined([_special(frame.before), tokens, _special(frame.after)]), types
