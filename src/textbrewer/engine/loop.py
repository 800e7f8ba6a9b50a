"""The training loop: windows of micro-batches, optimiser steps, checkpoints, progress."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

from torch import Tensor, nn

from ..configs import TrainingConfig
from ..errors import DataError, count_of
from ..feeding import length_of, require_batches
from ..modes import modes_kept
from ..ranks import Spare
from ..types import Batch, LossReport
from .checkpoint import Checkpoints, RunState, locked, save_student
from .devices import Placement
from .interruption import Interruption
from .tracking import Tracker

logger = logging.getLogger("textbrewer")


class Step(Protocol):
    """What the engine is handed: how to turn a micro-batch into a loss."""

    def __call__(self, batch: Any, share: Any) -> LossReport:
        """The loss of one micro-batch, which comes as the loader gave it."""

    def share(self, window: list[Any]) -> Any:
        """What part of the optimiser step each micro-batch of ``window`` is; handed back with each of them."""

    def advance(self, progress: float) -> None:
        """Called after each optimiser step with the part of the run that is done, in (0, 1]."""


@dataclass(frozen=True)
class Schedule:
    """How long a run is and when it saves.

    Attributes:
        total_steps: optimiser steps in all.
        steps_per_epoch: optimiser steps of an epoch, or None when the run is counted in steps.
        num_epochs: epochs, or None when the run is counted in steps.
    """

    total_steps: int
    steps_per_epoch: int | None = None
    num_epochs: int | None = None

    @classmethod
    def of(
        cls,
        config: TrainingConfig,
        stream: Any,
        num_epochs: int | None,
        num_steps: int | None,
        processes: int = 1,
    ) -> Schedule:
        """Plan a run; ``num_steps`` wins over ``num_epochs``.

        Raises:
            DataError: neither is given, one is below 1, or the loader is too short (or has no length with epochs).
        """
        for name, value in (("num_steps", num_steps), ("num_epochs", num_epochs)):
            if value is not None and (value < 1 or value != int(value)):
                raise DataError(f"train: expected a whole {name} >= 1, got {value}")
        length = length_of(stream)
        size, keep = config.gradient_accumulation_steps * processes, config.keep_last_accumulation
        if num_steps is not None:
            require_batches(length, 1, keep)
            return cls(total_steps=num_steps)
        if num_epochs is None:
            raise DataError("train: expected num_epochs or num_steps, got neither")
        if length is None:
            raise DataError("train: the dataloader has no length, so epochs cannot be counted; give num_steps instead")
        require_batches(length, config.gradient_accumulation_steps, keep, processes)
        left_over = length % size
        if left_over and not keep:
            logger.warning(
                "the last %s of every epoch %s no full accumulation and %s dropped, as in TextBrewer; "
                "keep_last_accumulation=True uses them",
                count_of(left_over, "batch").replace("batchs", "batches"),
                "makes" if left_over == 1 else "make",
                "is" if left_over == 1 else "are",
            )
        steps = -(-length // size) if keep else length // size
        return cls(steps * num_epochs, steps, num_epochs)

    def saves_at_all(self, config: TrainingConfig) -> bool:
        """Whether some checkpoint is written."""
        return self.steps_per_epoch is None or config.ckpt_frequency > 0

    def saves_after(self, step: int, config: TrainingConfig) -> bool:
        """Whether a checkpoint is written after optimiser step ``step`` (counted from 1)."""
        if self.steps_per_epoch is None:
            return step == self.total_steps or (config.ckpt_steps is not None and step % config.ckpt_steps == 0)
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        if (epoch + 1) % config.ckpt_epoch_frequency and epoch + 1 != self.num_epochs:
            return False
        parts = config.ckpt_frequency
        return position + 1 in {self.steps_per_epoch * part // parts for part in range(1, parts + 1)}


class Engine:
    """Runs a step function over a stream of batches.

    Args:
        config: the run's settings.
        state: what is trained and what trains it; set to a checkpoint's by ``resume``.
        placement: device and precision.
        job: what must be alike for a checkpoint to be gone on from.
    """

    def __init__(
        self, config: TrainingConfig, state: RunState, placement: Placement, job: Mapping[str, str] | None = None
    ) -> None:
        self.config, self.state, self.placement = config, state, placement
        self.checkpoints = Checkpoints(config.output_dir, job or {}, placement.ranks, config.keep_last)

    def run(
        self,
        step: Step,
        schedule: Schedule,
        *,
        max_grad_norm: float = -1.0,
        callback: Callable[..., Any] | None = None,
        batch_postprocessor: Callable[[Batch], Batch] | None = None,
        resume: str | PathLike[str] | None = None,
    ) -> int:
        """Train, and return the number of optimiser steps taken.

        Raises:
            NonFiniteLossError: a loss became NaN or infinite.
            DataError: the loader gives fewer batches than its length promised.
            CheckpointError: a checkpoint cannot be written or gone on from, or another run has the folder.
        """
        saves = schedule.saves_at_all(self.config)
        with ExitStack() as running:
            if saves and self.placement.is_main:
                running.enter_context(locked(self.config.output_dir))
                self.checkpoints.clear_partial()
            resumed = resume is not None and self.checkpoints.resume(self.state, resume)
            tracker = running.enter_context(self._tracker(self.state.batches if resumed else None))
            bar = running.enter_context(self._progress_bar(schedule))
            interruption = running.enter_context(Interruption(saves and self.config.save_state))
            self.state.optimizer.zero_grad()
            if resumed:
                step.advance(self.state.step / schedule.total_steps)
                if schedule.saves_after(self.state.step, self.config):
                    # It may have been cut off in its callback.
                    self._call(callback)
            for window in self._windows(schedule):
                self._accumulate(step, [_prepared(batch, batch_postprocessor) for batch in window], tracker)
                norm = self._norm_of_gradients(max_grad_norm)
                tracker.add_gradients(norm, step=self.state.step)
                if tracker.due(self.state.step):
                    tracker.flush()
                    bar.set_postfix(_shown(tracker.latest), refresh=False)
                self._take_step(norm)
                self.state.step += 1
                self.state.within = bool(schedule.steps_per_epoch is None or self.state.step % schedule.steps_per_epoch)
                step.advance(self.state.step / schedule.total_steps)
                bar.update()
                due = schedule.saves_after(self.state.step, self.config)
                asked = max(self.placement.ranks.gather(interruption.asked))
                if due or asked:
                    self._save(due)
                if asked:
                    interruption.leave(asked)
                if due:
                    self._call(callback)
            tracker.flush()
            if self.state.step < schedule.total_steps:
                raise DataError(
                    f"the dataloader ended after {self.state.step} of {schedule.total_steps} optimiser steps"
                )
            return self.state.step

    def _accumulate(self, step: Step, window: list[Batch], tracker: Tracker) -> None:
        """Forward and backward of the micro-batches of one optimiser step."""
        share = step.share(window)
        for batch in window:
            report = step(batch, share)
            if not isinstance(batch, Spare):
                tracker.add(report, batch=self.state.batches, step=self.state.step)
            self.state.batches += 1
            self.state.scaler.scale(report.total).backward()

    def _windows(self, schedule: Schedule) -> Iterator[list[Batch]]:
        """The micro-batches of each optimiser step; with steps, windows cross the end of the loader."""
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

    def _norm_of_gradients(self, max_grad_norm: float) -> Tensor | None:
        """Of the student's, clipped to ``max_grad_norm``; None where the scaler of float16 looks after them."""
        state = self.state
        if max_grad_norm > 0:
            state.scaler.unscale_(state.optimizer)
            norm = nn.utils.clip_grad_norm_(state.student.parameters(), max_grad_norm)
            return None if state.scaler.is_enabled() else norm
        if state.scaler.is_enabled():
            return None
        return nn.utils.get_total_norm([p.grad for p in state.student.parameters() if p.grad is not None])

    def _take_step(self, norm: Tensor | None) -> None:
        state = self.state
        if norm is None or self.config.on_nonfinite == "stop" or bool(norm.isfinite()):
            state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.scheduler is not None:
            state.scheduler.step()
        state.optimizer.zero_grad()

    def _save(self, due: bool) -> None:
        """The student by itself where that is due, and all that is needed to go on."""
        if due and self.placement.is_main:
            path = save_student(self.state.student, self.config.output_dir, self.state.step)
            logger.info("step %d: student saved to %s", self.state.step, path)
        if self.config.save_state:
            path = self.checkpoints.save(self.state)
            if not due:
                logger.warning("step %d saved to %s; train(..., resume='auto') goes on", self.state.step, path)
        self.placement.ranks.wait()

    def _call(self, callback: Callable[..., Any] | None) -> None:
        if callback is not None and self.placement.is_main:
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


__all__ = ["Engine", "Schedule", "Step"]
