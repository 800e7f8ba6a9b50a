"""The page needs no other file and shows text as text."""

from __future__ import annotations

import pytest

pytest.importorskip("jinja2", reason="needs the extra `report`")

from textbrewer.errors import DataError
from textbrewer.report import plots
from textbrewer.report.page import write_images, write_page

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


def test_what_may_be_left_out_is_shown_and_escaped_where_it_is_there(tmp_path):
    evil = "<script>x</script>"
    more = {
        "headline": [{"figure": evil, "unit": evil, "text": evil}],
        "tables": [{"title": evil, "text": evil, "columns": [evil], "rows": [[evil]]}],
        "examples": {"title": evil, "text": evil, "cards": [{"text": evil, "lines": [(evil, evil)]}]},
        "recipe": evil,
    }
    plain = write_page(tmp_path / "plain.html", **VALUES).read_text(encoding="utf-8")
    text = write_page(tmp_path / "page.html", **VALUES, **more).read_text(encoding="utf-8")
    assert "<script" not in text and text.count("&lt;script&gt;x") == plain.count("&lt;script&gt;x") + 13
    assert '<ul class="headline">' in text and '<ul class="headline">' not in plain
    assert "<details>" in text and "<details>" not in plain


def test_light_and_dark_have_the_same_variables(tmp_path):
    text = write_page(tmp_path / "page.html", **VALUES).read_text(encoding="utf-8")
    light, _, dark = text.partition("@media (prefers-color-scheme: dark)")
    for name, colour in plots.LIGHT.items():
        assert f"--{name}: {colour};" in light and f"--{name}: {plots.DARK[name]};" in dark


def test_wide_plots_take_the_whole_width(tmp_path):
    wide = plots.svg_of(lambda axes: None, height=2, width=9)
    both = [
        {"title": "wide", "svg": wide, "text": ""},
        {"title": "not", "svg": plots.svg_of(lambda axes: None, 2), "text": ""},
    ]
    text = write_page(tmp_path / "page.html", **{**VALUES, "plots": both}).read_text(encoding="utf-8")
    assert text.count('<figure class="wide">') == 1 and "min-width: 454pt; max-width: 810pt" in text


def test_images(tmp_path):
    drawing = plots.quality({"m": [1.0]}, "x")
    files = write_images(tmp_path / "new" / "plots", [{"name": "score", "svg": drawing}])
    assert [file.name for file in files] == ["score.svg", "score.png"]
    assert files[0].read_text(encoding="utf-8") == drawing and files[1].read_bytes() == drawing.png()
    with pytest.raises(DataError, match="images: expected a folder, found the file"):
        write_images(files[0], [])
