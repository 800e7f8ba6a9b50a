"""A number a text."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import bert, run, tokenizer_of, training
from textbrewer import BasicTrainer, DistillationConfig
from textbrewer.errors import AdaptorError, ConfigError, DataError
from textbrewer.tasks import MultiLabelClassification, TextRegression

TASK = TextRegression(max_length=12)
TOKENIZER = tokenizer_of()


def test_numbers_are_read():
    rows = TASK.rows([{"text": "a", "score": value} for value in (1, "2.5", "", None, -0.0)])
    assert [row["label"] for row in rows] == [1.0, 2.5, None, None, 0.0]
    with pytest.raises(DataError, match=r"label 'high', which is no number: row 1"):
        TASK.rows([{"text": "a", "score": "high"}, {"text": "a", "score": "nan"}])


@pytest.mark.parametrize("hidden", [-1, -1.0, "-1", "-1.000"])
def test_labels_that_are_all_minus_one_are_not_known(hidden):
    rows = TASK.rows([{"text": "a", "label": hidden}, {"text": "b", "label": hidden}, {"text": "c", "label": None}])
    assert [row["label"] for row in rows] == [None] * 3 and rows.report.labelled == 0
    assert rows.report.notes == ("label: -1 everywhere, so taken for not known",)
    assert "labels" not in TASK.encode(rows, TOKENIZER).features[0]
    with pytest.raises(DataError, match="2 rows of 2 without a label"):
        TASK.evaluate(bert(TASK, TOKENIZER), TASK.encode([{"text": t, "label": hidden} for t in "ab"], TOKENIZER))
    known = TASK.rows([{"text": "a", "label": hidden}, {"text": "b", "label": 2}])
    assert [row["label"] for row in known] == [-1.0, 2.0] and known.report.notes == ()


def test_the_loss_is_the_squared_error_of_labelled_rows():
    data = TASK.encode([{"text": "a", "label": 2.0}, {"text": "b", "label": None}], TOKENIZER)
    batch = next(iter(data.loader(2)))
    logits = torch.tensor([[5.0], [7.0]], requires_grad=True)
    loss = TASK.learned(logits, batch)["losses"]
    loss.backward()
    assert loss.item() == 9.0 and logits.grad.tolist() == [[6.0], [0.0]]


def test_predictions_and_scores():
    model = bert(TASK, TOKENIZER)
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    found = TASK.predict(model, ["a", "b c"], TOKENIZER)
    with torch.no_grad():
        assert found[0]["value"] == pytest.approx(model(**TOKENIZER("a", return_tensors="pt")).logits.item(), abs=1e-6)
    rows = TASK.rows([{"text": "a", "label": value} for value in (1, 2, 3)])
    assert TASK.score([{"value": value} for value in (2, 4, 9)], rows)["spearman"] == pytest.approx(1.0)
    assert TextRegression(metric="spearman").main_metric == "spearman"


@pytest.mark.parametrize("task", [TASK, MultiLabelClassification(["a", "b"])])
def test_soft_label_losses_of_classes_are_refused(task):
    model = bert(task, TOKENIZER)
    with pytest.raises(ConfigError, match=r"`kd_loss_type`: expected one of .*'logit_mse'.*, got 'ce'"):
        task.adaptors(model, model, DistillationConfig())
    with pytest.raises(ConfigError, match=r"`kd_loss_type`: .*, got \['jsd', 0.1\]"):
        task.adaptors(model, model, DistillationConfig(kd_loss_type=["jsd", 0.1]))
    for loss in (*task.soft_losses, ["huber", 0.5], lambda s, t, tau: (s - t).abs().mean()):
        assert len(task.adaptors(model, model, DistillationConfig(kd_loss_type=loss))) == 2
    assert len(task.adaptors(model, model, DistillationConfig(kd_loss_weight=0))) == 2


def test_a_model_of_several_outputs_is_refused(tmp_path):
    model = bert(TASK, TOKENIZER, num_labels=2)
    data = TASK.encode([{"text": "a b", "label": 1.0}, {"text": "b", "label": 2.0}], TOKENIZER)
    for use in (
        lambda: TASK.evaluate(model, data),
        lambda: TASK.predict(model, ["a"], TOKENIZER),
        lambda: run(BasicTrainer(training(tmp_path), model, TASK.adaptor(model)), model, data.loader(2), 1),
    ):
        with pytest.raises(AdaptorError, match=r"num_labels=1, and this one gave logits \(\d, 2\)"):
            use()
