"""The page of a run: from its numbers alone, with what was found of its models, and whatever stands in its rows."""

from __future__ import annotations

import json
import re

import pytest

from tests.pipeline.written import LABELS, findings_of, finished_in, results_of
from textbrewer import DistillationResult
from textbrewer.errors import DataError
from textbrewer.pipeline import write_report

PLOTS = ["score", "cost", "score-by-latency", "score-by-size", "loss", "progress"]
FOUND = ["confusion", "calibration", "similarity"]


def titles_of(page):
    return re.findall(r"<h2>([^<]*)</h2>", page.read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path):
    return finished_in(tmp_path / "films", findings=findings_of())


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A folder of a run, and the text of its page; tests do not write to it."""
    run = finished_in(tmp_path_factory.mktemp("shown") / "my films", findings=findings_of())
    return run, write_report(run).read_text(encoding="utf-8")


def test_the_headline_says_what_was_won(shown):
    _, text = shown
    figures = re.findall(r"<li><b>([^<]*)</b><span>([^<]*)</span>", text)
    assert figures == [("1.3×", "smaller"), ("3.0×", "faster"), ("96.8 %", "of the score kept")]
    assert "17.4 of 22.7 million parameters" in text and "4.1 ms for a row instead of 12.4 ms" in text


def test_every_plot_is_there_once(shown):
    _, text = shown
    assert text.count("<svg ") == len(PLOTS) + len(FOUND)
    for word in ("Confusion matrix of the student", "Calibration", "Layer similarity of teacher and student", *LABELS):
        assert word in text
    assert "Student, int8" in text and "Where teacher and student differ" in text


def test_what_was_not_found_is_left_out(tmp_path):
    page = write_report(finished_in(tmp_path / "films"))
    assert page.read_text(encoding="utf-8").count("<svg ") == len(PLOTS)
    assert not set(titles_of(page)) & {"Confusion matrix of the student", "Layer similarity of teacher and student"}
    assert "Where teacher and student differ" not in titles_of(page)


def test_what_was_found_of_another_student_is_left_out(run):
    (run / "student" / "record.json").write_text(json.dumps({"key": "another", "scored": "rows"}))
    assert write_report(run).read_text(encoding="utf-8").count("<svg ") == len(PLOTS)


def test_without_logs_and_evaluations_there_are_no_curves(tmp_path):
    results = {**results_of(tmp_path / "films"), "evaluations": {}}
    run = finished_in(tmp_path / "films", results)
    (run / "student" / "log").rename(run / "log")
    (run / "baseline" / "log").rename(run / "log" / "other")
    assert write_report(run).read_text(encoding="utf-8").count("<svg ") == 4


def test_the_recipe_and_the_command_are_there(shown):
    run, text = shown
    assert f"textbrewer distill &#39;{run / 'recipe.yaml'}&#39;" in text  # its path has a space
    assert "num_layers: 3" in text and "torch 2.13" in text and "some processor" in text


EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def test_hostile_rows_and_labels_are_shown_as_text(tmp_path):
    findings = findings_of(EVIL)
    findings["confusion"]["labels"] = [EVIL, "$\\frac{$", "a & b", '"quoted"', "]]>"]
    findings["disagreements"]["examples"][0]["student"]["answer"] = EVIL
    text = write_report(finished_in(tmp_path / "films", findings=findings)).read_text(encoding="utf-8")
    assert "<script" not in text and "<img" not in text and "onerror=alert(1)&gt;" in text
    assert "&lt;script&gt;alert" in text and "$\\frac{$" in text


def test_images_of_every_plot(run, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mine.txt").write_text("mine")
    write_report(run, tmp_path / "plots")
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    assert files == {"mine.txt", *(f"{name}.{kind}" for name in [*PLOTS, *FOUND] for kind in ("svg", "png"))}
    assert (tmp_path / "plots" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "plots" / "confusion.svg").read_text().startswith("<svg") and LABELS[0] in (
        tmp_path / "plots" / "confusion.svg"
    ).read_text()


def test_images_into_a_file_are_refused_before_anything_is_written(tmp_path):
    run = finished_in(tmp_path / "films")
    (tmp_path / "plots").write_text("mine")
    with pytest.raises(DataError, match="images: expected a folder, found the file"):
        write_report(run, tmp_path / "plots")
    assert not (run / "report.html").exists() and (tmp_path / "plots").read_text() == "mine"


def test_the_plan_of_the_student_s_size_is_shown(run):
    size = {"layers": 3, "width": 32, "heads": 2, "parameters": 10_000, "capacity": 5_000, "megabytes": 0.04}
    chosen = {**size, "config": {"num_layers": 3}, "latency_ms": 2.0}
    plan = {
        "key": "k",
        "chosen": chosen,
        "candidates": [chosen],
        "teacher": {**size, "config": None, "latency_ms": 4.0},
        "limits": {"max_latency_ms": 3.0},
        "machine": "here",
    }
    (run / "plan.json").write_text(json.dumps(plan))
    text = write_report(run).read_text(encoding="utf-8")
    assert "The sizes that were measured" in text and "Chosen: 3 layers x 32, for at most 3 ms." in text


def test_of_many_classes_the_worst_are_shown(tmp_path):
    findings = findings_of()
    names = [f"class {i}" for i in range(30)]
    counts = [[10 if i == j else 1 if j == (i + 1) % 30 and i < 20 else 0 for j in range(30)] for i in range(30)]
    findings["confusion"] = {"labels": names, "counts": counts}
    text = write_report(finished_in(tmp_path / "films", findings=findings)).read_text(encoding="utf-8")
    assert "The 20 of 30 classes with the most errors." in text
    assert "class 19<" in text and "class 20<" not in text


def test_models_are_named_in_the_order_of_tables(shown):
    result = DistillationResult.of_folder(shown[0])
    assert result.names == ["teacher", "student", "baseline"]
    assert result.table["columns"] == ["", "Teacher", "Student, distilled", "Student, no teacher"]
