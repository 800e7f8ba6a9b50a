"""What tasks ask of a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import DataError


def require_fit(tokenizer: Any, max_length: int) -> None:
    """Refuse sequences longer than the tokenizer's model takes.

    Raises:
        DataError: ``max_length`` is above the tokenizer's own limit.
    """
    if max_length > tokenizer.model_max_length:
        raise DataError(
            f"max_length={max_length}, but the model of this {type(tokenizer).__name__} takes "
            f"{tokenizer.model_max_length} tokens; lower max_length"
        )


def require_offsets(tokenizer: Any, purpose: str) -> None:
    """Refuse a tokenizer that cannot say where its tokens stand in a text.

    Raises:
        DataError: it is one in Python, which has no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{purpose} needs the place of every token in the text, and {type(tokenizer).__name__} does not tell it; "
            "use a tokenizer of the `tokenizers` library (is_fast=True)"
        )


class WordPieces:
    """The pieces of words, each tokenised by itself, so that any tokenizer tells which piece is whose.

    A word that the tokenizer makes nothing of, such as a lone control character, is one unknown token.

    Args:
        tokenizer: of Transformers, with or without offsets.

    Raises:
        DataError: the tokenizer makes other tokens of a word alone than of one in a sentence.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        if list(tokenizer("a a", add_special_tokens=False)["input_ids"]) != 2 * self.of(["a"])[0]:
            raise DataError(
                f"{type(tokenizer).__name__} makes other tokens of a word alone than of one after a space; "
                "load it with add_prefix_space=True"
            )
        self.before, self.after, self.types = self._frame()

    def of(self, words: Iterable[str]) -> list[list[int]]:
        """The token ids of each word."""
        words = list(words)
        new = list(dict.fromkeys(word for word in words if word not in self._known))
        if new:
            found = self.tokenizer([[word] for word in new], is_split_into_words=True, add_special_tokens=False)
            for word, ids in zip(new, found["input_ids"], strict=True):
                self._known[word] = list(ids) or [self._unknown(word)]
        return [self._known[word] for word in words]

    def framed(self, ids: list[int]) -> dict[str, list[int]]:
        """Pieces between the special tokens of a sequence, with token types where the tokenizer has them."""
        found = {"input_ids": [*self.before, *ids, *self.after]}
        if self.types is not None:
            first, inner, last = self.types
            found["token_type_ids"] = [*first, *[inner] * len(ids), *last]
        return found

    def _frame(self) -> tuple[list[int], list[int], tuple[list[int], int, list[int]] | None]:
        """The special tokens before and after a sequence, and the token types of the three."""
        pieces = self.of(["a"])[0]
        whole = self.tokenizer(["a"], is_split_into_words=True)
        ids = list(whole["input_ids"])
        at = next(i for i in range(len(ids)) if ids[i : i + len(pieces)] == pieces)
        end = at + len(pieces)
        types = whole.get("token_type_ids")
        return ids[:at], ids[end:], None if types is None else (list(types[:at]), types[at], list(types[end:]))

    def _unknown(self, word: str) -> int:
        if self.tokenizer.unk_token_id is None:
            raise DataError(f"{type(self.tokenizer).__name__} makes no token of {word!r} and has none for the unknown")
        return int(self.tokenizer.unk_token_id)
