"""A model as an ONNX file: the same numbers at any size, and refusals that say why."""

from __future__ import annotations

import importlib.util
import logging

import onnx
import pytest
import torch

from tests.export.small import Averages, OfTokens
from tests.students.families import FAMILIES, teacher_of
from textbrewer import BiGRUConfig, BiGRUStudent, HeadConfig, TransformersAdaptor
from textbrewer.errors import MissingDependencyError, UnsupportedError
from textbrewer.export import OnnxModel, differences, write_onnx

HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
SHAPES = ((1, 1), (1, 5), (3, 20), (4, 33), (9, 2), (2, 7), (1, 300))


def batch(rows, length, left=False, types=False):
    generator = torch.Generator().manual_seed(rows * 1000 + length)
    real = torch.randint(1, length + 1, (rows, 1), generator=generator)
    real[0] = length
    mask = (torch.arange(length) < real).long()
    mask = mask.flip(1) if left else mask
    found = {"input_ids": torch.randint(3, 50, (rows, length), generator=generator) * mask, "attention_mask": mask}
    return found | ({"token_type_ids": torch.zeros_like(mask)} if types else {})


def test_a_model_gives_the_same_at_any_size(model, onnx_file):
    other = OnnxModel(onnx_file)
    found = differences(model, other, [batch(*shape, types=True) for shape in ((1, 1), (1, 5), (3, 20), (9, 64))])
    assert found.keys() == {"logits"} and found["logits"] < 1e-5
    types = batch(3, 9, types=True)
    types["token_type_ids"][:, 5:] = 1
    with torch.no_grad():
        assert torch.allclose(model(**types).logits, other(**types)["logits"], atol=1e-5)
        assert not torch.allclose(other(**batch(3, 9, types=True))["logits"], other(**types)["logits"], atol=1e-4)


def test_axes_are_named_and_no_path_of_this_machine_is_in_the_file(onnx_file):
    graph = onnx.load(onnx_file).graph
    axes = {each.name: [axis.dim_param for axis in each.type.tensor_type.shape.dim] for each in graph.input}
    assert axes == {name: ["batch", "length"] for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert [each.name for each in graph.output] == ["logits"]
    content = onnx_file.read_bytes()
    assert b".py" not in content and b"stack_trace" not in content


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_model_stays_as_it_was(tmp_path, dtype, capfd):
    model = Averages().to(dtype).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write_onnx(model, tmp_path / "model.onnx")
    assert model.training and model.embeddings.weight.dtype == dtype
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    exact = Averages().eval()
    exact.load_state_dict(before)
    assert differences(exact, OnnxModel(tmp_path / "model.onnx"), [batch(3, 8)])["logits"] < 1e-6
    assert capfd.readouterr() == ("", "")


def test_loggers_stay_as_they_were(tmp_path):
    root, exporter = logging.getLogger(), logging.getLogger("torch.onnx")
    before = [*root.handlers], exporter.level
    write_onnx(Averages(), tmp_path / "model.onnx")
    assert ([*root.handlers], exporter.level) == before


def test_a_recurrent_student(tmp_path):
    student = BiGRUStudent(BiGRUConfig(50, hidden_size=8, embedding_size=4, head=HeadConfig(num_labels=3)))
    write_onnx(student, tmp_path / "model.onnx")
    padded = [batch(*shape, left=left) for shape in SHAPES for left in (False, True)]
    assert differences(student, OnnxModel(tmp_path / "model.onnx"), padded)["logits"] < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", [*FAMILIES, "BiGRU"])
def test_every_family_and_head(tmp_path, family, head):
    labels = 2 if "Question" in head else 4
    if family == "BiGRU":
        tasks = dict(zip(HEADS, ("text-classification", "token-classification", "question-answering"), strict=True))
        shape = HeadConfig(tasks[head], labels, pooling="max")
        model = BiGRUStudent(BiGRUConfig(60, hidden_size=8, embedding_size=4, num_layers=2, head=shape)).eval()
    else:
        layers = {"n_layers" if family == "DistilBert" else "num_hidden_layers": 2}
        model = teacher_of(family, head, num_labels=labels, **layers)
    types = family in ("Bert", "Electra")
    write_onnx(model, tmp_path / "model.onnx", ("input_ids", "attention_mask", "token_type_ids")[: 3 if types else 2])
    found = differences(model, OnnxModel(tmp_path / "model.onnx"), [batch(*shape, types=types) for shape in SHAPES])
    assert found.keys() == ({"start_logits", "end_logits"} if "Question" in head else {"logits"})
    assert max(found.values()) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_relative_positions(tmp_path):
    settings = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    model = teacher_of("DebertaV2", num_hidden_layers=2, position_biased_input=False, **settings)
    write_onnx(model, tmp_path / "model.onnx")
    assert differences(model, OnnxModel(tmp_path / "model.onnx"), [batch(*s) for s in SHAPES])["logits"] < 1e-5


def test_answers_are_not_found_in_padding(tmp_path):
    model = OfTokens(answers=True)
    write_onnx(model, tmp_path / "model.onnx", ("input_ids", "attention_mask", "token_type_ids"))
    padded = batch(3, 9, types=True)
    given = OnnxModel(tmp_path / "model.onnx")(**padded)
    wanted = TransformersAdaptor(model)(padded, model(**padded))["logits"]
    assert [*given] == ["start_logits", "end_logits"]
    for mine, theirs in zip(given.values(), wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
        assert (mine[padded["attention_mask"] == 0] == -1e4).all()


def test_a_model_that_cannot_be_exported(tmp_path, capfd):
    with pytest.raises(UnsupportedError, match=r"Averages cannot be exported: torch\.export says: Could not guard"):
        write_onnx(Averages(decide=True), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="BertModel gives no logits; export a model with a head"):
        write_onnx(teacher_of(head="Model"), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="Averages takes no token_type_ids, which"):
        write_onnx(Averages(), tmp_path / "model.onnx", ("input_ids", "token_type_ids"))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_model_that_is_too_large_for_a_file(tmp_path):
    model = torch.nn.Linear(1_000_000, 600, device="meta")
    with pytest.raises(UnsupportedError, match=r"Linear has 2\.4 GB of weights, and an ONNX file holds 2"):
        write_onnx(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(MissingDependencyError, match=rf"`{package}`: pip install 'textbrewer-next\[export\]'"):
        write_onnx(Averages(), tmp_path / "model.onnx")
