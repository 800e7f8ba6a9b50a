"""Schedules of weights over a run, and of temperatures over the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

TemperatureSchedule: TypeAlias = Callable[[Tensor, Tensor, float], Tensor | float]
"""``(logits_S, logits_T, base_temperature) -> τ``; a tensor τ lacks the class axis."""


def linear_growth_weight_scheduler(x: float) -> float:
    """``x``: from 0 at the start of the run to 1 at its end."""
    return x


def linear_decay_weight_scheduler(x: float) -> float:
    """``1 − x``: from 1 at the start of the run to 0 at its end."""
    return 1 - x


def constant_temperature_scheduler(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> float:
    """The base temperature, whatever the logits."""
    return base_temperature


def flsw_temperature_scheduler_builder(beta: float, gamma: float, eps: float = 1e-4, *args: Any) -> TemperatureSchedule:
    """Focal-loss-style weights: hotter rows where the student already agrees with the teacher.

    ``τ = base + β (mean w − w)``, ``w = (1 − cos(S, T))^γ``; the mean is over the batch it is given.

    Args:
        beta: how far τ moves from the base.
        gamma: how sharply rows that disagree stand out.
        eps: added to the norms of the logits.

    Source: 1911.07471.
    """

    def flsw_temperature_scheduler(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> Tensor:
        # A class that is ruled out has a logit of minus infinity, and no direction.
        student, teacher = (torch.where(x.isfinite(), x, 0.0) for x in (logits_S.detach(), logits_T.detach()))
        unit_S = student / (student.norm(dim=-1, keepdim=True) + eps)
        unit_T = teacher / (teacher.norm(dim=-1, keepdim=True) + eps)
        # Rounding may carry a cosine above 1, and a fractional power of a negative number is NaN.
        weights = (1 - (unit_S * unit_T).sum(dim=-1)).clamp(min=0).pow(gamma)
        tau: Tensor = base_temperature + beta * (weights.mean() - weights)
        return tau

    return flsw_temperature_scheduler


def cwsm_temperature_scheduler_builder(beta: float, *args: Any) -> TemperatureSchedule:
    """Confidence-weighted by the student's maximum: hotter rows where the student is confident.

    ``τ = base + β (mean w − w)``, ``w = 1 / (max softmax(S) + 1e-3)``; the mean is over the batch it is given.

    Args:
        beta: how far τ moves from the base.

    Source: 1911.07471.
    """

    def cwsm_temperature_scheduler(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> Tensor:
        largest = torch.softmax(logits_S.detach(), dim=-1).amax(dim=-1)
        weights = 1 / (largest + 1e-3)
        return base_temperature + beta * (weights.mean() - weights)

    return cwsm_temperature_scheduler
