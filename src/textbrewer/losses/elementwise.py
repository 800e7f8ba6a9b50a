"""Losses between outputs taken one by one: several labels at once, and regression.

Outputs are ``(..., outputs)``. A row's loss is the mean over its outputs, and the loss the mean over valid rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import huber_loss as huber
from torch.nn.functional import logsigmoid

from ..errors import MatchError
from ._reduce import masked_mean
from .logits import comparable, cross_entropy_rows, kl_rows, softened


def bce_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """Binary cross-entropy of the student against the teacher, for labels of which any number are true.

    ``τ² · mean over valid rows and labels of −p log q − (1 − p) log(1 − q)``, ``p = σ(T/τ)``, ``q = σ(S/τ)``

    At equality it is the teacher's entropy, not 0: :func:`binary_kl_loss` has the same gradient and is 0 there.

    Args:
        logits_S: student, ``(..., labels)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ.

    Source: 1503.02531, with a sigmoid for each label in place of the softmax.

    >>> bce_loss(torch.zeros(1, 3), torch.zeros(1, 3))  # log 2
    tensor(0.6931)
    """
    student, teacher, tau = softened(logits_S, logits_T, temperature, mask, "bce")
    each = cross_entropy_rows(_yes_or_no(teacher), _yes_or_no(student))
    return masked_mean(each.mean(dim=-1) * tau**2, mask, count=count)


def binary_kl_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """:func:`bce_loss` less the teacher's entropy: a divergence for each label by itself.

    ``τ² · mean over valid rows and labels of p log(p/q) + (1 − p) log((1 − p)/(1 − q))``,
    ``p = σ(T/τ)``, ``q = σ(S/τ)``

    Args:
        logits_S: student, ``(..., labels)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ.

    Source: the logit part of 2308.06453, which adds up over labels where this takes the mean.

    >>> binary_kl_loss(torch.ones(1, 3), torch.ones(1, 3), 4)
    tensor(0.)
    """
    student, teacher, tau = softened(logits_S, logits_T, temperature, mask, "binary_kl")
    each = kl_rows(_yes_or_no(teacher), _yes_or_no(student))
    return masked_mean(each.mean(dim=-1) * tau**2, mask, count=count)


def logit_mse_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """Mean squared difference of the outputs as they are: regression, and matching of logits.

    ``mean over valid rows and outputs of (S − T)²``

    Args:
        logits_S: student, ``(..., outputs)``.
        logits_T: teacher, the same shape.
        temperature: not used: :func:`~textbrewer.losses.kd_mse_loss` divides by it.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ.

    Sources: 1312.6184; over softened probabilities, 2105.08919.

    >>> logit_mse_loss(torch.tensor([[3.0]]), torch.tensor([[1.0]]), 8)
    tensor(4.)
    """
    student, teacher = comparable(logits_S, logits_T, mask, "logit_mse")
    return masked_mean(((student - teacher) ** 2).mean(dim=-1), mask, count=count)


def huber_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    delta: float = 1.0,
    count: Tensor | float | None = None,
) -> Tensor:
    """Huber's loss between the outputs as they are: regression in which few large errors should not rule.

    ``mean over valid rows and outputs of ½ d²`` where ``d = |S − T| ≤ δ``, and of ``δ (d − ½ δ)`` beyond

    Args:
        logits_S: student, ``(..., outputs)``.
        logits_T: teacher, the same shape.
        temperature: not used.
        mask: ``(...)``, the valid rows.
        delta: δ, above 0, in the unit of the outputs.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ, or δ is not above 0.

    Source: Huber, Annals of Mathematical Statistics 35 (1964).

    >>> huber_loss(torch.tensor([[3.0]]), torch.tensor([[0.0]]))
    tensor(2.5000)
    """
    if not 0 < delta < math.inf:
        raise MatchError(f"huber: delta={delta!r}, but a finite number above 0 is needed")
    student, teacher = comparable(logits_S, logits_T, mask, "huber")
    return masked_mean(huber(student, teacher, reduction="none", delta=delta).mean(dim=-1), mask, count=count)


def _yes_or_no(logits: Tensor) -> Tensor:
    """``(log σ(z), log σ(−z))`` on a new last axis."""
    return torch.stack([logsigmoid(logits), logsigmoid(-logits)], dim=-1)
