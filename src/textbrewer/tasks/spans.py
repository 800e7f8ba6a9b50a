"""Stretches of a context: where answers stand in it, in a window of its tokens, and in a model's logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from .data.report import Tally
from .encoded import UNLABELLED


class Shown(NamedTuple):
    """What a window shows of a context.

    Attributes:
        offsets: ``(length, 2)``, where each token begins and ends in the context; -1 for tokens that are not of it.
        null: the position that stands for no answer.
    """

    offsets: Any
    null: int


class Candidate(NamedTuple):
    """A stretch of a context, and the sum of its two logits."""

    score: float
    start: int
    end: int


def listed(cell: Any) -> Iterable[tuple[str, int]]:
    """Answers with their places, -1 where they are not said, in any of the forms that data has."""
    if isinstance(cell, Mapping) and isinstance(cell.get("text"), (list, tuple)):
        starts = cell.get("answer_start") or cell.get("start") or [-1] * len(cell["text"])
        return [(str(text), int(start)) for text, start in zip(cell["text"], starts, strict=True)]
    items = cell if isinstance(cell, (list, tuple)) else [] if cell is None or cell == "" else [cell]
    found = []
    for item in items:
        text = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise DataError(f"answers: expected texts, or dicts with 'text' and 'answer_start', got {item!r}")
        start = item.get("answer_start", item.get("start")) if isinstance(item, Mapping) else None
        found.append((text, -1 if start is None else int(start)))
    return found


def placed(context: str, text: str, start: int, tally: Tally, place: str) -> dict[str, Any]:
    """An answer where it stands: as said, else nearest to that, else -1."""
    bare = text.strip()
    said = start + len(text) - len(text.lstrip()) if start >= 0 else -1
    if not bare or (said >= 0 and context.startswith(bare, said)):
        return {"text": bare, "start": said if bare else -1}
    places = [i for i in range(len(context)) if context.startswith(bare, i)]
    if not places:
        return {"text": bare, "start": -1}
    if said >= 0:
        tally.add("answer at another place than the data says", place, "corrected")
    elif len(places) > 1:
        tally.add("answer without a place that stands in several", place, "taken at the first")
    return {"text": bare, "start": min(places, key=lambda at: abs(at - said)) if said >= 0 else places[0]}


def target_positions(shown: Shown, answers: Sequence[Mapping[str, Any]] | None) -> tuple[int, int]:
    """The tokens that an answer begins and ends with; in a window that does not show all of it, the one for no answer.

    Of several answers it is the first that is found; where none is, or none is known, both are unlabelled.
    """
    if answers is None or (answers and all(answer["start"] < 0 for answer in answers)):
        return UNLABELLED, UNLABELLED
    begins, ends = shown.offsets[:, 0], shown.offsets[:, 1]
    inside = begins >= 0
    if not answers or not inside.any():
        return shown.null, shown.null
    answer = next(answer for answer in answers if answer["start"] >= 0)
    start, end = answer["start"], answer["start"] + len(answer["text"])
    if begins[inside].min() > start or ends[inside].max() < end:
        return shown.null, shown.null
    touched = np.flatnonzero(inside & (ends > start) & (begins < end))
    return (int(touched[0]), int(touched[-1])) if len(touched) else (UNLABELLED, UNLABELLED)


def candidates(starts: Any, ends: Any, offsets: Any, number: int, longest: int) -> list[Candidate]:
    """The stretches of a window with the highest sums of two logits, of at most ``longest`` tokens."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if not len(inside):
        return []
    later = np.concatenate([ends[inside], np.full(longest - 1, -np.inf, dtype=ends.dtype)])
    sums = starts[inside][:, None] + np.lib.stride_tricks.sliding_window_view(later, longest)
    flat = sums.ravel()
    best = np.argpartition(-flat, min(number, flat.size) - 1)[:number]
    best = best[np.argsort(-flat[best], kind="stable")]
    found = []
    for first, more in zip(*np.unravel_index(best, sums.shape), strict=True):
        if np.isfinite(sums[first, more]):
            begin, end = offsets[inside[first]][0], offsets[inside[first + more]][1]
            found.append(Candidate(float(sums[first, more]), int(begin), int(end)))
    return found
