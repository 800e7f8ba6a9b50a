"""What every distiller does: assemble a teacher source and an objective, and hand them to the engine."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..adaptors import AdaptedModel
from ..balancing import GradientNorms
from ..batching import trimmed
from ..configs import TrainingConfig
from ..engine import Engine, Schedule
from ..engine.checkpoint import RunState, described, shapes_of
from ..engine.devices import Placement
from ..engine.evaluation import Evaluate
from ..engine.loop import Step
from ..engine.sharding import is_sharded
from ..engine.updates import PlainUpdates, Updates
from ..engine.zero import is_asked_for, spread_by_zero
from ..errors import UnsupportedError
from ..feeding import Fed, length_of, rows_of, sides
from ..losses import CRDLoss
from ..matching import MatchLosses, Projections
from ..modes import modes_kept
from ..objective import Objective, Share, counts_of
from ..randomness import random_state_kept
from ..ranks import Ranks
from ..stream import Stream
from ..teachers import FillJob, TeacherCache, TeacherSource
from ..types import Batch, LossReport

if TYPE_CHECKING:
    from ._lesson import Lesson

logger = logging.getLogger("textbrewer")


@dataclass(frozen=True)
class Run:
    """What a distiller assembles a step from.

    Attributes:
        placement: device, precision and processes.
        args: extra keywords of every forward pass.
        running: takes what must be undone when the run ends.
        rows: of the data, if known; by task where there are several.
    """

    placement: Placement
    args: Mapping[str, Any]
    running: ExitStack
    rows: Any = None


class DistillationStep:
    """One micro-batch: run the student and the teacher source, and ask the objective.

    Args:
        student: the student with its adaptor.
        source: the teacher source, or None to train without a teacher.
        objective: the terms of the loss.
        placement: device and precision.
        forward: what to call in the student's place.
        args: extra keywords of every forward pass.
        student_args: extra keywords of the student's alone.
        trims: cut batches that go to both sides to their longest row.
    """

    def __init__(
        self,
        student: AdaptedModel,
        source: TeacherSource | None,
        objective: Objective,
        placement: Placement,
        forward: nn.Module,
        args: Mapping[str, Any],
        student_args: Mapping[str, Any] | None = None,
        trims: bool = False,
    ) -> None:
        self.student = student
        # Labels of an encoder-decoder are another text than the one that the mask is of.
        self.trims = trims and not getattr(getattr(student, "ready_adaptor", None), "decodes", False)
        self.source = source
        self.objective = objective
        self.placement = placement
        self.forward = forward
        self.args = args
        self.student_args = {**args, **(student_args or {})}
        self._said_uncounted = False

    def __call__(self, batch: Batch, share: Share) -> LossReport:
        fed = self.parts_of(batch).on(self.placement.device)
        with self.placement.autocast():
            of_student = self.student(fed.student, self.student_args, self.forward)
        of_teacher = None if self.source is None else self.source(fed, self.args, of_student.inputs_mask)
        return self.objective(of_student, of_teacher, share)

    def parts_of(self, batch: Batch) -> Fed:
        """What each side is fed, cut to the longest row where that is safe."""
        given = sides(batch)
        return sides(trimmed(batch)) if self.trims and given.teacher is given.student else given

    def mask_of(self, fed: Fed) -> Tensor | None:
        """The mask that the student's adaptor gives for a batch, without a trace of the pass that tells it."""
        with torch.no_grad(), random_state_kept(), self.placement.autocast():
            return self.student(fed.on(self.placement.device).student, self.student_args, self.forward).inputs_mask

    def share(self, window: list[Batch]) -> Share:
        """Equal parts, and the counts of valid units where a term needs them."""
        counted = self.objective.per_element() and (len(window) > 1 or self.placement.ranks.number > 1)
        own = counts_of([self.student.masks(sides(batch).student) for batch in window]) if counted else {}
        if self.placement.ranks.number > 1:
            # Told between processes, where each has a device of its own.
            own = {unit: count.cpu() if isinstance(count, Tensor) else count for unit, count in own.items()}
        every = self.placement.ranks.gather((len(window), own))
        number = sum(batches for batches, _ in every)
        if not counted:
            return Share(number)
        told = [counts for batches, counts in every if batches]
        units = [unit for unit in told[0] if all(unit in counts for counts in told)] if told else []
        if not units and not self._said_uncounted:
            self._said_uncounted = True
            warnings.warn(
                f"{self.student.name} has no `masks(batch)` method, so the means over valid elements are taken in each "
                "of the accumulated batches and then averaged",
                stacklevel=2,
            )
        return Share(number, {unit: sum(counts[unit] for counts in told) for unit in units})

    def advance(self, progress: float) -> None:
        self.objective.advance(progress)


