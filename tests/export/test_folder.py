"""A folder that serves, written whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers

from tests.export.small import rows
from tests.tasks.small import SlowTokenizer, bert
from textbrewer import BiGRUConfig, BiGRUStudent, HeadConfig
from textbrewer.errors import (
    ConfigError,
    DataError,
    MissingDependencyError,
    StudentError,
    TextBrewerError,
    UnsupportedError,
)
from textbrewer.export import OnnxModel, Variant, export, export_model, folder
from textbrewer.export.folder import _choice
from textbrewer.report.profile import Speed
from textbrewer.tasks import TextClassification

FILES = {"model.onnx", "model.int8.onnx", "tokenizer.json", "config.json", "export.json", "predict.py", "README.md"}


def predicted(folder, *arguments):
    command = [sys.executable, "predict.py", *arguments]
    return json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def ready(onnx_file, monkeypatch):
    """Writing the ONNX file takes no time: it is the fixture's, whatever the model is."""
    monkeypatch.setattr(folder, "write_onnx", lambda model, file, inputs: file.write_bytes(onnx_file.read_bytes()))


def test_the_folder_is_complete_and_in_use(exported):
    assert {file.name for file in exported.folder.iterdir()} >= FILES
    assert [path.name for path in exported.folder.parent.iterdir()] == ["films"]
    found = predicted(exported.folder, "the very long film was good")
    assert found["label"] == "good" and 0.9 < found["scores"]["good"] < 1
    assert predicted(exported.folder, "bad", "very bad")["label"] == "bad"


def test_the_report_says_what_was_measured(exported):
    assert [*exported.variants] == ["PyTorch", "ONNX", "ONNX int8"]
    reference, exact, small = exported.variants.values()
    assert reference.difference is None and exact.difference < 1e-5 < small.difference
    assert reference.scores["accuracy"] == exact.scores["accuracy"] == small.scores["accuracy"] == 1
    assert exact.agreement == small.agreement == 1
    assert small.bytes == (exported.folder / small.file).stat().st_size < exact.bytes
    assert reference.bytes == 4 * exported.parameters
    assert all(each.speed.median_ms > 0 and each.speed.rows_per_second > 0 for each in exported.variants.values())
    assert exported.rows == 40 and exported.serves == "model.int8.onnx"
    assert "accuracy" in str(exported) and "int8 changes accuracy by +0.0000" in str(exported)


def test_settings_are_data(exported):
    settings = json.loads((exported.folder / "export.json").read_text())
    assert settings["labels"] == ["good", "bad"] and settings["task"] == "text_classification"
    assert settings["model"] == exported.serves
    assert settings["export"]["variants"]["ONNX int8"]["scores"]["accuracy"] == 1
    assert settings["export"] == json.loads(json.dumps(exported.to_dict()))


def test_the_card_has_the_measurements(exported):
    text = (exported.folder / "README.md").read_text()
    assert "# films\n" in text and "| Licence | Apache-2.0 |" in text and r"| Training data | made \| up |" in text
    assert "| accuracy | 1.0000 | 1.0000 | 1.0000 |" in text and "on 40 rows given at export" in text
    assert "| Data licence | not given |" in text and "Labels: good, bad." in text


def test_nothing_in_the_folder_names_another_place(exported):
    for file in exported.folder.iterdir():
        assert str(exported.folder.parents[1]).encode() not in file.read_bytes()


def test_transformers_reads_the_tokenizer_as_before(exported, tokenizer):
    again = transformers.AutoTokenizer.from_pretrained(exported.folder)
    text = "the film " * 40
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.usefixtures("ready")
def test_without_labels_and_without_int8(tmp_path, model, tokenizer):
    report = export_model(model, tokenizer, tmp_path / "out", ["a good film", "bad"], int8=False)
    assert [*report.variants] == ["PyTorch", "ONNX"] and report.variants["ONNX"].scores == {}
    assert report.serves == "model.onnx" and not (tmp_path / "out" / "model.int8.onnx").exists()
    assert "int8" not in (tmp_path / "out" / "README.md").read_text().split("## Files")[1]


@pytest.mark.usefixtures("ready")
def test_own_scores(tmp_path, model, tokenizer):
    asked = []

    def evaluate(each):
        asked.append(type(each).__name__)
        assert not each.training
        return {"speed of light": 3.0}

    model.train()
    report = export_model(model, tokenizer, tmp_path / "out", rows(4), evaluate=evaluate)
    assert model.training
    model.eval()
    assert asked == ["BertForSequenceClassification", "OnnxModel", "OnnxModel"]
    assert report.variants["ONNX int8"].scores == {"speed of light": 3.0}
    assert report.reason == "int8 decides 100.0% of the rows as PyTorch does, and must 98%"


