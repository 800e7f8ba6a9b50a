"""A small model that knows something, and its export, made once for all tests of a run."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.export.small import WORDS, rows
from textbrewer.export import export
from textbrewer.tasks import TextClassification

NEEDED = ("transformers", "onnx", "onnxruntime", "onnxscript")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, NEEDED)) else ["test_*.py"]


@pytest.fixture(scope="session")
def task():
    return TextClassification(["good", "bad"], max_length=24)


@pytest.fixture(scope="session")
def tokenizer():
    from tests.tasks.small import tokenizer_of

    return tokenizer_of(WORDS)


@pytest.fixture(scope="session")
def model(task, tokenizer):
    """A BERT of one layer that tells good films from bad ones."""
    from tests.tasks.small import bert

    found = bert(task, tokenizer, num_hidden_layers=1).train()
    optimizer = torch.optim.Adam(found.parameters(), lr=5e-3)
    for batch in task.encode(rows(640), tokenizer).loader(16):
        optimizer.zero_grad()
        found(**batch).loss.backward()
        optimizer.step()
    assert task.evaluate(found, task.encode(rows(40, seed=1), tokenizer))["accuracy"] == 1
    return found.eval()


@pytest.fixture(scope="session")
def exported(model, tokenizer, tmp_path_factory):
    """The report of an export from a folder; tests do not write to it."""
    source = tmp_path_factory.mktemp("source")
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    card = {"licence": "Apache-2.0", "training_data": "made | up"}
    return export(source, tmp_path_factory.mktemp("exports") / "films", rows(40, seed=1), card=card)


@pytest.fixture(scope="session")
def onnx_file(exported):
    """The model as ONNX; tests do not write to it."""
    return exported.folder / "model.onnx"
