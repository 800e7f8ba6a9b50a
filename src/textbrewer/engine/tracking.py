"""Losses on their way from the device to the progress bar, TensorBoard, other trackers and the check for NaN."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self, cast

import torch
from torch import Tensor

from ..configs import TrainingConfig
from ..errors import MissingDependencyError, NonFiniteLossError
from ..types import LossReport

logger = logging.getLogger("textbrewer")


class Tracker:
    """Collects the reports of a run and reads them from the device many at a time.

    Args:
        log_dir: folder for TensorBoard scalars, or None.
        every: optimiser steps between reads.
        check_each: read at every step, for devices where reading costs nothing.
        gather: a value of every process, of which the mean is shown.
        stops: raise where something is not finite; otherwise such steps are skipped, and said and counted here.
        from_batch: what the log has from this batch on is of a run that was cut off, and is written anew.
        services: from :func:`services_of`; they are told what TensorBoard is, at the same reads.
    """

    def __init__(
        self,
        log_dir: str | None,
        every: int,
        check_each: bool,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
        from_batch: int | None = None,
        stops: bool = True,
        services: Sequence[Any] = (),
    ) -> None:
        self._gather = gather
        self._stops = stops
        self.skipped = 0
        self._told: set[int] = set()
        self._norms: list[tuple[int, Tensor]] = []
        self.every = 1 if check_each else every
        self.latest: dict[str, float] = {}
        self._pending: list[tuple[int, int, LossReport]] = []
        self._services = services
        self._untold: dict[int, dict[str, float]] = {}
        self._writer: Any = None
        if log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir, purge_step=from_batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add(self, report: LossReport, *, batch: int, step: int) -> None:
        """Keep the report of one micro-batch; nothing waits for the device."""
        self._pending.append((batch, step, report))

    def add_gradients(self, norm: Tensor | None, *, step: int) -> None:
        """Keep the norm of an optimiser step's gradients; None where it is not known."""
        if norm is not None:
            self._norms.append((step, norm))

    def add_scores(self, scores: Mapping[str, float], *, batch: int) -> None:
        """Write the scores of an evaluation after micro-batch ``batch``."""
        self._log({f"evaluation/{name}": value for name, value in scores.items()}, batch)

    def due(self, step: int) -> bool:
        """Whether it is time to read; the first step always is, so that a broken start is seen at once."""
        return step == 0 or (step + 1) % self.every == 0

    def flush(self) -> None:
        """Read everything pending in one transfer, check it and write it.

        Raises:
            NonFiniteLossError: naming the step and the terms that are NaN or infinite.
        """
        every: list[list[Any]] = self._gather(self._read())
        longest = max(every, key=len)
        for place, (batch, step, task, _) in enumerate(longest):
            values = _mean([pending[place][3] for pending in every if place < len(pending)])
            if not all(math.isfinite(value) for value in values.values()):
                self._found(_describe(values, step), step)
            self._write(values, batch)
            if task:
                self._write({f"{task}/{name}": value for name, value in values.items()}, batch)
            self.latest = values
        self._tell()

        norms, self._norms = self._norms, []
        read = torch.stack([norm.detach().float() for _, norm in norms]).tolist() if norms else []
        for (step, _), norm in zip(norms, read, strict=True):
            if not math.isfinite(norm):
                self._found(
                    f"optimiser step {step + 1}: the gradients are not finite, though the losses are; lower the "
                    "learning rate, or clip with max_grad_norm",
                    step,
                )

    def _found(self, what: str, step: int) -> None:
        """Something that is not finite.

        Raises:
            NonFiniteLossError: unless such steps are skipped.
        """
        if self._stops:
            raise NonFiniteLossError(what)
        if step not in self._told:
            self._told.add(step)
            self.skipped += 1
            logger.warning("%s. Skipped; %d in all", what, self.skipped)

    def _read(self) -> list[tuple[int, int, str, dict[str, float]]]:
        """Batch, step, task and values of everything pending, in one transfer."""
        pending, self._pending = self._pending, []
        if not pending:
            return []
        flat = iter(torch.stack([value.float() for _, _, report in pending for value in _values(report)]).tolist())
        return [
            (batch, step, report.task, {name: next(flat) for name in ("total_loss", *report.terms)})
            for batch, step, report in pending
        ]

    def _write(self, values: dict[str, float], batch: int) -> None:
        self._log({f"scalar/{name}": value for name, value in values.items()}, batch)

    def _log(self, values: dict[str, float], batch: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, batch)
        if self._services:
            self._untold.setdefault(batch, {}).update(values)

    def _tell(self) -> None:
        """Tell the services what they were not told, batch by batch: some take nothing of an earlier one any more.

        So scores wait for the losses of the batches before them.
        """
        for batch in sorted(self._untold):
            values = self._untold.pop(batch)
            for service in self._services:
                service.log(values, step=batch)

    def close(self) -> None:
        """Write what TensorBoard and the services were not told yet."""
        if self._writer is not None:
            self._writer.close()
        self._tell()
        for service in self._services:
            service.finish()


def services_of(config: TrainingConfig) -> list[Any]:
    """The trackers of Accelerate that a config names, started, and told the config.

    Raises:
        MissingDependencyError: the package of one is not installed.
    """
    if not config.trackers:
        return []
    from accelerate import tracking, utils

    kinds = {
        "wandb": (utils.is_wandb_available, lambda: tracking.WandBTracker(config.tracker_project)),
        "mlflow": (utils.is_mlflow_available, lambda: tracking.MLflowTracker(config.tracker_project)),
    }
    for name in config.trackers:
        if not kinds[name][0]():
            raise MissingDependencyError(name, name, f"trackers: {name}")
    settings = {name: _plain(value) for name, value in asdict(cast(Any, config)).items()}
    found = [kinds[name][1]() for name in config.trackers]
    for service in found:
        service.start()
        service.store_init_configuration(settings)
    return found


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _mean(each: list[dict[str, float]]) -> dict[str, float]:
    """Of the values of one batch of every process; a term that not all of them have is a mean of those that do."""
    means = {}
    for name in dict.fromkeys(name for values in each for name in values):
        own = [values[name] for values in each if name in values]
        means[name] = sum(own) / len(own)
    return means


def _values(report: LossReport) -> list[Tensor]:
    return [report.loss, *report.terms.values()]


def _describe(values: dict[str, float], step: int) -> str:
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    listed = ", ".join(f"{name}={value:g}" for name, value in values.items())
    unlabelled = (
        "A model's own loss is NaN where all labels of a batch are masked (-100): leave such batches out. "
        if any("hard_label" in name for name in broken)
        else ""
    )
    return (
        f"optimiser step {step + 1}: {', '.join(broken)} is not finite ({listed}). "
        "The weights of the student before this step are kept on a CPU; on an accelerator up to log_every steps "
        f"may have been taken since. {unlabelled}Check the inputs, lower the learning rate, or clip with max_grad_norm"
    )
