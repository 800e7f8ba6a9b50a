"""Several teachers of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..feeding import Fed
from ..types import ModelOutputs
from .live import TeacherSource


class EnsembleTeacher:
    """Runs its teachers one after the other; what none of the terms reads is let go before the next one runs.

    Args:
        teachers: the sources, in the order that matches name them.
    """

    def __init__(self, teachers: Sequence[TeacherSource]) -> None:
        self.teachers = list(teachers)

    def __call__(self, fed: Fed, args: Mapping[str, Any], inputs_mask: Tensor | None = None) -> ModelOutputs:
        """``members`` holds what each teacher gave."""
        number = len(self.teachers)
        given = (teacher(fed.for_teacher(i, number), args, inputs_mask) for i, teacher in enumerate(self.teachers))
        return ModelOutputs(members=tuple(given))
