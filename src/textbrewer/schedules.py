"""Schedules of weights and temperatures over a run, and of temperatures over the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .losses.logits import ruled_out

RunSchedule: TypeAlias = Callable[[float], float]
"""``progress in [0, 1] -> value``: of a weight, or of a temperature."""

TemperatureSchedule: TypeAlias = Callable[[Tensor, Tensor, float], Tensor | float]
"""``(logits_S, logits_T, base_temperature) -> τ``; a tensor τ lacks the class axis."""


def linear_growth_weight_scheduler(x: float) -> float:
    """``x``: from 0 at the start of the run to 1 at its end."""
    return x


def linear_decay_weight_scheduler(x: float) -> float:
    """``1 − x``: from 1 at the start of the run to 0 at its end."""
    return 1 - x


def linear_weight_scheduler_builder(start: float, end: float, until: float = 1.0) -> RunSchedule:
    """A straight line: ``start + (end − start) · min(1, x / until)``.

    Args:
        start: the value at the start of the run.
        end: the value from ``until`` on.
        until: the part of the run after which nothing changes any more.

    >>> linear_weight_scheduler_builder(8, 2, until=0.5)(0.25)
    5.0
    """

    def linear_weight_scheduler(x: float) -> float:
        return start + (end - start) * _done(x, until)

    return linear_weight_scheduler


def cosine_weight_scheduler_builder(start: float, end: float, until: float = 1.0) -> RunSchedule:
    """Half a cosine: ``start + (end − start) · (1 − cos(π · min(1, x / until))) / 2``.

    The arguments are those of :func:`linear_weight_scheduler_builder`.

    >>> cosine_weight_scheduler_builder(1, 0)(0.5)
    0.5
    """

    def cosine_weight_scheduler(x: float) -> float:
        return start + (end - start) * (1 - math.cos(math.pi * _done(x, until))) / 2

    return cosine_weight_scheduler


def steps_weight_scheduler_builder(start: float, end: float, steps: int) -> RunSchedule:
    """Equal steps from ``start`` to ``end``, each as long: ``start + (end − start) · min(⌊x n⌋, n − 1) / (n − 1)``.

    Args:
        start: the value of the first step.
        end: the value of the last.
        steps: n, how many values there are; of one it is ``start``.

    Source: as a temperature that goes down to 1 step by step, Annealed-KD, 2104.07163: ``["steps", 7, 1, 7]``.

    >>> [steps_weight_scheduler_builder(3, 1, 3)(x) for x in (0, 0.3, 0.5, 1)]
    [3.0, 3.0, 2.0, 1.0]
    """

    def steps_weight_scheduler(x: float) -> float:
        return start + (end - start) * min(int(round(x * steps, 9)), steps - 1) / max(steps - 1, 1)

    return steps_weight_scheduler


def _done(x: float, until: float) -> float:
    """The part that is done of what ends at ``until``."""
    return min(1.0, x / until) if until > 0 else 1.0


_LEAST_TEMPERATURE = 0.1


class Weight:
    """What a term weighs at each moment of a run.

    It begins with ``value``. After each optimiser step ``schedule(progress)`` replaces it, as in TextBrewer 0.2.1.
    Outside of ``active`` it is 0.

    Args:
        value: at the start.
        schedule: of progress in [0, 1], or None.
        active: the part of the run in which the term counts, ``start ≤ progress < end``; None is all of it.

    >>> weight = Weight(2.0, active=(0.5, 1.0))
    >>> weight.advance(0.5)
    >>> weight.now
    2.0
    """

    def __init__(
        self, value: float, schedule: RunSchedule | None = None, active: tuple[float, float] | None = None
    ) -> None:
        self.value = float(value)
        self.schedule = schedule
        self.active = active
        self.progress = 0.0

    @property
    def rests(self) -> bool:
        """Whether this is outside of the term's part of the run."""
        return self.active is not None and not self.active[0] <= self.progress < self.active[1]

    @property
    def now(self) -> float:
        """The weight at this moment."""
        return 0.0 if self.rests else self.value

    @property
    def ever(self) -> bool:
        """Whether it is ever anything but 0."""
        return bool(self.value or self.schedule)

    def advance(self, progress: float) -> None:
        """Move on to ``progress`` in [0, 1]."""
        self.progress = progress
        if self.schedule is not None:
            self.value = float(self.schedule(progress))


def constant_temperature_scheduler(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> float:
    """The base temperature, whatever the logits."""
    return base_temperature


def _around(base: float, beta: float, weights: Tensor) -> Tensor:
    """``max(base + β (mean w − w), 0.1)``."""
    tau: Tensor = base + beta * (weights.mean() - weights)
    return tau.clamp(min=_LEAST_TEMPERATURE)


def flsw_temperature_scheduler_builder(beta: float, gamma: float, eps: float = 1e-4, *args: Any) -> TemperatureSchedule:
    """Focal-loss-style weights: hotter rows where the student already agrees with the teacher.

    ``τ = max(base + β (mean w − w), 0.1)``, ``w = (1 − cos(S, T))^γ``; the mean is over the batch it is given.

    Classes that are ruled out, of logit −∞ or the −1e4 that adaptors write at padding, are left out of the cosine. The
    least temperature is not in TextBrewer 0.2.1, where τ could fall to zero and below.

    Args:
        beta: how far τ moves from the base.
        gamma: how sharply rows that disagree stand out.
        eps: added to the norms of the logits.

    Source: 1911.07471.
    """

    def flsw_temperature_scheduler(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> Tensor:
        # A class that is ruled out has no direction.
        known = ((x, x.isfinite() & ~ruled_out(x)) for x in (logits_S.detach(), logits_T.detach()))
        student, teacher = (torch.where(kept, x, 0.0) for x, kept in known)
        unit_S = student / (student.norm(dim=-1, keepdim=True) + eps)
        unit_T = teacher / (teacher.norm(dim=-1, keepdim=True) + eps)
        # Rounding may carry a cosine above 1, and a fractional power of a negative number is NaN.
        weights = (1 - (unit_S * unit_T).sum(dim=-1)).clamp(min=0).pow(gamma)
        return _around(base_temperature, beta, weights)

    return flsw_temperature_scheduler


def cwsm_temperature_scheduler_builder(beta: float, *args: Any) -> TemperatureSchedule:
    """Confidence-weighted by the student's maximum: hotter rows where the student is confident.

    ``τ = max(base + β (mean w − w), 0.1)``, ``w = 1 / (max softmax(S) + 1e-3)``; the mean is over the batch it is
    given.

    ``w`` is nearly the number of classes where the student is unsure, up to 1000, so that with many classes τ would
    fall below zero: keep β well below base divided by the spread of ``w``. The least temperature is not in
    TextBrewer 0.2.1.

    Args:
        beta: how far τ moves from the base.

    Source: 1911.07471.
    """

    def cwsm_temperature_scheduler(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> Tensor:
        largest = torch.softmax(logits_S.detach(), dim=-1).amax(dim=-1)
        return _around(base_temperature, beta, 1 / (largest + 1e-3))

    return cwsm_temperature_scheduler
