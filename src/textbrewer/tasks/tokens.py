"""What tasks ask of a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

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


def cut_to(tokenizer: Any, max_length: int, *texts: list[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """Texts, or pairs of them, as a model takes them, and how many tokens each has before it is cut.

    Args:
        tokenizer: of Transformers.
        max_length: of each, special tokens included; of a pair, the longer text is cut first.
        *texts: a list of texts; for pairs, one of the first texts and one of the second.
    """
    found = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
    lengths = [len(ids) for ids in found["input_ids"]]
    full = [i for i, length in enumerate(lengths) if length >= max_length]
    if full:
        whole = tokenizer(*([side[i] for i in full] for side in texts), truncation=False, verbose=False)
        for i, ids in zip(full, whole["input_ids"], strict=True):
            lengths[i] = len(ids)
    features = [
        {key: np.asarray(values[i], dtype=np.int32) for key, values in found.items()} for i in range(len(lengths))
    ]
    return features, lengths


class Frame:
    """The special tokens around a sequence, with token types where the tokenizer has them."""

    def __init__(self, tokenizer: Any) -> None:
        pieces = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = tokenizer("a")
        ids = list(whole["input_ids"])
        at = next(i for i in range(len(ids)) if ids[i : i + len(pieces)] == pieces)
        end = at + len(pieces)
        types = whole.get("token_type_ids")
        self.before, self.after = ids[:at], ids[end:]
        self.types = None if types is None else (list(types[:at]), types[at], list(types[end:]))

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def framed(self, ids: list[int]) -> dict[str, list[int]]:
        """A sequence between its special tokens."""
        found = {"input_ids": [*self.before, *ids, *self.after]}
        if self.types is not None:
            first, inner, last = self.types
            found["token_type_ids"] = [*first, *[inner] * len(ids), *last]
        return found


class WordPieces(Frame):
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
        super().__init__(tokenizer)

    def of(self, words: Iterable[str]) -> list[list[int]]:
        """The token ids of each word."""
        words = list(words)
        new = list(dict.fromkeys(word for word in words if word not in self._known))
        if new:
            found = self.tokenizer([[word] for word in new], is_split_into_words=True, add_special_tokens=False)
            for word, ids in zip(new, found["input_ids"], strict=True):
                self._known[word] = list(ids) or [self._unknown(word)]
        return [self._known[word] for word in words]

    def _unknown(self, word: str) -> int:
        if self.tokenizer.unk_token_id is None:
            raise DataError(f"{type(self.tokenizer).__name__} makes no token of {word!r} and has none for the unknown")
        return int(self.tokenizer.unk_token_id)
