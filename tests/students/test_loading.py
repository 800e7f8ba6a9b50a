"""Saved models come back as what they were."""

from __future__ import annotations

import builtins
import json

import pytest
import torch

from tests.students.families import teacher_of
from textbrewer import BiGRUConfig, BiGRUStudent, HeadConfig, MultiTaskStudent
from textbrewer.errors import MissingDependencyError, StudentError
from textbrewer.students import BiGRUEncoder
from textbrewer.students.loading import load_model

BIGRU = BiGRUConfig(50, hidden_size=4, embedding_size=4, head=HeadConfig(num_labels=3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BiGRUStudent(BIGRU),
        lambda: MultiTaskStudent(BiGRUEncoder(BIGRU), {"topic": {"num_labels": 2}}),
        lambda: teacher_of("Roberta", num_hidden_layers=1),
    ],
)
def test_a_saved_model_comes_back_in_eval_mode(tmp_path, make):
    model = make().train()
    model.save_pretrained(tmp_path)
    found = load_model(tmp_path)
    assert type(found) is type(model) and not found.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"expected a model written by save_pretrained, found no config\.json"),
        ("{", r"config\.json: expected JSON"),
        (json.dumps({"architectures": ["Nobody"]}), "names the model class 'Nobody', which Transformers does not have"),
        (json.dumps({"architectures": ["pipeline"]}), "names the model class 'pipeline'"),
        ("{}", "names the model class None"),
    ],
)
def test_a_folder_without_a_known_model(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(StudentError, match=message):
        load_model(tmp_path)


def test_only_models_of_transformers_need_it(tmp_path, monkeypatch):
    BiGRUStudent(BIGRU).save_pretrained(tmp_path / "own")
    teacher_of(num_hidden_layers=1).save_pretrained(tmp_path / "other")
    real = builtins.__import__

    def without(name, *rest, **options):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert load_model(tmp_path / "own").config == BIGRU
    with pytest.raises(MissingDependencyError, match=r"other needs the package `transformers`.*\[hf\]"):
        load_model(tmp_path / "other")
