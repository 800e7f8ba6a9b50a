"""The command line: what it prints where, how it ends, and what wrong input gets."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import yaml

pytest.importorskip("typer", reason="needs the extra `cli`")
pytest.importorskip("rich", reason="needs the extra `cli`")
pytest.importorskip("transformers", reason="needs the extra `cli`")
pytest.importorskip("sklearn", reason="needs the extra `cli`")
pytest.importorskip("seqeval", reason="needs the extra `cli`")
pytest.importorskip("lmdb", reason="needs the extra `cli`")
pytest.importorskip("jinja2", reason="needs the extra `cli`")
pytest.importorskip("matplotlib", reason="needs the extra `cli`")

from typer.main import get_command
from typer.testing import CliRunner

from tests.pipeline.small import base_model, films, recipe_of
from textbrewer import DistillationResult, __version__
from textbrewer.cli import app
from textbrewer.cli._app import as_typed, columns_of, options_of, pairs_of

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = [sys.executable, "-m", "textbrewer"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def called(*arguments, **options):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, **options)


@pytest.fixture
def run(monkeypatch):
    """Runs a command in this process, whose logging and warnings are as they were afterwards."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = ("textbrewer", "textbrewer.pipeline")
    before = [(log, log.level, log.handlers, log.propagate) for log in map(logging.getLogger, names)]
    yield lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)])
    for log, level, handlers, propagate in before:
        log.level, log.handlers, log.propagate = level, handlers, propagate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recipe of seconds in a file, beside its data and its base model."""
    folder = tmp_path_factory.mktemp("cli")
    base_model(folder / "base")
    films(folder / "train.csv", 200)
    films(folder / "validation.csv", 32, seed=1)
    recipe = recipe_of(folder)
    recipe |= {
        "teacher": {**recipe["teacher"], "model": "base"},
        "data": {"train": "train.csv", "validation": "validation.csv"},
    }
    (folder / "films.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": "run", "cache": {"path": "cache"}}))
    return folder


@pytest.fixture(scope="module")
def done(folder):
    """What a real process printed that carried out the recipe."""
    return called("distill", folder / "films.yaml", "--with-baseline", "--json", "--resume")


def test_distill_prints_json_alone_on_stdout_and_what_it_does_on_stderr(done, folder):
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["student"] == str(folder / "run" / "student") and set(found["scores"]) == {
        "teacher",
        "student",
        "baseline",
    }
    assert Path(found["report"]).exists()
    assert "fine-tuning" in done.stderr and "baseline:" in done.stderr and "Traceback" not in done.stderr


def test_distill_again_uses_what_is_there_and_prints_a_table(done, folder, run):
    again = run("distill", folder / "films.yaml")
    assert again.exit_code == 0 and again.stderr.count("already there") == 2
    assert "Accuracy" in again.stdout and "Student, distilled" in again.stdout
    assert f"Report:  {folder / 'run' / 'report.html'}" in again.stdout


def test_the_other_commands_on_the_run(done, folder, tmp_path, run):
    model, rows = folder / "run" / "student", folder / "validation.csv"
    result = DistillationResult.of_folder(folder / "run")
    assert json.loads(run("evaluate", model, rows, "--json").stdout) == result.scores["student"]
    assert "accuracy  " in run("evaluate", model, rows).stdout
    said = json.loads(run("predict", model, "a good film", "a bad film", "--json").stdout)
    assert [each["label"] for each in said] == ["good", "bad"]
    assert run("predict", model, "--data", rows, "--output", tmp_path / "said.jsonl").exit_code == 0
    assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 32
    found = json.loads(
        run("inspect", model, "--batch", 1, "--length", 8, "--repeats", 2, "--no-memory", "--json").stdout
    )
    assert found["parameters"] == result.costs["student"]["parameters"]
    made = json.loads(run("student", folder / "run" / "teacher", tmp_path / "one", "num_layers=1", "--json").stdout)
    assert made["layers"] == [3] and (tmp_path / "one" / "model.safetensors").exists()
    (folder / "run" / "report.html").unlink()
    both = [folder / "run" / "teacher", model]
    measured = json.loads(run("benchmark", *both, "--length", 8, "--batch", 2, "--repeats", 2, "--json").stdout)
    assert list(measured["models"]) == list(map(str, both)) and measured["models"][str(model)]["median_ms"] > 0
    assert "rows/s, batch 2" in run("benchmark", model, "--length", 8, "--batch", 2, "--repeats", 2).stdout
    assert json.loads(run("report", folder / "run", "--json").stdout) == {"report": str(folder / "run" / "report.html")}
    assert (folder / "run" / "report.html").exists()


def test_train_finds_the_teacher_that_distill_made(done, folder, run):
    made = run("train", folder / "films.yaml", "--json")
    assert "already there" in made.stderr and json.loads(made.stdout)["folder"] == str(folder / "run" / "teacher")


def test_the_cache(done, folder, tmp_path, run):
    filled = json.loads(run("cache", "build", folder / "films.yaml", "--json").stdout)
    assert filled["rows"] == 200 and filled["computed"] == 0
    (entry,) = json.loads(run("cache", "list", folder / "cache", "--json").stdout)
    assert entry["records"] > 0 and entry["name"][:12] in run("cache", "list", folder / "cache").stdout
    found = json.loads(run("cache", "verify", folder / "cache", "--json").stdout)
    assert found[entry["name"]]["damaged"] == 0 < found[entry["name"]]["whole"]
    assert json.loads(run("cache", "prune", folder / "cache", "--unused-days", 1, "--json").stdout) == []
    assert json.loads(run("cache", "prune", folder / "cache", entry["name"][:6], "--json").stdout) == [entry["name"]]
    assert run("cache", "list", folder / "cache").stdout == "empty\n"


def test_init_writes_what_distill_reads(folder, tmp_path, run):
    made = run("init", folder / "train.csv", "-o", tmp_path / "new.yaml", "--teacher", folder / "base", "--json")
    assert made.exit_code == 0, made.stderr
    short = ["training.num_steps=1", "teacher.training.num_steps=1"]
    assert run("distill", tmp_path / "new.yaml", *short, "--json").exit_code == 0
    assert (tmp_path / "runs" / "new" / "student" / "model.safetensors").exists()


def test_export(done, folder, tmp_path, run):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    card = ["--card", "licence=MIT", "--rows", 8, "--no-int8"]
    made = run(
        "export", folder / "run" / "student", folder / "validation.csv", "-o", tmp_path / "onnx", *card, "--json"
    )
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["folder"] == str(tmp_path / "onnx")
    assert "MIT" in (tmp_path / "onnx" / "README.md").read_text()


WRONG = {
    "train": [
        (["{f}/nothing.yaml"], "a recipe in YAML"),
        (["{f}/films.yaml", "training.num_epochs=0"], "greater than or equal to 1"),
        (["{f}/films.yaml", "teacher=base2", "data.train=./nothing.csv"], "where nothing is"),
    ],
    "distill": [
        (["{f}/films.yaml", "traning.num_epochs=1"], "did you mean 'training'?"),
        (["{f}/films.yaml", "data.columns={{text: txt}}"], "there is no column 'txt'"),
        (["{f}/films.yaml", "task.labels=[good, fine]"], "labels 'bad'"),
        (["{f}/validation.csv"], "a mapping of keys to values"),
    ],
    "doctor": [
        (["{f}/nothing.yaml"], "a recipe in YAML"),
        (["{f}/films.yaml", "student=T-4tiny"], "did you mean 'T4-tiny'?"),
        (["{f}/films.yaml", "student.num_layers=9"], "4"),
    ],
    "evaluate": [
        (["{f}/nothing", "{f}/validation.csv"], "a folder with a model"),
        (["{f}/run/student", "{f}/nothing.csv"], "there is no file or folder"),
        (["{f}/run/student", "{f}/validation.csv", "--column", "label=verdict"], "there is no column 'verdict'"),
        (["{f}/run/student", "{f}/validation.csv", "--column", "label"], "expected KEY=VALUE"),
    ],
    "predict": [
        (["{f}/run/student"], "give texts, or --data"),
        (["{f}/run/student", "{f}/films.yaml"], "is a file, and would be read as a text"),
        (["{f}/run/student", "a", "--pair"], "two by two"),
        (["{f}/run/student", "--data", "{f}/films.yaml"], "Write format="),
    ],
    "inspect": [
        (["{f}"], "config.json"),
        (["{f}/run/student", "--length", "9999"], "takes 40 tokens a row"),
        (["{f}/run/student", "--batch", "0"], "greater than or equal to 1"),
    ],
    "benchmark": [
        ([], "Missing argument"),
        (["{f}/run/student", "{f}/nothing", "--length", "8"], "a folder with a model"),
        (["{f}/run/student", "--length", "41"], "takes 40 tokens a row, got length=41"),
    ],
    "student": [
        (["{f}/run/teacher", "{f}/run"], "is there already"),
        (["{f}/run/teacher", "{t}/x", "num_layrs=2"], "did you mean 'num_layers'?"),
        (["{f}/run/teacher", "{t}/x", "--preset", "T-4tiny"], "did you mean 'T4-tiny'?"),
        (["{f}/run/teacher", "{t}/x", "num_layers=9"], "4"),
    ],
    "export": [
        (["{f}/run/student", "{f}/nothing.csv", "-o", "{t}/x"], "there is no file or folder"),
        (["{f}/run/student", "{f}/validation.csv", "-o", "{f}"], "is no earlier export"),
        (["{f}/run/student", "{f}/validation.csv", "-o", "{t}/x", "--card", "license=MIT"], "did you mean 'licence'?"),
    ],
    "report": [
        (["{f}"], "found no results.json"),
        (["{f}/nothing"], "found no results.json"),
        ([], "Missing argument"),
    ],
    "init": [
        (["{f}/nothing.csv", "-o", "{t}/x.yaml"], "there is no file or folder"),
        (["{f}/train.csv", "-o", "{f}/films.yaml"], "is there already"),
        (["{f}/train.csv", "-o", "{t}/x.yaml", "--task", "texts"], "expected one of 'text_classification'"),
    ],
    "cache list": [
        (["{f}/nothing"], "there is no teacher cache to read"),
        (["{f}/films.yaml"], "is a file"),
        (["{f}/base"], "other things than a teacher cache"),
    ],
    "cache verify": [
        (["{f}/nothing"], "there is no teacher cache to read"),
        (["{f}/films.yaml"], "is a file"),
        ([], "Missing argument"),
    ],
    "cache prune": [
        (["{f}/cache"], "name teachers, or give --unused-days"),
        (["{f}/nothing", "abc"], "there is no teacher cache to read"),
        (["{f}/cache", "zzz"], "fits 0 namespaces"),
    ],
    "cache build": [
        (["{f}/nothing.yaml"], "a recipe in YAML"),
        (["{f}/films.yaml", "cache.dtype=float8"], "'float16'"),
        (["{f}/films.yaml", "cache={{memory: true}}"], "keeps nothing after this process"),
    ],
}


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [(command, *case) for command, cases in WRONG.items() for case in cases],
)
def test_wrong_input_gets_one_message_and_writes_nothing(done, folder, tmp_path, run, command, arguments, message):
    before = {path for path in folder.rglob("*") if "work" not in path.parts}
    ended = run(*command.split(), *(each.format(f=folder, t=tmp_path) for each in arguments))
    assert ended.exit_code == 2, (ended.stdout, ended.stderr, ended.exception)
    assert message in re.sub(r"[│\s]+", " ", ended.stderr), ended.stderr
    assert ended.stdout == "" and "Traceback" not in ended.stderr
    assert {path for path in folder.rglob("*") if "work" not in path.parts} == before
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_a_case_and_an_example():
    root = get_command(app)
    names = {}
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        names |= {f"{name} {each}": sub for each, sub in inner.items()} if inner else {name: command}
    assert set(names) == set(WRONG)
    for name, command in names.items():
        assert f"`textbrewer {name} " in command.help, name


def test_the_page_of_the_command_line_names_every_command():
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert all(f"textbrewer {name}" in text for name in WRONG)


def test_a_process_ends_with_the_code_and_without_a_traceback(folder):
    ended = called("distill", folder / "films.yaml", "trainig=1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        "`trainig`" in ended.stderr and "did you mean 'training'?" in ended.stderr and "Traceback" not in ended.stderr
    )


def test_a_failure_on_the_way_ends_otherwise_than_a_refusal(folder, tmp_path, run):
    ended = run("distill", folder / "films.yaml", f"output_dir={tmp_path}/run", "teacher.training.learning_rate=1e30")
    assert ended.exit_code == 1 and "not finite" in ended.stderr and "Traceback" not in ended.stderr


def test_ctrl_c_ends_with_130_and_the_run_goes_on(folder, tmp_path):
    steps = ["teacher.training.num_steps=2000", "teacher.training.ckpt_steps=5", f"output_dir={tmp_path}/run"]
    command = [*COMMAND, "distill", str(folder / "films.yaml"), *steps]
    # A shell makes what it starts in the background deaf to Ctrl-C; this process must hear it.
    hearing = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **hearing
    )
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("run/work/teacher-*/checkpoints/step-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert out == "" and "the same command goes on" in errors and "Traceback" not in errors


def test_quiet_is_quiet(done, folder, tmp_path):
    short = ["training.num_steps=1", "teacher.training.num_steps=1", "cache=false"]
    ended = called("--quiet", "distill", folder / "films.yaml", f"output_dir={tmp_path}/run", *short)
    assert ended.returncode == 0 and "Student, distilled" in ended.stdout
    assert ended.stderr == ""


def test_version_and_completion(run):
    assert run("--version").stdout == f"{__version__}\n"
    help_ = run("--help").stdout
    assert "--install-completion" in help_ and "distill" in help_


def test_help_loads_neither_transformers_nor_the_pipeline():
    code = "import sys, textbrewer.cli; print('transformers' in sys.modules, 'textbrewer.pipeline' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout == "False False\n"


def test_values_stay_as_they_are_typed():
    assert options_of(["separator=|", "header=false", "names=[a, b]", "encoding=1252", "tag=null", "x=a: b"]) == {
        "separator": "|",
        "header": False,
        "names": ["a", "b"],
        "encoding": 1252,
        "tag": None,
        "x": "a: b",
    }
    columns = ["label=No", "text=Review #2", "more=a: b", "candidates=[a, 2]"]
    assert columns_of(columns) == {"label": "No", "text": "Review #2", "more": "a: b", "candidates": ["a", "2"]}
    card = ["intended_use=Reviews: English", "contact=@me"]
    assert pairs_of(card, "--card", as_typed) == {"intended_use": "Reviews: English", "contact": "@me"}
