"""Logits on one scale: the student need not reach the size of the teacher's, only their pattern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._reduce import full_precision
from .logits import comparable, kl_loss, ruled_out

_LEAST_DEVIATION = 1e-3


def standardised_logits(logits: Tensor) -> Tensor:
    """``(z − mean z) / max(σ(z), 1e-3)`` for each row, with the mean and the deviation over its classes.

    Classes that are ruled out, of logit −∞ or the −1e4 that adaptors write at padding, are left out of both, stay as
    they are and have no gradient. The deviation has a least value, since a head that starts at zero gives equal logits.

    Args:
        logits: ``(..., classes)``.

    Returns:
        The same shape, in float32 at least.

    Source: 2403.01427.

    >>> standardised_logits(torch.tensor([[5.0, 9.0], [2.0, 2.0]]))
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    logits = full_precision(logits)
    possible = ~ruled_out(logits)
    classes = possible.sum(dim=-1, keepdim=True).clamp(min=1)
    # From the largest, so that equal logits differ by exactly nothing from their mean.
    largest = torch.where(possible, logits, torch.finfo(logits.dtype).min).amax(dim=-1, keepdim=True).detach()
    from_largest = torch.where(possible, logits - largest, 0.0)
    centred = torch.where(possible, from_largest - from_largest.sum(dim=-1, keepdim=True) / classes, 0.0)
    variance = (centred**2).sum(dim=-1, keepdim=True) / classes
    standardised = centred / variance.clamp(min=_LEAST_DEVIATION**2).sqrt()
    return torch.where(possible, standardised, logits.detach())


@dataclass(frozen=True)
class StandardisedLoss:
    """A loss between :func:`standardised_logits`, for ``kd_loss_type``.

    ``loss(Z(S), Z(T), τ)``

    It counts what the loss counts, and needs the labels that the loss needs.

    Args:
        loss: ``f(logits_S, logits_T, temperature)``, such as :func:`~textbrewer.losses.dkd_loss`.

    Source: 2403.01427.

    >>> loss = StandardisedLoss(kl_loss)
    >>> loss.__name__, loss(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])).item() < 1e-6
    ('standardised_kl_loss', True)
    """

    loss: Callable[..., Tensor]
    __name__: str = field(init=False, repr=False, compare=False)
    # What it counts and needs is read through this, as of functools.wraps.
    __wrapped__: Callable[..., Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", f"standardised_{getattr(self.loss, '__name__', 'custom')}")
        object.__setattr__(self, "__wrapped__", self.loss)

    def __call__(
        self,
        logits_S: Tensor,
        logits_T: Tensor,
        temperature: Tensor | float = 1,
        mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """The loss; see its own arguments, among which ``mask`` is only needed where one is given."""
        sides = comparable(logits_S, logits_T, mask, self.__name__.removesuffix("_loss"))
        student, teacher = (standardised_logits(side) for side in sides)
        given = options if mask is None else {"mask": mask, **options}
        return self.loss(student, teacher, temperature, **given)


def standardised_kl_loss(
    logits_S: Tensor,
    logits_T: Tensor,
    temperature: Tensor | float = 1,
    mask: Tensor | None = None,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """:func:`~textbrewer.losses.kl_loss` of :func:`standardised_logits`.

    ``τ² · mean over valid rows of KL(softmax(Z(T)/τ) ‖ softmax(Z(S)/τ))``, ``Z(z) = (z − mean z) / σ(z)``

    Two logits standardise to ±1 or 0, so that with two classes only their order is left, and no gradient to speak of:
    use ``kl`` there.

    Args:
        logits_S: student, ``(..., classes)``.
        logits_T: teacher, the same shape.
        temperature: τ, a number or ``(...)``.
        mask: ``(...)``, the valid rows.
        count: valid rows of the whole step.

    Raises:
        MatchError: the shapes differ.

    Source: 2403.01427.

    >>> round(standardised_kl_loss(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 7.0, 9.0]])).item(), 6)
    0.0
    """
    return StandardisedLoss(kl_loss)(logits_S, logits_T, temperature, mask, count=count)
