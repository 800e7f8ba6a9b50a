"""What was found, in words."""

from __future__ import annotations

from textbrewer.tasks import DataReport, Finding, Lengths
from textbrewer.tasks.data.report import Tally


def test_findings_are_counted_by_kind_with_their_first_places():
    tally = Tally()
    for line in range(1, 8):
        tally.add("row without text", f"line {line}", "left out")
    tally.add("label 'a'", "line 9")
    many, one = tally.findings()
    assert str(many) == "7 rows without text, left out: line 1, line 2, line 3, line 4, line 5 and 2 more"
    assert str(one) == "1 label 'a': line 9"
    assert str(Finding("row of 1 token", 1000)) == "1,000 rows of 1 token"


def test_a_report_prints_all_it_knows():
    report = DataReport(
        "a.csv",
        rows=1200,
        used=1100,
        labelled=1000,
        columns={"text": "'sentence'", "label": "'y'"},
        guessed=("text",),
        labels={"bad": 600, "good": 400},
        findings=(Finding("row without text", 100, ("line 2",), "left out"),),
        notes=("no header (guessed)",),
    )
    assert str(report.with_lengths(Lengths(300, 128, 7, "cut"), (Finding("odd row", 1),))) == "\n  ".join(
        [
            "a.csv: 1,200 rows, 1,100 used, 1,000 with labels",
            "columns: text from 'sentence' (guessed), label from 'y'",
            "labels: bad 600, good 400",
            "no header (guessed)",
            "100 rows without text, left out: line 2 and 99 more",
            "1 odd row",
            "longest row: 300 tokens, limit 128; 7 rows longer, cut",
        ]
    )
    assert report.count("row without text") == 100 and report.count("row") == 100 and report.count("odd") == 0


def test_a_report_of_little():
    assert str(DataReport("a", 2, 2, 0)) == "a: 2 rows, 2 used, none with labels"
    assert str(DataReport("a", 2, 2, 2)) == "a: 2 rows, 2 used, all with labels"
    assert str(Lengths(5, 8, 0, "cut")) == "longest row: 5 tokens, limit 8"
