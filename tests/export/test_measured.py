"""What is compared, and how it is shown."""

from __future__ import annotations

import json

import pytest
import torch

from textbrewer.errors import TextBrewerError
from textbrewer.export.measured import Variant, agreement, batches_of, differences, plain, require_close, table_of
from textbrewer.report.profile import Speed

MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
SPEED = Speed(1.5, 2.25, 1234.4)


class Gives(torch.nn.Module):
    """Logits, plus ``added`` where ``at`` says."""

    def __init__(self, shape, added=0.0, at=(), answers=False):
        super().__init__()
        self.values = torch.arange(6.0).reshape(2, 3) if answers else torch.ones(shape)
        self.answers, self.added, self.at = answers, added, at

    def forward(self, attention_mask):
        values = self.values.clone()
        if self.at:
            values[self.at] += self.added
        return {"start_logits": self.values, "end_logits": values} if self.answers else {"logits": values}


def difference(**changed):
    shape = changed.get("shape", (2, 3))
    sides = Gives(shape, answers=changed.get("answers", False)), Gives(**{"shape": shape, **changed})
    return differences(*sides, [{"attention_mask": MASK}] * 2)


def test_the_largest_difference_of_each_output():
    assert difference(added=-0.5, at=(1, 2)) == {"logits": 0.5}
    assert difference(answers=True, added=0.25, at=(0, 2)) == {"start_logits": 0.0, "end_logits": 0.25}
    assert difference(added=float("nan"), at=(0, 0)) == {"logits": float("inf")}


def test_padding_does_not_differ():
    assert difference(shape=(2, 3, 4), added=9.0, at=(1, 2, 3)) == {"logits": 0.0}
    assert difference(shape=(2, 3, 4), added=9.0, at=(1, 1, 3)) == {"logits": 9.0}
    assert difference(answers=True, added=9.0, at=(1, 2)) == {"start_logits": 0.0, "end_logits": 0.0}


def test_too_large_a_difference_is_refused_by_name():
    require_close({"start_logits": 0.0, "end_logits": 0.001}, 0.001)
    message = r"`end_logits` of the ONNX file differ from PyTorch's by 0\.012 .* more than tolerance=0\.001; nothing"
    with pytest.raises(TextBrewerError, match=message):
        require_close({"start_logits": 0.0, "end_logits": 0.0123}, 0.001)


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        ([{"label": "a"}, {"label": "b"}], [{"label": "a"}, {"label": "a"}], 0.5),
        ([{"labels": ["a", "b"]}], [{"labels": ["a"]}], 0.0),
        ([{"tags": ["O", "B-X"]}, {"tags": ["O", "O"]}], [{"tags": ["O", "O"]}, {"tags": ["O", "O"]}], 0.75),
        ([{"answer": "in", "score": 0.1}], [{"answer": "in", "score": 0.2}], 1.0),
        ([{"value": 1.0}], [{"value": 1.0}], None),
    ],
)
def test_agreement_counts_decisions(ours, theirs, share):
    assert agreement(ours, theirs) == share


def test_too_few_rows_begin_anew(task, tokenizer):
    encoded = task.encode([{"text": "a"}, {"text": "b c"}, {"text": "d"}], tokenizer)
    batches = batches_of(encoded, ["attention_mask", "input_ids"], 2, 5)
    assert [batch["input_ids"].shape for batch in batches] == [(2, 4), (1, 3)] * 2 + [(2, 4)]
    assert [*batches[0]] == ["attention_mask", "input_ids"]


def test_a_table_of_variants():
    variants = {
        "PyTorch": Variant(None, 2_000_000, SPEED, {"f1": 0.5}, None, None),
        "ONNX": Variant("model.onnx", 1_000_000, SPEED, {"f1": 0.25}, 0.00012, 0.5),
    }
    assert table_of(variants) == [
        ["", "PyTorch", "ONNX"],
        ["Size, MB", "2.0", "1.0"],
        ["Latency, 1 row, median, ms", "1.50", "1.50"],
        ["Latency, 1 row, p95, ms", "2.25", "2.25"],
        ["Throughput, 32 rows, rows/s", "1,234", "1,234"],
        ["f1", "0.5000", "0.2500"],
        ["Largest difference of a logit", "", "1.2e-04"],
        ["Decisions as PyTorch's", "", "50.0%"],
    ]
    assert json.loads(json.dumps(plain(variants)))["ONNX"]["speed"]["median_ms"] == 1.5
