"""The batches of a loader for one process, pass after pass, which can go on in the middle of one.

A pass is found again by its random state: what the loader drew when it began is drawn once more, and what was taken is
left out. Of a ``DataLoader`` over rows only indices are drawn again; of what can only be read in order, the batches
that were taken are read once more. A loader with ``state_dict`` and ``load_state_dict`` is asked for its own state.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from .feeding import require_batches
from .randomness import random_state, random_state_kept, set_random_state
from .ranks import Ranks, Spare


class Stream:
    """Every W-th batch of a loader, for one of W processes.

    Args:
        loader: the user's, the same in every process; one that is already divided is taken as it is.
        ranks: the processes.
        spares: end a pass with a :class:`Spare` where the other processes have one more batch.
    """

    def __init__(self, loader: Any, ranks: Ranks = Ranks(), *, spares: bool = False) -> None:  # noqa: B008
        self.loader, self.ranks, self.spares = loader, ranks, spares
        self.number = 0
        # Batches that this process took since the first of `_draws` began, and where each began in the stream of all.
        self._rounds = self._drawn = 0
        self._draws: list[dict[str, Any]] = []
        self._to_skip: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self.one_pass(self.number)

    def one_pass(self, number: int) -> Iterator[Any]:
        """The batches of one pass; of a pass that was begun before :meth:`load_state_dict`, the others."""
        self.number = number
        return self._batches(endless=False)

    def endless(self) -> Iterator[Any]:
        """Pass after pass; none is kept, so that shuffling stays alive."""
        return self._batches(endless=True)

    def __len__(self) -> int:
        """Batches that all processes together get in a pass; a TypeError where the loader has no length."""
        length = len(self.loader)
        return length * self.ranks.number if is_divided(self.loader) else length

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: tensors, numbers, texts, and lists and dicts of them."""
        state = {
            "number": self.number,
            "rounds": self._rounds,
            "drawn": self._drawn,
            "draws": list(self._draws),
            "generators": [generator.get_state() for generator in _generators(self.loader)],
        }
        if _is_stateful(self.loader):
            state["loader"] = self.loader.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any], *, within: bool = True) -> None:
        """Go on from there.

        Args:
            state: from :meth:`state_dict`.
            within: in the middle of its pass; otherwise the next pass is begun.
        """
        self.number = state["number"]
        self._to_skip = dict(state) if within else None
        if not within:
            _set_generators(self.loader, state["generators"])

    def _batches(self, endless: bool) -> Iterator[Any]:
        if self.ranks.number == 1 or is_divided(self.loader):
            return self._whole(endless)
        indexed = _batches_of_indices(self.loader)
        return self._picked(endless) if indexed is None else self._dealt(indexed, endless)

    def _begin(self) -> dict[str, Any] | None:
        """What to skip of a pass, after the random states are those it began with; None for a fresh one."""
        skipped, self._to_skip = self._to_skip, None
        if not skipped or not skipped["draws"]:
            self._rounds = self._drawn = 0
            self._draws = [self._draw()]
            return None
        self._rounds, self._drawn, self._draws = skipped["rounds"], skipped["drawn"], skipped["draws"]
        return skipped

    def _draw(self) -> dict[str, Any]:
        """The states a pass begins with."""
        generators = [generator.get_state() for generator in _generators(self.loader)]
        return {"number": self.number, "start": self._drawn, "random": random_state(), "generators": generators}

    def _rewind(self, draw: Mapping[str, Any]) -> None:
        set_random_state(draw["random"])
        _set_generators(self.loader, draw["generators"])

    def _whole(self, endless: bool) -> Iterator[Any]:
        """All batches of the loader."""
        while True:
            skipped = self._begin()
            if skipped is None:
                _announce(self.loader, self.number)
                if getattr(self.loader, "persistent_workers", False) and self.loader._iterator is not None:
                    # Workers that stay are not seeded again; the draw is made all the same, as a resumed run makes it.
                    _draw_seed(self.loader)
                batches = iter(self.loader)
            else:
                batches = self._rest(skipped)
            for batch in batches:
                self._rounds += 1
                yield batch
            require_batches(self._rounds, 1, True)
            if not endless:
                return
            self.number += 1

    def _rest(self, skipped: Mapping[str, Any]) -> Iterator[Any]:
        """The batches that were not taken of the pass, with the random states as they are now."""
        with random_state_kept():
            self._rewind(self._draws[0])
            _announce(self.loader, self.number)
            if "loader" in skipped:
                self.loader.load_state_dict(skipped["loader"])
                rest: Iterator[Any] = iter(self.loader)
                return rest
            indexed = _batches_of_indices(self.loader)
            if indexed is None or is_divided(self.loader):
                again: Iterator[Any] = iter(self.loader)
                _take(again, self._rounds)
                return again
            order = _drawn(self.loader, indexed)
            _take(order, self._rounds)
            return _like(self.loader, order)

    def _picked(self, endless: bool) -> Iterator[Any]:
        """Of a loader that can only be read in order, every process reads all and takes its own."""
        position, spare, now = 0, None, None
        if self._begin() is not None:
            now, position = random_state(), self._draws[0]["start"]
            self._rewind(self._draws[0])
        to_skip = self._rounds
        while True:
            before = position
            for batch in self.loader:
                if position == 0 and self.spares:
                    spare = batch
                turn, whose = divmod(position, self.ranks.number)
                position += 1
                if whose == self.ranks.index and turn >= to_skip:
                    if now is not None:
                        set_random_state(now)
                        now = None
                    self._rounds = turn + 1
                    yield batch
            require_batches(position - before, 1, True)
            if not endless:
                break
            self.number, self._drawn = self.number + 1, position
            self._draws = [self._draw()]
        if self.spares and 0 < position % self.ranks.number <= self.ranks.index:
            yield Spare(spare)

    def _dealt(self, indexed: Iterable[Any], endless: bool) -> Iterator[Any]:
        """Of a loader that can load any batch by itself, each process loads its own.

        The first process draws the order. It is asked at the same batch in all of them, or they would wait for each
        other: when a round of one batch each reaches beyond what was drawn.
        """
        number = self.ranks.number
        own: Iterator[Any] = iter(())
        chosen: list[Any] = []
        if self._begin() is None:
            self._draws = []
        with random_state_kept():
            for draw in self._draws:
                self._rewind(draw)
                _announce(self.loader, draw["number"])
                chosen = self._agreed(indexed)
                own = itertools.chain(own, self._own_of(chosen, draw["start"]))
        while endless or not self._draws or (self._rounds + 1) * number <= self._drawn:
            if (self._rounds + 1) * number > self._drawn:
                self.number += bool(self._draws)
                self._draws = [d for d in self._draws if d["end"] > self._rounds * number]
                draw = self._draw()
                _announce(self.loader, self.number)
                chosen = self._agreed(indexed)
                own = itertools.chain(own, self._own_of(chosen, self._drawn))
                self._drawn += len(chosen)
                self._draws.append({**draw, "end": self._drawn})
            else:
                self._rounds += 1
                yield next(own)
        left = self._drawn - self._rounds * number
        if self.ranks.index < left:
            yield next(own)
        elif left and self.spares:
            yield Spare(next(iter(_like(self.loader, chosen[:1]))))

    def _agreed(self, indexed: Iterable[Any]) -> list[Any]:
        chosen: list[Any] = self.ranks.agree(list(_drawn(self.loader, indexed)) if self.ranks.index == 0 else [])
        require_batches(len(chosen), 1, True)
        return chosen

    def _own_of(self, chosen: list[Any], start: int) -> Iterator[Any]:
        """Of the batches that stand from ``start`` on in the stream of all, those this process has still to take."""
        places = range(start, start + len(chosen))
        own = [place for place in places if place % self.ranks.number == self.ranks.index]
        return _like(self.loader, [chosen[p - start] for p in own if p // self.ranks.number >= self._rounds])


def is_divided(loader: Any) -> bool:
    """Whether a loader already gives each process its own part: by a ``DistributedSampler``, or by Accelerate."""
    by_accelerate = hasattr(loader, "base_dataloader") or type(loader).__module__.startswith("accelerate.")
    samplers = _samplers(loader)
    return by_accelerate or any(isinstance(sampler, DistributedSampler) for sampler in samplers)


def _samplers(loader: Any) -> list[Any]:
    """Every sampler of a loader, however they wrap each other, as Accelerate's do."""
    found, waiting = {}, [loader]
    while waiting:
        thing = waiting.pop(0)
        for inner in (getattr(thing, "sampler", None), getattr(thing, "batch_sampler", None)):
            if inner is not None and id(inner) not in found:
                found[id(inner)] = inner
                waiting.append(inner)
    return list(found.values())


def _announce(loader: Any, number: int) -> None:
    """Tell samplers that make an order of the number of the pass."""
    for sampler in _samplers(loader):
        tell = getattr(sampler, "set_epoch", None)
        if callable(tell):
            tell(number)
    if hasattr(loader, "base_dataloader"):
        # Accelerate's, which tells its samplers itself, by its own count of the passes.
        loader.iteration = number


def _generators(loader: Any) -> list[torch.Generator]:
    """What the loader draws from besides the process's own random state."""
    found = [getattr(thing, "generator", None) for thing in (loader, *_samplers(loader))]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _set_generators(loader: Any, states: Iterable[torch.Tensor]) -> None:
    for generator, state in zip(_generators(loader), states, strict=True):
        generator.set_state(state)


def _is_stateful(loader: Any) -> bool:
    # Accelerate's loaders have the methods always, and a state only where the loader inside has one.
    loader = getattr(loader, "base_dataloader", loader)
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def _take(things: Iterator[Any], number: int) -> None:
    for _ in itertools.islice(things, number):
        pass


def _batches_of_indices(loader: Any) -> Iterable[Any] | None:
    """What says which rows are a batch, if the loader can load any batch by itself."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    return loader.batch_sampler


def _drawn(loader: DataLoader[Any], indexed: Iterable[Any]) -> Iterator[Any]:
    """The batches of a pass, with the draws that the loader itself would make of its random state."""
    _draw_seed(loader)
    return iter(indexed)


def _draw_seed(loader: DataLoader[Any]) -> None:
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)


def _like(loader: DataLoader[Any], batches: Iterable[Any]) -> Iterator[Any]:
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
    # Its seed for workers comes from a copy of the random state, which then is as it would be without this loader.
    with torch.random.fork_rng(devices=[]):
        return iter(same)
