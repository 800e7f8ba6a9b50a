"""A row's part of a teacher's output as bytes, and batches of such rows.

A record is the values, then what they are: their type, shape, which axes are as long as the text, and what stands where
the text has ended.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CacheError
from ...losses import full_precision

DTYPES: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
"""The types that floating-point outputs can be kept in."""

_TYPES = [*DTYPES.values(), torch.int64, torch.bool]
# Little-endian: the type, whether it is a top-k record, axes, a bit for each axis of tokens, the filling.
_TAIL = struct.Struct("<BBBBf")


@dataclass(frozen=True)
class Shape:
    """What the axes of one part mean.

    Attributes:
        token_axes: of a row's axes, those as long as the text.
        fill: what stands in them behind the end of a text.
    """

    token_axes: tuple[int, ...] = ()
    fill: float = 0.0


def packed(values: Tensor, shape: Shape, lengths: Sequence[int] | None, dtype: torch.dtype, top_k: int) -> list[bytes]:
    """One record for each row.

    Args:
        values: ``(rows, ...)``.
        shape: of its axes.
        lengths: of the rows' texts; token axes are cut to them. None keeps all.
        dtype: of floating-point values; one that cannot hold a finite value is replaced by float32.
        top_k: keep the largest so many of the last axis, if it is none of tokens, and the logarithm of the sum of the
            others' exponentials; 0 keeps all.
    """
    if top_k and values.shape[-1] > top_k + 1 and values.dim() - 2 not in shape.token_axes:
        return _packed_largest(values, shape, lengths, dtype, top_k)
    kept = _narrowed(values, dtype)
    raw = _raw(kept)
    records = []
    for row in range(len(values)):
        own = raw[row]
        if lengths is not None:
            own = own[_until(shape.token_axes, lengths[row], own.ndim)]
        records.append(np.ascontiguousarray(own).tobytes() + _tail(kept.dtype, 0, own.shape, shape))
    return records


def _packed_largest(
    values: Tensor, shape: Shape, lengths: Sequence[int] | None, dtype: torch.dtype, k: int
) -> list[bytes]:
    wide = full_precision(values)
    largest, index = wide.topk(k, dim=-1)
    others = wide.scatter(-1, index, -torch.inf).logsumexp(dim=-1)
    kept, tail = _narrowed(largest, dtype), others.unsqueeze(-1)
    parts = [_raw(kept), _raw(index.int()), _raw(tail.float())]
    records = []
    for row in range(len(values)):
        own = [part[row] for part in parts]
        if lengths is not None:
            own = [part[_until(shape.token_axes, lengths[row], part.ndim)] for part in own]
        dims = (*own[0].shape[:-1], values.shape[-1])
        data = b"".join(np.ascontiguousarray(part).tobytes() for part in own)
        records.append(data + _tail(kept.dtype, k, dims, shape))
    return records


def batched(records: Sequence[memoryview | bytes], length: int | None, pinned: bool = False) -> Tensor:
    """The rows of records as one tensor, token axes padded to ``length``.

    Of a top-k record the values that were left out share the sum of their exponentials evenly, so that the probability
    of all of them together is kept.

    Raises:
        CacheError: the rows differ in an axis that is none of tokens.
    """
    heads = [_head(record) for record in records]
    first = heads[0]
    if len({head.other_dims for head in heads}) > 1:
        shapes = sorted({head.dims for head in heads})
        raise CacheError(
            f"the teacher gave one row a part of shape {list(shapes[0])} and another one of {list(shapes[-1])}; a "
            "teacher cache needs parts whose shape depends on nothing but the length of the padded text"
        )
    dims = tuple(
        max(head.dims[axis] for head in heads) if length is None or not first.is_token_axis(axis) else length
        for axis in range(len(first.dims))
    )
    alike = all(head.dtype == first.dtype for head in heads) and _holds(first.dtype, first.fill)
    dtype = first.dtype if alike else torch.float32
    whole = all(head.dims == dims for head in heads)
    values = torch.empty((len(records), *dims), dtype=dtype, pin_memory=pinned)
    if not whole:
        values.fill_(first.fill)
    target = _raw(values)
    for row, (record, head) in enumerate(zip(records, heads, strict=True)):
        place: Any = (row, *(slice(size) for size in head.dims))
        if head.k:
            values[place] = _unpacked_largest(record, head).to(dtype)
        elif head.dtype == dtype:
            target[place] = head.array(record)
        else:
            values[place] = _as_tensor(head.array(record), head.dtype).to(dtype)
    return values


@dataclass(frozen=True)
class _Head:
    dtype: torch.dtype
    k: int
    dims: tuple[int, ...]
    token_axes: int
    fill: float

    @property
    def other_dims(self) -> tuple[int | None, ...]:
        """The dims, with None for those that are as long as the text."""
        return tuple(None if self.is_token_axis(axis) else size for axis, size in enumerate(self.dims))

    def is_token_axis(self, axis: int) -> bool:
        return bool(self.token_axes >> axis & 1)

    def array(self, record: memoryview | bytes) -> Any:
        return np.frombuffer(record, _numpy_type(self.dtype), count=int(np.prod(self.dims))).reshape(self.dims)


def _tail(dtype: torch.dtype, k: int, dims: Sequence[int], shape: Shape) -> bytes:
    axes = sum(1 << axis for axis in shape.token_axes)
    sizes = np.array([k, *dims], dtype="<u4").tobytes()
    return sizes + _TAIL.pack(_TYPES.index(dtype), bool(k), len(dims), axes, shape.fill)


def _head(record: memoryview | bytes) -> _Head:
    kind, _, number, axes, fill = _TAIL.unpack(record[-_TAIL.size :])
    start = len(record) - _TAIL.size - 4 * (number + 1)
    k, *dims = np.frombuffer(record, "<u4", count=number + 1, offset=start).tolist()
    return _Head(_TYPES[kind], k, tuple(dims), axes, fill)


def _unpacked_largest(record: memoryview | bytes, head: _Head) -> Tensor:
    *above, classes = head.dims
    number = int(np.prod(above, dtype=int))
    kept = np.frombuffer(record, _numpy_type(head.dtype), count=number * head.k)
    index = np.frombuffer(record, "<i4", count=number * head.k, offset=kept.nbytes)
    others = np.frombuffer(record, "<f4", count=number, offset=kept.nbytes + index.nbytes)
    each = torch.from_numpy(others.copy()).reshape(*above, 1) - float(np.log(classes - head.k))
    where = torch.from_numpy(index.astype(np.int64)).reshape(*above, head.k)
    largest = full_precision(_as_tensor(kept, head.dtype).reshape(*above, head.k))
    return each.to(largest.dtype).expand(*above, classes).scatter(-1, where, largest)


def _until(token_axes: tuple[int, ...], length: int, number: int) -> tuple[slice, ...]:
    return tuple(slice(length) if axis in token_axes else slice(None) for axis in range(number))


def _narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    if values.dtype is torch.bool:
        return values
    if not values.is_floating_point():
        return values.long()
    kept, most = values.to(dtype), torch.finfo(dtype).max
    # One pass over the values tells that all are in range; infinite ones and NaN are looked at closely.
    in_range = not values.numel() or bool(torch.stack(values.aminmax()).abs().max() <= most)
    overflown = not in_range and bool((kept.isinf() & values.isfinite()).any())
    return values.float() if overflown else kept


def _holds(dtype: torch.dtype, fill: float) -> bool:
    return not dtype.is_floating_point or not math.isfinite(fill) or abs(fill) <= torch.finfo(dtype).max


def _numpy_type(dtype: torch.dtype) -> Any:
    # NumPy has no bfloat16: its bits are moved as whole numbers.
    return np.dtype("<i2") if dtype is torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype


def _raw(values: Tensor) -> Any:
    host = values.detach().cpu()
    return (host.view(torch.int16) if host.dtype is torch.bfloat16 else host).numpy()


def _as_tensor(array: Any, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if dtype is torch.bfloat16 else tensor
