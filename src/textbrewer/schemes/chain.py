"""Students that become teachers: assistants between a teacher and a much smaller student, and generations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import nn

from ..configs import DistillationConfig, TrainingConfig
from ..distillers import GeneralDistiller
from ..distillers._base import Distiller
from ..errors import ConfigError, Problem
from ..teachers import TeacherCache
from ..types import Adaptor
from .stages import Stage, Stages

Student: TypeAlias = nn.Module | Callable[[nn.Module], nn.Module]
"""A student, or ``f(its teacher) -> student``, called when its turn comes."""


def teacher_assistants(
    train_config: TrainingConfig,
    distill_config: DistillationConfig | Sequence[DistillationConfig],
    model_T: nn.Module,
    students: Sequence[Student],
    adaptors: Adaptor | Sequence[Adaptor | None] | None = None,
    *,
    teacher_cache: TeacherCache | None = None,
) -> Stages:
    """The teacher teaches the first of ``students``, that one the second, and so on: ``T → A₁ → … → S``.

    A student far smaller than its teacher learns more of one that is smaller itself. The stages are ``assistant-1``,
    ``assistant-2``, …, ``student``; ``stages.train(…)[-1]`` is the student.

    Args:
        train_config: of all stages.
        distill_config: of all stages, or one for each.
        model_T: the teacher.
        students: the assistants from large to small, and at last the student.
        adaptors: one for all models; or a list, of the teacher and of each student; None for Transformers outputs.
        teacher_cache: of all stages; what one teacher gave is told from what another gave.

    Raises:
        ConfigError: numbers of students, configs and adaptors that do not fit.

    Source: 1902.03393.
    """
    names = [f"assistant-{i}" for i in range(1, len(students))] + ["student"]
    return _chain(names, train_config, distill_config, model_T, students, adaptors, teacher_cache)


def born_again(
    train_config: TrainingConfig,
    distill_config: DistillationConfig,
    model_T: nn.Module,
    student: Callable[[nn.Module], nn.Module],
    generations: int = 2,
    adaptor: Adaptor | None = None,
    *,
    teacher_cache: TeacherCache | None = None,
) -> Stages:
    """Generations of one architecture: each learns from the one before it, the first from ``model_T``.

    With ``copy.deepcopy`` as ``student`` each generation begins as its own teacher, which is self-distillation. The
    stages are ``generation-1``, ``generation-2``, …; ``stages.train(…)`` gives the student of each, of which an
    ensemble can be made.

    Args:
        train_config: of all generations.
        distill_config: of all generations; the paper adds the labels, ``hard_label_weight=1``.
        model_T: the first teacher, trained on the labels.
        student: ``f(its teacher) -> student``, a new one each time.
        generations: how many.
        adaptor: of all models; None for Transformers outputs.
        teacher_cache: of all generations.

    Raises:
        ConfigError: less than one generation, or a student that is there already.

    Source: 1805.04770.
    """
    problems = [] if generations >= 1 else [Problem("generations", "at least 1", repr(generations))]
    if isinstance(student, nn.Module) or not callable(student):
        hint = "write lambda teacher: build(), or copy.deepcopy"
        problems.append(Problem("student", "a function of its teacher", type(student).__name__, hint))
    if problems:
        raise ConfigError("born_again", problems)
    names = [f"generation-{i + 1}" for i in range(generations)]
    return _chain(names, train_config, distill_config, model_T, [student] * generations, adaptor, teacher_cache)


def _chain(
    names: Sequence[str],
    train_config: TrainingConfig,
    distill_config: DistillationConfig | Sequence[DistillationConfig],
    model_T: nn.Module,
    students: Sequence[Student],
    adaptors: Any,
    teacher_cache: TeacherCache | None,
) -> Stages:
    configs = list(distill_config) if isinstance(distill_config, Sequence) else [distill_config] * len(students)
    listed = list(adaptors) if isinstance(adaptors, (list, tuple)) else [adaptors] * (len(students) + 1)
    problems = [] if students else [Problem("students", "at least one", "none")]
    if len(configs) != len(students):
        problems.append(Problem("distill_config", f"one, or one for each of {len(students)}", str(len(configs))))
    if len(listed) != len(students) + 1:
        expected = f"one, or one for the teacher and each of {len(students)}"
        problems.append(Problem("adaptors", expected, str(len(listed))))
    if problems:
        raise ConfigError("students that become teachers", problems)
    models = [model_T]

    def stage(place: int) -> Stage:
        def distiller(config: TrainingConfig) -> Distiller:
            given, teacher = students[place], models[place]
            student = given if isinstance(given, nn.Module) else given(teacher)
            models[place + 1 :] = [student]
            own = listed[place : place + 2]
            return GeneralDistiller(config, configs[place], teacher, student, *own, teacher_cache=teacher_cache)

        return Stage(names[place], distiller)

    return Stages(train_config, [stage(place) for place in range(len(students))])
