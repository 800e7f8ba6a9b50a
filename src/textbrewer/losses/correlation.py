"""The pattern of predictions rather than their exact values: correlations within and across rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MatchError
from ._reduce import masked_mean
from .logits import softened


def dist_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """Correlation distance of the softened probabilities, of each row over classes and of each class over rows.

    ``τ² (β · mean over valid rows of d(q_r, p_r) + γ · mean over classes of d(q_c, p_c))``, with ``d = 1 − ρ`` and
    Pearson's correlation ρ, ``p = softmax(T/τ)``, ``q = softmax(S/τ)``

    The second part compares the rows of a micro-batch with each other, so that the loss is a mean over micro-batches:
    prefer a large batch to accumulation. Where one side is constant ρ counts as 0 and has no gradient; where both are,
    they agree.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``; with one a row, the τ² of the second part is their mean.
        mask: ``(...)``, the valid rows.
        beta: β, the weight between classes.
        gamma: γ, the weight within a class.

    Raises:
        MatchError: the shapes differ, or there is but one row.

    Source: DIST, 2205.10536; τ² as in its authors' code.

    >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    >>> abs(dist_loss(logits, logits).item()) < 1e-6
    True
    """
    student, teacher, tau = softened(logits_S, logits_T, temperature, mask, "dist")
    q, p = (side.softmax(dim=-1).flatten(0, -2) for side in (student, teacher))
    if q.shape[0] == 1 and gamma:
        raise MatchError(
            f"dist: rows are compared with each other, and the logits {list(logits_S.shape)} have but one; use a "
            "larger batch, and drop_last=True in the loader, or gamma=0"
        )
    if q.numel() == 0:
        return masked_mean(q)
    valid = None if mask is None else mask.flatten() != 0
    squared = (torch.as_tensor(tau, dtype=q.dtype, device=q.device) ** 2).expand(logits_S.shape[:-1]).flatten()
    of_rows = masked_mean(_distances(q, p, None) * squared, valid)
    of_classes = masked_mean(_distances(q.T, p.T, valid)) * masked_mean(squared, valid)
    return beta * of_rows + gamma * of_classes


def _distances(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    """``1 − ρ`` along the last axis, over its valid places."""
    (centred_S, varies_S), (centred_T, varies_T) = _centred(student, valid), _centred(teacher, valid)
    lengths = torch.linalg.vector_norm(centred_S, dim=-1) * torch.linalg.vector_norm(centred_T, dim=-1)
    both = varies_S & varies_T
    correlation = (centred_S * centred_T).sum(dim=-1) / torch.where(both, lengths, 1.0)
    return torch.where(both, 1 - correlation, (varies_S | varies_T).to(student.dtype))


def _centred(values: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Differences from the mean along the last axis, the largest of size 1, and whether there are any."""
    kept = torch.ones_like(values, dtype=torch.bool) if valid is None else valid.expand(values.shape)
    # From the largest, so that a constant differs by exactly nothing from its mean; and scaled, so that the squares of
    # rare classes are not lost. The correlation does not change with either, and so neither has a gradient.
    largest = torch.where(kept, values, 0.0).amax(dim=-1, keepdim=True).detach()
    below = torch.where(kept, values - largest, 0.0)
    mean = below.sum(dim=-1, keepdim=True) / kept.sum(dim=-1, keepdim=True).clamp(min=1)
    centred = torch.where(kept, below - mean, 0.0)
    size = centred.abs().amax(dim=-1, keepdim=True).detach()
    return centred / size.clamp(min=torch.finfo(size.dtype).tiny), size.squeeze(-1) > 0
