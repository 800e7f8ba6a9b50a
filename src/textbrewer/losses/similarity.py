"""How alike two representations of the same tokens are, whatever their widths and rotations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MatchError
from ._reduce import full_precision, masked_mean, only_valid


def cka(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """Linear centred kernel alignment, a number in [0, 1].

    ``‖X̃ᵀ Ỹ‖² / (‖X̃ᵀ X̃‖ ‖Ỹᵀ Ỹ‖)``, Frobenius norms, with ``X̃`` the valid vectors less their mean

    1 for representations that are equal up to a rotation, a scale and a shift. 0 where one of them does not vary.

    Args:
        first: ``(..., width)``, one vector for each token or example.
        second: ``(..., its width)``, of the same tokens.
        mask: ``(...)``, the valid ones.

    Raises:
        MatchError: the shapes do not fit.

    Source: 1905.00414.

    >>> state = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> round(cka(state, 5 * state.flip(1) + 1).item(), 5)
    1.0
    """
    if first.shape[:-1] != second.shape[:-1]:
        raise MatchError(f"cka: {list(first.shape)} and {list(second.shape)} are not vectors of the same tokens")
    if mask is not None and mask.shape != first.shape[:-1]:
        needed = list(first.shape[:-1])
        raise MatchError(f"cka: the mask is {list(mask.shape)}, but the feature {list(first.shape)} needs {needed}")
    dtype = torch.promote_types(full_precision(first).dtype, full_precision(second).dtype)
    valid = None if mask is None else (mask != 0).flatten()
    X, Y = (_centred(side.to(dtype).flatten(0, -2), valid) for side in (first, second))
    shared, own_X, own_Y = (torch.linalg.matrix_norm(a.T @ b) for a, b in ((X, Y), (X, X), (Y, Y)))
    alignment: Tensor = shared**2 / (own_X * own_Y).clamp(min=torch.finfo(dtype).tiny)
    return alignment


def cka_loss(state_S: Tensor, state_T: Tensor, mask: Tensor | None = None) -> Tensor:
    """``1 −`` :func:`cka` of all valid tokens of the batch.

    A statistic of the batch it is given: the parts of an accumulated step are averaged, and are not the whole. Widths
    may differ. With fewer than two valid tokens, which have nothing to compare, it is zero.

    Args:
        state_S: student, ``(batch, length, width)``.
        state_T: teacher, ``(batch, length, its width)``.
        mask: ``(batch, length)``.

    Raises:
        MatchError: the shapes do not fit.

    Source: 1905.00414.

    >>> round(cka_loss(torch.eye(3)[None], torch.eye(3)[None]).item(), 5)
    0.0
    """
    number = state_S.shape[:-1].numel() if mask is None else (mask != 0).sum()
    enough = torch.as_tensor(number, device=state_S.device) >= 2
    return masked_mean(1 - cka(state_S, state_T, mask), enough)


def _centred(vectors: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return vectors - vectors.mean(dim=0)
    vectors = only_valid(vectors, valid)
    return only_valid(vectors - vectors.sum(dim=0) / valid.sum().clamp(min=1), valid)
