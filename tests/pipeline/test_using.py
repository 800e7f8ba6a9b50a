"""Scores, predictions, sizes and exports of saved models, and students to begin with."""

from __future__ import annotations

import json

import pytest

from tests.pipeline.small import base_model, films
from textbrewer import StudentConfig
from textbrewer.errors import ConfigError, DataError, StudentError
from textbrewer.pipeline import benchmark, evaluate, inspect, load, make_student, plan_in, predict
from textbrewer.pipeline.models import tokenizer_of
from textbrewer.planner import Limits
from textbrewer.students.loading import load_model
from textbrewer.tasks import TextClassification


def test_a_model_of_a_run_remembers_its_task(finished):
    loaded = load(finished.student)
    assert loaded.task == TextClassification(["bad", "good"], max_length=40)
    assert not loaded.model.training


def test_a_model_of_anyone_tells_its_task_by_its_head(finished, tmp_path):
    loaded = load(finished.student)
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    assert load(tmp_path / "model").task == TextClassification(["bad", "good"], max_length=40)


def test_columns_are_named_or_guessed(finished, material, tmp_path):
    text = (material / "validation.csv").read_text().replace("text,label", "said,verdict", 1)
    (tmp_path / "other.csv").write_text(text)
    scores = evaluate(finished.student, tmp_path / "other.csv", columns={"text": "said", "label": "verdict"})
    assert scores == finished.scores["student"]
    with pytest.raises(DataError, match="no column is taken for 'text' among 'said', 'verdict'"):
        evaluate(finished.student, tmp_path / "other.csv")
    said = predict(finished.student, tmp_path / "other.csv", columns={"text": "said"})
    assert said == predict(finished.student, material / "validation.csv") and len(said) == 48


def test_rows_at_hand_instead_of_a_file(finished):
    rows = [{"text": "the film was good", "label": "good"}, {"text": "the film was bad", "label": "bad"}]
    assert evaluate(finished.student, rows)["accuracy"] == 1
    with pytest.raises(ConfigError, match="list that is read already"):
        evaluate(finished.student, rows, format="csv")


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "no CONFIG|config.json"), ("nothing/at/all", "a folder with a model, or a name that the hub gives")],
)
def test_a_model_that_is_not_there(tmp_path, monkeypatch, name, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((ConfigError, StudentError), match=message):
        predict(name or tmp_path, ["a text"])


def test_inspection(finished):
    found = inspect(finished.student, batch_sizes=(1,), lengths=(8,), repeats=2, memory=False)
    assert found.parameters == finished.costs["student"]["parameters"]
    assert found.disk == finished.costs["student"]["file_bytes"]


def test_a_student_to_begin_with(finished, tmp_path):
    teacher = finished.output_dir / "teacher"
    report = make_student(teacher, tmp_path / "half")
    assert report.layers == [1, 3] and load_model(tmp_path / "half").config.num_hidden_layers == 2
    make_student(teacher, tmp_path / "one", StudentConfig(num_layers=1))
    make_student(teacher, tmp_path / "three", {"num_layers": 3, "layers": "first"})
    assert load_model(tmp_path / "three").config.num_hidden_layers == 3
    assert predict(tmp_path / "three", ["good"])[0]["label"] in ("good", "bad")
    with pytest.raises(DataError, match="one is there already"):
        make_student(teacher, tmp_path / "one")
    with pytest.raises(StudentError):
        make_student(teacher, tmp_path / "nine", {"num_layers": 9})
    assert not (tmp_path / "nine").exists()


def test_a_student_with_the_tokens_of_some_texts(finished, material, tmp_path):
    teacher, texts = finished.output_dir / "teacher", ["a good film", {"text": "the bad one", "more": ["was", 3]}]
    report = make_student(teacher, tmp_path / "small", {"num_layers": 1}, texts=[{"text": text} for text in texts])
    small, pruned = load(tmp_path / "small"), load(tmp_path / "small" / "teacher")
    assert report.student_parameters < load(teacher).model.num_parameters()
    assert small.tokenizer.get_vocab() == pruned.tokenizer.get_vocab() and "long" not in small.tokenizer.get_vocab()
    assert {"good", "film", "bad", "was"} <= set(small.tokenizer.get_vocab())
    whole, other = (predict(folder, ["a good film"])[0]["scores"] for folder in (teacher, tmp_path / "small/teacher"))
    assert other == pytest.approx(whole, abs=1e-6)


def test_a_student_within_limits(finished, tmp_path):
    teacher = finished.output_dir / "teacher"
    make_student(teacher, tmp_path / "small", limits=Limits(max_params=3_000, length=8))
    assert load(tmp_path / "small").model.num_parameters() == plan_in(tmp_path / "small").chosen.parameters <= 3_000
    with pytest.raises(ConfigError, match="limits or a size, not both"):
        make_student(teacher, tmp_path / "other", "T6", limits=Limits(max_params=3_000))
    assert not (tmp_path / "other").exists()


def test_a_recurrent_student_is_used_like_any_other(finished, tmp_path, material):
    make_student(
        finished.output_dir / "teacher", tmp_path / "bigru", {"num_layers": 1, "hidden_size": 8, "family": "bigru"}
    )
    assert set(evaluate(tmp_path / "bigru", material / "validation.csv")) == set(finished.scores["student"])


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"task": 3}', '{"task": {"name": "spelling"}}'])
def test_a_record_that_is_broken_is_as_none(finished, tmp_path, record):
    make_student(finished.output_dir / "teacher", tmp_path / "model")
    (tmp_path / "model" / "record.json").write_text(record)
    assert load(tmp_path / "model").task.class_names == ["bad", "good"]


