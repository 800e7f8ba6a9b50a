"""A batch as rows: what tells one row from another, and smaller batches of some of the rows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...batching import TOKEN_INPUTS
from ...errors import CacheError
from ...feeding import named_inputs, rebuilt
from ...types import Batch

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_TOLD_BY_REPR = (*_PLAIN, type(...), torch.dtype, torch.device, range, slice)


class Rows:
    """The rows of one batch, on the CPU.

    Args:
        model: names the items of a batch that is a tuple.
        batch: what the model is fed.
        mask: ``(batch, length)``, non-zero where a token is real, or None.

    Attributes:
        number: of rows.
        length: the padded length, or None without a mask.
        lengths: of each row up to its last real token, or None. A row without any is as long as its padding.
        divisible: whether a batch of some of the rows can be made. It cannot where an input holds tensors that have
            neither a row for each row nor a single value.

    Raises:
        CacheError: the batch has no axis of rows, or holds an object whose content can't be told.
    """

    def __init__(self, model: nn.Module, batch: Batch, mask: Tensor | None) -> None:
        self.batch = batch
        named = _named(model, batch)
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
            # Where nothing is real, attention falls on everything.
            self.lengths = torch.where(last == 0, self.length, last).tolist()
        # The labels of an encoder-decoder are a text of their own.
        config: Any = getattr(model, "config", None)
        self._columned = TOKEN_INPUTS - ({"labels"} if getattr(config, "is_encoder_decoder", False) else set())
        self.divisible = all(self._is_divisible(value) for value in self.named.values())

    @property
    def padding(self) -> int:
        """How much of it some row has: 0 none, 1 some, 2 half of its columns or more."""
        if self.length is None or not self.lengths:
            return 0
        return (min(self.lengths) < self.length) + (min(self.lengths) <= self.length // 2)

    def _has_rows(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.number

    def _lists_rows(self, value: Any) -> bool:
        """A list with a text or a number for each row; of tensors or lists it can't be told which way they lie."""
        return type(value) in (list, tuple) and len(value) == self.number and _all_plain(value)

    def _is_divisible(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return value.dim() == 0 or len(value) == self.number
        items = list(value.values()) if isinstance(value, Mapping) else value
        return not isinstance(items, (list, tuple, np.ndarray)) or (
            isinstance(items, (list, tuple)) and _all_plain(items)
        )

    def keys(self, salt: bytes, stripped: bool) -> list[bytes]:
        """16 bytes for each row: a digest of its content, without trailing padding if ``stripped``.

        Args:
            salt: goes into every key: what else the teacher is told.
        """
        lengths = self.lengths if stripped and self.lengths is not None else [0] * self.number
        starts = [salt + bytes([stripped]) + length.to_bytes(4, "little") for length in lengths]
        digests = [hashlib.blake2b(start, digest_size=16) for start in starts]
        if not self.divisible:
            # What all rows share may mean something else to each of them.
            for place, digest in enumerate(digests):
                digest.update(f"row {place} of {self.number}".encode())
        for name, value in sorted(self.named.items(), key=lambda item: str(item[0])):
            for digest, own in zip(digests, self._of_rows(name, value, stripped), strict=True):
                digest.update(own)
        return [digest.digest() for digest in digests]

    def _of_rows(self, name: Any, value: Any, stripped: bool) -> list[bytes]:
        if self._lists_rows(value):
            return [_told_as(name, item) for item in value]
        if not self._has_rows(value):
            return [_told_as(name, value)] * self.number
        # Whole numbers mean the same in any width; booleans are another matter, as ~1 is not ~True.
        as_given = value.is_floating_point() or value.is_complex() or value.dtype is torch.bool
        wide = value if as_given else value.long()
        each = wide[0].numel() * wide.element_size() if self.number else 0
        rows = wide.contiguous().view(torch.uint8).reshape(self.number, each).numpy()
        if not (stripped and self.lengths is not None and self._has_columns(name, value)):
            head = _headed(f"{name} {wide.dtype} {list(wide.shape[1:])}")
            return [head + row.tobytes() for row in rows]
        column = each // max(self.length or 1, 1)
        # How many columns there are is in the key already.
        head = _headed(f"{name} {wide.dtype} columns {list(wide.shape[2:])}")
        return [head + row[: column * length].tobytes() for row, length in zip(rows, self.lengths, strict=True)]

    def _has_columns(self, name: Any, value: Tensor) -> bool:
        return (
            name in self._columned
            and value.dim() > 1
            and value.shape[1] == self.length
            # Labels in fractions are of classes.
            and not (name == "labels" and value.is_floating_point())
        )

    def chosen(self, rows: Sequence[int], trim: bool, length: int | None = None) -> Batch:
        """A batch of some of the rows, cut to the longest of them if ``trim``, or to ``length``."""
        if trim and self.lengths is not None and length is None:
            length = max([1, *(self.lengths[row] for row in rows)])
        everything = list(rows) == list(range(self.number))
        index = torch.tensor(list(rows))

        def part(name: Any, value: Any) -> Any:
            if self._has_rows(value):
                own = value if everything else value[index.to(value.device)]
                return own[:, :length] if length is not None and self._has_columns(name, value) else own
            if self._lists_rows(value) and not everything:
                return type(value)(value[row] for row in rows)
            return value

        return self.like(part)

    def like(self, part: Callable[[Any, Any], Any]) -> Batch:
        """The batch with ``part(name, value)`` in every value's place."""
        return _like(self.batch, self.named, part)


def _like(batch: Batch, names: Mapping[Any, Any], part: Callable[[Any, Any], Any]) -> Batch:
    if isinstance(batch, Mapping):
        changed = {name: part(name, value) for name, value in batch.items()}
        return changed if type(batch) is dict else rebuilt(batch, changed)
    if isinstance(batch, Tensor):
        return part("input", batch)
    values = [part(name, value) for name, value in zip(names, batch, strict=True)]
    return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)


