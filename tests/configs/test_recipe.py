"""Recipes as plain values: defaults, shorthands and every problem at once."""

from __future__ import annotations

from dataclasses import fields

import pytest

from textbrewer.configs.recipe import (
    BESIDE_PLAN,
    MATCH_RULES,
    PlanSettings,
    Recipe,
    expanded,
    match_options,
    shared_out,
)
from textbrewer.errors import ConfigError
from textbrewer.planner import Limits

SMALLEST = {"task": "text_classification", "teacher": "bert-base-uncased", "data": "films.csv"}


def problems_of(values):
    with pytest.raises(ConfigError) as raised:
        Recipe.from_dict(values)
    return {problem.path: str(problem) for problem in raised.value.problems}


def test_three_keys_are_a_recipe():
    recipe = Recipe.from_dict(SMALLEST)
    assert recipe.task == {"name": "text_classification"}
    assert (recipe.teacher.model, recipe.teacher.train, recipe.data.train.path) == (
        "bert-base-uncased",
        "auto",
        "films.csv",
    )
    assert (recipe.student.preset, recipe.student.model, recipe.student.sizes) == (None, None, {})
    assert (recipe.training.num_epochs, recipe.training.learning_rate, recipe.training.batch_size) == (3, 1e-4, 32)
    assert recipe.teacher.training.learning_rate == 3e-5
    assert recipe.distillation.temperature == 4 and recipe.matches.rule == "uniform"
    assert (recipe.cache, recipe.augmentation, recipe.export, recipe.baseline, recipe.seed) == (
        None,
        None,
        None,
        False,
        0,
    )


def test_what_a_recipe_says_of_itself_is_read_again_as_the_same():
    recipe = Recipe.from_dict(
        {
            **SMALLEST,
            "student": {"preset": "T6", "layers": "last"},
            "data": {"train": "a.csv", "test": {"path": "b.tsv", "columns": {"text": "0"}}, "columns": {"label": "y"}},
            "distillation": {"matches": {"rule": "minilm", "heads": 4}, "hard_label_weight": 1},
            "cache": True,
            "augmentation": {"n": 2, "operations": {"masking": 0.1}},
            "export": {"card": {"licence": "MIT"}},
        }
    )
    again = Recipe.from_dict(recipe.to_dict())
    assert again == recipe
    assert recipe.data.train.columns == {"label": "y"} and recipe.data.test.columns == {"text": "0"}


@pytest.mark.parametrize("off", [None, "none"])
def test_matches_that_are_off_stay_off(off):
    recipe = Recipe.from_dict({**SMALLEST, "distillation": {"matches": off}})
    assert recipe.matches is None and Recipe.from_dict(recipe.to_dict()).matches is None


