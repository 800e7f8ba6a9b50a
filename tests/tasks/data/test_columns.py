"""Columns by name, given or guessed."""

from __future__ import annotations

import pytest

from textbrewer.errors import DataError
from textbrewer.tasks import Table
from textbrewer.tasks.data.columns import Chosen, guessed, guessed_pair, missing, named

TABLE = Table([{"Sentence1": "a", "sentence2": "b", "Label": 1, "0": 2}], "t")


def test_names_are_guessed_whatever_their_case():
    assert guessed(TABLE, "label") == "Label"
    assert guessed(TABLE, "text") is None
    assert guessed_pair(TABLE) == ("Sentence1", "sentence2")


def test_given_names_are_checked():
    assert named(TABLE, {"text": "Sentence1", "label": ["Label", "0"]}, ["text", "label"]) == {
        "text": "Sentence1",
        "label": ["Label", "0"],
    }
    assert named(TABLE, {"text": 0}, ["text"]) == {"text": "0"}
    assert named(TABLE, None, ["text"]) == {}
    with pytest.raises(DataError, match=r"expected one of 'text', 'label', got 'lable'; did you mean 'label'\?"):
        named(TABLE, {"lable": "Label"}, ["text", "label"])
    with pytest.raises(DataError, match="its columns are 'Sentence1', 'sentence2', 'Label', '0'"):
        named(TABLE, {"text": "nowhere"}, ["text"])


def test_a_column_of_the_very_name_is_no_guess():
    chosen = Chosen.of({"text": "text", "label": "y", "id": "id"}, given={"id"})
    assert chosen.guessed == ("label",) and chosen.get("label") == "y" and chosen.get("tags") is None
    assert chosen.written() == {"text": "'text'", "label": "'y'", "id": "'id'"}


def test_a_missing_column_says_how_to_name_it():
    there = "'Sentence1', 'sentence2', 'Label', '0'"
    expected = f"t: no column is taken for 'tags' among {there}; write columns={{'tags': …}}; or not"
    assert str(missing(TABLE, "tags", "; or not")) == expected
