"""What a model is made of is counted, and what it costs is measured, on models whose numbers are known."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

import transformers

from textbrewer import BiGRUConfig, BiGRUStudent, HeadConfig
from textbrewer.errors import DataError, UnsupportedError
from textbrewer.report import inspection
from textbrewer.report.inspection import inspect_model

WIDTH, INNER, LAYERS, LABELS = 16, 48, 2, 3


def bert(**settings):
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=100, max_position_embeddings=40, num_labels=LABELS, **sizes, **settings)
    return transformers.BertForSequenceClassification(config)


def products_of(length):
    """Two operations for each product of BERT's matrices and of its attention."""
    projections = 4 * WIDTH * WIDTH + 2 * WIDTH * INNER
    attention = 2 * length * WIDTH
    return 2 * (LAYERS * length * (projections + attention) + WIDTH * WIDTH + WIDTH * LABELS)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_operations_are_those_of_the_formula(attention):
    found = inspect_model(
        bert(attn_implementation=attention), batch_sizes=(2,), lengths=(8, 20), repeats=2, memory=False
    )
    assert {c.length: c.flops_per_row for c in found.costs} == {8: products_of(8), 20: products_of(20)}


def test_operations_of_a_recurrent_model():
    student = BiGRUStudent(BiGRUConfig(50, hidden_size=4, embedding_size=6, head=HeadConfig(pooling="max")))
    (cost,) = inspect_model(student, batch_sizes=(1,), lengths=(10,), repeats=2, memory=False).costs
    gates, merged, head = 2 * 10 * 3 * 4 * (6 + 4), 10 * 8 * 4, 4 * 2
    assert cost.flops_per_row == 2 * (gates + merged + head)


def test_parts_add_up_to_the_model():
    model = bert()
    found = inspect_model(model, batch_sizes=(1,), lengths=(4,), repeats=2, memory=False, depth=3)
    parts = {part.name: part for part in found.modules}
    assert sum(part.elements for part in found.modules if part.depth == 0) == found.parameters
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert parts["classifier"].elements == WIDTH * LABELS + LABELS and parts["classifier"].bytes == 4 * 51
    assert parts["bert.embeddings"].depth == 1 and parts["bert.encoder.layer"].depth == 2
    assert max(part.depth for part in found.modules) == 2
    assert found.memory >= 4 * found.parameters and 4 * found.parameters < found.disk < 4 * found.parameters + 20_000


def test_every_size_and_length_is_measured(monkeypatch):
    monkeypatch.setattr(inspection, "peak_memories", lambda folder, batches: [b["input_ids"].numel() for b in batches])
    model = bert().train()
    found = inspect_model(model, batch_sizes=(3, 1), lengths=(10, 4), repeats=3)
    # Small ones first, because memory is not always given back.
    assert [(c.batch_size, c.length) for c in found.costs] == [(1, 4), (1, 10), (3, 4), (3, 10)]
    assert [c.peak_memory for c in found.costs] == [4, 10, 12, 30]
    assert all(c.speed.p95_ms >= c.speed.median_ms > 0 for c in found.costs)
    assert model.training
    first = found.costs[0].speed
    assert first.rows_per_second == pytest.approx(1000 / first.median_ms, rel=5)


def test_memory_is_measured():
    found = inspect_model(bert(), batch_sizes=(1, 600), lengths=(40,), repeats=2)
    small, large = (cost.peak_memory for cost in found.costs)
    assert large - small > 600 * 40 * INNER * 4  # at least the inner states of a layer


def test_the_text_and_the_json_have_the_numbers():
    found = inspect_model(bert(), batch_sizes=(1,), lengths=(8,), repeats=2, memory=False)
    text = str(found)
    assert text.startswith(f"BertForSequenceClassification: {found.parameters:,} parameters; ")
    assert f"{found.parameters - 51:,}" in text and "1 x 8" in text and found.machine in text
    assert "  embeddings" in text and "MB on disk" in text
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["costs"][0]["speed"]["median_ms"] == found.costs[0].speed.median_ms
    assert plain["modules"][0]["name"] == "bert" and plain["costs"][0]["peak_memory"] is None


def test_any_module_with_inputs_of_its_own():
    layer = torch.nn.Bilinear(2, 3, 4)

    def make(rows, length):
        return {"input1": torch.zeros(rows, length, 2), "input2": torch.zeros(rows, length, 3)}

    found = inspect_model(layer, batch_sizes=(2,), lengths=(5,), repeats=2, inputs=make)
    assert found.parameters == 28 and found.disk is None and found.costs[0].peak_memory is None
    with pytest.raises(UnsupportedError, match="Bilinear does not say what it takes; give inputs="):
        inspect_model(layer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": (8, 41)}, r"takes 40 tokens a row, got lengths=\(8, 41\)"),
        ({"lengths": (0,)}, "at least 1"),
        ({"batch_sizes": ()}, "at least 1"),
        ({"repeats": 1}, "repeats of at least 2, got"),
    ],
)
def test_sizes_that_cannot_be(arguments, message):
    with pytest.raises(DataError, match=message):
        inspect_model(bert(), **{"lengths": (8,), **arguments})


def test_a_model_that_another_process_cannot_load(caplog):
    class Mine(transformers.BertForSequenceClassification):
        pass

    found = inspect_model(Mine(bert().config), batch_sizes=(1,), lengths=(4,), repeats=2)
    assert found.costs[0].peak_memory is None and found.disk
    assert "peak memory: left out" in caplog.text


def test_several_texts_a_row_are_for_the_caller_to_make():
    with pytest.raises(UnsupportedError, match="takes several texts a row; give inputs="):
        inspect_model(transformers.BertForMultipleChoice(bert().config), lengths=(4,), repeats=2)
