"""A first recipe, from what is in a file."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.pipeline.small import base_model, films, questions, sentences
from textbrewer.errors import DataError, UnknownNameError
from textbrewer.pipeline import init, read_recipe


def written(data, tmp_path, **options):
    return yaml.safe_load(init(data, tmp_path / "recipe.yaml", **options).read_text(encoding="utf-8"))


def lines(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_texts_and_labels(tmp_path):
    path = films(tmp_path / "films.csv", 20)
    found = written(path, tmp_path)
    assert found["task"] == {"name": "text_classification", "labels": ["bad", "good"], "max_length": 128}
    assert found["data"] == {"train": "films.csv", "columns": {}} and found["output_dir"] == "runs/recipe"
    text = (tmp_path / "recipe.yaml").read_text()
    assert "20 rows, 20 used, all with labels" in text and "labels: bad 10, good 10" in text


def test_students_learn_from_labels_too_where_there_are_any(tmp_path):
    path = films(tmp_path / "films.csv", 20)
    assert written(path, tmp_path)["distillation"]["hard_label_weight"] == 0.5
    pairs = lines(tmp_path / "pairs.jsonl", {"text": "a", "text_pair": "b"}, {"text": "c", "text_pair": "d"})
    found = written(pairs, tmp_path, task="sentence_embedding", force=True)
    assert found["distillation"]["hard_label_weight"] == 0


@pytest.mark.parametrize(("number", "epochs"), [(20, 20), (1000, 10), (5000, 3)])
def test_few_rows_are_passed_over_more_often(tmp_path, number, epochs):
    found = written(films(tmp_path / "films.csv", number), tmp_path)
    assert found["training"]["num_epochs"] == found["teacher"]["training"]["num_epochs"] == epochs


def test_what_is_written_is_a_recipe(tmp_path):
    films(tmp_path / "films.csv", 20)
    init(tmp_path / "films.csv", tmp_path / "films.yaml")
    recipe = read_recipe(tmp_path / "films.yaml")
    assert recipe.data.train.path == str(tmp_path / "films.csv")
    assert recipe.output_dir == str(tmp_path / "runs" / "films")
    # What is commented out can be used as it stands.
    text = (tmp_path / "films.yaml").read_text()
    for key in ("student: T3", "cache: runs/cache", "augmentation: {n: 2}", "export: true"):
        text = text.replace(f"# {key}", key)
    (tmp_path / "films.yaml").write_text(text)
    recipe = read_recipe(tmp_path / "films.yaml")
    assert recipe.student.preset == "T3" and recipe.augmentation.n == 2 and recipe.export.int8


@pytest.mark.parametrize(
    ("rows", "task"),
    [
        ([{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}], "multi_label_classification"),
        (
            [{"sentence1": "a", "sentence2": "b", "score": 2.5}, {"sentence1": "c", "sentence2": "d", "score": 4}],
            "text_regression",
        ),
        ([{"review": "a", "stars": i % 5} for i in range(20)], "text_classification"),
        ([{"review": f"a{i}", "label": i} for i in range(60)], "text_regression"),
        ([{"premise": "a", "hypothesis": "b", "label": x} for x in "ny"], "text_classification"),
        ([{"tokens": ["ann", "came"], "ner_tags": ["B-PER", "O"]}], "token_classification"),
        (
            [{"question": "who", "context": "ann came", "answers": {"text": ["ann"], "answer_start": [0]}}],
            "question_answering",
        ),
    ],
)
def test_tasks_by_what_is_in_a_file(tmp_path, rows, task):
    assert written(lines(tmp_path / "rows.jsonl", *rows), tmp_path)["task"]["name"] == task


def test_columns_of_other_names_are_written_out(tmp_path):
    found = written(lines(tmp_path / "rows.jsonl", {"review": "a", "stars": 1}, {"review": "b", "stars": 2}), tmp_path)
    assert found["data"]["columns"] == {"text": "review", "label": "stars"}


def test_columns_without_names(tmp_path):
    (tmp_path / "rows.tsv").write_text("a dull film\t0\na fine film\t1\nfine again\t1\n")
    found = written(tmp_path / "rows.tsv", tmp_path)
    assert found["task"]["labels"] == ["0", "1"] and set(found["data"]["columns"]) == {"text", "label"}
    assert read_recipe(tmp_path / "recipe.yaml").data.train.columns == found["data"]["columns"]


def test_files_of_the_other_tasks(tmp_path):
    found = written(sentences(tmp_path / "a.conll", 20), tmp_path)
    assert found["task"]["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    found = written(questions(tmp_path / "a.json", 20), tmp_path, force=True)
    assert found["task"] == {"name": "question_answering", "max_length": 384}


def test_chinese_and_questions_without_answers(tmp_path):
    row = {"question": "谁", "context": "他在北京去了天安门", "answers": [], "is_impossible": True}
    answered = {**row, "answers": [{"text": "他", "answer_start": 0}], "is_impossible": False}
    found = written(lines(tmp_path / "rows.jsonl", row, answered), tmp_path)
    assert found["task"]["rules"] == "cmrc" and found["task"]["null_answers"] is True
    assert found["teacher"]["model"] == "bert-base-chinese"


def test_a_teacher_beside_the_recipe_is_told_from_there(tmp_path):
    base_model(tmp_path / "base")
    found = written(films(tmp_path / "films.csv", 4), tmp_path, teacher=str(tmp_path / "base"))
    assert found["teacher"]["model"] == "base" and found["task"]["max_length"] == 40
    found = written(questions(tmp_path / "a.json", 4), tmp_path, teacher=str(tmp_path / "base"), force=True)
    assert found["task"]["max_length"] == 40 and found["task"]["doc_stride"] == 13
    found = written(tmp_path / "films.csv", tmp_path, teacher="org/name", force=True)
    assert found["teacher"]["model"] == "org/name"


def test_labels_cannot_write_keys_of_their_own(tmp_path):
    rows = [
        {"text": "a", "label": "x\noutput_dir: /tmp/evil"},
        {"text": "b", "label": "y: {z: 1}"},
        {"text": "c\x1b", "label": "#"},
    ]
    found = written(lines(tmp_path / "rows.jsonl", *rows), tmp_path)
    assert found["task"]["labels"] == ["#", "x\noutput_dir: /tmp/evil", "y: {z: 1}"]
    assert found["output_dir"] == "runs/recipe"


def test_what_is_refused(tmp_path):
    path = films(tmp_path / "films.csv", 4)
    (tmp_path / "there.yaml").write_text("mine")
    with pytest.raises(DataError, match=r"there\.yaml is there already; choose another name, or force it"):
        init(path, tmp_path / "there.yaml")
    assert (tmp_path / "there.yaml").read_text() == "mine"
    with pytest.raises(DataError, match=r"is there already; choose another name$"):
        init(path, tmp_path, force=True)
    with pytest.raises(UnknownNameError, match="did you mean 'text_regression'"):
        init(path, tmp_path / "a.yaml", task="text_regresion")
    with pytest.raises(DataError, match=r"did you mean .*films\.csv"):
        init(tmp_path / "flims.csv", tmp_path / "a.yaml")
    with pytest.raises(DataError, match="no task is seen in the columns 'a', 'b'"):
        init(lines(tmp_path / "rows.jsonl", {"a": 1, "b": 2}), tmp_path / "a.yaml")
    assert not (tmp_path / "a.yaml").exists()
