"""Losses between summaries of hidden states: where tokens are active, which neurons like which, how wide they spread.

Hidden states are ``(batch, length, width)`` and masks ``(batch, length)``. Padding changes nothing, and ``count`` makes
the parts of an optimiser step the mean of the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize

from ..errors import MatchError
from ._reduce import full_precision, masked_mean, only_valid
from .features import _both, _optional_mask, _require_same


def at_loss(
    state_S: Tensor, state_T: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """Squared distance of the normalised activity of tokens (``count``: rows).

    ``mean over rows of ‖a_S/‖a_S‖ − a_T/‖a_T‖‖²``, ``a_i = Σ_w h_iw²`` for the valid tokens i of a row

    The width takes the place of a picture's channels, and is summed over; the positions are what the map is of. Widths
    of student and teacher may differ. A row without a valid token costs nothing.

    Args:
        state_S: student, ``(batch, length, width)``.
        state_T: teacher, ``(batch, length, its width)``.
        mask: ``(batch, length)``.
        count: rows of the whole step.

    Raises:
        MatchError: the sides are not of one batch.

    Source: AT, 1612.03928, with p = 2; squared, as in its authors' experiments, so that it is smooth at equality.

    >>> at_loss(torch.tensor([[[3.0], [0.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))
    tensor(2.)
    """
    student, teacher, _ = _of_one_batch(state_S, state_T, mask, "at")
    map_S, map_T = (normalize((side**2).sum(dim=-1), dim=-1) for side in (student, teacher))
    return masked_mean(((map_S - map_T) ** 2).sum(dim=-1), count=count)


def nst_polynomial_loss(
    state_S: Tensor, state_T: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """Maximum mean discrepancy between the neurons of both sides, kernel ``(x · y)²`` (``count``: rows).

    ``mean over rows of mean_ij k(t_i, t_j) + mean_ij k(s_i, s_j) − 2 mean_ij k(s_i, t_j)``

    A neuron is one of the ``width`` channels: the vector of its activations at the valid tokens of a row, normalised.
    Widths of student and teacher may differ. A row without a valid token costs nothing.

    Args:
        state_S: student, ``(batch, length, width)``.
        state_T: teacher, ``(batch, length, its width)``.
        mask: ``(batch, length)``.
        count: rows of the whole step.

    Raises:
        MatchError: the sides are not of one batch.

    Source: NST, 1707.01219, with d = 2 and c = 0.

    >>> nst_polynomial_loss(torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [1.0]]]))
    tensor(2.)
    """
    student, teacher, _ = _of_one_batch(state_S, state_T, mask, "nst_polynomial")
    # Σ_ij (x_i · y_j)² is the product of Σ_i x_i x_iᵀ and Σ_j y_j y_jᵀ: no need for all pairs of neurons.
    moment_S, moment_T = (n @ n.transpose(1, 2) / n.shape[-1] for n in (_neurons(student), _neurons(teacher)))
    return masked_mean(((moment_S - moment_T) ** 2).sum(dim=(1, 2)), count=count)


def nst_gaussian_loss(
    state_S: Tensor, state_T: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None
) -> Tensor:
    """:func:`nst_polynomial_loss` with the kernel ``exp(−‖x − y‖² / 2σ²)`` (``count``: rows).

    ``σ²`` is the mean squared distance between the teacher's neurons in that row, so that the kernel stays as it is
    while the student learns.

    Source: NST, 1707.01219.

    >>> nst_gaussian_loss(torch.ones(1, 3, 2), torch.ones(1, 3, 4))
    tensor(0.)
    """
    student, teacher, _ = _of_one_batch(state_S, state_T, mask, "nst_gaussian")
    student, teacher = _neurons(student), _neurons(teacher)
    among_T = _squared_distances(teacher, teacher)
    # Neurons that are all alike have no distance, and any bandwidth will do.
    twice = 2 * among_T.mean(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(among_T.dtype).eps)
    parts = (among_T, _squared_distances(student, student), _squared_distances(student, teacher))
    of_T, of_S, between = ((-distances / twice).exp().mean(dim=(1, 2)) for distances in parts)
    return masked_mean(of_T + of_S - 2 * between, count=count)


def feature_map_loss(
    state_S: Tensor,
    state_T: Tensor,
    mask: Tensor | None = None,
    *,
    mean_weight: float = 50.0,
    variance_weight: float = 0.05,
    count: Tensor | float | None = None,
) -> Tensor:
    """Mean squared difference of layer-normalised hidden states, and of their means and variances (``count``: tokens).

    ``mean over valid tokens of mean_w (N(S) − N(T))² + a (μ_S − μ_T)² + b |σ²_S − σ²_T|``, with ``μ`` and ``σ²`` the
    mean and variance of a token's width, and ``N(X) = (X − μ) / √(σ² + 1e-12)``

    Args:
        state_S: student, ``(batch, length, width)``.
        state_T: teacher, the same shape.
        mask: ``(batch, length)``.
        mean_weight: ``a``; its authors train with weights 100, 5000 and 5 for the three, of which these are the ratios.
        variance_weight: ``b``.
        count: valid tokens of the whole step.

    Raises:
        MatchError: the shapes differ.

    Source: MobileBERT, 2004.02984 (feature map transfer, split into normalised features and statistics); its attention
    transfer is :func:`attention_kl_loss`.

    >>> feature_map_loss(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.0, 2.0]]]))
    tensor(50.)
    """
    _require_same(state_S, state_T, "feature_map")
    valid = _optional_mask(mask, state_S, "feature_map")
    student, teacher = _both(full_precision(state_S), full_precision(state_T), valid)
    normal_S, normal_T = (layer_norm(side, side.shape[-1:], eps=1e-12) for side in (student, teacher))
    means = (student.mean(dim=-1) - teacher.mean(dim=-1)) ** 2
    variances = (student.var(dim=-1, correction=0) - teacher.var(dim=-1, correction=0)).abs()
    each = ((normal_S - normal_T) ** 2).mean(dim=-1) + mean_weight * means + variance_weight * variances
    return masked_mean(each, valid, count=count)


def _of_one_batch(
    state_S: Tensor, state_T: Tensor, mask: Tensor | None, loss: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both sides in one precision and zero at padding, and the valid tokens; widths may differ."""
    if state_S.dim() != 3 or state_T.dim() != 3 or state_S.shape[:2] != state_T.shape[:2]:
        raise MatchError(
            f"{loss}: student {list(state_S.shape)} and teacher {list(state_T.shape)} are not of one batch; both are "
            "(batch, length, width)"
        )
    valid = _optional_mask(mask, state_S, loss)
    dtype = torch.promote_types(full_precision(state_S).dtype, full_precision(state_T).dtype)
    student, teacher = (only_valid(side.to(dtype), valid) for side in (state_S, state_T))
    return student, teacher, valid


def _neurons(state: Tensor) -> Tensor:
    """``(batch, length, width)``, each of the ``width`` columns of unit length."""
    return normalize(state, dim=1)


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Between the columns of both, ``(batch, width of first, width of second)``."""
    squares = (first**2).sum(dim=1)[:, :, None] + (second**2).sum(dim=1)[:, None, :]
    return squares - 2 * first.transpose(1, 2) @ second
