"""Rows and how they are parted."""

from __future__ import annotations

import pytest

from textbrewer.errors import DataError
from textbrewer.tasks import DataReport, Rows
from textbrewer.tasks.data.rows import held_out


def rows_of(labels):
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    return Rows(rows, DataReport("a.csv", len(rows) + 1, len(rows), 1, labels={"x": 1}), "label")


def test_a_part_has_a_report_of_its_own():
    rows = rows_of(["x", None, "x", None])
    part = rows[1:3]
    assert isinstance(part, Rows) and [row["text"] for row in part] == ["t1", "t2"]
    assert (part.report.source, part.report.used, part.report.labelled) == ("part of a.csv", 2, 1)
    assert rows[-1]["text"] == "t3" and rows.labelled == 2


def test_held_out_rows_are_a_share_and_depend_on_the_seed_alone():
    rows = [{"text": str(i)} for i in range(100)]

    def parted(seed, share=0.2):
        return held_out(rows, share, seed, lambda row: row["text"])

    kept, held = parted(0)
    assert len(held) == 20 and sorted(kept + held) == list(range(100))
    assert kept == sorted(kept) and held == sorted(held)
    assert parted(0) == (kept, held) and parted(1) != (kept, held)
    # Written down, so that a change of it is seen: a split must be the same tomorrow.
    assert held_out(rows[:10], 0.3, 0, lambda row: row["text"])[1] == [1, 5, 8]


def test_groups_stay_together():
    rows = [{"context": i // 10} for i in range(100)]
    kept, held = held_out(rows, 0.25, 3, lambda row: row["context"])
    assert {rows[i]["context"] for i in kept}.isdisjoint(rows[i]["context"] for i in held)
    assert len(held) == 30
    # However large a share is asked, something is left to train on.
    assert len(held_out(rows, 0.99, 3, lambda row: row["context"])[0]) == 10


@pytest.mark.parametrize("share", [0, 1, -0.5, 10])
def test_shares_that_are_none(share):
    with pytest.raises(DataError, match="share between 0 and 1"):
        held_out([{}, {}], share, 0, id)


def test_nothing_to_part():
    with pytest.raises(DataError, match="all rows belong together"):
        held_out([{"a": 1}, {"a": 1}], 0.5, 0, lambda row: row["a"])


def test_labels_are_counted_once():
    counted = []

    class Row(dict):
        def __getitem__(self, key):
            counted.append(key)
            return super().__getitem__(key)

    rows = Rows([Row(label="a"), Row(label=None)], DataReport("a.csv", 2, 2, 1), "label")
    assert rows.labelled == rows.labelled == 1 and counted == ["label", "label"]
