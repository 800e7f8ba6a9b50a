"""One class a text: labels, the loss, predictions and scores."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import bert, tokenizer_of
from textbrewer.errors import ConfigError, DataError
from textbrewer.tasks import Table, TextClassification

TASK = TextClassification({"0": "bad", "1": "good", "?": "odd"}, max_length=12)
TOKENIZER = tokenizer_of()


def test_labels_of_data_make_a_task():
    rows = [{"text": "a", "label": 10}, {"text": "b", "label": 9.0}, {"text": "c", "label": None}]
    assert TextClassification.from_data(rows, max_length=16).labels == ["9", "10"]
    assert TextClassification.from_data([{"x": "a", "y": "n"}, {"x": "b", "y": "m"}], {"text": "x"}).labels == [
        "m",
        "n",
    ]
    with pytest.raises(DataError, match="'label'"):
        TextClassification.from_data([{"text": "a"}])


def test_named_classes_keep_their_own_order():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["pos", "neg"]))
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    task = TextClassification.from_data(data)
    assert task.class_names == ["pos", "neg"]
    assert [row["label"] for row in task.rows(data)] == ["neg", None]


def test_data_is_mapped_to_names():
    rows = TASK.rows([{"text": "a", "label": value} for value in (0, "1", 1.0, "good", "?")])
    assert [row["label"] for row in rows] == ["bad", "good", "good", "good", "odd"]
    assert rows.report.labels == {"bad": 1, "good": 3, "odd": 1}


def batch_and_loss(labels):
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]], requires_grad=True)
    found = TASK.learned(logits, {"labels": torch.tensor(labels)})
    assert found["logits"] is logits and found["labels"].tolist() == labels
    return logits, found["losses"]


def test_the_loss_is_the_mean_over_labelled_rows():
    _, loss = batch_and_loss([0, -100, 2])
    first = -math.log(math.exp(2) / (math.exp(2) + 1 + math.e))
    assert loss.item() == pytest.approx((first + math.log(3)) / 2)


def test_a_batch_without_any_label_costs_nothing():
    logits, loss = batch_and_loss([-100, -100, -100])
    loss.backward()
    assert loss.item() == 0.0 and logits.grad.abs().sum() == 0
    assert TASK.learned(logits, {}) == {"logits": logits}


def test_the_loss_of_half_precision_is_computed_in_full():
    logits = torch.tensor([[8.0, 0.0, 0.0]], dtype=torch.bfloat16)
    loss = TASK.learned(logits, {"labels": torch.tensor([0])})["losses"]
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-8)), rel=1e-3)


def test_predictions_are_plain_and_in_order():
    model = bert(TASK, TOKENIZER, seed=3)
    texts = ["a", "bcdefgh i", "", "b"]
    found = TASK.predict(model, texts, TOKENIZER, batch_size=2)
    for text, each in zip(texts, found, strict=True):
        with torch.no_grad():
            logits = model(**TOKENIZER(text, return_tensors="pt")).logits[0]
        expected = logits.softmax(-1).tolist()
        assert list(each["scores"].values()) == pytest.approx(expected, abs=1e-6)
        assert each["label"] == TASK.class_names[expected.index(max(expected))]
        assert type(each["scores"]["bad"]) is float
    assert TASK.predict(model, [], TOKENIZER) == []


def test_predictions_of_pairs_dicts_and_tables():
    model = bert(TASK, TOKENIZER)
    (pair,) = TASK.predict(model, [("a", "b")], TOKENIZER)
    (same,) = TASK.predict(model, [{"text": "a", "text_pair": "b"}], TOKENIZER)
    (again,) = TASK.predict(model, Table([{"sentence1": "a", "sentence2": "b", "label": 7}], "t"), TOKENIZER)
    (single,) = TASK.predict(model, ["a"], TOKENIZER)
    assert pair == same == again != single


@pytest.mark.parametrize(
    ("inputs", "message"),
    [("a text", "a list of inputs, got one str"), ({"text": "a"}, "got one dict"), ([3], "or a dict, got int")],
)
def test_inputs_of_another_kind(inputs, message):
    with pytest.raises(DataError, match=message):
        TASK.predict(bert(TASK, TOKENIZER), inputs, TOKENIZER)


def test_scores_of_known_predictions():
    rows = TASK.rows([{"text": "a", "label": label} for label in ("bad", "good", "odd", "odd")])
    predictions = [{"label": label} for label in ("bad", "good", "odd", "bad")]
    found = TASK.score(predictions, rows)
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert TASK.main_metric == "accuracy" and TextClassification(["a", "b"], metric="mcc").main_metric == "mcc"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "f2"}, "`metric`"),
        ({"max_length": 2}, "`max_length`"),
        ({"max_lenght": 12}, r"did you mean 'max_length'\?"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        TextClassification(labels=["a", "b"], **settings)


def test_a_task_is_a_config():
    task = TextClassification.from_dict({"labels": {"0": "no", "1": "yes"}, "max_length": 20})
    assert task.max_length == 20 and "max_length : 20" in str(task)
