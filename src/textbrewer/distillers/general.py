"""One teacher, its soft labels and its intermediate features."""

from __future__ import annotations

from torch import nn

from ..configs import DistillationConfig, TrainingConfig
from ..engine.loop import Step
from ..matching import MatchLosses, Projections, expanded
from ..teachers import TeacherCache
from ..types import Adaptor
from ._base import Run
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
        teacher_cache: keeps what the teacher gives, so that later epochs and runs need not run it.

    Projections are in ``distiller.projections`` from the start, in the order of the matches. Losses and a balance with
    parameters or a memory of their own are copied from the config, which stays as it was: what they learn is in
    ``distiller.lesson.losses`` and ``distiller.lesson.balance``.

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
        *,
        teacher_cache: TeacherCache | None = None,
    ) -> None:
        super().__init__(train_config, model_S, teacher_cache)
        self.d_config = distill_config
        self.model_T = model_T
        self.adaptor_T = adaptor_T
        self.adaptor_S = adaptor_S
        matches = expanded(distill_config.intermediate_matches, [model_T], model_S)
        self.projections = Projections(matches)
        losses = MatchLosses(matches)
        self.lesson = Lesson(
            distill_config, [model_T], [adaptor_T], adaptor_S, matches, self.projections, losses=losses
        )

    def _lesson(self, task: str | None) -> Lesson:
        return self.lesson

    def _lessons(self) -> list[Lesson]:
        return [self.lesson]

    def _assemble(self, run: Run) -> Step:
        return self.lesson.assemble(run, self.model_S, self.t_config.data_parallel, self.teacher_cache)
