"""Names of classes, and what data calls them."""

from __future__ import annotations

import pytest

from textbrewer.errors import ConfigError
from textbrewer.tasks import TextClassification
from textbrewer.tasks.data.report import Tally
from textbrewer.tasks.labels import in_order, label_text, named, names_of


def test_a_mapping_gives_the_names_in_its_order():
    labels = {"pos": "good", "1": "good", "neg": "bad"}
    assert names_of(labels) == ["good", "bad"] and names_of(["b", "a"]) == ["b", "a"]
    tally = Tally()
    assert [named(text, labels, tally, "line 1") for text in ("pos", "1", "neg", "bad")] == [
        "good",
        "good",
        "bad",
        "bad",
    ]
    assert tally.findings() == ()


def test_an_unknown_label_is_noted_with_the_nearest():
    tally = Tally()
    assert named("postive", ["negative", "positive"], tally, "line 3") is None
    assert named("9", ["negative", "positive"], tally, "line 4") is None
    assert [str(finding) for finding in tally.findings()] == [
        "1 label 'postive' (did you mean 'positive'?): line 3",
        "1 label '9': line 4",
    ]


def test_labels_compare_as_text():
    assert [label_text(value) for value in (1, 1.0, 1.5, True, " x ", "1.0")] == ["1", "1", "1.5", "true", "x", "1.0"]
    assert in_order(["b", "a", "2", "10", "a"]) == ["2", "10", "a", "b"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], "each name once"),
        ("ab", "a list of names, or a mapping"),
        ([True, False], "put it in quotes, since YAML reads yes and no"),
        (["a", ""], "expected a name"),
        (["a", None], "expected a name"),
        ({"0": None}, "expected a name"),
        (["a"], "at least 2"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises(ConfigError, match=message):
        TextClassification(labels)


def test_numbers_may_name_classes():
    assert TextClassification([1, 2]).class_names == ["1", "2"]
    assert TextClassification({0: "no", 1: "yes"}).labels == {"0": "no", "1": "yes"}
