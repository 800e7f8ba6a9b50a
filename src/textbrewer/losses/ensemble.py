"""Several teachers as one: weights by example, and means of what they say.

Logits are ``(..., classes)``, one tensor a teacher; weights are ``(teachers, ...)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .labelled import checked_labels
from .logits import tempered


def confidence_weights(logits: Sequence[Tensor]) -> Tensor:
    """``1 − H(softmax(T)) / log classes`` for each teacher and row, made to add up to 1 over the teachers.

    A sure teacher weighs more; where none is sure at all, all weigh the same.

    Source: 1702.01802.
    """
    log_p = torch.stack(list(logits)).log_softmax(dim=-1)
    entropy = -torch.where(log_p == -torch.inf, 0.0, log_p.exp() * log_p).sum(dim=-1)
    # A tiny constant keeps rows where every teacher is uniform at equal weights rather than 0 / 0.
    return normalised((1 - entropy / math.log(max(log_p.shape[-1], 2))).clamp(min=0) + 1e-6)


def label_loss_weights(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """``1 / (1 + ℓ)`` for each teacher and row, with ℓ its cross-entropy on the label; 1 where the label is negative.

    A teacher that is wrong about an example weighs less. Not normalised.

    Args:
        logits: each ``(..., classes)``.
        labels: ``(...)``; negative ones are left out.

    Raises:
        MatchError: labels that do not fit the logits, or name a class there is not.

    Source: MT-BERT, 2106.01023.
    """
    each = []
    for of_teacher in logits:
        known = checked_labels(labels, of_teacher, None, "teacher_weights='loss'")
        log_p = of_teacher.log_softmax(dim=-1).gather(-1, known.long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
        each.append(torch.where(known >= 0, -log_p, 0.0))
    return 1 / (1 + torch.stack(each))


def normalised(weights: Tensor) -> Tensor:
    """Weights that add up to 1 over the teachers; equal ones where all are 0."""
    total = weights.sum(dim=0, keepdim=True)
    return torch.where(total != 0, weights / total, 1 / len(weights))


def weighed(values: Tensor, weights: Tensor) -> Tensor:
    """``w v``, and 0 where the weight is 0, whatever the value."""
    return torch.where(weights != 0, values, 0.0) * weights


def mean_logits(logits: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``Σ_t w_t T_t``."""
    return weighed(torch.stack(list(logits)), weights.unsqueeze(-1)).sum(dim=0)


def mean_probabilities(logits: Sequence[Tensor], weights: Tensor, temperature: Tensor | float = 1) -> Tensor:
    """Logits whose softened probabilities are the mean of the teachers': ``τ log Σ_t w_t softmax(T_t / τ)``.

    Args:
        logits: each ``(..., classes)``.
        weights: ``(teachers, ...)``, adding up to 1 over the teachers.
        temperature: τ, a number or ``(...)``.
    """
    softened = torch.stack([tempered(t, temperature).log_softmax(dim=-1) for t in logits])
    mixed = torch.logsumexp(softened + weights.log().unsqueeze(-1), dim=0)
    return tempered(mixed, 1 / temperature)
