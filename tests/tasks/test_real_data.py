"""Real files, where they lie in ``shared/data`` in or beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra `hf`")
pytest.importorskip("datasets", reason="needs the extra `hf`")

from tests.tasks.small import bert, tokenizer_of
from textbrewer.tasks import QuestionAnswering, TextClassification, TokenClassification, read

CHECKOUT = Path(__file__).parents[2]
DATA = next((p for p in (CHECKOUT / "shared/data", CHECKOUT.parent / "shared/data") if p.is_dir()), None)
if DATA is None:
    pytest.skip("there is no folder shared/data with real files", allow_module_level=True)

TOKENIZER = tokenizer_of()


def scored(task, rows):
    return task.evaluate(bert(task, TOKENIZER), task.encode(rows[:20], TOKENIZER))


def test_sst2():
    task = TextClassification({"0": "negative", "1": "positive"}, max_length=32)
    rows = task.rows(read(DATA / "sst2" / "train.tsv"))
    assert len(rows) == 6920 and rows.report.labels == {"negative": 3310, "positive": 3610}
    train, held = task.split(rows)
    assert len(train) + len(held) == 6920 and 692 <= len(held) <= 700
    assert 0 <= scored(task, rows)["accuracy"] <= 1


def test_wnut17():
    table = read(DATA / "wnut17" / "train.conll")
    task = TokenClassification.from_data(table, max_length=32)
    rows = task.rows(table)
    assert len(rows) == 3394 and set(rows.report.labels) == {
        "corporation", "creative-work", "group", "location", "person", "product",
    }  # fmt: skip
    assert not rows.report.findings and "IOB2" in str(rows.report)
    assert 0 <= scored(task, rows)["f1"] <= 1


def test_xquad():
    task = QuestionAnswering(max_length=400, doc_stride=150, max_question_length=200)
    rows = task.rows(read(DATA / "xquad" / "en.json"))
    assert len(rows) == 1190 and rows.report.count("answer not found") == 0
    train, held = task.split(rows)
    assert {row["context"] for row in train}.isdisjoint(row["context"] for row in held)
    # Every answer can be said exactly: its tokens give back its text.
    data = task.encode(rows[:100], TOKENIZER)
    said = {}
    for feature, part in zip(data.features, data.parts, strict=True):
        if feature["start_positions"] != part.spans.null:
            start = part.spans.offsets[feature["start_positions"]][0]
            end = part.spans.offsets[feature["end_positions"]][1]
            said[part.row] = data.rows[part.row]["context"][start:end]
    perfect = [{"answer": said.get(i, "")} for i in range(100)]
    assert task.score(perfect, data.rows)["f1"] > 0.99


def test_cmrc():
    task = QuestionAnswering(rules="cmrc", max_length=48, doc_stride=8, max_question_length=24)
    rows = task.rows(read(DATA / "cmrc2018" / "trial.json"))
    assert len(rows) == 1000 and rows.report.count("row without question") == 2
    assert rows.report.count("answer at another place") == 5
    perfect = [{"answer": row["answers"][0]["text"]} for row in rows]
    assert task.score(perfect, rows) == {"f1": 1.0, "exact_match": 1.0}
