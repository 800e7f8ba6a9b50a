"""How the gradients of several processes become one."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

from ..errors import UnsupportedError
from ..ranks import Ranks, Spare
from ..types import LossReport
from .sharding import is_sharded


def data_parallel(whole: nn.Module) -> DistributedDataParallel:
    """A replica by PyTorch, whose buffers are each process's own."""
    # PyTorch 2.13 gave the option that keeps buffers a process's own a new name.
    options = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
    own_buffers: dict[str, Any] = {name: False}
    # Poolers, heads of other tasks and layers above the last matched one get no gradient: that is looked for.
    return DistributedDataParallel(whole, find_unused_parameters=True, **own_buffers)


class ReplicatedStep:
    """A step whose gradients are averaged over the processes.

    What is replicated is the whole step from batch to loss, so that whichever parameters a loss leaves out are known,
    and projections are averaged with the student. Teachers are no part of it, nor is a sharded student, which averages
    its gradients itself.

    Args:
        step: of this process.
        trained: the student and the projections.
        ranks: the processes.
        replicate: makes of a module one whose gradients are averaged.

    Raises:
        UnsupportedError: a projection or a loss takes its width from the first batch.
    """

    def __init__(
        self,
        step: Any,
        trained: Sequence[nn.Module],
        ranks: Ranks,
        replicate: Callable[[nn.Module], Any] = data_parallel,
    ) -> None:
        parameters = itertools.chain.from_iterable(module.parameters() for module in trained)
        if any(isinstance(parameter, UninitializedParameter) for parameter in parameters):
            raise UnsupportedError(
                "proj='auto' and 'vid' take their widths from the first batch, and several processes must know them "
                "before; write proj=['linear', student width, teacher width], and VariationalLoss(width) for 'vid'"
            )
        self.step = step
        self.ranks = ranks
        # What has no parameters has nothing to average: its buffers are its own, and may be on the CPU.
        own = [module for module in trained if next(module.parameters(), None) is not None]
        whole = _Whole(step, [module for module in own if not is_sharded(module)])
        trains = any(parameter.requires_grad for parameter in whole.parameters())
        self.replica = replicate(whole) if trains else None
        self._left = 0

    def __call__(self, batch: Any, share: Any) -> LossReport:
        self._left -= 1
        spare = isinstance(batch, Spare)
        forward = self.step if self.replica is None else self.replica
        # The gradients of accumulated batches travel once, with the last of them.
        with self.replica.no_sync() if self.replica is not None and self._left else nullcontext():
            report: LossReport = forward(batch.batch if spare else batch, share)
        return replace(report, total=report.total * (0 if spare else self.ranks.number))

    def share(self, window: list[Any]) -> Any:
        self._left = len(window)
        return self.step.share([batch for batch in window if not isinstance(batch, Spare)])

    def advance(self, progress: float) -> None:
        self.step.advance(progress)


class _Whole(nn.Module):
    """A step as a module, whose parameters are all that it trains."""

    def __init__(self, step: Callable[..., LossReport], trained: Sequence[nn.Module]) -> None:
        super().__init__()
        self.step = step
        self.trained = nn.ModuleList(trained)

    def forward(self, batch: Any, share: Any) -> LossReport:
        return self.step(batch, share)
