"""What several processes do once, or alike; real ones are in test_processes.py."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from textbrewer.errors import DataError
from textbrewer.pipeline.together import ElsewhereError, alike, once
from textbrewer.ranks import Ranks


class Board:
    """Where threads leave what they tell each other."""

    def __init__(self, number):
        self.values = [None] * number
        self.barrier = threading.Barrier(number)

    def exchanged(self, index, value):
        self.values[index] = value
        self.barrier.wait(10)
        found = list(self.values)
        self.barrier.wait(10)
        return found


@dataclass(frozen=True)
class Threads(Ranks):
    """Threads in the place of processes."""

    board: Any = None

    def gather(self, value):
        return self.board.exchanged(self.index, value)

    def agree(self, value):
        return self.gather(value)[0]


def outcomes(number, how, do):
    """What each of so many gets: a value, or an error."""
    board = Board(number)

    def one(index):
        try:
            return how(Threads(number, index, board=board), lambda: do(index))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def failing(*indices):
    def do(index):
        if index in indices:
            raise DataError(f"no rows in {index}")
        return index

    return do


def test_the_first_does_it_and_all_have_it():
    done = []
    assert outcomes(3, once, lambda index: done.append(index) or "made") == ["made"] * 3
    assert done == [0]


def test_what_fails_in_the_first_fails_in_all():
    first, *others = outcomes(3, once, failing(0, 1, 2))
    assert first == "DataError: no rows in 0"
    assert others == ["ElsewhereError: the first process failed: DataError: no rows in 0"] * 2


def test_all_do_it_and_each_has_its_own():
    assert outcomes(3, alike, lambda index: index) == [0, 1, 2]


def test_what_fails_in_all_the_first_one_tells():
    first, *others = outcomes(3, alike, failing(0, 1, 2))
    assert first == "DataError: no rows in 0" and all(each.startswith("ElsewhereError: the first") for each in others)


def test_what_fails_in_another_one_is_told_there_and_by_all():
    found = outcomes(3, alike, failing(1))
    told = "ElsewhereError: process 1 failed: DataError: no rows in 1"
    assert found == [told, "DataError: no rows in 1", told]


@pytest.mark.parametrize("how", [once, alike])
def test_alone_it_is_a_call(how):
    assert how(Ranks(), lambda: 3) == 3
    with pytest.raises(DataError, match="no rows in 0"):
        how(Ranks(), lambda: failing(0)(0))
    assert not issubclass(DataError, ElsewhereError)
