"""An ONNX file is called, evaluated and asked like a model."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.export.small import rows
from textbrewer.errors import DataError, MissingDependencyError
from textbrewer.export import OnnxModel


def test_a_task_evaluates_it_and_predicts_with_it(model, onnx_file, task, tokenizer):
    other = OnnxModel(onnx_file)
    encoded = task.encode(rows(30, seed=2), tokenizer)
    assert task.evaluate(other, encoded) == task.evaluate(model, encoded)
    sides = [task.predict(each, ["the film", "a"], tokenizer) for each in (other, model)]
    for mine, theirs in zip(*sides, strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-5)


def test_what_the_file_does_not_take_is_left_out_and_what_it_needs_is_asked_for(onnx_file):
    other, ids = OnnxModel(onnx_file, threads=1), torch.ones(2, 3, dtype=torch.long)
    batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ids)
    assert torch.equal(other(**batch, labels=torch.zeros(2))["logits"], other(**batch)["logits"])
    with pytest.raises(DataError, match=r"model\.onnx needs attention_mask, token_type_ids; the batch has input_ids"):
        other(input_ids=ids)


def test_onnxruntime_is_needed(onnx_file, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(MissingDependencyError, match=r"`onnxruntime`: pip install 'textbrewer-next\[export\]'"):
        OnnxModel(onnx_file)
