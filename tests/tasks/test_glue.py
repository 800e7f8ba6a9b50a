"""The tasks of GLUE."""

from __future__ import annotations

import pytest

from textbrewer.errors import UnknownNameError
from textbrewer.tasks import GLUE, TextClassification, TextRegression, glue_task


@pytest.mark.parametrize("name", GLUE)
def test_each_is_a_task_with_its_metrics(name):
    task, (columns, labels, metrics) = glue_task(name, max_length=64), GLUE[name]
    assert isinstance(task, TextClassification if labels else TextRegression)
    assert task.main_metric == metrics[0] and task.max_length == 64
    row = {column: "x" for column in columns.values()} | {"label": labels[0] if labels else 1.0}
    rows = task.rows([row] * 2, columns)
    assert ("text_pair" in rows[0]) == (name not in ("cola", "sst2"))
    prediction = {"label": labels[0]} if labels else {"value": 1.0}
    assert set(metrics) <= set(task.score([prediction] * 2, rows))


def test_what_glue_reports():
    assert GLUE["mrpc"].metrics == ["accuracy", "f1"] and GLUE["stsb"].metrics == ["pearson", "spearman"]
    assert GLUE["mnli"].labels == ["entailment", "neutral", "contradiction"]
    with pytest.raises(UnknownNameError, match=r"did you mean 'sst2'\?"):
        glue_task("sst-2")