@pytest.mark.usefixtures("ready")
def test_a_model_that_computes_something_else_leaves_nothing(tmp_path, task, tokenizer):
    other = bert(task, tokenizer, seed=9, num_hidden_layers=1)
    with pytest.raises(TextBrewerError, match=r"`logits` of the ONNX file differ from PyTorch's by \d"):
        export_model(other, tokenizer, tmp_path / "out", rows(4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ready")
def test_a_failure_leaves_the_earlier_export(tmp_path, model, tokenizer, monkeypatch):
    out = tmp_path / "out"
    export_model(model, tokenizer, out, rows(4), int8=False)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def fails(*_):
        raise RuntimeError("no more space")

    monkeypatch.setattr(folder, "quantise", fails)
    with pytest.raises(RuntimeError, match="no more space"):
        export_model(model, tokenizer, out, rows(4))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    export_model(model, tokenizer, out, rows(4), int8=False, card={"licence": "MIT"})
    assert "MIT" in (out / "README.md").read_text()


@pytest.mark.usefixtures("ready")
def test_a_folder_of_something_else_is_never_replaced(tmp_path, model, tokenizer):
    model.save_pretrained(tmp_path / "model")
    for output in (tmp_path / "model", tmp_path / "model" / "config.json"):
        with pytest.raises(DataError, match="is there already and is no earlier export; choose another folder"):
            export_model(model, tokenizer, output, rows(4))
    assert (tmp_path / "model" / "model.safetensors").is_file()
    (tmp_path / "empty").mkdir()
    export_model(model, tokenizer, tmp_path / "empty", rows(4), int8=False)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"data": []}, DataError, "no rows; give some real ones"),
        ({"tokenizer": None}, DataError, "no tokenizer; predict.py could not read texts"),
        ({"tokenizer": SlowTokenizer()}, UnsupportedError, "SlowTokenizer is written in Python and has no tokenizer"),
        ({"card": {"licences": "MIT"}}, ConfigError, "did you mean 'licence'"),
        ({"model": torch.nn.Linear(2, 2)}, UnsupportedError, "Linear does not say what it is for"),
        ({"task": TextClassification(["x", "y"], max_length=8)}, ConfigError, "text_classification and its model"),
    ],
)
def test_what_cannot_be_exported_is_said_first(tmp_path, monkeypatch, model, tokenizer, given, error, message):
    monkeypatch.setattr(folder, "write_onnx", lambda *_: pytest.fail("written before it was refused"))
    arguments = {"model": model, "tokenizer": tokenizer, "output": tmp_path / "out", "data": ["a"], **given}
    with pytest.raises(error, match=message):
        export_model(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model_or_a_tokenizer(tmp_path, model):
    with pytest.raises(StudentError, match=r"expected a model written by save_pretrained, found no config\.json"):
        export(tmp_path, tmp_path / "out", ["a"])
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match=r"model holds no tokenizer\.json; save the tokenizer beside the model"):
        export(tmp_path / "model", tmp_path / "out", ["a"])


def test_onnx_is_needed(tmp_path, model, tokenizer, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(MissingDependencyError, match=r"`onnx`: pip install 'textbrewer-next\[export\]'"):
        export_model(model, tokenizer, tmp_path / "out", ["a"])


@pytest.mark.slow
def test_a_recurrent_student_from_its_folder(tmp_path, tokenizer):
    head = HeadConfig(num_labels=2, labels=["good", "bad"], pooling="max")
    student = BiGRUStudent(BiGRUConfig(len(tokenizer), hidden_size=8, embedding_size=4, head=head)).eval()
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    report = export(tmp_path / "student", tmp_path / "out", rows(4))
    assert report.model == "BiGRUStudent" and report.variants["ONNX"].agreement == 1
    (expected,) = TextClassification(["good", "bad"], max_length=512).predict(
        OnnxModel(tmp_path / "out" / report.serves), ["a film"], tokenizer
    )
    assert predicted(tmp_path / "out", "a film")["scores"] == pytest.approx(expected["scores"], abs=1e-6)


def variants(score=None, agreement=1.0, reference=0.7):
    speed = Speed(1, 1, 1)
    first = Variant(None, 1, speed, {} if score is None else {"f1": reference}, None, None)
    return {"PyTorch": first, "ONNX int8": replace(first, scores={"f1": score}, agreement=agreement, file="x")}


@pytest.mark.parametrize(
    ("given", "file", "reason"),
    [
        (variants(score=0.69), "model.int8.onnx", "int8 changes f1 by -0.0100, and may lose 0.01"),
        (variants(score=0.689), "model.onnx", "int8 changes f1 by -0.0110"),
        (variants(score=0.8, agreement=0.1), "model.int8.onnx", "int8 changes f1 by +0.1000"),
        (variants(agreement=0.98), "model.int8.onnx", "int8 decides 98.0% of the rows as PyTorch does"),
        (variants(agreement=0.97), "model.onnx", "int8 decides 97.0%"),
        (variants(agreement=None), "model.onnx", "without labels nothing tells what int8 loses"),
        ({"PyTorch": variants()["PyTorch"]}, "model.onnx", "no int8 file was asked for"),
    ],
)
def test_the_file_that_serves(given, file, reason):
    found = _choice(given, "f1")
    assert found[0] == file and found[1].startswith(reason)
