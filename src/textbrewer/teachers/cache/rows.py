"""A batch as rows: what tells one row from another, and smaller batches of some of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CacheError
from ...feeding import named_inputs
from ...types import Batch

TOKEN_INPUTS = frozenset(
    ("input_ids", "attention_mask", "token_type_ids", "position_ids", "special_tokens_mask", "inputs_embeds", "labels")
)
"""The inputs that have a column for each token. Only their trailing padding is left out of a key: another input may be
as wide as the text by chance."""


class Rows:
    """The rows of one batch, on the CPU.

    Args:
        model: names the items of a batch that is a tuple.
        batch: what the model is fed.
        mask: ``(batch, length)``, non-zero where a token is real, or None.

    Attributes:
        number: of rows.
        length: the padded length, or None without a mask.
        lengths: of each row up to its last real token, or None.

    Raises:
        CacheError: the batch has no axis of rows.
    """

    def __init__(self, model: nn.Module, batch: Batch, mask: Tensor | None) -> None:
        self.model, self.batch = model, batch
        named = {"input": batch} if isinstance(batch, Tensor) else named_inputs(model, batch)
        tensors = [value for value in named.values() if isinstance(value, Tensor) and value.dim() > 0]
        if not tensors:
            raise CacheError(
                f"a teacher cache needs batches whose rows can be told apart: a mapping, tuple or list with tensors of "
                f"(batch, ...), got {type(batch).__name__}"
            )
        self.number = len(tensors[0])
        self.named = {name: _on_host(value) for name, value in named.items()}
        self.length: int | None = None
        self.lengths: list[int] | None = None
        if mask is not None and mask.dim() == 2 and len(mask) == self.number:
            self.length = mask.shape[1]
            real = _on_host(mask) != 0
            last = torch.arange(1, self.length + 1).mul(real).amax(dim=1) if self.length else real.sum(dim=1)
            self.lengths = last.tolist()

    def keys(self, salt: bytes, stripped: bool) -> list[bytes]:
        """16 bytes for each row: a digest of its content, without trailing padding if ``stripped``.

        Args:
            salt: goes into every key: what else the teacher is told.
        """
        digests = [hashlib.blake2b(salt + bytes([stripped]), digest_size=16) for _ in range(self.number)]
        for name, value in sorted(self.named.items(), key=lambda item: str(item[0])):
            for digest, own in zip(digests, self._of_rows(name, value, stripped), strict=True):
                digest.update(own)
        return [digest.digest() for digest in digests]

    def _of_rows(self, name: str, value: Any, stripped: bool) -> list[bytes]:
        if not (isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.number):
            if isinstance(value, (list, tuple)) and len(value) == self.number:
                return [f"{name} {_told(item)!r}".encode() for item in value]
            return [f"{name} {_told(value)!r}".encode()] * self.number
        # Whole numbers mean the same in any width.
        wide = value if value.is_floating_point() or value.is_complex() else value.long()
        rows = wide.contiguous().view(torch.uint8).reshape(self.number, wide[0].numel() * wide.element_size()).numpy()
        columns = self.lengths if stripped and self._has_columns(name, value) else None
        each = rows.shape[1] // max(self.length or 1, 1)
        kind = f"{name} {wide.dtype} {list(wide.shape[2:] if columns else wide.shape[1:])}".encode()
        ends = [rows.shape[1]] * self.number if columns is None else [each * column for column in columns]
        return [kind + row[:end].tobytes() for row, end in zip(rows, ends, strict=True)]

    def _has_columns(self, name: str, value: Tensor) -> bool:
        return name in TOKEN_INPUTS and value.dim() > 1 and value.shape[1] == self.length

    def chosen(self, rows: Sequence[int], trim: bool, length: int | None = None) -> Batch:
        """A batch of some of the rows, cut to the longest of them if ``trim``, or to ``length``."""
        if trim and self.lengths is not None and length is None:
            length = max([1, *(self.lengths[row] for row in rows)])
        everything = list(rows) == list(range(self.number))
        index = torch.tensor(list(rows))

        def part(name: Any, value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.number:
                own = value if everything else value[index.to(value.device)]
                return own[:, :length] if length is not None and self._has_columns(name, value) else own
            if isinstance(value, (list, tuple)) and len(value) == self.number and not everything:
                return type(value)(value[row] for row in rows)
            return value

        return self.like(part)

    def like(self, part: Any) -> Batch:
        """The batch with ``part(name, value)`` in every value's place."""
        if isinstance(self.batch, Mapping):
            return {name: part(name, value) for name, value in self.batch.items()}
        if isinstance(self.batch, Tensor):
            return part("input", self.batch)
        names = list(self.named) + [None] * (len(self.batch) - len(self.named))
        return type(self.batch)(part(name, value) for name, value in zip(names, self.batch, strict=True))


def _on_host(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _told(value: Any) -> Any:
    """A value whose ``repr`` tells all of it."""
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().cpu().flatten().tolist())
    if isinstance(value, Mapping):
        return [(str(key), _told(item)) for key, item in value.items()]
    return [_told(item) for item in value] if isinstance(value, (list, tuple)) else value


def salt_of(args: Mapping[str, Any]) -> bytes:
    """The extra keywords of a forward pass as bytes."""
    return repr(_told(dict(sorted(args.items())))).encode()
