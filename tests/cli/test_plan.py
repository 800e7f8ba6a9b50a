"""The commands that plan a student."""

from __future__ import annotations

import json

import pytest
import yaml

pytest.importorskip("typer", reason="needs the extra `cli`")
pytest.importorskip("rich", reason="needs the extra `cli`")
pytest.importorskip("transformers", reason="needs the extra `cli`")
pytest.importorskip("matplotlib", reason="needs the extra `cli`")

from tests.cli.test_cli import run
from tests.pipeline.small import base_model, films, recipe_of

__all__ = ["run"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "base"
    base_model(folder)
    return folder


LIMITS = ("--plan", "--max-latency-ms", "1000", "--length", "8")


def test_a_planned_student_is_built_and_told(run, teacher, tmp_path):
    made = run("student", teacher, tmp_path / "one", *LIMITS, "--plot", tmp_path / "plan.svg", "--json")
    told = json.loads(made.stdout)
    chosen = told["plan"]["chosen"]
    assert chosen == max(told["plan"]["candidates"], key=lambda each: each["capacity"])
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (chosen["layers"], chosen["width"])
    assert told["student_parameters"] == chosen["parameters"]
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")


def test_without_the_tokens_that_a_file_lacks_more_fits(run, teacher, tmp_path):
    texts = films(tmp_path / "films.csv", 20)
    limit = ("--plan", "--max-params", "3000", "--length", "8", "--json")
    plain, pruned = (
        json.loads(run("student", teacher, tmp_path / name, *limit, *more).stdout)["plan"]["chosen"]
        for name, more in (("plain", []), ("pruned", ["--texts", texts]))
    )
    assert pruned["capacity"] >= plain["capacity"]
    assert (
        pruned["parameters"] - pruned["capacity"]
        < pruned["width"] * (plain["parameters"] - plain["capacity"]) / (plain["width"])
    )
    assert (tmp_path / "pruned" / "teacher" / "config.json").is_file() and not (tmp_path / "plain" / "teacher").exists()


def test_the_table_is_shown(run, teacher, tmp_path):
    shown = run("student", teacher, tmp_path / "one", *LIMITS).stdout
    assert (
        "median, ms" in shown
        and "chosen" in shown
        and "At most 1000 ms; 1 x 8 tokens, 10% of the time left free." in shown
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan"], "nothing is limited"),
        (["--max-mb", "5"], "expected --plan with limits"),
        ([*LIMITS, "num_layers=1"], "a plan or a size, not both"),
        ([*LIMITS, "--preset", "T6"], "a plan or a size, not both"),
        (
            ["--plan", "--max-params", "3", "--length", "8"],
            "none of 7 candidates has at most 3 parameters; the closest",
        ),
        (["--plan", "--max-params", "3"], "takes 40 tokens a row, got length=128"),
        (["--texts", "nothing.csv"], "there is no file or folder"),
    ],
)
def test_wrong_input_ends_with_2_and_leaves_nothing(run, teacher, tmp_path, arguments, message):
    result = run("student", teacher, tmp_path / "one", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    assert not (tmp_path / "one").exists()


@pytest.fixture(scope="module")
def recipe(teacher):
    """A recipe of seconds without a student."""
    folder = teacher.parent
    films(folder / "train.csv", 64)
    films(folder / "validation.csv", 16, seed=1)
    values = recipe_of(folder)
    (folder / "films.yaml").write_text(yaml.safe_dump(values))
    (folder / "sized.yaml").write_text(yaml.safe_dump({**values, "student": {"num_layers": 2}}))
    return folder / "films.yaml"


SHORT = ("teacher.training.num_steps=1", "training.num_steps=1")


def test_distill_plans_and_distils(run, recipe, tmp_path):
    limits = ("--max-latency-ms", 1000, "--max-params", 5000, "--batch", 2, "--length", 8, "--threads", 1)
    given = ("distill", recipe, *SHORT, f"output_dir={tmp_path}/run", *limits)
    shown = run(*given)
    assert shown.exit_code == 0, shown.stderr
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["limits"] == {
        "max_latency_ms": 1000,
        "max_mb": None,
        "max_params": 5000,
        "batch": 2,
        "length": 8,
        "threads": 1,
        "headroom": 0.1,
    }
    chosen = plan["chosen"]
    size = f"{chosen['layers']} layer{'s' if chosen['layers'] > 1 else ''} x {chosen['width']}"
    assert f"plan: {size}, {chosen['parameters']:,} parameters" in shown.stderr
    assert (tmp_path / "run" / "plan.txt").read_text() in shown.stdout
    assert f"Student: {tmp_path}/run/student ({size})" in shown.stdout
    again = run(*given, "--json")
    told = json.loads(again.stdout)
    assert told["plan"]["chosen"] == chosen and told["recipe"]["student"]["num_layers"] == chosen["layers"]
    assert f"plan: already there, {size}" in again.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("films", ["--max-params", "3"], "none of 7 candidates has at most 3 parameters; the closest is 1 layer x 8"),
        ("films", ["--batch", "2"], "`student.plan`: expected max_latency_ms, max_mb or max_params, got 'no limit'"),
        ("films", ["--max-mb", "0", "--threads", "0"], "`student.plan.threads`: expected greater than or equal to 1"),
        ("films", ["student=T6", "--max-mb", "5"], "got ['plan', 'preset']; as a first change, student=null"),
        ("sized", ["--max-mb", "5"], "got ['plan', 'num_layers']; as a first change, student=null"),
        ("sized", ["student=null", "--max-params", "3"], "has at most 3 parameters; the closest is"),
        ("films", ["--max-params", "5000", "--length", "41"], "takes 40 tokens a row, got length=41"),
    ],
)
def test_a_plan_that_cannot_be_made_ends_with_2_and_leaves_nothing(run, recipe, tmp_path, name, arguments, message):
    result = run("distill", recipe.with_name(f"{name}.yaml"), f"output_dir={tmp_path}/run", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr
    assert result.stdout == "" and list(tmp_path.iterdir()) == []
