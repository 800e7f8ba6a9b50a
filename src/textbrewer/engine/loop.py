"""The training loop: windows of micro-batches, optimiser steps, checkpoints, progress."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from ..configs import TrainingConfig
from ..errors import DataError, count_of
from ..feeding import require_batches
from ..modes import modes_kept
from ..ranks import Ranks, Spare
from ..types import Batch, LossReport
from .checkpoint import save_student
from .devices import Placement
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
        loader: Any,
        num_epochs: int | None,
        num_steps: int | None,
        ranks: Ranks = Ranks(),  # noqa: B008
    ) -> Schedule:
        """Plan a run; ``num_steps`` wins over ``num_epochs``.

        Raises:
            DataError: neither is given, one is below 1, or the loader is too short (or has no length with epochs).
        """
        for name, value in (("num_steps", num_steps), ("num_epochs", num_epochs)):
            if value is not None and (value < 1 or value != int(value)):
                raise DataError(f"train: expected a whole {name} >= 1, got {value}")
        length = ranks.batches_of(loader)
        size, keep = config.gradient_accumulation_steps * ranks.number, config.keep_last_accumulation
        if num_steps is not None:
            require_batches(length, 1, keep)
            return cls(total_steps=num_steps)
        if num_epochs is None:
            raise DataError("train: expected num_epochs or num_steps, got neither")
        if length is None:
            raise DataError("train: the dataloader has no length, so epochs cannot be counted; give num_steps instead")
        require_batches(length, config.gradient_accumulation_steps, keep, ranks.number)
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
    """Runs a step function over a loader.

    Args:
        config: the run's settings.
        student: the model that is trained, saved and handed to the callback.
        placement: device and precision.
    """

    def __init__(self, config: TrainingConfig, student: nn.Module, placement: Placement) -> None:
        self.config = config
        self.student = student
        self.placement = placement
        self.scaler = placement.scaler()

    def run(
        self,
        step: Step,
        schedule: Schedule,
        optimizer: Optimizer,
        loader: Iterable[Batch],
        *,
        scheduler: Any = None,
        max_grad_norm: float = -1.0,
        callback: Callable[..., Any] | None = None,
        batch_postprocessor: Callable[[Batch], Batch] | None = None,
    ) -> int:
        """Train, and return the number of optimiser steps taken.

        Raises:
            NonFiniteLossError: a loss became NaN or infinite.
            DataError: the loader gives fewer batches than its length promised.
        """
        tracker = Tracker(
            self.config.log_dir if self.placement.is_main else None,
            self.config.log_every,
            check_each=self.placement.device.type == "cpu",
            gather=self.placement.ranks.gather,
        )
        bar = self._progress_bar(schedule)
        done = batches = 0
        optimizer.zero_grad()
        try:
            for window in self._windows(loader, schedule):
                share = step.share(window := [_prepared(batch, batch_postprocessor) for batch in window])
                for batch in window:
                    report = step(batch, share)
                    if not isinstance(batch, Spare):
                        tracker.add(report, batch=batches, step=done)
                    batches += 1
                    self.scaler.scale(report.total).backward()  # type: ignore[no-untyped-call]
                if tracker.due(done):
                    tracker.flush()
                    bar.set_postfix(_shown(tracker.latest), refresh=False)
                self._take_step(optimizer, scheduler, max_grad_norm)
                done += 1
                step.advance(done / schedule.total_steps)
                bar.update()
                if schedule.saves_after(done, self.config):
                    if self.placement.is_main:
                        self._save_and_call(done, callback)
                    self.placement.ranks.wait()
            tracker.flush()
            if done < schedule.total_steps:
                raise DataError(f"the dataloader ended after {done} of {schedule.total_steps} optimiser steps")
            return done
        finally:
            bar.close()
            tracker.close()

    def _windows(self, loader: Iterable[Batch], schedule: Schedule) -> Iterator[list[Batch]]:
        """The micro-batches of each optimiser step; with steps, windows cross the end of the loader."""
        size, ranks = self.config.gradient_accumulation_steps, self.placement.ranks
        if schedule.steps_per_epoch is None:
            endless = ranks.part_of(loader, endless=True)
            yield from itertools.islice(_chunks(cycle(endless), size), schedule.total_steps)
            return
        loader = ranks.part_of(loader, spares=self.config.keep_last_accumulation)
        for _ in range(schedule.num_epochs or 0):
            for window in itertools.islice(_chunks(iter(loader), size), schedule.steps_per_epoch):
                if len(window) == size or self.config.keep_last_accumulation:
                    yield window

    def _take_step(self, optimizer: Optimizer, scheduler: Any, max_grad_norm: float) -> None:
        if max_grad_norm > 0:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.student.parameters(), max_grad_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()

    def _save_and_call(self, step: int, callback: Callable[..., Any] | None) -> None:
        path = save_student(self.student, self.config.output_dir, step)
        logger.info("step %d: student saved to %s", step, path)
        if callback is not None:
            # A callback evaluates; whatever mode it leaves behind, training goes on as before.
            with modes_kept(self.student):
                callback(model=self.student, step=step)

    def _progress_bar(self, schedule: Schedule) -> Any:
        from tqdm.auto import tqdm

        hidden = not (self.config.progress_bar and self.placement.is_main)
        return tqdm(total=schedule.total_steps, unit="step", disable=hidden, mininterval=0.5, dynamic_ncols=True)


def _prepared(batch: Batch, batch_postprocessor: Callable[[Batch], Batch] | None) -> Batch:
    if batch_postprocessor is None:
        return batch
    return Spare(batch_postprocessor(batch.batch)) if isinstance(batch, Spare) else batch_postprocessor(batch)


def _chunks(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while window := list(itertools.islice(batches, size)):
        yield window


def cycle(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of the loader, again and again; none is kept, so that shuffling stays alive."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise DataError(
                "the dataloader is empty: it gives no batch to train on (an iterator can be read once only)"
            )


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    return {name.removeprefix("unweighted_"): f"{value:.4g}" for name, value in values.items()}


__all__ = ["Engine", "Schedule", "Step", "cycle"]
