"""Which batches each process takes; what they do with them is shown with real processes in tests/integration."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from textbrewer.engine.replicas import ReplicatedStep
from textbrewer.errors import DataError, UnsupportedError
from textbrewer.ranks import Ranks, Spare
from textbrewer.stream import Stream, is_divided


@dataclass(frozen=True)
class Recorded(Ranks):
    """A process that hears what the first one said, one after the other."""

    heard: list = field(default_factory=list)
    at: list = field(default_factory=list)

    def agree(self, value):
        self.at.append(None)
        if self.index == 0:
            self.heard.append(value)
        return self.heard[len(self.at) - 1]


class Rows(IterableDataset):
    def __init__(self, number):
        self.number = number

    def __iter__(self):
        return iter(range(self.number))


def loaders(number):
    return {
        "rows": DataLoader(range(number), batch_size=1),
        "list": [torch.tensor([i]) for i in range(number)],
        "stream": DataLoader(Rows(number), batch_size=1),
    }


def parts(kind, number, processes, endless=False, **how):
    """What each of the processes gets."""
    heard = []
    for index in range(processes):
        stream = Stream(loaders(number)[kind], Recorded(processes, index, heard=heard), **how)
        yield stream.endless() if endless else stream.one_pass(0)


def values(batches):
    return [("spare", int(batch.batch)) if isinstance(batch, Spare) else int(batch) for batch in batches]


KINDS = ["rows", "list", "stream"]


@pytest.mark.parametrize("kind", KINDS)
@given(number=st.integers(1, 12), processes=st.integers(2, 4))
def test_an_epoch_is_dealt_round_by_round(kind, number, processes):
    dealt = [values(part) for part in parts(kind, number, processes)]
    for index, own in enumerate(dealt):
        assert own == list(range(index, number, processes))


@pytest.mark.parametrize("kind", KINDS)
@given(number=st.integers(1, 12), processes=st.integers(2, 4))
def test_spares_make_all_parts_of_equal_length(kind, number, processes):
    dealt = [values(part) for part in parts(kind, number, processes, spares=True)]
    assert {len(own) for own in dealt} == {-(-number // processes)}
    real = [batch for own in dealt for batch in own if not isinstance(batch, tuple)]
    assert sorted(real) == list(range(number))


@pytest.mark.parametrize("kind", KINDS)
@given(number=st.integers(1, 7), processes=st.integers(2, 4))
def test_an_endless_part_crosses_the_end_of_the_loader(kind, number, processes):
    rounds = 9
    dealt = [values(islice(part, rounds)) for part in parts(kind, number, processes, endless=True)]
    together = [own[turn] for turn in range(rounds) for own in dealt]
    assert together == [position % number for position in range(rounds * processes)]


def test_all_processes_ask_for_the_order_at_the_same_turn():
    """They wait for each other there: at another turn one would wait for what the other never says."""
    heard, asked = [], []
    for index in range(2):
        ranks = Recorded(2, index, heard=heard)
        part = Stream(DataLoader(range(3), batch_size=1), ranks).endless()
        turns = []
        for _ in range(9):
            next(part)
            turns.append(len(ranks.at))
        asked.append(turns)
    assert asked[0] == asked[1]


def test_an_empty_loader_is_refused():
    for kind in ("list", "stream"):
        with pytest.raises(DataError, match="the dataloader is empty"):
            list(next(parts(kind, 0, 2)))


def test_a_loader_that_is_divided_already_is_taken_as_it_is():
    sampler = DistributedSampler(range(6), num_replicas=2, rank=1, shuffle=False)
    loader = DataLoader(range(6), batch_size=1, sampler=sampler)
    assert is_divided(loader) and not is_divided(DataLoader(range(6)))
    stream = Stream(loader, Recorded(2, 1))
    assert values(stream) == [1, 3, 5] and len(stream) == 6


def test_each_epoch_of_a_distributed_sampler_is_shuffled_anew():
    loader = DataLoader(range(40), sampler=DistributedSampler(range(40), num_replicas=2, rank=0, seed=1))
    stream = Stream(loader, Recorded(2, 0))
    assert values(stream.one_pass(0)) != values(stream.one_pass(1))


def test_alone_everything_is_as_it_was():
    loader = [1, 2]
    alone = Ranks()
    assert list(Stream(loader)) == loader and len(Stream(loader)) == 2
    assert alone.gather("x") == ["x"] and alone.agree("x") == "x"
    assert alone.wait() is None


def test_a_projection_of_unknown_width_is_refused():
    layer = nn.Linear(1, 1)
    layer.weight = UninitializedParameter()
    with pytest.raises(UnsupportedError, match="write proj="):
        ReplicatedStep(None, [layer], Ranks(2, 0))
