"""Questions from JSON in the forms of SQuAD and CMRC."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("datasets", reason="needs the extra `hf`")

from textbrewer.errors import DataError
from textbrewer.tasks.data.squad import read_squad

ANSWER = {"text": "a", "answer_start": 0}


def table_of(folder, value):
    path = folder / "a.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return read_squad(path)


def squad(*asked, **more):
    return {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": list(asked), **more}]}]}


def test_squad_1_and_2(tmp_path):
    known = {"id": "1", "question": "q", "answers": [ANSWER]}
    assert list(table_of(tmp_path, squad(known))) == [
        {"id": "1", "question": "q", "context": "a b", "answers": [ANSWER]}
    ]
    impossible = {"id": "2", "question": "r", "answers": [], "is_impossible": True, "plausible_answers": [ANSWER]}
    rows = list(table_of(tmp_path, squad(known, impossible)))
    assert rows[1]["answers"] == [] and rows[1]["is_impossible"] is True and rows[0]["is_impossible"] is None


def test_cmrc_in_its_first_form(tmp_path):
    value = [
        {
            "context_id": "c",
            "context_text": "北京是首都",
            "qas": [{"query_id": "q1", "query_text": "哪里", "answers": ["北京", "首都"]}],
        }
    ]
    table = table_of(tmp_path, value)
    assert list(table) == [
        {
            "id": "q1",
            "question": "哪里",
            "context": "北京是首都",
            "answers": [{"text": "北京", "answer_start": -1}, {"text": "首都", "answer_start": -1}],
        }
    ]
    assert table.place(0) == "question 'q1'"


def test_hidden_answers_and_lost_ids(tmp_path):
    rows = list(table_of(tmp_path, squad({"question": "q"}, {"question": "r"})))
    assert [row["answers"] for row in rows] == [None, None]
    assert rows[1]["id"] == "article 1, paragraph 1, question 2"


def test_ids_given_twice_are_counted(tmp_path):
    asked = {"id": "1", "question": "q", "answers": [ANSWER]}
    assert table_of(tmp_path, squad(asked, asked)).findings[0].number == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"data": [\n}', r"line 2, column 1: not JSON"),
        ({"rows": []}, "expected a list of articles"),
        (squad({"id": "1"}), r"article 1, paragraph 1, question 1: expected the text 'question', found \['id'\]"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "paragraph 1: expected the text 'context'"),
        (squad({"question": "q", "answers": [{"start": 1}]}), "expected answers with a 'text'"),
    ],
)
def test_other_json(tmp_path, value, message):
    with pytest.raises(DataError, match=message):
        table_of(tmp_path, value)
