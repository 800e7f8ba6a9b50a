"""The only masked mean of the project, and the precision losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MatchError


def masked_mean(values: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None) -> Tensor:
    """Mean of ``values`` over the elements whose mask is not zero.

    ``Σ values · [mask ≠ 0] / count``

    Args:
        values: any shape.
        mask: the same shape, or None for all elements.
        count: what to divide by; None for the number of valid elements. The valid elements of a whole global
            batch make the sum over micro-batches the mean of that batch.

    Returns:
        A 0-d tensor. Without any valid element it is a zero that is still on the graph.
        NaN and infinity in masked-out places reach neither the value nor the gradient.

    Raises:
        MatchError: the shapes differ.

    >>> masked_mean(torch.tensor([1.0, 5.0, float("nan")]), torch.tensor([1, 1, 0]))
    tensor(3.)
    """
    if mask is None:
        total = values.sum()
        return total / max(values.numel(), 1) if count is None else total / count
    if mask.shape != values.shape:
        raise MatchError(f"mask {list(mask.shape)} does not fit the values {list(values.shape)}")
    valid = mask != 0
    total = torch.where(valid, values, torch.zeros_like(values)).sum()
    return total / (valid.sum().clamp(min=1) if count is None else count)


def full_precision(tensor: Tensor) -> Tensor:
    """Half precision up to float32: a softmax or a square in 16 bits loses what is being learned."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
