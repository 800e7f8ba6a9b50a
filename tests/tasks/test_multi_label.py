"""Any number of classes a text."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import bert, tokenizer_of
from textbrewer.errors import ConfigError, DataError
from textbrewer.tasks import MultiLabelClassification, Table

TASK = MultiLabelClassification(["art", "law", "war"], max_length=12)
TOKENIZER = tokenizer_of()


@pytest.mark.parametrize(
    ("cell", "label"),
    [("war,art", ["art", "war"]), (["law"], ["law"]), ("", []), ([], []), (" art , art ", ["art"]), (None, None)],
)
def test_cells(cell, label):
    rows = TASK.rows([{"text": "a", "label": cell}])
    assert rows[0]["label"] == label
    assert rows.report.count("row without label") == (cell is None)


def test_a_column_for_each_class():
    rows = [{"text": "a", "art": "1", "war": 0, "law": "True"}, {"text": "b", "art": 2, "war": 0, "law": 0}]
    table = Table(rows, "t")
    columns = {"label": ["art", "war", "law"]}
    with pytest.raises(DataError, match=r"value 2 in the column 'art', where 0 or 1 is needed: row 2"):
        TASK.rows(table, columns)
    rows = TASK.rows(table, columns, bad_labels="unlabelled")
    assert [row["label"] for row in rows] == [["art", "law"], None]
    assert rows.report.labels == {"art": 1, "law": 1, "war": 0}
    assert MultiLabelClassification.from_data(table, columns).labels == ["art", "war", "law"]


def test_labels_of_data():
    rows = [{"text": "a", "label": "war|art"}, {"text": "b", "label": ""}, {"text": "c", "label": ["law"]}]
    assert MultiLabelClassification.from_data(rows, separator="|").labels == ["art", "law", "war"]
    with pytest.raises(DataError, match=r"label 'peace'"):
        TASK.rows([{"text": "a", "label": "war,peace"}])


def test_lists_of_0_and_1():
    rows = [{"text": "a", "label": [1.0, 0.0, 1.0]}, {"text": "b", "label": [0, 0, 0]}, {"text": "c", "label": None}]
    assert [row["label"] for row in TASK.rows(rows)] == [["art", "war"], [], None]
    two = MultiLabelClassification(["art", "law"])
    assert [row["label"] for row in two.rows([{"text": "a", "label": [False, True]}])] == [["law"]]
    assert two.rows([{"text": "a", "label": "1,1"}])[0]["label"] == ["art", "law"]
    numbers = MultiLabelClassification(["0", "1"])
    found = numbers.rows([{"text": "a", "label": [0, 1]}, {"text": "b", "label": [1, 1]}, {"text": "c", "label": [1]}])
    assert [row["label"] for row in found] == [["0", "1"], ["0", "1"], ["1"]]
    unnamed = MultiLabelClassification.from_data(rows)
    assert unnamed.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert [row["label"] for row in unnamed.rows(rows)] == [["LABEL_0", "LABEL_2"], [], None]
    assert MultiLabelClassification.from_data([{"text": "a", "label": ["0", "1"]}]).labels == ["0", "1"]
    with pytest.raises(DataError, match=r"label '0'"):
        TASK.rows([{"text": "a", "label": [0, 1]}])


def test_the_loss_is_binary_and_skips_rows_without_a_label():
    data = TASK.encode([{"text": "a", "label": ["law"]}, {"text": "b", "label": None}], TOKENIZER)
    batch = next(iter(data.loader(2)))
    assert batch["labels"].tolist() == [[0.0, 1.0, 0.0], [-100.0] * 3]
    logits = torch.tensor([[1.0, 2.0, -1.0], [5.0, 5.0, 5.0]], requires_grad=True)
    loss = TASK.learned(logits, batch)["losses"]
    expected = [math.log(1 + math.exp(z)) for z in (1.0, -2.0, -1.0)]
    assert loss.item() == pytest.approx(sum(expected) / 3)
    loss.backward()
    assert logits.grad[1].abs().sum() == 0


def test_thresholds():
    model = bert(TASK, TOKENIZER, seed=1)
    (found,) = TASK.predict(model, ["abc"], TOKENIZER)
    with torch.no_grad():
        expected = model(**TOKENIZER("abc", return_tensors="pt")).logits[0].sigmoid().tolist()
    assert list(found["scores"].values()) == pytest.approx(expected, abs=1e-6)
    assert found["labels"] == [name for name, p in zip(TASK.labels, expected, strict=True) if p >= 0.5]
    picky = MultiLabelClassification(TASK.labels, threshold={"art": 0.0, "law": 1.0, "war": 0.0})
    assert picky.predict(model, ["abc"], TOKENIZER)[0]["labels"] == ["art", "war"]


def test_scores_and_the_config_of_a_model():
    rows = TASK.rows([{"text": "a", "label": ["art", "war"]}, {"text": "b", "label": []}])
    found = TASK.score([{"labels": ["art"]}, {"labels": []}], rows)
    assert found["micro_f1"] == pytest.approx(2 / 3) and found["accuracy"] == 0.5
    config = bert(TASK, TOKENIZER).config
    assert config.problem_type == "multi_label_classification" and config.id2label[2] == "war"


@pytest.mark.parametrize("threshold", [{"art": 0.5}, 1.5, -1])
def test_thresholds_that_do_not_fit(threshold):
    with pytest.raises(ConfigError, match="threshold"):
        MultiLabelClassification(["art", "law"], threshold=threshold)
