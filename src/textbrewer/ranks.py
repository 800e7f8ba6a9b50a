"""Several processes as one: which batches each takes, and what they tell each other.

The optimiser step of W processes with A accumulated batches is that of one process with W · A: the k-th batch of a step
goes to process k mod W, every mean is over all of them, and the gradients of the processes are averaged.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from .configs import TrainingConfig
from .errors import ConfigError, Problem
from .feeding import length_of, require_batches

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

    def batches_of(self, loader: Any) -> int | None:
        """How many batches all processes together get of ``loader`` in an epoch, or None where it has no length."""
        length = length_of(loader)
        return length if length is None or not is_divided(loader) else length * self.number

    def part_of(self, loader: Iterable[Any], *, endless: bool = False, spares: bool = False) -> Iterable[Any]:
        """This process's batches of ``loader``.

        Args:
            loader: the user's, the same in every process; one that is already divided is taken as it is.
            endless: start again whenever it ends.
            spares: end an epoch with a :class:`Spare` where the other processes have one more batch.
        """
        return loader if self.number == 1 else _Part(loader, self, endless, spares)


def _talking_group() -> Any:
    """A group on the CPU, made once: values are told without waiting for a device."""
    global _GROUP
    if dist.get_backend() == "gloo":
        return None
    if _GROUP is None:
        _GROUP = dist.new_group(backend="gloo")
    return _GROUP


_GROUP: Any = None


def is_divided(loader: Any) -> bool:
    """Whether a loader already gives each process its own part: by a ``DistributedSampler``, or by Accelerate."""
    by_accelerate = hasattr(loader, "base_dataloader") or type(loader).__module__.startswith("accelerate.")
    return by_accelerate or getattr(loader, "divided", False) or _distributed_sampler(loader) is not None


def _distributed_sampler(loader: Any) -> DistributedSampler[Any] | None:
    batches = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        if isinstance(sampler, DistributedSampler):
            return sampler
    return None


class _Part:
    """Every W-th batch of a loader; see :meth:`Ranks.part_of`."""

    def __init__(self, loader: Any, ranks: Ranks, endless: bool, spares: bool) -> None:
        self.loader, self.ranks, self.endless, self.spares = loader, ranks, endless, spares
        self.epoch = 0

    def __iter__(self) -> Iterator[Any]:
        if is_divided(self.loader):
            return self._own_epoch()
        indexed = _batches_of_indices(self.loader)
        return self._picked() if indexed is None else self._dealt(indexed)

    def _own_epoch(self) -> Iterator[Any]:
        """A loader that is divided already."""
        sampler = _distributed_sampler(self.loader)
        if sampler is not None:
            sampler.set_epoch(self.epoch)
        self.epoch += 1
        yield from self.loader

    def _picked(self) -> Iterator[Any]:
        """Of a loader that can only be read in order, every process reads all and takes its own."""
        position, spare = 0, None
        while True:
            before = position
            for batch in self.loader:
                if position == 0 and self.spares:
                    spare = batch
                if position % self.ranks.number == self.ranks.index:
                    yield batch
                position += 1
            require_batches(position - before, 1, True)
            if not self.endless:
                break
        if self.spares and 0 < position % self.ranks.number <= self.ranks.index:
            yield Spare(spare)

    def _dealt(self, indexed: Iterable[Any]) -> Iterator[Any]:
        """Of a loader that can load any batch by itself, each process loads its own.

        The first process draws the order. It is asked at the same batch in all of them, or they would wait for each
        other: when a round of one batch each reaches beyond what was drawn.
        """
        number, rounds, drawn = self.ranks.number, 0, 0
        own: Iterator[Any] = iter(())
        chosen: list[Any] = []
        while self.endless or not drawn or (rounds + 1) * number <= drawn:
            if (rounds + 1) * number > drawn:
                chosen = self.ranks.agree(_drawn(self.loader, indexed) if self.ranks.index == 0 else [])
                require_batches(len(chosen), 1, True)
                own = itertools.chain(own, _like(self.loader, chosen[(self.ranks.index - drawn) % number :: number]))
                drawn += len(chosen)
            else:
                yield next(own)
                rounds += 1
        left = drawn - rounds * number
        if self.ranks.index < left:
            yield next(own)
        elif left and self.spares:
            yield Spare(next(iter(_like(self.loader, chosen[:1]))))


def _batches_of_indices(loader: Any) -> Iterable[Any] | None:
    """What says which rows are a batch, if the loader can load any batch by itself."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    return loader.batch_sampler


def _drawn(loader: DataLoader[Any], indexed: Iterable[Any]) -> list[Any]:
    """The batches of an epoch, with the draws that the loader itself would make of its random state."""
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
    return list(indexed)


def _like(loader: DataLoader[Any], batches: Sequence[Any]) -> Iterator[Any]:
    """The loader with these batches alone."""
    same = DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )
    # Its seed for workers comes from a copy of the random state, which then is as it would be without processes.
    with torch.random.fork_rng(devices=[]):
        return iter(same)
