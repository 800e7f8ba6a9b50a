"""Losses between logits that stand for one distribution over classes, and what all losses between logits share.

Logits are ``(..., classes)``. A temperature is a number, or a tensor without the class axis. A logit of −∞ rules its
class out: the class adds nothing where the side that an expectation is taken over rules it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..errors import MatchError
from ..types import MASKED_LOGIT
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


def ruled_out(logits: Tensor) -> Tensor:
    """Where a class or position is ruled out: −∞, or what adaptors write at padding, as half precision rounds it."""
    return logits <= 0.99 * MASKED_LOGIT


def require_same(logits_S: Tensor, logits_T: Tensor, loss: str) -> None:
    if logits_S.shape == logits_T.shape:
        return
    student, teacher = list(logits_S.shape), list(logits_T.shape)
    if student[:-1] == teacher[:-1]:
        raise MatchError(
            f"{loss}: the student has {student[-1]} classes (logits {student}) and the teacher {teacher[-1]} (logits "
            f"{teacher}); build the student with the teacher's labels, or leave 'logits' out of an adaptor"
        )
    raise MatchError(f"{loss}: student logits {student} and teacher logits {teacher} differ in shape")


def valid_rows(mask: Tensor | None, logits: Tensor, loss: str) -> Tensor | None:
    """Where a mask of the rows is not zero; None for all of them."""
    needed = logits.shape[:-1]
    if mask is not None and mask.shape != needed:
        raise MatchError(
            f"{loss}: mask {list(mask.shape)} does not fit logits {list(logits.shape)}: needs {list(needed)}"
        )
    return None if mask is None else mask != 0


def comparable(logits_S: Tensor, logits_T: Tensor, mask: Tensor | None, loss: str) -> tuple[Tensor, Tensor]:
    """Both sides in one precision, float32 at least; rows that are masked out are zeros.

    Raises:
        MatchError: the shapes differ, or that of the mask.
    """
    require_same(logits_S, logits_T, loss)
    valid = valid_rows(mask, logits_S, loss)
    dtype = torch.promote_types(full_precision(logits_S).dtype, full_precision(logits_T).dtype)
    return only_valid(logits_S.to(dtype), valid), only_valid(logits_T.to(dtype), valid)


def softened(
    logits_S: Tensor, logits_T: Tensor, temperature: Tensor | float, mask: Tensor | None, loss: str
) -> tuple[Tensor, Tensor, Tensor | float]:
    """:func:`comparable` sides, each divided by τ, and τ in full precision."""
    student, teacher = comparable(logits_S, logits_T, mask, loss)
    if isinstance(temperature, Tensor):
        temperature = full_precision(temperature)
    return tempered(student, temperature), tempered(teacher, temperature), temperature


def expectation(log_p: Tensor, values: Tensor) -> Tensor:
    """``Σ_c p_c values_c`` over the last axis; a class of probability zero adds nothing, whatever its value."""
    return (log_p.exp() * torch.where(log_p > -torch.inf, values, 0.0)).sum(dim=-1)


def kl_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``Σ_c p_c (log p_c − log q_c)`` for each row of log-probabilities ``(..., classes)``."""
    return expectation(log_p, log_p - log_q)


def cross_entropy_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``−Σ_c p_c log q_c`` for each row of log-probabilities ``(..., classes)``."""
    return -expectation(log_p, log_q)


def jsd_rows(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """The divergence of :func:`jsd_loss` for each row of log-probabilities ``(..., classes)``, ``p`` the teacher's."""
    if beta == 0:
        return kl_rows(log_p, log_q)
    if beta == 1:
        return kl_rows(log_q, log_p)
    # The logarithm of a sum of zeros has no gradient, and neither side takes the mixture there.
    possible = (log_p > -torch.inf) | (log_q > -torch.inf)
    of_p, of_q = (torch.where(possible, side, 0.0) for side in (log_p, log_q))
    log_m = torch.logaddexp(of_p + math.log(beta), of_q + math.log1p(-beta))
    return beta * kl_rows(log_p, log_m) + (1 - beta) * kl_rows(log_q, log_m)


def _focal_rows(log_p: Tensor, log_q: Tensor, gamma: float, beta: float) -> Tensor:
    divergence = kl_rows(log_p, log_q)
    hardness = divergence + beta * cross_entropy_rows(log_p, log_p)
    # A power below 1 has no gradient at zero, and rounding may fall below it.
    hardness = hardness.clamp(min=torch.finfo(hardness.dtype).tiny)
    return (-torch.expm1(-hardness)) ** gamma * divergence


