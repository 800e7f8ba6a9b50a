"""A student whose size is planned: measured once in a run's folder, before anything is trained or written."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import yaml

from tests.pipeline.small import recipe_of
from textbrewer import distill
from textbrewer.errors import ConfigError, StudentError
from textbrewer.pipeline import Run, examine, fill_cache, plan_in, planning, read_recipe
from textbrewer.pipeline import run as pipeline_run
from textbrewer.planner import Limits, Plan, plan
from textbrewer.report.profile import parameters_of
from textbrewer.students import build_student
from textbrewer.students.loading import load_model

SHORT = ["teacher.training.num_steps=1", "training.num_steps=1"]
FILES = {"plan.json", "plan.txt", "plan.svg"}
MOST = 5_000
"""Parameters; the teacher has more than twice as many."""


@pytest.fixture(scope="module")
def folder(material, tmp_path_factory):
    """A run whose student was planned; tests may run again in it, and leave it as it was."""
    folder = tmp_path_factory.mktemp("planned") / "run"
    distill(planned_recipe(material, folder), SHORT)
    return folder


def planned_recipe(material, folder, **limits):
    return recipe_of(material, student={"plan": {"max_params": MOST, **limits}}, output_dir=str(folder))


def stored(folder):
    return yaml.safe_load((folder / "recipe.yaml").read_text())


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def begun(recipe):
    """A run up to where its teacher would be trained."""
    run = Run(read_recipe(recipe))
    run.settle()
    with run.held():
        return run


def unmeasured(*_, **__):
    raise AssertionError("nothing need be measured")


def test_the_most_capable_within_the_limit_is_distilled(folder):
    found, student = plan_in(folder), load_model(folder / "student")
    fitting = [each for each in found.candidates if each.parameters <= MOST]
    assert found.chosen == max(fitting, key=lambda each: each.capacity) and len(fitting) < len(found.candidates)
    assert parameters_of(student) == found.chosen.parameters <= MOST
    assert (student.config.num_hidden_layers, student.config.hidden_size) == (found.chosen.layers, found.chosen.width)
    assert found.teacher.parameters > 2 * MOST


def test_the_plan_its_table_and_its_plot_lie_in_the_folder(folder):
    assert names_in(folder) >= FILES
    assert (folder / "plan.svg").read_text().startswith("<svg")
    table = (folder / "plan.txt").read_text()
    assert table == f"{plan_in(folder)}\n" and "chosen" in table and "At most 5,000 parameters" in table


def test_the_stored_recipe_has_the_size_that_was_chosen(folder):
    chosen = plan_in(folder).chosen
    student = stored(folder)["student"]
    assert (student["num_layers"], student["hidden_size"]) == (chosen.layers, chosen.width) and "plan" not in student


def test_a_narrower_student_starts_with_what_rows_say_is_important(material, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "textbrewer.pipeline")
    seen = []

    def building(teacher, config, **options):
        rows = options.pop("rows")
        options["rows"] = rows if rows is None else list(rows)
        seen.append(options["rows"])
        # Sums on another number of threads: the same student all the same.
        student = build_student(teacher, config, **options)
        student.get_input_embeddings().weight.data.mul_(1 + 1e-7 * len(seen))
        return student

    monkeypatch.setattr(pipeline_run, "build_student", building)
    recipe = {**planned_recipe(material, tmp_path / "run", max_params=2_000), "baseline": True}
    distill(recipe, SHORT)
    assert stored(tmp_path / "run")["student"]["init"] == "importance"
    rehearsed, *given = seen
    assert rehearsed is None and len(given) == 2
    for rows in given:
        assert [len(batch["input_ids"]) for batch in rows] == [16] * 4 and not any("labels" in batch for batch in rows)
        assert torch.equal(rows[0]["input_ids"], given[0][0]["input_ids"])
    distill(recipe, SHORT)
    assert caplog.text.count("already there") == 4  # the plan, and all three models


def test_rows_are_as_long_as_the_longest_of_the_data(folder, material):
    results = json.loads((folder / "results.json").read_text())
    longest = int(next(line for line in results["data"] if "longest row" in line).split()[2])
    assert plan_in(folder).limits == Limits(max_params=MOST, length=longest) and longest < 40


def test_a_plan_is_made_once(folder, material, monkeypatch, caplog):
    monkeypatch.setattr(planning, "plan", unmeasured)
    caplog.set_level("INFO", "textbrewer.pipeline")
    before = (folder / "plan.json").read_text()
    distill(planned_recipe(material, folder), SHORT)
    assert f"plan: already there, {plan_in(folder).chosen}" in caplog.text and caplog.text.count("already there") == 3
    assert (folder / "plan.json").read_text() == before
    caplog.clear()
    distill(folder / "recipe.yaml")
    assert "plan:" not in caplog.text and caplog.text.count("already there") == 2
    assert (folder / "plan.json").read_text() == before


@pytest.mark.parametrize(("changes", "options"), [(["student.plan.max_params=4900"], {}), ([], {"fresh": True})])
def test_other_limits_and_fresh_ask_for_another_plan(folder, material, monkeypatch, changes, options):
    monkeypatch.setattr(planning, "plan", unmeasured)
    with pytest.raises(AssertionError, match="nothing need be measured"):
        distill(planned_recipe(material, folder), [*SHORT, *changes], **options)


def test_the_plan_of_another_student_goes(material, tmp_path):
    recipe = planned_recipe(material, tmp_path)
    begun(recipe)
    assert names_in(tmp_path) == {*FILES, "recipe.yaml"}
    run = Run(read_recipe(recipe))
    with run.held():  # as where the teacher alone is trained
        assert names_in(tmp_path) == {*FILES, "recipe.yaml"}
    begun({**recipe, "student": {"num_layers": 3}})
    assert names_in(tmp_path) == {"recipe.yaml"}


def test_what_is_no_size_may_stand_beside_a_plan(material, tmp_path):
    recipe = planned_recipe(material, tmp_path)
    recipe["student"]["init"] = "random"
    chosen = begun(recipe).recipe.student.sizes
    assert chosen["init"] == stored(tmp_path)["student"]["init"] == "random" and chosen["num_layers"] > 0


@pytest.mark.parametrize("carried_out", [distill, fill_cache, examine])
def test_a_limit_that_nothing_keeps_to_is_told_before_anything_is_written(material, tmp_path, carried_out):
    recipe = planned_recipe(material, tmp_path / "run", max_params=3)
    with pytest.raises(StudentError, match="none of 7 candidates has at most 3 parameters; the closest is 1 layer x 8"):
        carried_out(recipe, SHORT)
    assert not (tmp_path / "run").exists()


def test_rows_longer_than_the_teacher_takes(material, tmp_path):
    with pytest.raises(StudentError, match="takes 40 tokens a row, got length=41"):
        distill(planned_recipe(material, tmp_path / "run", length=41), SHORT)


def test_what_does_not_fit_the_planned_student_is_told_before_anything_is_written(material, tmp_path):
    recipe = planned_recipe(material, tmp_path / "run")
    recipe["student"]["layers"] = [0, 0, 0, 0, 0]
    with pytest.raises(StudentError, match=r"layers=\[0, 0, 0, 0, 0\] must name"):
        distill(recipe, SHORT)
    assert not (tmp_path / "run").exists()


def test_the_doctor_looks_at_the_planned_student(material, tmp_path):
    checks = {check.name: check for check in examine(planned_recipe(material, tmp_path / "run"), SHORT).checks}
    assert checks["gradients"].verdict != "bad" and "hidden" in checks["matches"].found
    assert not (tmp_path / "run").exists()


def test_overrides_plan_as_the_recipe_does(material):
    recipe = read_recipe(recipe_of(material), ["student.plan.max_latency_ms=5", "student.plan.batch=2"])
    assert (recipe.student.plan.max_latency_ms, recipe.student.plan.batch) == (5, 2)
    of_another = recipe_of(material, student={"num_layers": 2})
    with pytest.raises(ConfigError, match=r"got \['plan', 'num_layers'\]; as a first change, student=null"):
        read_recipe(of_another, ["student.plan.max_mb=20"])
    assert read_recipe(of_another, ["student=null", "student.plan.max_mb=20"]).student.plan.max_mb == 20


def test_a_plan_is_read_and_sent_as_it_was(material):
    made = plan(load_model(material / "base"), Limits(max_latency_ms=1e6, length=8), repeats=2)
    again = Plan.from_dict(json.loads(json.dumps({"key": "x", **made.to_dict()})))
    assert again == made and str(again) == str(made) and again.svg() == made.svg()
    assert pickle.loads(pickle.dumps(made)) == made
    assert plan_in(material) is None
