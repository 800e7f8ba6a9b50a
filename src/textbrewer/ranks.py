"""Several processes as one, and what they tell each other.

The optimiser step of W processes with A accumulated batches is that of one process with W · A: the k-th batch of a step
goes to process k mod W, every mean is over all of them, and the gradients of the processes are averaged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from .configs import TrainingConfig
from .errors import ConfigError, Problem

V = TypeVar("V")


class Spare(NamedTuple):
    """A batch that a process runs with weight zero, because the others have one more than it."""

    batch: Any


@dataclass(frozen=True)
class Ranks:
    """The processes of a run; alone, everything here is the identity.

    Attributes:
        number: of processes.
        index: of this one.
        group: over which they tell each other Python values, on the CPU.
    """

    number: int = 1
    index: int = 0
    group: Any = None

    @classmethod
    def here(cls, cpu: bool = False) -> Ranks:
        """Those that ``torchrun`` or ``accelerate launch`` started, or the script itself.

        Args:
            cpu: the run is on the CPU, whatever devices there are.
        """
        from accelerate import PartialState

        # Without a device of its own the processes talk over gloo; told so before the group is made.
        cpu = cpu or not torch.accelerator.is_available()
        PartialState(cpu=True) if cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else PartialState()
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_world_size(), dist.get_rank(), _talking_group())

    @classmethod
    def of(cls, config: TrainingConfig) -> Ranks:
        """:meth:`here`, for a run.

        Raises:
            ConfigError: ``local_rank`` is not this process's.
        """
        from accelerate import PartialState

        ranks = cls.here(cpu=config.device != "auto" and torch.device(config.device).type == "cpu")
        state = PartialState()
        if config.local_rank not in (-1, state.local_process_index):
            problem = Problem(
                "local_rank",
                f"-1 or {state.local_process_index}, the rank of this process on its machine",
                str(config.local_rank),
                "start the script with torchrun, which gives each process its rank"
                if state.num_processes == 1
                else "leave it out",
            )
            raise ConfigError("TrainingConfig", [problem])
        return ranks

    def gather(self, value: V) -> list[V]:
        """The value of every process, in their order."""
        if self.number == 1:
            return [value]
        values: list[Any] = [None] * self.number
        dist.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, value: V) -> V:
        """The value of the first process."""
        if self.number == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.number > 1:
            dist.barrier(group=self.group)


def _talking_group() -> Any:
    """A group on the CPU, made once: values are told without waiting for a device."""
    global _GROUP
    if dist.get_backend() == "gloo":
        return None
    if _GROUP is None:
        _GROUP = dist.new_group(backend="gloo")
    return _GROUP


_GROUP: Any = None
