"""Every example runs to its end, in an empty folder, learns what it should, and says what is wrong with bad input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra `hf`")

from transformers import AutoTokenizer

from tests.tasks.small import bert, tokenizer_of
from textbrewer.students.loading import load_model
from textbrewer.tasks import TextClassification

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(script.parent.name for script in EXAMPLES.glob("*/distill.py"))

# Options that make an example short; others run as they are.
SHORT = {
    "multi_task": ["--rows", "64", "--teacher-epochs", "1", "--steps", "4"],
    "multi_teacher": ["--rows", "64", "--teacher-epochs", "1", "--epochs", "1"],
}
SHARE = r"[01]\.\d{3}"
PRINTED = {
    "multi_task": rf"texts +teacher {SHARE} student {SHARE}\ntokens +teacher {SHARE} student {SHARE}\n",
    "multi_teacher": rf"first teacher +{SHARE}\nsecond teacher +{SHARE}\nstudent +{SHARE}\n",
    "random_tokens": r"step 8: saved; an evaluation would go here\n",
}


@dataclass(frozen=True)
class Offline:
    """An offline run.

    Attributes:
        folder: of the example.
        at_least: what its student scores, of 1; far above what guessing does.
        options: besides ``--offline``.
        saved: the folder in which the student is, under the output folder.
        processes: started by torchrun, if above 1.
    """

    folder: str
    at_least: float
    options: tuple[str, ...] = ()
    saved: str = "student"
    processes: int = 1


RUNS = [
    Offline("sst2", 0.9),
    Offline("mnli", 0.8),
    Offline("mnli", 0.8, ("--emd",), saved="student_emd"),
    Offline("conll2003", 0.8),
    Offline("squad", 0.8),
    Offline("cmrc2018", 0.8),
    pytest.param(Offline("msra_ner", 0.8, processes=2), marks=pytest.mark.xdist_group("processes")),
    Offline("lcqmc_xnli", 0.9),
    pytest.param(Offline("lcqmc_xnli", 0.8, ("--data", "xnli")), marks=pytest.mark.slow),
    Offline("multi_label", 0.8),
    Offline("bigru", 0.9),
    Offline("masked_lm", 0.5),
]


def run(folder, *options, cwd, processes=1):
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [*launch, str(EXAMPLES / folder / "distill.py"), *map(str, options)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("folder", PRINTED)
def test_an_example_runs(folder, tmp_path):
    done = run(folder, *SHORT.get(folder, []), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTED[folder], done.stdout), done.stdout


def scores(printed):
    """The last number of each line of the table."""
    lines = re.findall(rf"^(teacher(?: \d)?|student|no teacher) .*?({SHARE})$", printed, re.MULTILINE)
    return {name: float(score) for name, score in lines}


@pytest.mark.parametrize("one", RUNS, ids=lambda one: " ".join([one.folder, *one.options]))
def test_an_offline_run_learns_its_task_and_saves_the_student(one, tmp_path):
    done = run(one.folder, "--offline", *one.options, "--output-dir", "out", cwd=tmp_path, processes=one.processes)
    assert done.returncode == 0, done.stderr[-4000:]
    found = scores(done.stdout)
    assert {"student", "no teacher"} < set(found), done.stdout
    assert all(score >= one.at_least for name, score in found.items() if name != "no teacher"), found
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    folder = tmp_path / "out" / one.saved
    student, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    assert student(**tokenizer("a", return_tensors="pt"))


def test_a_run_that_is_resumed_trains_nothing_again_and_ends_the_same(tmp_path):
    options = ("--offline", "--epochs", "1", "--output-dir", "out")
    first = run("sst2", *options, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/gs*.pkl")}
    assert {path.parent.name for path in written} == {"teacher", "student", "no_teacher"}
    again = run("sst2", *options, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert scores(again.stdout) == scores(first.stdout) != {}
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/gs*.pkl")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_example_says_how_to_run_it(folder):
    readme = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
    assert f"examples/{folder}/distill.py" in readme
    assert f"| [{folder}]({folder}) |" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    if folder not in PRINTED:
        assert f"{folder}/distill.py --offline" in readme and "not run here" in readme.lower().replace("\n", " ")


def test_the_examples_are_there_and_none_is_left_untested():
    tested = {one.folder if isinstance(one, Offline) else one.values[0].folder for one in RUNS}
    assert {*PRINTED, *tested} == set(FOLDERS)


# Bad input: what is wrong and where in one line, no traceback.


def refused(done, code=1):
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()


def test_without_the_hub_the_dataset_is_named(tmp_path):
    (*_, said) = refused(run("sst2", cwd=tmp_path))
    assert said.startswith("sst2: 'nyu-mll/glue' is no file or folder here, and the hub does not give it: ")


@pytest.mark.parametrize("name", ["bad.conll", "eng.train", "train.txt"])
def test_a_wrong_tag_is_shown_with_its_line(name, tmp_path):
    (tmp_path / name).write_text("Ann B-PER\nSmith I-LOC\n", encoding="utf-8")
    said = refused(run("conll2003", "--offline", "--train", name, cwd=tmp_path))
    assert "line 2" in " ".join(said) and "I-LOC" in " ".join(said)


@pytest.mark.parametrize("option", ["--train", "--test"])
def test_a_file_to_train_on_needs_one_to_test_on(option, tmp_path):
    (*_, said) = refused(run("conll2003", option, "a.conll", cwd=tmp_path), code=2)
    assert "--train and --test: expected both or neither" in said and f"got {option} alone" in said


@pytest.mark.parametrize("folder", sorted({*FOLDERS} - {*PRINTED}))
def test_the_options_are_those_that_all_examples_are_said_to_have(folder):
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8").partition("The scripts with data take")[2]
    options = re.findall(r"`(--[a-z-]+)`", told.partition(" Each\n")[0])
    taken = re.findall(
        r'add_argument\(\s*"(--[a-z-]+)"', (EXAMPLES / folder / "distill.py").read_text(encoding="utf-8")
    )
    lacking = {*options} - {*taken}
    assert {"--offline", "--student", "--resume"} < {*options}
    assert len(lacking & {"--epochs", "--steps"}) == 1
    assert lacking - {"--epochs", "--steps"} == ({"--student"} if folder == "bigru" else set())


def test_an_unknown_student_is_answered_by_those_there_are(tmp_path):
    (*_, said) = refused(run("squad", "--offline", "--student", "T5", cwd=tmp_path), code=2)
    assert "invalid choice: 'T5' (choose from" in said and "T4-tiny" in said


def test_teachers_of_different_vocabularies_are_refused(tmp_path):
    task = TextClassification(["entailment", "neutral", "contradiction"])
    for name, words in {"one": ["cat"], "other": ["dog"]}.items():
        tokenizer = tokenizer_of(words)
        bert(task, tokenizer).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (*_, said) = refused(run("mnli", "--offline", "--teacher", "one", "other", cwd=tmp_path), code=2)
    assert said.endswith("all teachers read the same batches, so they need the same vocabulary")
