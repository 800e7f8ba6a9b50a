"""What is measured of the student along a run, which of it was best, and when to stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..configs import TrainingConfig
from ..errors import ConfigError, DataError, Problem, unknown_name
from ..modes import modes_kept
from ..randomness import random_state_kept

logger = logging.getLogger("textbrewer")

Evaluate = Callable[[nn.Module], Mapping[str, Any]]
"""``evaluate(student) -> scores by name``, what ``train`` takes."""


@dataclass
class Evaluations:
    """The scores of a run, and what follows from them.

    Attributes:
        config: says which score counts, and how many evaluations without a better one end the run.
        evaluate: gives the scores; None for a run that is not evaluated.
        history: of each evaluation ``{"step": optimiser steps taken, **scores}``.
    """

    config: TrainingConfig
    evaluate: Evaluate | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.evaluate is None:
            wanting = [
                Problem(name, "train(evaluate=...), which gives the scores", "no evaluate")
                for name in ("early_stopping_patience", "load_best_model_at_end", "metric_for_best_model")
                if getattr(self.config, name)
            ]
            if wanting:
                raise ConfigError("TrainingConfig", wanting)

    def measured(self, student: nn.Module) -> dict[str, float]:
        """The student's scores, in eval mode and without gradients.

        Its modes and all random states are left as they were: a run that is evaluated takes the same steps as one
        that is not.

        Raises:
            DataError: ``evaluate`` gave something else than numbers by name.
            ConfigError: the score that counts is not among them.
        """
        if self.evaluate is None:
            return {}
        with modes_kept(student), random_state_kept(), torch.no_grad():
            student.eval()
            given = self.evaluate(student)
        if not isinstance(given, Mapping) or not given:
            raise DataError(f"evaluate: expected a dict of scores by name such as {{'accuracy': 0.9}}, got {given!r}")
        scores = {}
        for name, value in given.items():
            try:
                scores[str(name)] = float(value)
            except (TypeError, ValueError, RuntimeError):
                raise DataError(f"evaluate: expected a number for {name!r}, got {value!r}") from None
        if "step" in scores:
            raise DataError("evaluate: the name 'step' is taken by the optimiser step; call that score something else")
        wanted = self.metric
        if wanted is not None and wanted not in scores:
            raise ConfigError("TrainingConfig", [unknown_name("metric_for_best_model", wanted, scores)])
        return scores

    def add(self, step: int, scores: Mapping[str, float]) -> None:
        """Keep the scores after optimiser step ``step``."""
        self.history.append({"step": step, **scores})
        if math.isnan(self._value(self.history[-1])):
            logger.warning("step %d: %s is NaN, which is never the best", step, self.metric)

    def has(self, step: int) -> bool:
        """Whether the student was evaluated after this step."""
        return any(each["step"] == step for each in self.history)

    @property
    def metric(self) -> str | None:
        """The score that counts: the config's, or the first that ``evaluate`` gives."""
        if self.config.metric_for_best_model is not None or not self.history:
            return self.config.metric_for_best_model
        return next(name for name in self.history[0] if name != "step")

    @property
    def best(self) -> dict[str, Any] | None:
        """The best evaluation, the earliest of equals; None before the first."""
        found = None
        for each in self.history:
            if self._is_better(each, found):
                found = each
        return found

    @property
    def best_step(self) -> int | None:
        """The optimiser step of the best evaluation."""
        return None if self.best is None else int(self.best["step"])

    @property
    def has_stalled(self) -> bool:
        """Whether ``early_stopping_patience`` evaluations in a row were not better than the best before them."""
        patience = self.config.early_stopping_patience
        if patience is None:
            return False
        waited, best = 0, None
        for each in self.history:
            better = self._is_better(each, best, self.config.early_stopping_threshold)
            waited = 0 if better else waited + 1
            best = each if better else best
        return waited >= patience

    def _value(self, scores: Mapping[str, Any]) -> float:
        """The score that counts, so that more is better."""
        metric = str(self.metric)
        more = self.config.greater_is_better
        # As in Transformers: of a loss, less is better.
        more = not metric.endswith("loss") if more is None else more
        return float(scores[metric]) if more else -float(scores[metric])

    def _is_better(self, scores: Mapping[str, Any], than: Mapping[str, Any] | None, by: float = 0.0) -> bool:
        value = self._value(scores)
        if math.isnan(value):
            return False
        return than is None or value - self._value(than) > by
