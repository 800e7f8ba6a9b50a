"""Long sequences cut into windows that overlap, so that nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Window(NamedTuple):
    """A run of words that goes through a model at once.

    Attributes:
        start: its first word.
        stop: the word after its last.
        own_start: the first word that is judged here, and not in the window before.
        own_stop: the word after the last that is judged here.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int


def windows_of(lengths: Sequence[int], capacity: int, overlap: int) -> list[Window]:
    """Windows over words; every word is judged in one of them, where it stands farthest from the edges.

    Args:
        lengths: of each word, in tokens; none is above ``capacity``.
        capacity: tokens of a window.
        overlap: tokens that neighbouring windows share at most.

    >>> windows_of([1] * 6, 4, 2)
    [Window(start=0, stop=4, own_start=0, own_stop=3), Window(start=2, stop=6, own_start=3, own_stop=6)]
    """
    windows: list[Window] = []
    start = own_start = 0
    while start < len(lengths):
        stop = _reach(lengths, start, capacity)
        if stop == len(lengths):
            windows.append(Window(start, stop, own_start, stop))
            break
        # The next window must reach beyond this one, which limits how far back it may begin.
        following, shared = stop, 0
        while (
            following > own_start + 1
            and (shared := shared + lengths[following - 1]) <= overlap
            and shared + lengths[stop] <= capacity
        ):
            following -= 1
        own_stop = (following + stop + 1) // 2
        windows.append(Window(start, stop, own_start, own_stop))
        start, own_start = following, own_stop
    return windows


def _reach(lengths: Sequence[int], start: int, capacity: int) -> int:
    """The word after the last that fits."""
    stop, total = start, 0
    while stop < len(lengths) and total + lengths[stop] <= capacity:
        total += lengths[stop]
        stop += 1
    return stop