class Distiller(ABC):
    """Base of the distillers; a subclass says which models, which source and which objective.

    Args:
        train_config: how to train.
        model_S: the model that is trained.
        teacher_cache: keeps what the teachers give.
    """

    projections: Projections
    evaluations: list[dict[str, Any]]
    """Of the last run: ``{"step": optimiser steps taken, **scores}``."""

    def __init__(
        self, train_config: TrainingConfig, model_S: nn.Module, teacher_cache: TeacherCache | None = None
    ) -> None:
        self.t_config = train_config
        self.model_S = model_S
        self.teacher_cache = teacher_cache
        self.projections = Projections([])
        self.evaluations = []
        self._context: ExitStack | None = None

    @abstractmethod
    def _assemble(self, run: Run) -> Step:
        """The step of this run."""

    def _lessons(self) -> list[Lesson]:
        """What is taught, a lesson a task; none without a teacher."""
        return []

    def _teachers(self) -> list[nn.Module]:
        return [teacher for lesson in self._lessons() for teacher in lesson.teachers]

    def _trained_beside(self) -> list[Projections | MatchLosses]:
        """What is trained with the student; what lessons share is the first one's."""
        return [part for lesson in self._lessons() for part in (lesson.projections, lesson.losses)]

    @contextmanager
    def filling(self, cache: TeacherCache, loader: Any, args: Mapping[str, Any]) -> Iterator[list[FillJob]]:
        """What :meth:`TeacherCache.build` fills ``cache`` with: teacher sources, and how each gets which batches.

        Raises:
            UnsupportedError: there is no teacher.
        """
        placement = Placement(self.t_config, self.model_S)
        before, self.teacher_cache = self.teacher_cache, cache
        try:
            with ExitStack() as running:
                running.enter_context(self._modes())
                for module in (self.model_S, *self._trained_beside(), *self._teachers()):
                    module.to(placement.device)
                step: Any = self._assemble(Run(placement, args, running, rows_of(loader)))
                several = getattr(step, "steps", None)
                steps = [(step, loader)] if several is None else [(several[task], loader[task]) for task in several]
                if any(one.source is None for one, _ in steps):
                    raise UnsupportedError(f"{type(self).__name__} has no teacher whose outputs could be cached")
                yield [FillJob(one.source, own, args, one.parts_of, one.mask_of) for one, own in steps]
        finally:
            self.teacher_cache = before

    @contextmanager
    def _modes(self) -> Iterator[None]:
        with modes_kept(self.model_S), self.modes_of_teachers():
            self.model_S.train()
            yield

    @contextmanager
    def modes_of_teachers(self) -> Iterator[None]:
        """Teachers in eval mode, and then as they were."""
        teachers = self._teachers()
        with modes_kept(*teachers):
            for teacher in teachers:
                teacher.eval()
            yield

    def __enter__(self) -> Self:
        """Teacher to eval mode, student to train mode."""
        self._context = ExitStack()
        self._context.enter_context(self._modes())
        return self

    def __exit__(self, *exception: object) -> None:
        """Both as they were."""
        if self._context is not None:
            self._context.close()

    def train(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        num_epochs: int | None = None,
        scheduler_class: Callable[..., Any] | None = None,
        scheduler_args: Mapping[str, Any] | None = None,
        scheduler: Any = None,
        max_grad_norm: float = -1.0,
        num_steps: int | None = None,
        callback: Callable[..., Any] | None = None,
        batch_postprocessor: Callable[[Batch], Batch] | None = None,
        resume: str | PathLike[str] | None = None,
        evaluate: Evaluate | None = None,
        **args: Any,
    ) -> None:
        """Train the student.

        Args:
            optimizer: holds the student's parameters; projections join it for the run.
            dataloader: yields batches: a mapping is fed as keywords, a tuple or list by position; a mapping
                with ``"teacher"`` and ``"student"`` feeds each side its own part.
            num_epochs: passes over the loader.
            scheduler_class: called as ``scheduler_class(optimizer, **scheduler_args)``; steps once an
                optimiser step.
            scheduler_args: its arguments.
            scheduler: a scheduler that is already built, instead of ``scheduler_class``.
            max_grad_norm: clip the student's gradients to this norm; not above 0: off.
            num_steps: optimiser steps; wins over ``num_epochs`` and starts the loader again as needed.
            callback: ``callback(model=student, step=optimiser steps)`` after each checkpoint.
            batch_postprocessor: ``batch -> batch``, before anything else sees the batch.
            resume: ``"auto"`` goes on from the last whole checkpoint of this very job in ``output_dir``, or begins
                where there is none; a path goes on from that folder ``step-N``. The run ends with the same bits as one
                that was never stopped. The callback of that step is called again. None begins anew.
            evaluate: ``evaluate(student) -> {"accuracy": 0.9, ...}``, in eval mode and without gradients, with each
                checkpoint (at the end of each epoch where ``ckpt_frequency=0``). The scores go to TensorBoard and to
                ``self.evaluations``; the best student is kept in ``output_dir/best``; ``TrainingConfig`` says which
                score counts, and whether the run ends early. It changes nothing of the steps that are taken.
            **args: extra keywords of every forward pass of both models.

        Raises:
            DataError: the loader or the numbers of epochs or steps cannot make a run.
            AdaptorError: an adaptor left out what a term needs.
            MatchError: tensors of a term do not fit each other.
            NonFiniteLossError: a loss became NaN or infinite.
            CheckpointError: a checkpoint cannot be written, or is of another job; or another run has ``output_dir``.
            OutOfMemoryError: a step did not fit into memory.
        """
        self._run(
            Stream(dataloader, Ranks.of(self.t_config), spares=self.t_config.keep_last_accumulation),
            num_epochs,
            num_steps,
            optimizer,
            resume=resume,
            evaluate=evaluate,
            scheduler_class=scheduler_class,
            scheduler_args=scheduler_args,
            scheduler=scheduler,
            max_grad_norm=max_grad_norm,
            callback=callback,
            batch_postprocessor=batch_postprocessor,
            args=args,
        )

    def _run(
        self,
        stream: Any,
        num_epochs: int | None,
        num_steps: int | None,
        optimizer: Optimizer,
        *,
        resume: str | PathLike[str] | None,
        evaluate: Evaluate | None,
        scheduler_class: Callable[..., Any] | None,
        scheduler_args: Mapping[str, Any] | None,
        scheduler: Any,
        max_grad_norm: float,
        callback: Callable[..., Any] | None,
        batch_postprocessor: Callable[[Any], Any] | None,
        args: Mapping[str, Any],
    ) -> None:
        """Lend everything to the engine for one run, and give it back."""
        schedule = Schedule.of(self.t_config, stream, num_epochs, num_steps, stream.ranks.number)
        placement = Placement(self.t_config, self.model_S)
        beside = self._trained_beside()
        for module in (self.model_S, *beside, *self._teachers()):
            module.to(placement.device)
        every = [module for part in beside for module in part.modules()]
        if is_sharded(self.model_S):
            _require_shardable(placement, every)
        _require_trained(optimizer, self.model_S)
        with ExitStack() as running:
            running.enter_context(self._modes())
            users_groups = len(optimizer.param_groups)
            for part in beside:
                running.enter_context(part.trained_by(optimizer))
            for loss in every:
                if isinstance(loss, CRDLoss):
                    running.enter_context(loss.shared(placement.ranks.gather))
            if scheduler_class is not None:
                scheduler = scheduler_class(optimizer, **(scheduler_args or {}))
            elif scheduler is not None:
                scheduler = OwnGroups(scheduler, optimizer, users_groups)
            step: Any = self._assemble(Run(placement, args, running, rows_of(stream.loader)))
            state = RunState(self.model_S, beside, optimizer, scheduler, placement.scaler(), stream)
            job = self._job(stream, schedule, optimizer)
            updates: Updates = PlainUpdates(self.t_config, state, max_grad_norm)
            if is_asked_for():
                job["optimizer"] += ", spread by DeepSpeed"
                zero = spread_by_zero(step, state, self.t_config, placement, max_grad_norm)
                step, updates = running.enter_context(zero)
            else:
                step = placement.replicated(step, [self.model_S, *beside])
            self.evaluations = state.evaluations
            Engine(self.t_config, state, placement, job, evaluate, updates).run(
                step,
                schedule,
                callback=callback,
                batch_postprocessor=batch_postprocessor,
                resume=resume,
            )

    def _job(self, stream: Any, schedule: Schedule, optimizer: Optimizer) -> dict[str, str]:
        """What must be alike for one run to go on from another's checkpoint."""
        return {
            **self._identity(),
            "optimizer": type(optimizer).__name__,
            "data": f"{length_of(stream)} batches, {described(rows_of(stream.loader))} rows",
            "counted in": "steps" if schedule.steps_per_epoch is None else "epochs",
            "processes": str(stream.ranks.number),
        }

    def _identity(self) -> dict[str, str]:
        """What of it is known before there are data."""
        training = ("gradient_accumulation_steps", "keep_last_accumulation", "precision", "fp16", "teacher_precision")
        return {
            "distiller": type(self).__name__,
            "distill_config": described(getattr(self, "d_config", None)),
            "train_config": described({name: getattr(self.t_config, name) for name in training}),
            "student": shapes_of(self.model_S),
            "teachers": ", ".join(shapes_of(teacher) for teacher in self._teachers()),
        }