def test_matches_written_out_take_the_place_of_the_rule():
    match = {"layer_T": 1, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse"}
    recipe = Recipe.from_dict({**SMALLEST, "distillation": {"intermediate_matches": [match]}})
    assert recipe.matches is None and len(recipe.distillation.intermediate_matches) == 1


def test_shorthands():
    assert expanded({**SMALLEST, "student": "T6", "cache": "runs/cache", "export": False}) == {
        "task": {"name": "text_classification"},
        "teacher": {"model": "bert-base-uncased"},
        "student": {"preset": "T6"},
        "data": {"train": {"path": "films.csv"}},
        "cache": {"path": "runs/cache"},
    }
    assert expanded("no recipe") == "no recipe"


def test_shared_settings_of_files_are_not_those_of_text_without_labels():
    data = shared_out(expanded({"data": {"train": "a.csv", "unlabelled": "b.txt", "format": "csv"}}))["data"]
    assert data == {"train": {"path": "a.csv", "format": "csv"}, "unlabelled": {"path": "b.txt"}}


def test_what_a_file_says_itself_wins_over_what_is_said_of_all():
    test = {"path": "b.csv", "format": None, "columns": {"label": "gold"}, "options": {}}
    shared = {"format": "csv", "columns": {"text": "review", "label": "stars"}}
    data = shared_out({"data": {"train": {"path": "a.csv"}, "test": test, **shared}})["data"]
    assert data == {
        "train": {"path": "a.csv", **shared},
        "test": {**test, "format": "csv"},
    }
    assert shared_out({"data": "a.csv"}) == {"data": "a.csv"} and shared_out(None) is None


def test_every_problem_is_told_at_once_with_its_path():
    found = problems_of(
        {
            "task": 3,
            "techer": "x",
            "student": {"num_layrs": 3, "hidden_size": 0},
            "data": {"train": {"path": "a.csv", "colums": {}}, "validation_share": 2},
            "distillation": {"temperature": -1, "kd_loss_type": "cee", "matches": {"rule": "uniform", "loess": "cos"}},
            "training": {"learning_rate": "fast", "output_dir": "x", "num_epoch": 3},
            "cache": {"dtype": "float8"},
            "seed": -1,
        }
    )
    assert set(found) == {
        "techer",
        "task",
        "teacher",
        "student.num_layrs",
        "student.hidden_size",
        "data.train.colums",
        "distillation.temperature",
        "distillation.kd_loss_type",
        "distillation.matches",
        "training.learning_rate",
        "training.output_dir",
        "training.num_epoch",
        "cache.dtype",
        "seed",
    }
    assert "did you mean 'teacher'?" in found["techer"]
    assert "did you mean 'num_layers'?" in found["student.num_layrs"]
    assert "did you mean 'columns'?" in found["data.train.colums"]
    assert "did you mean 'loss'?" in found["distillation.matches"]
    assert "did you mean 'num_epochs'?" in found["training.num_epoch"]
    assert "write it at the top of the recipe" in found["training.output_dir"]


PLAN = {"max_mb": 20}


@pytest.mark.parametrize(
    ("student", "got"),
    [
        ({"model": "a", "num_layers": 3}, "['model', 'num_layers']"),
        ({"model": "a", "preset": "T6"}, "['model', 'preset']"),
        ({"model": "a", "init": "random"}, "['model', 'init']"),
        ({"plan": PLAN, "hidden_size": 24}, "['plan', 'hidden_size']"),
        ({"plan": PLAN, "preset": "T6", "layers": "last"}, "['plan', 'preset']"),
        ({"plan": PLAN, "model": "a"}, "['model', 'plan']"),
    ],
)
def test_a_student_has_one_origin(student, got):
    found = problems_of({**SMALLEST, "student": student})["student"]
    assert f"expected one of `model`, `plan` and a size, got {got}; as a first change, student=null" in found


def test_a_plan_is_what_the_planner_takes_and_is_read_again_as_the_same():
    assert [each.name for each in fields(PlanSettings)] == [each.name for each in fields(Limits)]
    recipe = Recipe.from_dict({**SMALLEST, "student": {"plan": {"max_latency_ms": 5, "threads": 2}, "init": "svd"}})
    plan = recipe.student.plan
    assert (plan.max_latency_ms, plan.max_mb, plan.batch, plan.length, plan.threads) == (5, None, 1, None, 2)
    assert recipe.student.sizes == {"init": "svd"} and "init" in BESIDE_PLAN
    assert recipe.to_dict()["student"] == {
        "plan": {"max_latency_ms": 5, "batch": 1, "threads": 2, "headroom": 0.1},
        "init": "svd",
    }
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_every_problem_of_a_plan_is_told_with_those_beside_it():
    plan = {"max_latency": 5, "max_mb": 0, "batch": 0, "headroom": 1}
    found = problems_of({**SMALLEST, "student": {"plan": plan, "preset": "T6", "num_layrs": 3}, "seed": -1})
    assert set(found) == {
        "student.plan.max_latency",
        "student.plan.max_mb",
        "student.plan.batch",
        "student.plan.headroom",
        "student.num_layrs",
        "student",
        "seed",
    }
    assert "did you mean 'max_latency_ms'?" in found["student.plan.max_latency"]
    assert "['plan', 'preset']" in found["student"]
    found = problems_of({**SMALLEST, "student": {"plan": {"batch": 2}}})
    assert "expected max_latency_ms, max_mb or max_params, got no limit" in found["student.plan"].replace("'", "")
    assert "a mapping" in problems_of({**SMALLEST, "student": {"plan": 5}})["student.plan"]


def test_a_source_may_be_several_files():
    recipe = Recipe.from_dict(
        {**SMALLEST, "data": {"train": ["a.csv", "b.csv"], "test": {"path": ["c.csv"]}, "columns": {"label": "y"}}}
    )
    assert recipe.data.train.path == ["a.csv", "b.csv"] and recipe.data.train.columns == {"label": "y"}
    assert recipe.data.test.path == ["c.csv"] and Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("path", "where"), [([], "path"), ("", "path"), (["a", ""], "path"), (["a", 1], "path[1]"), ({}, "path")]
)
def test_a_source_that_leads_nowhere(path, where):
    assert set(problems_of({**SMALLEST, "data": {"train": {"path": path}}})) == {f"data.train.{where}"}


def test_code_beside_a_teacher_is_run_only_if_that_is_said():
    assert not Recipe.from_dict(SMALLEST).teacher.trust_remote_code
    trusted = Recipe.from_dict({**SMALLEST, "teacher": {"model": "a/b", "trust_remote_code": True}})
    assert trusted.teacher.trust_remote_code and Recipe.from_dict(trusted.to_dict()) == trusted


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_what_is_no_mapping_is_no_recipe(values):
    assert "(the whole recipe)" in problems_of(values)


@pytest.mark.parametrize("section", ["teacher", "student", "data", "distillation", "training", "cache"])
def test_a_section_that_is_no_mapping(section):
    assert "a mapping" in problems_of({**SMALLEST, section: [1]})[section]


def test_rules_take_what_their_functions_take():
    assert set(match_options("uniform")) == {"features", "loss", "weight", "embeddings"}
    assert set(match_options("minilmv2")) == {"heads", "teacher_layer", "student_layer", "weight"}
    assert all(match_options(rule) for rule in MATCH_RULES)
