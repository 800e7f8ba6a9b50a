"""A model tells its task."""

from __future__ import annotations

import pytest
import torch

from tests.students.families import teacher_of
from textbrewer import BiGRUConfig, BiGRUStudent, HeadConfig
from textbrewer.errors import DataError, UnsupportedError
from textbrewer.export.inferred import rows_of, task_for
from textbrewer.tasks import (
    MultiLabelClassification,
    QuestionAnswering,
    Table,
    TextClassification,
    TextRegression,
    TokenClassification,
)

TAGS = {0: "O", 1: "B-X", 2: "I-X"}


@pytest.mark.parametrize(
    ("head", "settings", "expected"),
    [
        ("Sequence", {"id2label": {0: "no", 1: "yes"}}, TextClassification(["no", "yes"], max_length=100)),
        ("Sequence", {"num_labels": 1}, TextRegression(max_length=100)),
        (
            "Sequence",
            {"problem_type": "multi_label_classification", "num_labels": 1},
            MultiLabelClassification(["LABEL_0"], max_length=100),
        ),
        ("Token", {"id2label": TAGS}, TokenClassification([*TAGS.values()], max_length=100)),
    ],
)
def test_the_task_of_a_head(tokenizer, head, settings, expected):
    labels = {"num_labels": len(settings["id2label"])} if "id2label" in settings else {}
    model = teacher_of(head=f"For{head}Classification", max_position_embeddings=100, **{**labels, **settings})
    found = task_for(model, tokenizer)
    assert type(found) is type(expected) and str(found) == str(expected)


def test_windows_of_answers_fit_the_model(tokenizer):
    model = teacher_of(head="ForQuestionAnswering", num_labels=2)
    assert str(task_for(model, tokenizer)) == str(QuestionAnswering())
    small = task_for(teacher_of(head="ForQuestionAnswering", num_labels=2, max_position_embeddings=60), tokenizer)
    assert (small.max_length, small.doc_stride, small.max_question_length) == (60, 20, 10)


def test_the_task_of_a_recurrent_student(tokenizer):
    student = BiGRUStudent(BiGRUConfig(50, hidden_size=4, embedding_size=4, head=HeadConfig(num_labels=3)))
    found = task_for(student, tokenizer)
    assert found.class_names == ["LABEL_0", "LABEL_1", "LABEL_2"] and found.max_length == 512


def test_a_model_that_does_not_say(tokenizer):
    with pytest.raises(UnsupportedError, match=r"Linear does not say what it is for; .*BiGRUStudent, or give task="):
        task_for(torch.nn.Linear(2, 2), tokenizer)


def test_rows_in_any_form(task):
    texts = ["a", ("b", "c"), {"text": "d", "label": "bad"}]
    assert [row["text"] for row in rows_of(task, texts[:1])] == ["a"]
    assert [row["text_pair"] for row in rows_of(task, texts[1:2])] == ["c"]
    (row,) = rows_of(task, texts[2:])
    assert row["label"] == "bad"
    assert rows_of(task, Table([row], "a table"))[0]["text"] == "d"
    checked = task.rows([row])
    assert rows_of(task, checked) is checked


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_no_rows(task, nothing):
    with pytest.raises(DataError, match="export: no rows; give some real ones"):
        rows_of(task, nothing)


def test_one_row_alone(task):
    with pytest.raises(DataError, match=r"expected a list of rows, got one str; write \[row\]"):
        rows_of(task, "a text")
