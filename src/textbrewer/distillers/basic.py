"""One teacher, its soft labels, and the student's own losses."""

from __future__ import annotations

import warnings

from torch import nn

from ..configs import DistillationConfig, TrainingConfig
from ..engine.loop import Step
from ..teachers import TeacherCache
from ..types import Adaptor
from ._base import Distiller, Run
from ._lesson import Lesson


class BasicDistiller(Distiller):
    """Distil one teacher by its logits, without intermediate matches.

    Args:
        train_config: how to train.
        distill_config: what to learn; its ``intermediate_matches`` are not used here.
        model_T: the teacher; run in eval mode and without gradients, and left as it was.
        model_S: the student.
        adaptor_T: ``(batch, model_outputs) -> dict`` for the teacher; None for Transformers outputs.
        adaptor_S: the same for the student.
        teacher_cache: keeps what the teacher gives, so that later epochs and runs need not run it.

    >>> from textbrewer import BasicDistiller, DistillationConfig, TrainingConfig
    >>> teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    >>> config = TrainingConfig(output_dir=folder, progress_bar=False)
    >>> adaptor = lambda batch, outputs: {"logits": outputs}
    >>> distiller = BasicDistiller(config, DistillationConfig(), teacher, student, adaptor, adaptor)
    >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    >>> with distiller:
    ...     distiller.train(optimizer, [(torch.ones(2, 4),)], num_epochs=1)
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
        if distill_config.intermediate_matches:
            warnings.warn("BasicDistiller uses no intermediate matches; GeneralDistiller does", stacklevel=2)
        self.lesson = Lesson(distill_config, [model_T], [adaptor_T], adaptor_S)

    def _lessons(self) -> list[Lesson]:
        return [self.lesson]

    def _assemble(self, run: Run) -> Step:
        return self.lesson.assemble(run, self.model_S, self.t_config.data_parallel, self.teacher_cache)
