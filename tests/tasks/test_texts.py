"""Texts and pairs: columns, rows, splits and batches, the same for every task on them."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import tokenizer_of
from textbrewer.errors import DataError
from textbrewer.tasks import Table, TextClassification, read
from textbrewer.tasks.texts import chosen_columns

TASK = TextClassification(["bad", "good"], max_length=8)
ROWS = [{"text": "abc", "label": "good"}, {"text": " de ", "label": "bad"}]


def table(*columns, rows=3):
    return Table([{column: f"{column}{i}" for column in columns} for i in range(rows)], "t.csv")


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (["Sentence", "label"], {"text": "Sentence", "label": "label"}),
        (["review", "stars"], {"text": "review", "label": "stars"}),
        (["sentence1", "sentence2", "label"], {"text": "sentence1", "text_pair": "sentence2", "label": "label"}),
        (["premise", "hypothesis", "label"], {"text": "premise", "text_pair": "hypothesis", "label": "label"}),
        (["question", "sentence", "label"], {"text": "question", "text_pair": "sentence", "label": "label"}),
        (["text", "text_pair", "label"], {"text": "text", "text_pair": "text_pair", "label": "label"}),
    ],
)
def test_columns_by_name(columns, chosen):
    assert dict(chosen_columns(table(*columns), None, True).columns) == chosen


def test_columns_without_names_by_content():
    rows = [{"0": label, "1": f"text {i}"} for i, label in enumerate("xxy")]
    found = chosen_columns(Table(rows, "t"), None, True)
    assert dict(found.columns) == {"text": "1", "label": "0"} and set(found.guessed) == {"text", "label"}
    pairs = [{"0": f"a{i}", "1": f"b{i}", "2": "01"[i % 2]} for i in range(4)]
    assert dict(chosen_columns(Table(pairs, "t"), None, True).columns) == {"text": "0", "text_pair": "1", "label": "2"}
    alone = [{"0": "a"}, {"0": "b"}]
    assert dict(chosen_columns(Table(alone, "t"), None, False).columns) == {"text": "0"}
    with pytest.raises(DataError, match="no column is taken for 'text' among '0'"):
        chosen_columns(Table(alone, "t"), None, True)


def test_columns_that_are_given():
    given = {"text": "b", "label": "c"}
    assert dict(chosen_columns(table("a", "b", "c"), given, True).columns) == given
    assert chosen_columns(table("text", "y"), {"text": "text"}, True).guessed == ("label",)
    with pytest.raises(DataError, match=r"no column is taken for 'label' among 'text', 'z'.*labelled=False"):
        chosen_columns(table("text", "z"), None, True)
    assert chosen_columns(table("text", "z"), None, None).get("label") is None
    assert chosen_columns(table("text", "label"), None, False).get("label") is None
    with pytest.raises(DataError, match="'text' takes one column"):
        chosen_columns(table("a", "b"), {"text": ["a", "b"]}, False)


def test_rows_are_checked_and_counted():
    found = TASK.rows(Table([*ROWS, {"text": " ", "label": "bad"}, {"text": "x", "label": None}], "t.csv"))
    assert [dict(row) for row in found] == [
        {"text": "abc", "label": "good"},
        {"text": "de", "label": "bad"},
        {"text": "x", "label": None},
    ]
    assert (found.report.rows, found.report.used, found.report.labelled) == (4, 3, 2)
    assert found.report.labels == {"bad": 1, "good": 1}
    assert [str(finding) for finding in found.report.findings] == [
        "1 row without text, left out: row 3",
        "1 row without label, kept for its text: row 4",
    ]
    assert TASK.rows(found) is found


def test_labels_that_cannot_be_used_are_refused_together_with_their_places():
    rows = [*ROWS, {"text": "x", "label": "godo"}, {"text": "y", "label": "godo"}, {"text": "z", "label": "7"}]
    with pytest.raises(DataError) as error:
        TASK.rows(Table(rows, "t.csv"))
    assert str(error.value).split("\n  ") == [
        "t.csv: 3 labels that cannot be used",
        "2 labels 'godo' (did you mean 'good'?): row 3, row 4",
        "1 label '7': row 5",
        "correct the data, map its names in the task, or bad_labels='unlabelled' keeps such rows without a label",
    ]
    kept = TASK.rows(Table(rows, "t.csv"), bad_labels="unlabelled")
    assert [row["label"] for row in kept] == ["good", "bad", None, None, None]
    assert kept.report.count("label 'godo'") == 2 and "unlabelled" in str(kept.report)


def test_many_kinds_of_bad_labels_are_cut_short():
    rows = [{"text": "x", "label": f"label {i}"} for i in range(30)]
    with pytest.raises(DataError, match="and 20 kinds more"):
        TASK.rows(rows)


def test_no_row_that_can_be_used():
    with pytest.raises(DataError, match="t: no row can be used\n  1 row without text, left out: row 1"):
        TASK.rows(Table([{"text": "", "label": "good"}], "t"))


def test_the_same_text_stays_on_one_side_of_a_split():
    rows = TASK.rows([{"text": f"t{i // 4}", "label": "good" if i < 20 else "bad"} for i in range(40)])
    train, held = TASK.split(rows, 0.2, seed=1)
    assert len(held) == 8 and {row["text"] for row in train}.isdisjoint(row["text"] for row in held)
    assert sum(train.report.labels.values()) == 32 and held.report.source == "rows, held out (seed 1)"
    assert [list(part) for part in TASK.split(rows, 0.2, seed=1)] == [list(train), list(held)]


def test_rows_are_cut_and_counted():
    tokenizer = tokenizer_of()
    data = TASK.encode([{"text": "abcdefghij", "label": "good"}, {"text": "abcdef"}, {"text": "a"}], tokenizer)
    assert [len(feature["input_ids"]) for feature in data.features] == [8, 8, 3]
    assert [feature["labels"] for feature in data.features] == [1, -100, -100]
    lengths = data.report.lengths
    assert (lengths.longest, lengths.limit, lengths.longer, lengths.action) == (12, 8, 1, "cut")
    assert data.features[0]["input_ids"].tolist() == tokenizer("abcdefghij", truncation=True, max_length=8)["input_ids"]


def test_pairs_are_encoded_as_pairs():
    tokenizer = tokenizer_of()
    data = TASK.encode([{"text": "ab", "text_pair": "cdefgh", "label": "bad"}], tokenizer)
    expected = tokenizer("ab", "cdefgh", truncation=True, max_length=8)
    assert data.features[0]["input_ids"].tolist() == expected["input_ids"]
    assert data.features[0]["token_type_ids"].tolist() == expected["token_type_ids"]
    assert data.report.lengths.longest == 11


def test_pairs_and_single_texts_do_not_mix():
    rows = TASK.rows([{"text": "a", "text_pair": "b"}], labelled=False)
    mixed = TASK.rows([{"text": "a"}], labelled=False)
    both = type(rows)([*rows, *mixed], rows.report, "label")
    with pytest.raises(DataError, match="some rows are pairs"):
        TASK.encode(both, tokenizer_of())


def test_rows_without_any_label_have_none_in_their_batches():
    data = TASK.encode([{"text": "a"}, {"text": "b"}], tokenizer_of())
    assert "labels" not in next(iter(data.loader(2))) and data.report.labelled == 0


def test_a_limit_above_the_tokenizers():
    with pytest.raises(DataError, match="takes 4 tokens; lower max_length"):
        TASK.encode(ROWS, tokenizer_of(model_max_length=4))


def test_many_rows_are_encoded_in_order():
    rows = [{"text": "abcdefghijk"[: i % 11 + 1], "label": "good"} for i in range(2300)]
    lengths = [len(feature["input_ids"]) for feature in TASK.encode(rows, tokenizer_of()).features]
    assert lengths == [min(i % 11 + 3, 8) for i in range(2300)]


def test_a_column_that_may_be_the_label_is_not_read_as_a_text(tmp_path):
    (tmp_path / "a.tsv").write_text("good film\t1\nbad film\t0\ngood one\t1\n")
    table = read(tmp_path / "a.tsv", header=False)
    assert chosen_columns(table, None, True).columns == {"text": "0", "label": "1"}
    with pytest.raises(DataError, match="no column is taken for 'text'"):
        chosen_columns(table, None, False)
    assert chosen_columns(table, {"text": "0"}, False).columns == {"text": "0"}
    one = Table.of([{"0": "good film", "1": "1"}])
    assert chosen_columns(one, None, True).columns == {"text": "0", "label": "1"}
