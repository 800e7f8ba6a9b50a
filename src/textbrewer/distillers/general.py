"""One teacher, its soft labels and its intermediate features."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from ..configs import DistillationConfig, TrainingConfig
from ..engine.devices import Placement
from ..engine.loop import Step
from ..matching import Projections, expanded
from ..types import Adaptor
from ._lesson import Lesson
from ._matched import MatchedDistiller


class GeneralDistiller(MatchedDistiller):
    """Distil one teacher by its logits and by matches between intermediate layers.

    Args:
        train_config: how to train.
        distill_config: what to learn; its ``intermediate_matches`` say what is matched.
        model_T: the teacher; run in eval mode and without gradients, and left as it was.
        model_S: the student.
        adaptor_T: ``(batch, model_outputs) -> dict`` for the teacher; None for Transformers outputs.
        adaptor_S: the same for the student.

    Projections are in ``distiller.projections`` from the start, in the order of the matches.

    Raises:
        MatchError: a match names a submodule by a path that is not there.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: nn.Module,
        model_S: nn.Module,
        adaptor_T: Adaptor | None = None,
        adaptor_S: Adaptor | None = None,
    ) -> None:
        super().__init__(train_config, model_S)
        self.d_config = distill_config
        self.model_T = model_T
        self.adaptor_T = adaptor_T
        self.adaptor_S = adaptor_S
        matches = expanded(distill_config.intermediate_matches, [model_T], model_S)
        self.projections = Projections(matches)
        self.lesson = Lesson(distill_config, [model_T], [adaptor_T], adaptor_S, matches, self.projections)

    def _lesson(self, task: str | None) -> Lesson:
        return self.lesson

    def _teachers(self) -> list[nn.Module]:
        return [self.model_T]

    def _assemble(self, placement: Placement, args: Mapping[str, Any], running: ExitStack) -> Step:
        return self.lesson.assemble(self.model_S, placement, self.t_config.data_parallel, args, {}, running)
