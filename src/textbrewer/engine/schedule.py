"""How long a run is, and after which steps it saves and evaluates."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ..configs import TrainingConfig
from ..errors import DataError, count_of
from ..feeding import length_of, require_batches

logger = logging.getLogger("textbrewer")


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

    def evaluates_after(self, step: int, config: TrainingConfig) -> bool:
        """Whether the student is evaluated after optimiser step ``step``: with each checkpoint, else each epoch."""
        if self.steps_per_epoch is None or self.saves_at_all(config):
            return self.saves_after(step, config)
        return step % self.steps_per_epoch == 0
