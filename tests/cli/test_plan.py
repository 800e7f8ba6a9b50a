"""The command that plans a student."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("typer", reason="needs the extra `cli`")
pytest.importorskip("rich", reason="needs the extra `cli`")
pytest.importorskip("transformers", reason="needs the extra `cli`")
pytest.importorskip("matplotlib", reason="needs the extra `cli`")

from tests.cli.test_cli import run
from tests.pipeline.small import base_model

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
    ],
)
def test_wrong_input_ends_with_2_and_leaves_nothing(run, teacher, tmp_path, arguments, message):
    result = run("student", teacher, tmp_path / "one", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    assert not (tmp_path / "one").exists()