def test_export_makes_a_folder_that_serves(finished, material, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from textbrewer.pipeline import export

    report = export(finished.student, tmp_path / "onnx", material / "validation.csv", rows=20, int8=False)
    assert report.rows == 20 and report.task == "text_classification"
    assert report.variants["ONNX"].scores.keys() == finished.scores["student"].keys()
    assert json.loads((tmp_path / "onnx" / "export.json").read_text())["labels"] == ["bad", "good"]
    # An exported folder is used like the model that it came from.
    assert evaluate(tmp_path / "onnx", material / "validation.csv") == evaluate(
        finished.student, material / "validation.csv"
    )
    (own,), (other,) = predict(tmp_path / "onnx", ["a good film"]), predict(finished.student, ["a good film"])
    assert own["label"] == other["label"] and own["scores"] == pytest.approx(other["scores"], abs=1e-5)
    assert load(tmp_path / "onnx").task == load(finished.student).task
    with pytest.raises(ConfigError, match=r"expected a PyTorch model, got an exported one; give the model that it was"):
        benchmark([tmp_path / "onnx"])
    (tmp_path / "onnx" / "model.onnx").unlink()
    with pytest.raises(DataError, match=r"model\.onnx beside export\.json"):
        predict(tmp_path / "onnx", ["a good film"])


def test_code_beside_a_model_is_not_run(tmp_path):
    folder = base_model(tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    films(tmp_path / "films.csv", 4)
    with pytest.raises(Exception):  # noqa: B017 (whichever of Transformers' refusals comes first)
        evaluate(folder, tmp_path / "films.csv")
    assert not (tmp_path / "ran").exists()


def test_columns_that_are_not_named_are_guessed(finished, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("review,label\na good film,good\n")
    (one,) = predict(finished.student, pairs, columns={"text": "review", "label": "label"})
    assert one["label"] in ("good", "bad")
    with pytest.raises(DataError, match=r"columns: expected .*got 'txt'; did you mean 'text'"):
        predict(finished.student, pairs, columns={"txt": "review"})


def test_weights_that_are_damaged_are_told_in_one_line(finished, tmp_path):
    make_student(finished.output_dir / "teacher", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match="a folder with a model"):
        predict(tmp_path / "model", ["good"])
    weights.unlink()
    with pytest.raises(ConfigError, match="a folder with a model"):
        evaluate(tmp_path / "model", [{"text": "good", "label": "good"}])
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="no tokenizer can be read"):
        tokenizer_of(tmp_path / "model")