def _named(model: nn.Module, batch: Batch) -> dict[Any, Any]:
    """Every value of the batch by name; an item that ``forward`` has no name for, by its place."""
    if isinstance(batch, Tensor):
        return {"input": batch}
    named: dict[Any, Any] = dict(named_inputs(model, batch))
    if isinstance(batch, (list, tuple)):
        named |= {place: batch[place] for place in range(len(named), len(batch))}
    return named


def _all_plain(items: Any) -> bool:
    return all(isinstance(item, _PLAIN) for item in items)


def _on_host(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _told_as(name: Any, value: Any) -> bytes:
    return _headed(f"{name} {_told(value)!r}")


def _headed(text: str) -> bytes:
    """With its length in front, no text runs into what follows."""
    encoded = text.encode()
    return len(encoded).to_bytes(4, "little") + encoded


def _told(value: Any) -> Any:
    """A value whose ``repr`` tells all of it, the same in every process.

    Raises:
        CacheError: it can't be told.
    """
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().cpu().flatten().tolist())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, _told(value.flatten().tolist()))
    if isinstance(value, np.generic):
        return (str(value.dtype), _told(value.item()))
    if isinstance(value, Mapping):
        return [(_told(key), _told(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_told(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_told(item)) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, _told(getattr(value, field.name))) for field in dataclasses.fields(value)]
    if isinstance(value, _TOLD_BY_REPR):
        return value
    raise CacheError(
        f"a teacher cache can't tell one {type(value).__name__} from another, and the teacher is fed one; leave it out "
        "of the batch, or give tensors, texts, numbers, or lists and dicts of them"
    )


def salt_of(args: Mapping[str, Any]) -> bytes:
    """The extra keywords of a forward pass as bytes.

    Raises:
        CacheError: one can't be told.
    """
    return repr(_told(dict(sorted(args.items())))).encode()
