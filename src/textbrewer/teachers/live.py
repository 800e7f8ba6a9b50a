"""A teacher that is run for every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adaptors import AdaptedModel
from ..configs import IntermediateMatch
from ..errors import DataError, MatchError
from ..feeding import ABSENT, Fed
from ..types import FEATURES, Batch, ModelOutputs


class TeacherSource(Protocol):
    """One live model, an ensemble, or a cache in front of either."""

    def __call__(self, fed: Fed, args: Mapping[str, Any], inputs_mask: Tensor | None = None, /) -> ModelOutputs:
        """What the teacher knows of a batch.

        Args:
            fed: the parts of the batch.
            args: extra keywords of the forward pass.
            inputs_mask: the student's, which tells whether padding is read.
        """


class LiveTeacher:
    """One model, run without gradients; a batch that brings ready outputs is not run.

    Args:
        adapted: the teacher with its adaptor.
        precision: makes the context of the forward pass, e.g. autocast.
        matches: what is read of its layers; the others are let go at once.
        label_map: the teacher's class for each class of the student, or None for the same classes.
        forward: what to call in the model's place, such as the compiled model.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        precision: Callable[[], AbstractContextManager[Any]],
        matches: Iterable[IntermediateMatch] = (),
        label_map: Sequence[int] | None = None,
        forward: nn.Module | None = None,
    ) -> None:
        self.adapted = adapted
        self.precision = precision
        self.matches = list(matches)
        self.label_map = label_map
        self.forward = forward

    def __call__(self, fed: Fed, args: Mapping[str, Any], inputs_mask: Tensor | None = None) -> ModelOutputs:
        """The teacher's outputs for its part of the batch.

        Raises:
            DataError: the batch has neither a teacher's part nor ready outputs.
        """
        if fed.teacher_cache is not ABSENT:
            with torch.no_grad(), self.precision():
                return self.read(self.adapted.adapt(fed.teacher, fed.teacher_cache))
        if fed.teacher is None:
            raise DataError("the batch has 'student' but neither 'teacher' nor 'teacher_cache'")
        return self.read(self.raw(fed.teacher, args))

    def raw(self, batch: Batch, args: Mapping[str, Any]) -> ModelOutputs:
        """What the adaptor makes of the model's outputs, in the model's own order of classes."""
        # no_grad, not inference_mode: the objective saves these tensors for its backward.
        with torch.no_grad(), self.precision():
            return self.adapted(batch, args, self.forward)

    def read(self, outputs: ModelOutputs) -> ModelOutputs:
        """What the terms read of outputs, in the student's order of classes."""
        kept: dict[str, Any] = {}
        for feature in FEATURES:
            layers = getattr(outputs, feature)
            if isinstance(layers, (list, tuple)) and layers:
                wanted = {index % len(layers) for index in self._layers(feature)}
                kept[feature] = [layer if i in wanted else None for i, layer in enumerate(layers)]
        if self.label_map is not None:
            kept["logits"] = [self._in_order(logits) for logits in outputs.logits]
        return replace(outputs, **kept)

    def _layers(self, feature: str) -> list[int]:
        asked = [match.layer_T for match in self.matches if match.feature == feature]
        flat = [index for layers in asked for index in (layers if isinstance(layers, list) else [layers])]
        return [index for index in flat if isinstance(index, int)]

    def _in_order(self, logits: Tensor) -> Tensor:
        order = list(self.label_map or ())
        if max(order) >= logits.shape[-1]:
            raise MatchError(
                f"{self.adapted.name}: label_map names class {max(order)}, but the logits are {list(logits.shape)}"
            )
        return logits[..., order]
