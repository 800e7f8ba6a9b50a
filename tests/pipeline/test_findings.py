"""What is found when a run ends is kept, found again for the same student, and made anew for another."""

from __future__ import annotations

import json

import pytest

from tests.export.small import WORDS, rows
from tests.tasks.small import bert, tokenizer_of
from textbrewer.pipeline import findings
from textbrewer.tasks import TextClassification

TASK = TextClassification(["good", "bad"], max_length=24)


@pytest.fixture(scope="module")
def parts():
    tokenizer = tokenizer_of(WORDS)
    teacher, student = bert(TASK, tokenizer), bert(TASK, tokenizer, seed=1, num_hidden_layers=1)
    return TASK, teacher, student, TASK.encode(rows(20), tokenizer), tokenizer


def run_in(folder, key="key"):
    (folder / "student").mkdir(parents=True, exist_ok=True)
    (folder / "student" / "record.json").write_text(json.dumps({"key": key, "scored": "rows"}))
    return folder


def test_it_is_kept_and_found_again(parts, tmp_path, monkeypatch):
    run = run_in(tmp_path)
    assert findings.findings_in(run) == {}
    findings.keep_findings(run, *parts)
    found = findings.findings_in(run)
    assert {"rows", "confusion", "calibration", "disagreements", "similarity", "of"} == set(found)
    monkeypatch.setattr(findings, "findings_of", None)  # which would fail if it were called
    findings.keep_findings(run, *parts)
    assert findings.findings_in(run) == found


def test_of_another_student_it_is_found_anew(parts, tmp_path):
    findings.keep_findings(run_in(tmp_path), *parts)
    run_in(tmp_path, key="another")
    assert findings.findings_in(tmp_path) == {}
    findings.keep_findings(tmp_path, *parts)
    assert findings.findings_in(tmp_path)["of"] == {"student": "another", "rows": "rows"}


@pytest.mark.parametrize("text", ["{", "[]", "", "{}"])
def test_a_file_that_cannot_be_read_is_as_none(tmp_path, text):
    run_in(tmp_path)
    (tmp_path / "findings.json").write_text(text)
    assert findings.findings_in(tmp_path) == {}


def test_an_export_is_scored_and_timed_beside_the_student(parts, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    from textbrewer.export import OnnxModel, export_model

    task, _, student, encoded, tokenizer = parts
    export_model(student, tokenizer, tmp_path / "export", rows(20), task=task)
    findings.keep_findings(run_in(tmp_path), *parts, exported=tmp_path / "export")
    small = findings.findings_in(tmp_path)["int8"]
    file = tmp_path / "export" / "model.int8.onnx"
    assert small["scores"] == task.evaluate(OnnxModel(file), encoded) and small["file_bytes"] == file.stat().st_size
    assert small["latency"] > 0
    findings.keep_findings(tmp_path, *parts)
    assert "int8" not in findings.findings_in(tmp_path)
