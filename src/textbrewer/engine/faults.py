"""Errors of PyTorch that say little, told in one line with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, OutOfMemoryError, first_line
from ..ranks import Spare


@contextmanager
def step_explained(step: int, window: list[Any]) -> Iterator[None]:
    """Say which batches an optimiser step had when memory ran out, and what takes less; and what a dead device means.

    Args:
        step: optimiser steps taken before it.
        window: its micro-batches.

    Raises:
        OutOfMemoryError: memory ran out.
        DataError: an assertion failed on the device.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        first = first_line(error)
        if "device-side assert" in first:
            raise DataError(
                f"the device stopped in or before optimiser step {step + 1}: {first}. Most often a label or an id is "
                "out of range; the same run with device='cpu' says which"
            ) from error
        is_it = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if not is_it or isinstance(error, OutOfMemoryError):
            raise
        raise OutOfMemoryError(
            f"optimiser step {step + 1} ran out of memory. The largest of its batches: {_largest(window)}. Take "
            "smaller batches and as many more of them with gradient_accumulation_steps, shorter rows, "
            "precision='bf16', or a teacher cache filled beforehand (TeacherCache.build), which leaves the teacher out "
            f"of the step ({first or type(error).__name__})"
        ) from error


@contextmanager
def loader_explained(batches: int) -> Iterator[None]:
    """Say that a worker process of a loader ended.

    Args:
        batches: that this process had seen when the reading began.

    Raises:
        DataError: a worker was killed or left.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "pid" not in str(error):
            raise
        first = first_line(error)
        raise DataError(
            f"the loader lost a worker process, some time after {batches} batches: {first}. Often memory ran out: "
            "use fewer workers, or num_workers=0, where an error of the data set shows itself. What was saved is "
            "whole: train(..., resume='auto') goes on"
        ) from error


def _largest(window: list[Any]) -> str:
    shapes = [_shapes(batch) for batch in window]
    largest = max(shapes, key=lambda each: max((tuple(shape) for _, shape in each), default=()), default=[])
    return ", ".join(f"{name} {list(shape)}" for name, shape in largest) or "without tensors"


def _shapes(batch: Any, name: str = "") -> list[tuple[str, torch.Size]]:
    """The tensors in a batch, however it is made."""
    if isinstance(batch, Spare):
        return _shapes(batch.batch, name)
    if isinstance(batch, Tensor):
        return [(name or "a tensor of", batch.shape)]
    if isinstance(batch, Mapping):
        return [found for key, value in batch.items() for found in _shapes(value, str(key))]
    if isinstance(batch, (tuple, list)):
        return [found for i, value in enumerate(batch) for found in _shapes(value, f"[{i}]")]
    return []
