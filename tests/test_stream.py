"""A stream of batches goes on where it stood, whatever the loader, and draws nothing that it would not have drawn."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from textbrewer import LengthGroupedBatches
from textbrewer.randomness import random_state, random_state_kept, set_random_state
from textbrewer.stream import Stream, _generators


class Shuffled(IterableDataset):
    """Draws its order from Python's random state, once a pass."""

    def __iter__(self):
        order = list(range(7))
        random.shuffle(order)
        return iter(order)


class Stateful:
    """A loader that tells and takes its own state, as torchdata's does."""

    def __init__(self):
        self.at = 0

    def __len__(self):
        return 7

    def __iter__(self):
        for self.at in range(self.at, 7):  # noqa: B020
            yield torch.tensor([self.at])
        self.at = 0

    def state_dict(self):
        return {"next": self.at + 1}

    def load_state_dict(self, state):
        self.at = state["next"]


def noisy(rows):
    """Draws for every batch, as augmentation does."""
    return torch.tensor(rows) + 1000 * torch.randint(0, 50, (1,))


LOADERS = {
    "in order": lambda: DataLoader(range(7), batch_size=2),
    "shuffled": lambda: DataLoader(range(7), batch_size=2, shuffle=True),
    "own generator": lambda: DataLoader(range(7), 2, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "augmenting": lambda: DataLoader(range(7), batch_size=2, shuffle=True, collate_fn=noisy),
    "by length": lambda: DataLoader(range(7), batch_sampler=LengthGroupedBatches([1, 2, 3, 1, 2, 3, 1], 2)),
    "iterable": lambda: DataLoader(Shuffled(), batch_size=2),
    "list": lambda: [torch.tensor([i]) for i in range(7)],
    "stateful": Stateful,
    "prepared": lambda: Accelerator(cpu=True).prepare(DataLoader(range(7), batch_size=2, shuffle=True)),
    "prepared, by length": lambda: Accelerator(cpu=True).prepare(
        DataLoader(range(7), batch_sampler=LengthGroupedBatches([1, 2, 3, 1, 2, 3, 1], 2))
    ),
}


def taken(batches, number):
    """So many batches, with draws of a training step after each."""
    found = []
    for batch in itertools.islice(batches, number):
        found.append(batch.tolist())
        torch.rand(1), np.random.rand(), random.random()
    return found


def seeded():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("before", [1, 2, 3, 5, 8, 11])
def test_an_endless_stream_goes_on(kind, before):
    seeded()
    whole = taken(Stream(LOADERS[kind]()).endless(), 14)
    seeded()
    stream = Stream(LOADERS[kind]())
    first = taken(stream.endless(), before)
    state, draws = stream.state_dict(), random_state()
    random.seed(99), torch.manual_seed(99), np.random.seed(99)
    again = Stream(LOADERS[kind]())
    again.load_state_dict(state)
    set_random_state(draws)
    assert first + taken(again.endless(), 14 - before) == whole


@pytest.mark.parametrize("kind", LOADERS)
@settings(deadline=None, max_examples=15)
@given(before=st.integers(1, 11))
def test_epochs_go_on(kind, before):
    def epochs(stream, first=0):
        for number in range(first, 3):
            yield from stream.one_pass(number)

    seeded()
    whole = taken(epochs(Stream(LOADERS[kind]())), 100)
    each = len(whole) // 3
    seeded()
    stream = Stream(LOADERS[kind]())
    first = taken(epochs(stream), before)
    state, draws = stream.state_dict(), random_state()
    random.seed(99), torch.manual_seed(99), np.random.seed(99)
    again = Stream(LOADERS[kind]())
    begun, within = divmod(before, each)
    again.load_state_dict(state, within=within > 0)
    set_random_state(draws)
    assert first + taken(epochs(again, begun), 100) == whole


@pytest.mark.parametrize("before", [2, 5, 8])
def test_workers_that_stay_go_on_too(before):
    def batches(stream, first=0):
        for number in range(first, 3):
            yield from stream.one_pass(number)

    def stream():
        return Stream(DataLoader(range(7), batch_size=2, shuffle=True, num_workers=1, persistent_workers=True))

    seeded()
    whole = taken(batches(stream()), 100)
    assert whole[:4] != whole[4:8]
    seeded()
    stopped = stream()
    first = taken(batches(stopped), before)
    state, draws = stopped.state_dict(), random_state()
    again = stream()
    begun, within = divmod(before, 4)
    again.load_state_dict(state, within=within > 0)
    set_random_state(draws)
    assert first + taken(batches(again, begun), 100) == whole


def test_samplers_are_found_however_deep_they_are():
    generator = torch.Generator()
    inner = DataLoader(range(7), batch_size=2, shuffle=True, generator=generator).batch_sampler
    outer = BatchSamplerShard(inner, num_processes=2, process_index=0)
    loader = DataLoader(range(7), batch_sampler=outer)
    assert _generators(loader) == [generator]


def test_a_state_is_made_of_what_can_be_loaded_safely(tmp_path):
    stream = Stream(LOADERS["own generator"]())
    taken(stream.endless(), 2)
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    torch.load(tmp_path / "state.pt", weights_only=True)


def test_random_states_come_back(tmp_path):
    seeded()
    torch.save(random_state(), tmp_path / "random.pt")
    first = (torch.rand(3).tolist(), np.random.rand(), random.random(), random.gauss(0, 1))
    set_random_state(torch.load(tmp_path / "random.pt", weights_only=True))
    assert first == (torch.rand(3).tolist(), np.random.rand(), random.random(), random.gauss(0, 1))
    with random_state_kept():
        expected = (torch.rand(1).item(), np.random.rand(), random.random())
    assert expected == (torch.rand(1).item(), np.random.rand(), random.random())
