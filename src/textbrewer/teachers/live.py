"""A teacher that is run for every batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch

from ..adaptors import AdaptedModel
from ..errors import DataError
from ..feeding import ABSENT, Fed
from ..types import ModelOutputs

TeacherSource: TypeAlias = Callable[[Fed, Mapping[str, Any]], ModelOutputs]
"""``(fed, args) -> ModelOutputs``: one live model, an ensemble, or a cache in front of either."""


class LiveTeacher:
    """One model, run without gradients; a batch that brings ready outputs is not run.

    Args:
        adapted: the teacher with its adaptor.
        precision: makes the context of the forward pass, e.g. autocast.
    """

    def __init__(self, adapted: AdaptedModel, precision: Callable[[], AbstractContextManager[Any]]) -> None:
        self.adapted = adapted
        self.precision = precision

    def __call__(self, fed: Fed, args: Mapping[str, Any]) -> ModelOutputs:
        """The teacher's outputs for its part of the batch.

        Raises:
            DataError: the batch has neither a teacher's part nor ready outputs.
        """
        # no_grad, not inference_mode: the objective saves these tensors for its backward.
        with torch.no_grad(), self.precision():
            if fed.teacher_cache is not ABSENT:
                return self.adapted.adapt(fed.teacher, fed.teacher_cache)
            if fed.teacher is None:
                raise DataError("the batch has 'student' but neither 'teacher' nor 'teacher_cache'")
            return self.adapted(fed.teacher, args)
