"""The training loop: windows of micro-batches, optimiser steps, checkpoints, progress."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from os import PathLike
from typing import Any, Protocol

import torch

from ..configs import TrainingConfig
from ..errors import ConfigError, DataError, EvaluationError, Problem, count_of
from ..modes import modes_kept
from ..ranks import Spare
from ..types import Batch, LossReport
from .checkpoint import (
    Checkpoints,
    RunState,
    locked,
    save_best,
    save_student,
    set_tensors,
    student_file,
    weights_of,
)
from .devices import Placement
from .evaluation import Evaluate, Evaluations
from .faults import loader_explained, step_explained
from .interruption import Interruption
from .schedule import Schedule
from .sharding import is_sharded
from .tracking import Tracker, services_of
from .updates import PlainUpdates, Updates
from .writing import Writer

logger = logging.getLogger("textbrewer")


class Step(Protocol):
    """What the engine is handed: how to turn a micro-batch into a loss."""

    def __call__(self, batch: Any, share: Any) -> LossReport:
        """The loss of one micro-batch, which comes as the loader gave it."""

    def share(self, window: list[Any]) -> Any:
        """What part of the optimiser step each micro-batch of ``window`` is; handed back with each of them."""

    def advance(self, progress: float) -> None:
        """Called after each optimiser step with the part of the run that is done, in (0, 1]."""


class Engine:
    """Runs a step function over a stream of batches.

    Args:
        config: the run's settings.
        state: what is trained and what trains it; set to a checkpoint's by ``resume``.
        placement: device and precision.
        job: what must be alike for a checkpoint to be gone on from.
        evaluate: scores the student along the run.
        updates: makes steps of losses; None for PyTorch's own.

    Raises:
        ConfigError: the config asks for what takes an ``evaluate``, or checkpoints, that there are not.
    """

    def __init__(
        self,
        config: TrainingConfig,
        state: RunState,
        placement: Placement,
        job: Mapping[str, str] | None = None,
        evaluate: Evaluate | None = None,
        updates: Updates | None = None,
    ) -> None:
        self.config, self.state, self.placement = config, state, placement
        self.updates = updates or PlainUpdates(config, state)
        self.evaluations = Evaluations(config, evaluate, state.evaluations)
        self.checkpoints = Checkpoints(config.output_dir, job or {}, placement.ranks, config.keep_last)

    def run(
        self,
        step: Step,
        schedule: Schedule,
        *,
        callback: Callable[..., Any] | None = None,
        batch_postprocessor: Callable[[Batch], Batch] | None = None,
        resume: str | PathLike[str] | None = None,
    ) -> int:
        """Train, and return the number of optimiser steps taken.

        Raises:
            NonFiniteLossError: a loss became NaN or infinite.
            DataError: the loader gives fewer batches than its length promised.
            CheckpointError: a checkpoint cannot be written or gone on from, or another run has the folder.
            OutOfMemoryError: a step did not fit into memory.
        """
        saves = schedule.saves_at_all(self.config)
        if self.config.load_best_model_at_end and not saves:
            problem = Problem("load_best_model_at_end", "checkpoints to load from", "ckpt_frequency=0")
            raise ConfigError("TrainingConfig", [problem])
        writes = saves or self.evaluations.evaluate is not None
        with ExitStack() as running:
            if writes and self.placement.is_main:
                running.enter_context(locked(self.config.output_dir))
                self.checkpoints.clear_partial()
            resumed = resume is not None and self.checkpoints.resume(self.state, resume)
            if saves and not resumed:
                self.checkpoints.begin()
            write = running.enter_context(Writer(self.config.save_in_background))
            tracker = running.enter_context(self._tracker(self.state.batches if resumed else None))
            bar = running.enter_context(self._progress_bar(schedule))
            interruption = running.enter_context(Interruption(saves and self.config.save_state))
            self.state.optimizer.zero_grad()
            if resumed:
                step.advance(self.state.step / schedule.total_steps)
                self._catch_up(schedule, tracker, callback)
            for window in self._windows(schedule):
                with step_explained(self.state.step, window):
                    self._accumulate(step, [_prepared(batch, batch_postprocessor) for batch in window], tracker)
                    norm = self.updates.norm()
                    tracker.add_gradients(norm, step=self.state.step)
                    if tracker.due(self.state.step):
                        tracker.flush()
                        bar.set_postfix(_shown(tracker.latest), refresh=False)
                    self.updates.take(norm)
                    if self.state.scheduler is not None:
                        self.state.scheduler.step()
                self.state.step += 1
                self.state.within = bool(schedule.steps_per_epoch is None or self.state.step % schedule.steps_per_epoch)
                step.advance(self.state.step / schedule.total_steps)
                bar.update()
                asked = max(self.placement.ranks.gather(interruption.asked))
                due = schedule.saves_after(self.state.step, self.config)
                try:
                    if schedule.evaluates_after(self.state.step, self.config):
                        self._evaluate(tracker)
                finally:
                    # What was trained is kept even if its evaluation fails.
                    if due or asked:
                        self._save(due, write)
                if asked:
                    interruption.leave(asked)
                if due:
                    self._call(callback)
            tracker.flush()
            write.wait()
            if self.state.step < schedule.total_steps and not self.evaluations.has_stalled:
                raise DataError(
                    f"the dataloader ended after {self.state.step} of {schedule.total_steps} optimiser steps"
                )
            self._finish()
            return self.state.step

    def _catch_up(self, schedule: Schedule, tracker: Tracker, callback: Callable[..., Any] | None) -> None:
        """What follows a checkpoint, which may have been cut off."""
        done = self.state.step
        if schedule.evaluates_after(done, self.config) and not self.evaluations.has(done):
            self._evaluate(tracker)
        if schedule.saves_after(done, self.config):
            self._call(callback)

    def _evaluate(self, tracker: Tracker) -> None:
        """Evaluate the student, and keep it if it is the best so far.

        Raises:
            EvaluationError: it failed in the first process; there it is the error itself.
        """
        if self.evaluations.evaluate is None:
            return
        state, ranks = self.state, self.placement.ranks
        scores: dict[str, float] = {}
        failure: Exception | None = None
        if self._in_every_process or self.placement.is_main:
            try:
                scores = self.evaluations.measured(state.student)
            except Exception as error:
                failure = error
        scores, told = ranks.agree((scores, failure and f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        if told is not None:
            raise EvaluationError(f"step {state.step}: the evaluation failed in the first process: {told}")
        self.evaluations.add(state.step, scores)
        tracker.add_scores(scores, batch=state.batches - 1)
        is_best = self.evaluations.best_step == state.step
        listed = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        logger.info("step %d: %s%s", state.step, listed, ", the best so far" if is_best else "")
        if self.config.keep_best and is_best:
            save_best(state.student, self.config.output_dir, self.placement.is_main)
            ranks.wait()

    @property
    def _in_every_process(self) -> bool:
        """Whether running the student takes all processes."""
        return is_sharded(self.state.student)

    def _finish(self) -> None:
        """Say why a run ended early, and give the student its best weights if asked."""
        best = self.evaluations.best_step
        if self.evaluations.has_stalled:
            logger.info(
                "stopped after step %d: %s without a better %s than at step %s",
                self.state.step,
                count_of(self.config.early_stopping_patience or 0, "evaluation"),
                self.evaluations.metric,
                best,
            )
        if not self.config.load_best_model_at_end or best is None or best == self.state.step:
            return
        path = student_file(self.config.output_dir, best)
        set_tensors(self.state.student, torch.load(path, weights_only=True, map_location="cpu"))
        logger.info("the student has the weights of step %d again, its best", best)

    def _accumulate(self, step: Step, window: list[Batch], tracker: Tracker) -> None:
        """Forward and backward of the micro-batches of one optimiser step."""
        share = step.share(window)
        for place, batch in enumerate(window, 1):
            report = step(batch, share)
            if not isinstance(batch, Spare):
                tracker.add(report, batch=self.state.batches, step=self.state.step)
            self.state.batches += 1
            self.updates.backward(report.total, last=place == len(window))

    def _windows(self, schedule: Schedule) -> Iterator[list[Batch]]:
        """The micro-batches of each optimiser step; a loader whose workers are killed is explained."""
        windows = self._read(schedule)
        while not self.evaluations.has_stalled:
            with loader_explained(self.state.batches):
                window = next(windows, None)
            if window is None:
                return
            yield window

    def _read(self, schedule: Schedule) -> Iterator[list[Batch]]:
        """As :meth:`_windows`; with steps, windows cross the end of the loader."""
        size, stream = self.config.gradient_accumulation_steps, self.state.stream
        left = schedule.total_steps - self.state.step
        if schedule.steps_per_epoch is None:
            yield from itertools.islice(_chunks(stream.endless(), size), left)
            return
        while left > 0:
            epoch, within = divmod(self.state.step, schedule.steps_per_epoch)
            steps = schedule.steps_per_epoch - within
            for window in itertools.islice(_chunks(stream.one_pass(epoch), size), steps):
                if len(window) == size or self.config.keep_last_accumulation:
                    yield window
                    left -= 1
            if self.state.step < (epoch + 1) * schedule.steps_per_epoch:
                return  # the loader was shorter than it said

    def _save(self, due: bool, write: Writer) -> None:
        """The student by itself where that is due, and all that is needed to go on."""
        main, step = self.placement.is_main, self.state.step
        weights = weights_of(self.state.student, main)
        if due and main:
            write(lambda: save_student(weights, self.config.output_dir, step))
            logger.info("step %d: student saved to %s", step, student_file(self.config.output_dir, step))
        if self.config.save_state:
            kept = self.evaluations.best_step if self.config.keep_best else None
            path = self.checkpoints.save(self.state, weights, write, self.config.save_in_background, kept)
            if not due:
                write.wait()
                logger.warning("step %d saved to %s; train(..., resume='auto') goes on", step, path)
        self.placement.ranks.wait()

    def _call(self, callback: Callable[..., Any] | None) -> None:
        if callback is not None and (self._in_every_process or self.placement.is_main):
            # A callback evaluates; whatever mode it leaves behind, training goes on as before.
            with modes_kept(self.state.student):
                callback(model=self.state.student, step=self.state.step)
        self.placement.ranks.wait()

    def _tracker(self, from_batch: int | None) -> Tracker:
        return Tracker(
            self.config.log_dir if self.placement.is_main else None,
            self.config.log_every,
            check_each=self.placement.device.type == "cpu",
            gather=self.placement.ranks.gather,
            from_batch=from_batch,
            stops=self.config.on_nonfinite == "stop",
            services=services_of(self.config) if self.placement.is_main else (),
        )

    def _progress_bar(self, schedule: Schedule) -> Any:
        from tqdm.auto import tqdm

        hidden = not (self.config.progress_bar and self.placement.is_main)
        total, done = schedule.total_steps, self.state.step
        return tqdm(total=total, initial=done, unit="step", disable=hidden, mininterval=0.5, dynamic_ncols=True)


def _prepared(batch: Batch, batch_postprocessor: Callable[[Batch], Batch] | None) -> Batch:
    if batch_postprocessor is None:
        return batch
    return Spare(batch_postprocessor(batch.batch)) if isinstance(batch, Spare) else batch_postprocessor(batch)


def _chunks(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while window := list(itertools.islice(batches, size)):
        yield window


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    return {name.removeprefix("unweighted_"): f"{value:.4g}" for name, value in values.items()}


__all__ = ["Engine", "Step"]
