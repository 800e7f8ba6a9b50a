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
        return total / _not_zero(values.numel() if count is None else count)
    if mask.shape != values.shape:
        raise MatchError(f"mask {list(mask.shape)} does not fit the values {list(values.shape)}")
    valid = mask != 0
    total = torch.where(valid, values, torch.zeros_like(values)).sum()
    return total / _not_zero(valid.sum() if count is None else count)


def _not_zero(count: Tensor | float) -> Tensor | float:
    """A step without any valid element divides its zero by one."""
    return torch.where(count == 0, 1, count) if isinstance(count, Tensor) else count or 1


def only_valid(values: Tensor, valid: Tensor | None, fill: float = 0.0) -> Tensor:
    """``values`` with ``fill`` where ``valid`` is false, so that NaN there reaches no gradient on the way to a mean.

    Args:
        values: any shape.
        valid: booleans; axes that are missing on the right apply to all of them. None: everything is valid.
        fill: a number at which the loss is differentiable.
    """
    if valid is None:
        return values
    wide = valid.reshape(valid.shape + (1,) * (values.dim() - valid.dim()))
    return torch.where(wide, values, torch.full_like(values, fill))


def full_precision(tensor: Tensor) -> Tensor:
    """Half precision up to float32: a softmax or a square in 16 bits loses what is being learned."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
