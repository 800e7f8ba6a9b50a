"""The teacher's features as a Gaussian around what the student makes of them, with a variance that is learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.parameter import UninitializedParameter

from ..errors import MatchError
from ..projections import Unshaped
from ._reduce import full_precision, masked_mean
from .features import _both, _optional_mask, _require_same

_LEAST_VARIANCE = 1e-5


class VariationalLoss(Unshaped):
    """Negative log-likelihood of the teacher's features under a Gaussian (``count``: tokens).

    ``mean over valid tokens and width of ½ (log σ² + (T − μ)² / σ²)``, without the constant ``½ log 2π``;
    ``σ² = softplus(α) + 1e-5``, one for each of the teacher's channels, and ``α`` is trained with the student

    Channels that the student cannot foretell come to weigh little. The mean ``μ`` is the student's feature as the match
    projects it: ``proj`` is the paper's mean network, and is trained too. Not zero where both sides are equal, and
    below zero for small variances.

    Args:
        width: the teacher's; None takes it from the first features seen.
        variance: ``σ²`` at the start.

    Raises:
        MatchError: ``variance`` is too small to start from.

    Source: VID, 1904.05835.

    >>> loss = VariationalLoss(width=2, variance=1.0)
    >>> round(loss(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)).item(), 6)
    0.5
    """

    count_unit = "tokens"

    def __init__(self, width: int | None = None, variance: float = 5.0) -> None:
        super().__init__()
        if not _LEAST_VARIANCE < variance < math.inf:
            raise MatchError(f"vid: variance={variance!r}, but a finite number above {_LEAST_VARIANCE} is needed")
        self.__name__ = "vid"
        self.variance = variance
        self.alpha: Any = UninitializedParameter() if width is None else nn.Parameter(self._start(width))

    def _start(self, width: int) -> Tensor:
        """The ``α`` whose softplus is the variance to start from."""
        start = self.variance - _LEAST_VARIANCE
        return torch.full((width,), start + math.log(-math.expm1(-start)))

    def forward(
        self, state_S: Tensor, state_T: Tensor, mask: Tensor | None = None, *, count: Tensor | float | None = None
    ) -> Tensor:
        """The loss.

        Args:
            state_S: the student's feature, projected: the mean, ``(batch, length, width)``.
            state_T: the teacher's, the same shape.
            mask: ``(batch, length)``.
            count: valid tokens of the whole step.

        Raises:
            MatchError: the shapes differ, or the width is not that of before.
        """
        _require_same(state_S, state_T, "vid")
        valid = _optional_mask(mask, state_S, "vid")
        width = state_T.shape[-1]
        if isinstance(self.alpha, UninitializedParameter):
            with torch.no_grad():
                self.alpha.materialize((width,), device=state_T.device)
                self.alpha.copy_(self._start(width))
        if self.alpha.shape[0] != width:
            raise MatchError(f"vid: a teacher of width {width}, but VariationalLoss has width {self.alpha.shape[0]}")
        mean, teacher = _both(full_precision(state_S), full_precision(state_T), valid)
        variance = softplus(self.alpha) + _LEAST_VARIANCE
        each = 0.5 * (variance.log() + (teacher - mean) ** 2 / variance)
        return masked_mean(each.mean(dim=-1), valid, count=count)
