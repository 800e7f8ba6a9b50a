"""Rows with their places, from whatever users hold."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("datasets", reason="needs the extra `hf`")

import datasets

from textbrewer.errors import DataError
from textbrewer.tasks import Table


def test_lists_of_dicts():
    table = Table.of([{"text": "a"}, {"text": "b", "label": 1}])
    assert table.columns == ["text", "label"] and len(table) == 2
    assert list(table) == [{"text": "a"}, {"text": "b", "label": 1}]
    assert table.place(1) == "row 2"
    assert Table.of(table) is table


def test_class_numbers_come_as_names():
    names = datasets.ClassLabel(names=["O", "B-X"])
    features = datasets.Features(tags=datasets.List(names), label=names, number=datasets.Value("int64"))
    data = datasets.Dataset.from_dict({"tags": [[0, 1], [-1]], "label": [1, -1], "number": [0, 1]}, features=features)
    table = Table.of(data)
    assert list(table) == [
        {"tags": ["O", "B-X"], "label": "B-X", "number": 0},
        {"tags": [None], "label": None, "number": 1},
    ]
    assert table.class_names("tags") == table.class_names("label") == ["O", "B-X"]
    assert table.class_names("number") is None


def test_json_is_read():
    rows = {"text": ["a", "b"], "answers": [[{"start": 0}, {"name": "c"}], None], "label": [1, "x"]}
    data = datasets.Dataset.from_dict(rows, on_mixed_types="use_json")
    assert list(Table.of(data)) == list(data)
    assert next(iter(data)) == {"text": "a", "answers": [{"start": 0}, {"name": "c"}], "label": 1}


def test_many_rows_come_in_order():
    data = datasets.Dataset.from_dict({"text": [str(i) for i in range(2500)]})
    assert [row["text"] for row in Table.of(data)] == [str(i) for i in range(2500)]


def test_a_column_that_is_not_there_shows_those_there_are():
    table = Table([{"sentence": "a", "label": 1}], "films.csv")
    assert table.require("label") == "label"
    with pytest.raises(DataError) as error:
        table.require("sentense")
    assert str(error.value) == (
        "films.csv: there is no column 'sentense'; its columns are 'sentence', 'label'; did you mean 'sentence'?"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("films.csv", "expected a table from read"),
        ([{"a": 1}, 2], "row 2: expected a dict of columns, got int"),
        (3, "got int"),
    ],
)
def test_what_is_no_table(data, message):
    with pytest.raises(DataError, match=message):
        Table.of(data)


def test_splits_are_not_rows():
    data = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": [1]})})
    with pytest.raises(DataError, match=r"got splits \['train'\]"):
        Table.of(data)


def test_rows_of_pandas_are_plain():
    given = [{"text": float("nan"), "tags": np.array(["a", "b"]), "answers": {"text": np.array(["x"])}, "score": 0.5}]
    assert list(Table.of(given)) == [{"text": None, "tags": ["a", "b"], "answers": {"text": ["x"]}, "score": 0.5}]
