"""Several tasks, each with its teachers, for one student."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from torch.optim import Optimizer

from ..configs import DistillationConfig, TrainingConfig
from ..engine.evaluation import Evaluate
from ..engine.loop import Step
from ..errors import ConfigError, DataError, Problem, did_you_mean, one_of
from ..feeding import length_of
from ..matching import Copies, MatchLosses, Projections, expanded
from ..objective import Share
from ..ranks import Ranks
from ..stream import Stream
from ..teachers import TeacherCache
from ..types import Adaptor, Batch, LossReport
from ._base import DistillationStep, Run
from ._lesson import Lesson
from ._matched import MatchedDistiller
from .multi_teacher import checked_adaptors, ensemble_of


class TaskBatch(NamedTuple):
    """A batch and the task it is of."""

    task: str
    batch: Batch


class TaskStream:
    """The batches of several loaders: a task is drawn for every batch, with probability ∝ (batches of its loader)^tau.

    The draws are numpy's, from its global state, as in TextBrewer 0.2.1.

    Args:
        loaders: by task; each starts again when it ends.
        tau: 1 draws by size, 0 all tasks alike.
        ranks: the processes; all take batches of the same task at the same time.

    Raises:
        DataError: a loader is empty or has no length.
    """

    def __init__(self, loaders: Mapping[str, Any], tau: float, ranks: Ranks = Ranks()) -> None:  # noqa: B008
        self.loader, self.ranks = dict(loaders), ranks
        self.streams = {task: Stream(loader, ranks) for task, loader in self.loader.items()}
        logs = []
        for task, stream in self.streams.items():
            length = length_of(stream)
            if not length:
                found = "none" if length == 0 else "a loader without a length"
                raise DataError(f"dataloaders[{task!r}]: expected at least one batch, got {found}")
            logs.append(tau * math.log(length))
        # Of the logarithms, since a size to a high power overflows.
        shares = np.exp(np.array(logs) - max(logs))
        self.probabilities = shares / shares.sum()

    def endless(self) -> Iterator[TaskBatch]:
        """Batches without end."""
        streams = {task: stream.endless() for task, stream in self.streams.items()}
        while True:
            task = self.ranks.agree(str(np.random.choice(tuple(streams), p=self.probabilities)))
            yield TaskBatch(task, next(streams[task]))

    def state_dict(self) -> dict[str, Any]:
        """Where each of the streams stands."""
        return {task: stream.state_dict() for task, stream in self.streams.items()}

    def load_state_dict(self, state: Mapping[str, Any], *, within: bool = True) -> None:
        """Go on from there."""
        for task, stream in self.streams.items():
            stream.load_state_dict(state[task], within=within)


class MultiTaskStep:
    """The step of the task that a batch is of."""

    def __init__(self, steps: Mapping[str, DistillationStep]) -> None:
        self.steps = dict(steps)

    def __call__(self, batch: TaskBatch, share: Mapping[str, Share]) -> LossReport:
        return replace(self.steps[batch.task](batch.batch, share[batch.task]), task=batch.task)

    def share(self, window: list[TaskBatch]) -> Mapping[str, Share]:
        """Each task's mean counts by its part of the step's micro-batches."""
        shares = {}
        # In the order of the batches, which is the same in every process.
        own: dict[str, list[Batch]] = {}
        for batch in window:
            own.setdefault(batch.task, []).append(batch.batch)
        for task, batches in own.items():
            share = self.steps[task].share(batches)
            scale = len(window) / len(batches)
            counts = {unit: count * scale for unit, count in share.counts.items()}
            shares[task] = Share(round(share.micro_batches * scale), counts)
        return shares

    def advance(self, progress: float) -> None:
        for step in self.steps.values():
            step.advance(progress)


class MultiTaskDistiller(MatchedDistiller):
    """Distil teachers of several tasks into one student.

    Every argument that is a dict has the tasks as keys. A task may have several teachers: a list in ``model_T``. A loss
    with parameters or a memory that the configs of several tasks share is one; a balance is of each task by itself.

    Args:
        train_config: how to train.
        distill_config: what to learn, of all tasks, which then share their projections; or a dict with one for each.
        model_T: the teachers by task.
        model_S: the student.
        adaptor_T: the teachers' adaptors by task; None for Transformers outputs.
        adaptor_S: the student's adaptors by task; each picks the logits of its task's head.
        task_argument: the keyword by which the student is told the task, e.g. ``"task"``; None tells it nothing.
        combine: as in :class:`MultiTeacherDistiller`, for tasks with several teachers.
        teacher_weights: the same.
        label_maps: the same.
        teacher_cache: keeps what the teachers give, so that later epochs and runs need not run them.

    Raises:
        ConfigError: with every task that lacks something.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig | Mapping[str, DistillationConfig],
        model_T: Mapping[str, Any],
        model_S: nn.Module,
        adaptor_T: Mapping[str, Any] | None = None,
        adaptor_S: Mapping[str, Adaptor] | None = None,
        *,
        task_argument: str | None = None,
        combine: str = "logits",
        teacher_weights: str | list[float] = "uniform",
        label_maps: Any = None,
        teacher_cache: TeacherCache | None = None,
    ) -> None:
        super().__init__(train_config, model_S, teacher_cache)
        if not isinstance(model_T, Mapping) or not model_T:
            problem = Problem("model_T", "a dict of teachers by task", type(model_T).__name__)
            raise ConfigError("MultiTaskDistiller", [problem])
        self.d_config = distill_config
        self.model_T = dict(model_T)
        self.task_argument = task_argument
        by_task = {"adaptor_T": adaptor_T, "adaptor_S": adaptor_S}
        if isinstance(distill_config, Mapping):
            by_task["distill_config"] = distill_config
        _require_tasks(self.model_T, by_task)
        ensemble = ensemble_of(combine, teacher_weights, label_maps)
        self.projections = Projections([])
        self.lessons: dict[str, Lesson] = {}
        copies = Copies()
        for task, given in self.model_T.items():
            teachers = list(given) if isinstance(given, (list, tuple, nn.ModuleList)) else [given]
            single = len(teachers) == 1
            options = ensemble_of("logits", "uniform", None) if single else ensemble
            adaptors = checked_adaptors((adaptor_T or {}).get(task), len(teachers), options, at=f"[{task!r}]")
            config = distill_config[task] if isinstance(distill_config, Mapping) else distill_config
            matches = expanded(config.intermediate_matches, teachers, model_S)
            shared = None if isinstance(distill_config, Mapping) else next(iter(self.lessons.values()), None)
            projections = Projections(matches) if shared is None else shared.projections.shared()
            adaptor = (adaptor_S or {}).get(task)
            losses = MatchLosses(matches, copies) if shared is None else shared.losses.shared()
            self.lessons[task] = Lesson(config, teachers, adaptors, adaptor, matches, projections, options, losses)

    def _lesson(self, task: str | None) -> Lesson:
        if task not in self.lessons:
            hint = did_you_mean(task, self.lessons)
            problem = Problem("task", one_of(self.lessons), repr(task), hint)
            raise ConfigError("add_match", [problem])
        return self.lessons[task]

    def _lessons(self) -> list[Lesson]:
        return list(self.lessons.values())

    def filling(self, cache: TeacherCache, loader: Any, args: Mapping[str, Any]) -> Any:
        """As of every distiller, with a loader a task.

        Raises:
            ConfigError: with every task that lacks a loader.
        """
        _require_tasks(self.lessons, {"dataloaders": loader})
        return super().filling(cache, loader, args)

    def _assemble(self, run: Run) -> Step:
        steps = {}
        for task, lesson in self.lessons.items():
            told = {self.task_argument: task} if self.task_argument else {}
            own = replace(run, rows=run.rows[task] if isinstance(run.rows, Mapping) else None)
            parallel = self.t_config.data_parallel
            steps[task] = lesson.assemble(own, self.model_S, parallel, self.teacher_cache, told)
        return MultiTaskStep(steps)

    def train(  # type: ignore[override]
        self,
        optimizer: Optimizer,
        dataloaders: Mapping[str, Any],
        num_steps: int,
        scheduler_class: Callable[..., Any] | None = None,
        scheduler_args: Mapping[str, Any] | None = None,
        scheduler: Any = None,
        max_grad_norm: float = -1.0,
        tau: float = 1,
        callback: Callable[..., Any] | None = None,
        batch_postprocessors: Mapping[str, Callable[[Batch], Batch]] | None = None,
        resume: str | PathLike[str] | None = None,
        evaluate: Evaluate | None = None,
        **args: Any,
    ) -> None:
        """Train the student on batches of all tasks.

        Args:
            optimizer: holds the student's parameters; projections join it for the run.
            dataloaders: by task; each starts again when it ends.
            num_steps: optimiser steps.
            scheduler_class: called as ``scheduler_class(optimizer, **scheduler_args)``.
            scheduler_args: its arguments.
            scheduler: a scheduler that is already built.
            max_grad_norm: clip the student's gradients to this norm; not above 0: off.
            tau: a task is drawn with probability ∝ (batches of its loader)^tau.
            callback: ``callback(model=student, step=optimiser steps)`` after each checkpoint.
            batch_postprocessors: ``batch -> batch`` by task; a task may be left out.
            resume: as in :meth:`Distiller.train`.
            evaluate: the same.
            **args: extra keywords of every forward pass.

        Raises:
            ConfigError: a task without a loader, or a loader without a task.
            DataError: a loader that is empty or has no length.
        """
        _require_tasks(self.lessons, {"dataloaders": dataloaders})
        _require_tasks(self.lessons, {"batch_postprocessors": batch_postprocessors}, all_of_them=False)
        postprocessors = dict(batch_postprocessors or {})

        def postprocessed(batch: TaskBatch) -> TaskBatch:
            process = postprocessors.get(batch.task)
            return batch if process is None else TaskBatch(batch.task, process(batch.batch))

        self._run(
            TaskStream(dataloaders, tau, Ranks.of(self.t_config)),
            None,
            num_steps,
            optimizer,
            resume=resume,
            evaluate=evaluate,
            scheduler_class=scheduler_class,
            scheduler_args=scheduler_args,
            scheduler=scheduler,
            max_grad_norm=max_grad_norm,
            callback=callback,
            batch_postprocessor=postprocessed if postprocessors else None,
            args=args,
        )


def _require_tasks(tasks: Mapping[str, Any], given: Mapping[str, Any], all_of_them: bool = True) -> None:
    """Refuse dicts whose keys are not the tasks.

    Raises:
        ConfigError: with every task that is missing or unknown.
    """
    problems = []
    for name, values in given.items():
        if values is None:
            continue
        if not isinstance(values, Mapping):
            problems.append(Problem(name, f"a dict with the tasks {list(tasks)}", type(values).__name__))
            continue
        if all_of_them:
            problems += [Problem(f"{name}[{task!r}]", "a value", "nothing") for task in tasks if task not in values]
        for task in values:
            if task not in tasks:
                hint = did_you_mean(task, tasks)
                problems.append(Problem(f"{name}[{task!r}]", one_of(tasks), "a task without a teacher", hint))
    if problems:
        raise ConfigError("tasks", problems)
