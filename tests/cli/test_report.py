"""The command that writes pages: of one run, of several, and what it refuses."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("typer", reason="needs the extra `cli`")
pytest.importorskip("rich", reason="needs the extra `cli`")
pytest.importorskip("transformers", reason="needs the extra `cli`")
pytest.importorskip("matplotlib", reason="needs the extra `cli`")

from tests.cli.test_cli import run
from tests.pipeline.written import findings_of, finished_in

__all__ = ["run"]


@pytest.fixture
def runs(tmp_path):
    """Two runs that can be compared, and one that cannot be with them."""
    names = ("a", "b", "other")
    return [
        finished_in(tmp_path / name, None, findings_of(), "rows" if name != "other" else "others") for name in names
    ]


def test_the_page_of_one_run_and_its_images(run, runs, tmp_path):
    done = run("report", runs[0], "--images", tmp_path / "plots", "--json")
    assert json.loads(done.stdout) == {"report": str(runs[0] / "report.html"), "images": str(tmp_path / "plots")}
    assert (runs[0] / "report.html").exists() and (tmp_path / "plots" / "confusion.png").exists()
    assert run("report", runs[0]).stdout == f"{runs[0] / 'report.html'}\n"


def test_the_page_of_several(run, runs, tmp_path, monkeypatch):
    page = tmp_path / "deep" / "page.html"
    assert run("report", *runs[:2], "-o", page).stdout == f"{page}\n"
    assert "2 runs: text classification" in page.read_text()
    monkeypatch.chdir(tmp_path)
    assert run("report", *runs[:2]).stdout == "comparison.html\n" and (tmp_path / "comparison.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{r}/a", "-o", "{r}/page.html"], "--output is for several runs"),
        (["{r}/a", "{r}"], "found no results.json"),
        (["{r}/a", "{r}/a"], "expected at least two different runs"),
        (
            ["{r}/a", "{r}/other"],
            "expected runs scored on the same rows, found a: test rows rows, other: test rows others",
        ),
        (["{r}/a", "--images", "{r}/a/results.json"], "images: expected a folder, found the file"),
        (["{r}/a", "{r}/b", "--images", "{r}/a/results.json"], "images: expected a folder, found the file"),
    ],
)
def test_wrong_input_gets_one_message_and_writes_nothing(run, runs, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = run("report", *(each.format(r=tmp_path) for each in arguments))
    assert done.exit_code == 2 and done.stdout == ""
    assert message in " ".join(done.stderr.replace("│", " ").split()) and "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