class OwnGroups:
    """A scheduler the user built before the projections' groups were added: it steps without seeing them."""

    def __init__(self, scheduler: Any, optimizer: Optimizer, groups: int) -> None:
        self.scheduler = scheduler
        self.optimizer = optimizer
        self.groups = groups

    def __getattr__(self, name: str) -> Any:
        if name == "scheduler":
            raise AttributeError(name)
        return getattr(self.scheduler, name)

    def step(self) -> None:
        added = self.optimizer.param_groups[self.groups :]
        del self.optimizer.param_groups[self.groups :]
        try:
            self.scheduler.step()
        finally:
            self.optimizer.param_groups.extend(added)


def _require_shardable(placement: Placement, beside: Iterable[nn.Module]) -> None:
    if placement.dtype is torch.float16:
        raise UnsupportedError("a sharded student and float16's gradient scaling do not go together; use bf16")
    if any(isinstance(module, GradientNorms) for module in beside):
        raise UnsupportedError(
            "balance='gradient_norm' measures gradients in whole parameters, and those of a sharded student are spread "
            "over the processes; use balance='uncertainty', or leave the student unsharded"
        )


def _require_trained(optimizer: Optimizer, student: nn.Module) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in student.parameters()):
        warnings.warn(
            "the optimizer holds none of the student's parameters, so the student will not change; "
            "build it from model_S.parameters(), after any step that replaces them",
            stacklevel=5,
        )
