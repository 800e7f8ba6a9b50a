"""What every task says to models and tokenizers that do not fit, and to columns that are not there."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="needs the extra `hf`")
pytest.importorskip("sklearn", reason="needs the extra `hf`")
pytest.importorskip("seqeval", reason="needs the extra `hf`")

from tests.tasks.small import bert, tokenizer_of
from textbrewer.errors import DataError
from textbrewer.tasks import TASKS

TOKENIZER = tokenizer_of()
LONG = "a " * 30
QUESTION = {"question": "a", "context": LONG, "answers": [{"text": "a", "answer_start": 0}]}
CASES = {
    "text_classification": ({"labels": ["x", "y"]}, {"text": LONG, "label": "x"}),
    "multi_label_classification": ({"labels": ["x", "y"]}, {"text": LONG, "label": "x"}),
    "text_regression": ({}, {"text": LONG, "label": 1}),
    "token_classification": ({"labels": ["O", "B-A", "I-A"]}, {"tokens": LONG.split(), "tags": ["O"] * 30}),
    "question_answering": ({"doc_stride": 4, "max_question_length": 8}, QUESTION),
    "masked_lm": ({}, {"text": LONG}),
    "sentence_embedding": ({}, {"text": LONG, "text_pair": "b", "label": 1}),
    "ranking": ({}, {"query": LONG, "positive": "a", "negative": "b"}),
}


def case_of(name):
    settings, row = CASES[name]
    return TASKS[name](max_length=32, **settings), [row]


@pytest.mark.parametrize("name", TASKS)
def test_a_model_with_fewer_positions(name):
    task, rows = case_of(name)
    model = bert(task, TOKENIZER, max_position_embeddings=16)
    with pytest.raises(DataError, match=r"tokens a row, and Bert\w+ takes 16; encode with max_length=16 or less"):
        task.evaluate(model, task.encode(rows, TOKENIZER))


@pytest.mark.parametrize("name", TASKS)
def test_a_tokenizer_of_a_shorter_model(name):
    task, rows = case_of(name)
    with pytest.raises(DataError, match="max_length=32, but the model of this BertTokenizer takes 16 tokens"):
        task.encode(rows, tokenizer_of(model_max_length=16))


@pytest.mark.parametrize("name", TASKS)
def test_a_tokenizer_without_a_padding_token(name):
    task, rows = case_of(name)
    tokenizer = tokenizer_of()
    tokenizer.pad_token = None
    with pytest.raises(DataError, match="BertTokenizer has no padding token"):
        task.encode(rows, tokenizer)


@pytest.mark.parametrize("name", TASKS)
def test_columns_that_are_not_there(name):
    task, _ = case_of(name)
    with pytest.raises(DataError, match=r"no column is taken for '\w+' among 'foo', 'bar'; write columns="):
        task.rows([{"foo": 1, "bar": 2}])


@pytest.mark.parametrize("name", TASKS)
def test_nothing_to_evaluate(name):
    task, rows = case_of(name)
    with pytest.raises(DataError, match="evaluate: expected what encode"):
        task.evaluate(bert(task, TOKENIZER), rows)
