"""Eight bits keep what a model knows."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError

from tests.export.small import rows
from textbrewer.export import OnnxModel, differences, quantise


@pytest.fixture(scope="module")
def small(onnx_file, tmp_path_factory):
    file = tmp_path_factory.mktemp("int8") / "model.int8.onnx"
    handlers = [*logging.getLogger().handlers]
    quantise(onnx_file, file)
    assert logging.getLogger().handlers == handlers
    return file


def test_logits_are_close_and_decisions_the_same(model, small, task, tokenizer):
    encoded = task.encode(rows(60, seed=3), tokenizer)
    other = OnnxModel(small)
    batches = [{k: v for k, v in b.items() if k != "labels"} for b in encoded.loader(7)]
    logits = np.concatenate([other(**batch)["logits"].numpy() for batch in batches])
    # A fifth of what the two classes are apart.
    assert 0 < differences(model, other, batches)["logits"] < 0.2 * np.abs(logits[:, 0] - logits[:, 1]).mean()
    assert task.evaluate(other, encoded)["accuracy"] == 1


def test_matrices_and_embeddings_are_int8(onnx_file, small):
    def types(file):
        tensors = onnx.load(file).graph.initializer
        return {onnx.TensorProto.DataType.Name(t.data_type) for t in tensors if np.prod(t.dims) > 200}

    assert types(onnx_file) == {"FLOAT"}
    # ONNX Runtime's embeddings of eight bits have no sign.
    assert types(small) == {"INT8", "UINT8"}


def test_each_output_channel_has_its_scale(small, model):
    scales = [t.dims[0] for t in onnx.load(small).graph.initializer if "_scale" in t.name and t.dims]
    assert model.config.hidden_size in scales and model.config.intermediate_size in scales


def test_a_failure_leaves_no_file(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(DecodeError):
        quantise(tmp_path / "broken.onnx", tmp_path / "model.int8.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.onnx"]
