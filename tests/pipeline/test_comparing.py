"""Runs beside each other: what the page says, and which runs it refuses."""

from __future__ import annotations

import re

import pytest

from tests.pipeline.written import findings_of, finished_in, results_of
from textbrewer.errors import DataError
from textbrewer.pipeline import compare


def run_in(folder, accuracy=0.91, rows="rows", findings=None, **recipe):
    return finished_in(folder, results_of(folder, accuracy, **recipe), findings, rows)


def test_what_differs_is_told_and_what_does_not_is_not(tmp_path):
    first = run_in(tmp_path / "a", 0.91, training={"learning_rate": 1e-4})
    second = run_in(tmp_path / "b", 0.93, training={"learning_rate": 3e-4}, cache=True)
    text = compare([first, second], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "b has the best student: Accuracy 0.9300." in text
    keys = re.findall(r'<th scope="row">([^<]*)</th>', text)
    assert keys[:2] == ["a", "b"] and "training.learning_rate" in keys
    assert not {"output_dir", "training.batch_size", "teacher.model"} & set(keys)
    assert re.search(r"learning_rate</th><td>0.0001</td><td>0.0003</td>", text)
    assert ">0.9100<" in text and ">96.8 %<" in text and ">98.9 %<" in text


def test_plots_have_every_run_and_the_teacher_once(tmp_path):
    runs = [run_in(tmp_path / name, 0.9 + i / 100, seed=i) for i, name in enumerate("abcdefgh")]
    text = compare(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    plots = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert len(plots) == 4
    for plot in plots:
        assert all(f">{name}<" in plot for name in "abcdefgh")
    assert [plot.count(">Teacher<") for plot in plots] == [1, 1, 0, 0]
    assert all("latency, % of the teacher" in plot for plot in plots[:1])


def test_exports_are_points_too(tmp_path):
    runs = [run_in(tmp_path / "a", findings=findings_of()), run_in(tmp_path / "b", seed=1)]
    assert ">a, int8<" in compare(runs, tmp_path / "page.html").read_text(encoding="utf-8")


def test_other_teachers_are_told_apart(tmp_path):
    runs = [run_in(tmp_path / "a"), tmp_path / "b"]
    other = results_of(tmp_path / "b")
    other["costs"]["teacher"]["parameters"] = 1e9
    finished_in(tmp_path / "b", other)
    text = compare(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert ">Teacher of a<" in text and ">Teacher of b<" in text and "latency, batch 1, median, ms" in text


def test_the_same_recipe_twice_is_said(tmp_path):
    runs = [run_in(tmp_path / "a"), run_in(tmp_path / "b")]
    assert "They are the same." in compare(runs, tmp_path / "page.html").read_text(encoding="utf-8")


def test_names_are_as_long_as_it_takes_to_tell_them_apart(tmp_path):
    runs = [run_in(tmp_path / "x" / "films"), run_in(tmp_path / "y" / "films")]
    text = compare(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<th scope="row">x/films</th>' in text and '<th scope="row">y/films</th>' in text


def test_images_are_written(tmp_path):
    compare([run_in(tmp_path / "a"), run_in(tmp_path / "b")], tmp_path / "page.html", tmp_path / "plots")
    names = ("score-by-latency", "score-by-size", "progress", "loss")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {f"{n}.{k}" for n in names for k in ("svg", "png")}


def test_hostile_names_and_values_are_shown_as_text(tmp_path):
    evil = "<script>alert(1)<"
    runs = [run_in(tmp_path / evil), run_in(tmp_path / "b", teacher=evil)]
    text = compare(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;" in text


def test_runs_that_cannot_be_compared(tmp_path):
    first = run_in(tmp_path / "a")
    other = {
        "expected runs of one task, found a: text_classification, b: ranking": {
            "recipe": {"task": {"name": "ranking"}}
        },
        "expected runs with one metric, found a: accuracy, b: macro_f1": {"metric": "macro_f1"},
        "expected runs scored on the same rows, found a: test rows rows, b: test rows others": {},
    }
    for i, (message, changes) in enumerate(other.items()):
        folder = tmp_path / str(i) / "b"
        finished_in(folder, {**results_of(folder), **changes}, rows="others")
        with pytest.raises(DataError, match=f"^compare: {message}$"):
            compare([first, folder], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_too_few_runs_and_none(tmp_path):
    first = run_in(tmp_path / "a")
    for runs in ([], [first], [first, first]):
        with pytest.raises(DataError, match="expected at least two different runs"):
            compare(runs, tmp_path / "page.html")
    with pytest.raises(DataError, match=r"found no results\.json"):
        compare([first, tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
