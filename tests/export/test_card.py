"""The model card says what was given, and of the rest that it was not."""

from __future__ import annotations

import pytest
import yaml

from textbrewer.errors import ConfigError
from textbrewer.export import Card
from textbrewer.export.card import card_text
from textbrewer.tasks import QuestionAnswering, TextClassification


def text_of(card, task):
    table = [["", "PyTorch", "ONNX"], ["f1", "0.5", "0.4"]]
    return card_text(
        card, name="folder", task=task, kind="A model.", files={"a.onnx": "it"}, table=table, measured="On 3 rows."
    )


def test_what_is_not_given_is_not_made_up():
    text = text_of(Card(), QuestionAnswering())
    assert text.count("| not given |") == 8 and "| Licence | not given |" in text
    assert yaml.safe_load(text.split("---")[1]) == {"library_name": "onnx", "pipeline_tag": "question-answering"}
    assert "# folder" in text and "Labels" not in text


def test_what_is_given_is_there():
    card = Card(name="Films", licence="MIT", language="en", training_data="a | b\nc")
    text = text_of(card, TextClassification(["good|bad", "odd"]))
    assert "# Films\n" in text and "# folder" not in text
    assert r"| Training data | a \| b c |" in text and r"Labels: good\|bad, odd." in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "MIT" and front["language"] == "en" and front["pipeline_tag"] == "text-classification"
    assert "|  | PyTorch | ONNX |\n| --- | ---: | ---: |\n| f1 | 0.5 | 0.4 |\n\nOn 3 rows.\n" in text
    assert "| `a.onnx` | it |" in text and 'python predict.py "a text"' in text


def test_an_unknown_field_is_refused():
    with pytest.raises(ConfigError, match=r"did you mean 'licence'\?"):
        Card.from_dict({"license": "MIT"})
