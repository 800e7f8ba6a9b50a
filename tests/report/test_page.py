"""The page needs no other file and shows text as text."""

from __future__ import annotations

import pytest

pytest.importorskip("jinja2", reason="needs the extra `report`")

from textbrewer.report.page import write_page

VALUES = {
    "title": "A <title>",
    "summary": "Half the size & as good",
    "table": {"columns": ["", "Teacher", "Student"], "rows": [["Accuracy", "95.0", "94.0"]], "chosen": 2},
    "plots": [{"title": "Loss", "svg": "<svg><g/></svg>", "text": "by step"}],
    "code": "print('<script>')",
    "settings": [("Rows", "100")],
    "notes": ["one seed"],
}


def test_values_are_there_and_escaped(tmp_path):
    text = write_page(tmp_path / "page.html", **VALUES).read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in text and "&lt;script&gt;" in text and "<script" not in text
    assert "<svg><g/></svg>" in text and '<td class="chosen">94.0</td>' in text
    assert "http" not in text and "src=" not in text and "@import" not in text


def test_a_missing_value_leaves_the_earlier_page(tmp_path):
    page = write_page(tmp_path / "page.html", **VALUES)
    before = page.read_text()
    values = {key: value for key, value in VALUES.items() if key != "notes"}
    with pytest.raises(Exception, match="notes"):
        write_page(page, **values)
    assert page.read_text() == before
