"""Where answers stand: in a context, in a window's tokens, in a model's logits."""

from __future__ import annotations

import numpy as np
import pytest

from textbrewer.errors import DataError
from textbrewer.tasks.data.report import Tally
from textbrewer.tasks.spans import Shown, candidates, listed, placed, target_positions

CONTEXT = "On Mars, cold Mars, it is cold."


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ({"text": ["a", "b"], "answer_start": [1, 5]}, [("a", 1), ("b", 5)]),
        ({"text": [], "answer_start": []}, []),
        ({"text": ["a"]}, [("a", -1)]),
        ([{"text": "a", "answer_start": 3}, {"text": "b", "start": 4}, {"text": "c"}], [("a", 3), ("b", 4), ("c", -1)]),
        (["a", "b"], [("a", -1), ("b", -1)]),
        ({"text": "a", "answer_start": 0}, [("a", 0)]),
        ("a", [("a", -1)]),
        ("", []),
        (None, []),
    ],
)
def test_answers_in_any_form(cell, found):
    assert list(listed(cell)) == found


def test_answers_of_no_form():
    with pytest.raises(DataError, match=r"expected texts, or dicts with 'text' and 'answer_start', got 3"):
        listed([3])


@pytest.mark.parametrize(
    ("text", "start", "found", "said"),
    [
        ("Mars", 3, 3, ""),
        ("Mars", 14, 14, ""),
        (" Mars", 13, 14, ""),
        ("Mars", 13, 14, "answer at another place than the data says"),
        ("Mars", 0, 3, "answer at another place than the data says"),
        ("Mars", -1, 3, "answer without a place that stands in several"),
        ("it", -1, 20, ""),
        ("Venus", 3, -1, ""),
        (" ", 2, -1, ""),
    ],
)
def test_answers_are_found_where_they_stand(text, start, found, said):
    tally = Tally()
    assert placed(CONTEXT, text, start, tally, "here") == {"text": text.strip(), "start": found}
    assert [finding.what for finding in tally.findings()] == ([said] if said else [])


# [CLS] question [SEP] On Mars , cold [SEP]
OFFSETS = np.array([[-1, -1], [-1, -1], [-1, -1], [0, 2], [3, 7], [7, 8], [9, 13], [-1, -1]])
SHOWN = Shown(OFFSETS, 0)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([{"text": "Mars", "start": 3}], (4, 4)),
        ([{"text": "Mars, cold", "start": 3}], (4, 6)),
        ([{"text": "ars", "start": 4}], (4, 4)),  # within a token
        ([{"text": "Venus", "start": -1}, {"text": "On", "start": 0}], (3, 3)),  # the first that is found
        ([{"text": "cold Mars", "start": 9}], (0, 0)),  # beyond the window
        ([], (0, 0)),
        (None, (-100, -100)),
        ([{"text": "Venus", "start": -1}], (-100, -100)),
        ([{"text": "", "start": 8}], (-100, -100)),  # between tokens
    ],
)
def test_the_tokens_of_an_answer(answers, expected):
    assert target_positions(SHOWN, answers) == expected


def test_a_window_without_context():
    assert target_positions(Shown(np.full((3, 2), -1), 0), [{"text": "a", "start": 0}]) == (0, 0)


@pytest.mark.parametrize("longest", [1, 2, 9])
def test_candidates_are_the_best_of_all(longest):
    generator = np.random.default_rng(longest)
    starts, ends = generator.normal(size=8), generator.normal(size=8)
    every = sorted(
        (-(starts[i] + ends[j]), OFFSETS[i, 0], OFFSETS[j, 1])
        for i in range(3, 7)
        for j in range(i, min(i + longest, 7))
    )
    found = candidates(starts, ends, OFFSETS, 5, longest)
    assert [(each.start, each.end) for each in found] == [(start, end) for _, start, end in every[:5]]
    assert [each.score for each in found] == pytest.approx([-score for score, _, _ in every[:5]])
    assert candidates(starts, ends, np.full((8, 2), -1), 5, longest) == []