def _divergence(
    rows: Callable[[Tensor, Tensor], Tensor],
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float,
    mask: Tensor | None,
    count: Tensor | float | None,
    loss: str,
) -> Tensor:
    """``τ² · mean over valid rows of rows(log p, log q)``, ``p`` the teacher's and ``q`` the student's."""
    student, teacher, tau = softened(logits_S, logits_T, temperature, mask, loss)
    return masked_mean(rows(teacher.log_softmax(dim=-1), student.log_softmax(dim=-1)) * tau**2, mask, count=count)


def kd_ce_loss(logits_S: Tensor, logits_T: Tensor, temperature: Tensor | float = 1) -> Tensor:
    """Cross-entropy of the softened student against the softened teacher (TextBrewer's ``ce``).

    ``mean over rows of −Σ_c softmax(T/τ)_c · log softmax(S/τ)_c``

    Odd: the teacher's entropy is missing, so it is not 0 when both sides are equal, and there is no factor τ², so
    its gradient shrinks as τ grows. :func:`kl_loss` has both. A class that the teacher rules out adds nothing.

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
    require_same(logits_S, logits_T, "kd_ce")
    probabilities = tempered(logits_T, temperature).softmax(dim=-1)
    log_q = tempered(logits_S, temperature).log_softmax(dim=-1)
    return masked_mean(-(probabilities * torch.where(probabilities == 0, 0.0, log_q)).sum(dim=-1))


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
    require_same(logits_S, logits_T, "kd_mse")
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

    It is 0 when both sides are equal, and its gradient keeps its size as τ grows. It is infinite where the student
    rules out a class that the teacher does not.

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
    return _divergence(kl_rows, logits_S, logits_T, temperature, mask, count, "kl")


def reverse_kl_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of the teacher from the student, with the factor τ².

    ``τ² · mean over valid rows of Σ_c q_c (log q_c − log p_c)``, ``p = softmax(T/τ)``, ``q = softmax(S/τ)``

    The student pays for what it says and the teacher does not, and may leave out some of what the teacher says. It is
    infinite where the teacher rules out a class that the student does not.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ.

    Source: MiniLLM, 2306.08543.

    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, 0.0]])
    >>> bool(reverse_kl_loss(student, teacher) > kl_loss(student, teacher))
    True
    """
    return _divergence(
        lambda log_p, log_q: kl_rows(log_q, log_p), logits_S, logits_T, temperature, mask, count, "reverse_kl"
    )


def jsd_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    beta: float = 0.5,
    count: Tensor | float | None = None,
) -> Tensor:
    """Generalised Jensen-Shannon divergence of student and teacher, with the factor τ².

    ``τ² · mean over valid rows of β KL(p ‖ m) + (1 − β) KL(q ‖ m)``, ``m = β p + (1 − β) q``,
    ``p = softmax(T/τ)``, ``q = softmax(S/τ)``

    Never above ``τ² log 2``, and finite whatever either side rules out. By convention β = 0 is :func:`kl_loss` and
    β = 1 :func:`reverse_kl_loss`: the formula is 0 there, and it is divided by β, or by 1 − β, that it tends to them.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        beta: β, the weight of the teacher in the mixture, from 0 to 1.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ, or β is outside [0, 1].

    Source: GKD, 2306.13649.

    >>> round(jsd_loss(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])).item(), 4)  # log 2
    0.6931
    """
    if not 0 <= beta <= 1:
        raise MatchError(f"jsd: beta={beta!r}, but a number from 0 to 1 is needed")
    return _divergence(partial(jsd_rows, beta=beta), logits_S, logits_T, temperature, mask, count, "jsd")


def focal_kl_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    gamma: float = 1.0,
    beta: float = 1.0,
    count: Tensor | float | None = None,
) -> Tensor:
    """:func:`kl_loss` in which rows that are hard weigh more.

    ``τ² · mean over valid rows of (1 − e^(−h))^γ KL(p ‖ q)``, ``h = KL(p ‖ q) + β H(p)``,
    ``p = softmax(T/τ)``, ``q = softmax(S/τ)``

    A row is hard to mimic where the student is far from the teacher, and hard to learn where the teacher is unsure.
    The weight is part of the gradient. γ = 0 is :func:`kl_loss`; with β = 1, ``h`` is the cross-entropy.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        gamma: γ, from 0; a higher one looks at hard rows alone.
        beta: β, from 0: how much the teacher's doubt counts.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ, or γ or β is below 0.

    Source: the adaptive distillation loss of 1901.00366, there for single yes-or-no outputs and without τ; its authors'
    code weighs the cross-entropy rather than the divergence.

    >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> bool(focal_kl_loss(student, teacher) < kl_loss(student, teacher))
    True
    """
    for name, value in {"gamma": gamma, "beta": beta}.items():
        if not 0 <= value < math.inf:
            raise MatchError(f"focal_kl: {name}={value!r}, but a finite number from 0 is needed")
    rows = partial(_focal_rows, gamma=gamma, beta=beta)
    return _divergence(rows, logits_S, logits_T, temperature, mask, count, "focal_kl")
