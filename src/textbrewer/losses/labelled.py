"""Losses between logits that look at the labels: their names are in ``NEEDS_LABELS``.

A negative label stands for none; its row adds nothing, but counts in the mean unless it is masked out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import MatchError
from ._reduce import full_precision, masked_mean
from .logits import kl_rows, softened, valid_rows


def checked_labels(labels: Tensor | None, logits: Tensor, mask: Tensor | None, loss: str) -> Tensor:
    """The labels, −1 where they are negative or masked out.

    Raises:
        MatchError: there are none, they do not fit the logits, or one names a class there is not. On a GPU the last is
            left to the indexing, since reading a label would wait for the device.
    """
    needed, classes = list(logits.shape[:-1]), logits.shape[-1]
    if labels is None:
        raise MatchError(
            f"{loss}: labels {needed} are needed, one class index a row, and there are none; add 'labels' to what "
            "adaptor_S returns, or pass labels="
        )
    if list(labels.shape) != needed or labels.is_floating_point():
        raise MatchError(
            f"{loss}: labels {list(labels.shape)} ({labels.dtype}) do not fit logits {list(logits.shape)}; one class "
            f"index a row is needed, {needed}"
        )
    valid = valid_rows(mask, logits, loss)
    labels = torch.where(labels >= 0 if valid is None else valid & (labels >= 0), labels, -1)
    if labels.numel() and not labels.is_cuda and int(labels.max()) >= classes:
        raise MatchError(
            f"{loss}: label {int(labels.max())}, but the logits {list(logits.shape)} have {classes} classes "
            f"(0..{classes - 1}); mark rows without a label by a negative one, as in -100"
        )
    return labels


def dkd_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 8.0,
    count: Tensor | float | None = None,
) -> Tensor:
    """Decoupled distillation: what the teacher says of the true class, and of the others among themselves.

    ``τ² · mean over valid rows of α KL(b_T ‖ b_S) + β KL(p̂_T ‖ p̂_S)``, with ``b = (p_y, 1 − p_y)`` for the label y,
    ``p̂`` the softmax over the other classes, ``p = softmax(·/τ)``

    :func:`~textbrewer.losses.kl_loss` is the same with α = 1 and ``β = 1 − p_y`` of the teacher: sure teachers say
    little of the other classes there. With two classes the second part is 0.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        labels: ``(...)``, integers; a row with a negative one adds nothing.
        alpha: α, the weight of the true class.
        beta: β, the weight of the others; its authors take 8 on CIFAR-100 with τ = 4, and 0.5 on ImageNet with τ = 1.
        count: valid rows of the whole step.

    Raises:
        MatchError: no labels, labels or shapes that do not fit, or a label outside the classes.

    Source: DKD, 2203.08679.

    >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
    >>> dkd_loss(logits, logits, 4, labels=torch.tensor([0]))
    tensor(0.)
    """
    student, teacher, tau = softened(logits_S, logits_T, temperature, mask, "dkd")
    labels = checked_labels(labels, student, mask, "dkd")
    (binary_S, others_S), (binary_T, others_T) = _decoupled(student, labels), _decoupled(teacher, labels)
    rows = alpha * kl_rows(binary_T, binary_S) + beta * kl_rows(others_T, others_S)
    return masked_mean(torch.where(labels >= 0, rows, 0.0) * tau**2, mask, count=count)


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``(log p_y, log(1 − p_y))``, and the log-softmax over the other classes, −∞ for the label's."""
    is_label = _one_hot(labels, logits)
    log_p = logits.log_softmax(dim=-1)
    of_label = log_p.gather(-1, labels.clamp(min=0).unsqueeze(-1))
    # A softmax over no class at all is NaN, and so is the gradient of its logarithm.
    some = ((logits > -torch.inf) & ~is_label).any(dim=-1, keepdim=True)
    left, log_left = (torch.where(some, torch.where(is_label, -torch.inf, side), 0.0) for side in (logits, log_p))
    rest = torch.where(some, log_left.logsumexp(dim=-1, keepdim=True), -torch.inf)
    log_others = torch.where(some, left.log_softmax(dim=-1), -torch.inf)
    return torch.cat([of_label, rest], dim=-1), log_others


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """Where a class is that of the label, in the shape of the logits."""
    return torch.arange(logits.shape[-1], device=logits.device) == labels.unsqueeze(-1)


def tf_kd_loss(
    logits_S: Tensor,
    logits_T: Tensor | None = None,
    temperature: Tensor | float = 20,
    mask: Tensor | None = None,
    *,
    labels: Tensor | None = None,
    correct: float = 0.99,
    count: Tensor | float | None = None,
) -> Tensor:
    """Divergence from a teacher that is written down: sure of the label, and even about the other classes.

    ``τ² · mean over valid rows of KL(softmax(log u / τ) ‖ softmax(S/τ))``, with ``u_y = a`` for the label y and
    ``u_c = (1 − a)/(C − 1)`` for the other of C classes

    With τ = 1 and ``a = 1 − ε (C − 1)/C`` it is cross-entropy with labels smoothed by ε, less a constant. Beside hard
    labels and with a large τ it is the regularisation of the paper, whose code softens ``u`` rather than ``log u``, and
    leaves the student at τ = 1.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: not used; taken so that the loss can stand in for others.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        labels: ``(...)``, integers; a row with a negative one adds nothing.
        correct: a, the probability of the label's class, between 0 and 1.
        count: valid rows of the whole step.

    Raises:
        MatchError: no labels, labels that do not fit, a label outside the classes, a single class, or ``correct``
            outside (0, 1).

    Source: Tf-KD (its manually designed teacher), 1909.11723; label smoothing, 1512.00567.

    >>> student = torch.tensor([[0.99, 0.01]]).log()
    >>> round(tf_kd_loss(student, labels=torch.tensor([0])).item(), 4)
    0.0
    """
    if not 0 < correct < 1:
        raise MatchError(f"tf_kd: correct={correct!r}, but a number between 0 and 1 is needed")
    classes = logits_S.shape[-1]
    if classes < 2:
        raise MatchError(f"tf_kd: at least two classes are needed, got logits {list(logits_S.shape)}")
    labels = checked_labels(labels, logits_S, mask, "tf_kd")
    others = torch.full_like(full_precision(logits_S), math.log((1 - correct) / (classes - 1)))
    written = others.masked_fill(_one_hot(labels, logits_S), math.log(correct))
    student, teacher, tau = softened(logits_S, written, temperature, mask, "tf_kd")
    rows = kl_rows(teacher.log_softmax(dim=-1), student.log_softmax(dim=-1))
    return masked_mean(torch.where(labels >= 0, rows, 0.0) * tau**2, mask, count=count)
