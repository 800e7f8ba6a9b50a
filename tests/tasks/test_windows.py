"""Windows lose nothing, and judge each word once, where it stands far from the edges."""

from __future__ import annotations

import itertools
import random

import pytest

from textbrewer.tasks.windows import Window, windows_of


@pytest.mark.parametrize("seed", range(200))
def test_every_word_is_judged_once_and_no_window_is_too_long(seed):
    generator = random.Random(seed)
    capacity = generator.randint(1, 12)
    lengths = [generator.randint(1, capacity) for _ in range(generator.randint(0, 40))]
    windows = windows_of(lengths, capacity, generator.randint(0, capacity))
    assert [i for w in windows for i in range(w.own_start, w.own_stop)] == list(range(len(lengths)))
    for window in windows:
        assert window.start <= window.own_start < window.own_stop <= window.stop
        assert sum(lengths[window.start : window.stop]) <= capacity


@pytest.mark.parametrize("overlap", [0, 2, 5, 9])
def test_neighbours_share_no_more_than_asked(overlap):
    windows = windows_of([1, 2, 1, 3] * 10, 12, overlap)
    for before, after in itertools.pairwise(windows):
        assert sum(([1, 2, 1, 3] * 10)[after.start : before.stop]) <= overlap
        assert after.stop > before.stop


def test_words_near_an_edge_are_judged_where_they_have_more_around_them():
    windows = windows_of([1] * 20, 8, 4)
    for word in range(20):
        (owner,) = [w for w in windows if w.own_start <= word < w.own_stop]
        showing = [w for w in windows if w.start <= word < w.stop]
        assert _around(owner, word) >= max(_around(w, word) for w in showing) - 1


def _around(window, word):
    return min(word - window.start, window.stop - 1 - word)


def test_short_and_empty():
    assert windows_of([2, 3], 5, 2) == [Window(0, 2, 0, 2)]
    assert windows_of([], 5, 2) == []
