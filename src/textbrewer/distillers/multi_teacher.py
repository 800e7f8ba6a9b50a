"""Several teachers of one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..configs import DistillationConfig, EnsembleConfig, TrainingConfig
from ..engine.loop import Step
from ..errors import ConfigError, Problem, count_of
from ..matching import MatchLosses, Projections, expanded
from ..teachers import TeacherCache
from ..types import Adaptor
from ._base import Run
from ._lesson import Lesson
from ._matched import MatchedDistiller


class MultiTeacherDistiller(MatchedDistiller):
    """Distil several teachers of one task into one student.

    The student learns from the mean of the teachers' logits, as in TextBrewer 0.2.1, or as ``combine`` and
    ``teacher_weights`` say (:class:`~textbrewer.configs.EnsembleConfig`). A match with ``"teacher": 1`` reads the
    second teacher. A batch may bring each teacher its own part: ``{"teacher": [batch, batch], "student": batch}``.

    Args:
        train_config: how to train.
        distill_config: what to learn.
        model_T: the teachers; they run one after the other in eval mode and without gradients.
        model_S: the student.
        adaptor_T: one adaptor for all teachers or a list with one for each; None for Transformers outputs.
        adaptor_S: the student's.
        combine: ``"logits"``, ``"probabilities"`` or ``"losses"``.
        teacher_weights: ``"uniform"``, a list, ``"confidence"`` or ``"loss"``.
        label_maps: for each teacher None, ``"names"`` or a list of its classes in the student's order.
        teacher_cache: keeps what each teacher gives, so that later epochs and runs need not run it.

    Raises:
        ConfigError: numbers of teachers, adaptors, weights and maps that do not fit each other.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: Sequence[nn.Module],
        model_S: nn.Module,
        adaptor_T: Adaptor | Sequence[Adaptor | None] | None = None,
        adaptor_S: Adaptor | None = None,
        *,
        combine: str = "logits",
        teacher_weights: str | list[float] = "uniform",
        label_maps: Sequence[Any] | None = None,
        teacher_cache: TeacherCache | None = None,
    ) -> None:
        super().__init__(train_config, model_S, teacher_cache)
        self.d_config = distill_config
        several = isinstance(model_T, (list, tuple, nn.ModuleList))
        self.model_T: list[Any] = list(model_T) if several else [model_T]
        self.adaptor_S = adaptor_S
        ensemble = ensemble_of(combine, teacher_weights, label_maps)
        self.adaptors_T = checked_adaptors(adaptor_T, len(self.model_T), ensemble)
        matches = expanded(distill_config.intermediate_matches, self.model_T, model_S)
        self.projections = Projections(matches)
        self.lesson = Lesson(
            *(distill_config, self.model_T, self.adaptors_T, adaptor_S),
            *(matches, self.projections, ensemble, MatchLosses(matches)),
        )

    def _lesson(self, task: str | None) -> Lesson:
        return self.lesson

    def _lessons(self) -> list[Lesson]:
        return [self.lesson]

    def _assemble(self, run: Run) -> Step:
        return self.lesson.assemble(run, self.model_S, self.t_config.data_parallel, self.teacher_cache)


def ensemble_of(combine: str, teacher_weights: Any, label_maps: Sequence[Any] | None) -> EnsembleConfig:
    """The arguments of a distiller as a config."""
    maps = None if label_maps is None else list(label_maps)
    return EnsembleConfig(combine=combine, teacher_weights=teacher_weights, label_maps=maps)


def checked_adaptors(adaptors: Any, teachers: int, ensemble: EnsembleConfig, at: str = "") -> list[Adaptor | None]:
    """An adaptor for each teacher, when all numbers fit.

    Raises:
        ConfigError: with every number that does not.
    """
    problems = []
    if not teachers:
        problems.append(Problem(f"model_T{at}", "at least one teacher", "none"))
    listed = list(adaptors) if isinstance(adaptors, (list, tuple)) else [adaptors] * teachers
    given = {
        f"adaptor_T{at}": listed,
        "teacher_weights": ensemble.teacher_weights if isinstance(ensemble.teacher_weights, list) else None,
        "label_maps": ensemble.label_maps,
    }
    for name, values in given.items():
        if values is not None and len(values) != teachers:
            problems.append(Problem(name, f"one for each of {count_of(teachers, 'teacher')}", f"{len(values)}"))
    if problems:
        raise ConfigError("teachers", problems)
    return listed
