"""Losses between logits.

Logits are ``(..., classes)``. A temperature is a number, or a tensor without the class axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MatchError
from ._reduce import full_precision, masked_mean, only_valid


def tempered(logits: Tensor, temperature: Tensor | float) -> Tensor:
    """``logits / temperature``: the one place that applies a temperature."""
    if isinstance(temperature, Tensor) and temperature.dim() > 0:
        if temperature.shape != logits.shape[:-1]:
            raise MatchError(
                f"temperature {list(temperature.shape)} does not fit logits {list(logits.shape)}; "
                f"expected a number or {list(logits.shape[:-1])}"
            )
        temperature = temperature.unsqueeze(-1)
    return logits / temperature


def _require_same(logits_S: Tensor, logits_T: Tensor, loss: str) -> None:
    if logits_S.shape == logits_T.shape:
        return
    student, teacher = list(logits_S.shape), list(logits_T.shape)
    if student[:-1] == teacher[:-1]:
        raise MatchError(
            f"{loss}: the student has {student[-1]} classes (logits {student}) and the teacher {teacher[-1]} (logits "
            f"{teacher}); build the student with the teacher's labels, or leave 'logits' out of an adaptor"
        )
    raise MatchError(f"{loss}: student logits {student} and teacher logits {teacher} differ in shape")


def kd_ce_loss(logits_S: Tensor, logits_T: Tensor, temperature: Tensor | float = 1) -> Tensor:
    """Cross-entropy of the softened student against the softened teacher (TextBrewer's ``ce``).

    ``mean over rows of −Σ_c softmax(T/τ)_c · log softmax(S/τ)_c``

    Odd: the teacher's entropy is missing, so it is not 0 when both sides are equal, and there is no factor τ², so
    its gradient shrinks as τ grows. :func:`kl_loss` has both.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.

    Raises:
        MatchError: the shapes differ.

    Source: Hinton et al., 1503.02531.

    >>> kd_ce_loss(torch.zeros(2, 4), torch.zeros(2, 4))
    tensor(1.3863)
    """
    _require_same(logits_S, logits_T, "kd_ce")
    probabilities = tempered(logits_T, temperature).softmax(dim=-1)
    return masked_mean(-(probabilities * tempered(logits_S, temperature).log_softmax(dim=-1)).sum(dim=-1))


def kd_mse_loss(logits_S: Tensor, logits_T: Tensor, temperature: Tensor | float = 1) -> Tensor:
    """Mean squared difference of the softened logits (TextBrewer's ``mse``).

    ``mean over rows and classes of ((S − T)/τ)²``

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.

    Raises:
        MatchError: the shapes differ.

    >>> kd_mse_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), 2)
    tensor(0.5000)
    """
    _require_same(logits_S, logits_T, "kd_mse")
    return masked_mean(tempered(logits_S - logits_T, temperature) ** 2)


def kl_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of the student from the teacher, with the factor τ².

    ``τ² · mean over valid rows of Σ_c p_c (log p_c − log q_c)``, ``p = softmax(T/τ)``, ``q = softmax(S/τ)``

    It is 0 when both sides are equal, and its gradient keeps its size as τ grows.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ.

    Source: Hinton et al., 1503.02531.

    >>> kl_loss(torch.ones(2, 4), torch.ones(2, 4), 8)
    tensor(0.)
    """
    _require_same(logits_S, logits_T, "kl")
    needed = logits_S.shape[:-1]
    if mask is not None and mask.shape != needed:
        raise MatchError(
            f"kl: mask {list(mask.shape)} does not fit logits {list(logits_S.shape)}: needs {list(needed)}"
        )
    valid = None if mask is None else mask != 0
    temperature = full_precision(temperature) if isinstance(temperature, Tensor) else temperature
    log_p = tempered(only_valid(full_precision(logits_T), valid), temperature).log_softmax(dim=-1)
    log_q = tempered(only_valid(full_precision(logits_S), valid), temperature).log_softmax(dim=-1)
    # A probability of zero times minus infinity is zero in the limit, and NaN in arithmetic.
    rows = torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return masked_mean(rows * temperature**2, mask, count=count)
