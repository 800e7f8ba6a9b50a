"""Runs from end to end: what they leave, what they use again, and what they refuse."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml

from tests.export.small import rows
from tests.pipeline.small import base_model, films, questions, recipe_of, sentences
from textbrewer import DistillationResult, distill
from textbrewer.errors import ConfigError, DataError, TextBrewerError, UnsupportedError
from textbrewer.pipeline import evaluate, examine, fill_cache, load, predict, read_recipe, train
from textbrewer.pipeline.models import tokenizer_of
from textbrewer.students.loading import load_model
from textbrewer.tasks import TASKS
from textbrewer.teachers import TeacherCache


def times_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/model.safetensors")}


def records_of(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/record.json")}


def test_a_base_model_becomes_a_teacher_and_a_student_that_learned(finished):
    assert set(finished.scores) == {"teacher", "student", "baseline"}
    assert finished.scores["teacher"]["accuracy"] > 0.9
    assert finished.scores["student"]["accuracy"] > 0.8
    assert finished.metric == "accuracy" and finished.scored_on == "validation"
    assert finished.times_smaller > 1 and finished.times_faster > 0
    assert finished.retention == finished.scores["student"]["accuracy"] / finished.scores["teacher"]["accuracy"]


def test_the_folder_holds_what_was_made_and_nothing_of_the_work(finished):
    names = {path.name for path in finished.output_dir.iterdir() if not path.name.startswith(".")}
    assert names == {
        "recipe.yaml",
        "results.json",
        "findings.json",
        "report.html",
        "teacher",
        "student",
        "baseline",
        "cache",
    }
    for name in ("teacher", "student", "baseline"):
        folder = finished.output_dir / name
        assert {"config.json", "model.safetensors", "tokenizer.json", "record.json"} <= {
            path.name for path in folder.iterdir()
        }
    assert load_model(finished.student).config.num_hidden_layers == 2


def test_scores_are_those_of_the_models_in_the_folder(finished, material):
    for name in ("teacher", "student", "baseline"):
        scores = evaluate(finished.output_dir / name, material / "validation.csv")
        assert scores == finished.scores[name]
    said = predict(finished.student, ["the film was good", "the film was bad"])
    assert [each["label"] for each in said] == ["good", "bad"]


def test_a_teacher_of_whom_there_is_little_to_learn(finished, tmp_path, caplog):
    teacher = load_model(finished.output_dir / "teacher")
    for name, scale in (("sure", 8.0), ("unsure", 0.002)):
        shutil.copytree(finished.output_dir / "teacher", tmp_path / name)
        # All answers stay as they are.
        teacher.classifier.weight.data.mul_(scale)
        teacher.classifier.bias.data.mul_(scale)
        teacher.save_pretrained(tmp_path / name)
        changes = [f"teacher.model={tmp_path / name}", f"output_dir={tmp_path / 'run'}", "training.num_steps=1"]
        distill(finished.output_dir / "recipe.yaml", [*changes, "cache=false", "baseline=false"])
        told = "after too little training" in caplog.text and "hard_label_weight" in caplog.text
        assert told == (name == "unsure")


def test_a_teacher_that_was_trained_already_is_looked_over(finished):
    def found(*changes):
        return {each.name: each for each in examine(finished.output_dir / "recipe.yaml", changes).checks}

    before = times_of(finished.output_dir)
    accuracy = finished.scores["teacher"]["accuracy"]
    assert f"accuracy {accuracy:.4f}" in found()["teacher"].found and "teacher calibration" in found()
    anew = found("teacher.training.num_epochs=5")
    assert "it is fine-tuned first" in anew["teacher"].found and "teacher calibration" not in anew
    assert times_of(finished.output_dir) == before


def test_the_best_checkpoint_is_the_one_that_is_kept(finished):
    for name, record in records_of(finished.output_dir).items():
        best = max(each["accuracy"] for each in record["evaluations"])
        assert record["scores"]["accuracy"] == best, name


def test_the_teacher_was_asked_once_for_each_row(finished):
    with TeacherCache(finished.output_dir / "cache", read_only=True) as cache:
        (entry,) = cache.list()
    # 240 rows with labels and 64 without, each with logits and three hidden states; some texts are there twice.
    assert entry.records % 4 == 0 and 250 <= entry.records // 4 <= 304


def test_the_stored_recipe_repeats_the_run_and_finds_everything_there(finished, caplog):
    stored = yaml.safe_load((finished.output_dir / "recipe.yaml").read_text())
    assert stored["task"] == {
        "name": "text_classification",
        "labels": ["bad", "good"],
        "max_length": 40,
        "metric": "accuracy",
    }
    assert stored["student"]["num_layers"] == 2
    before = times_of(finished.output_dir)
    caplog.set_level("INFO", "textbrewer.pipeline")
    again = distill(finished.output_dir / "recipe.yaml")
    assert times_of(finished.output_dir) == before
    assert again.scores == finished.scores and caplog.text.count("already there") == 3
    assert read_recipe(finished.output_dir / "recipe.yaml") == read_recipe(again.recipe)


def test_the_stored_recipe_gives_the_same_weights_elsewhere(finished, tmp_path):
    again = distill(finished.output_dir / "recipe.yaml", [f"output_dir={tmp_path / 'again'}", "baseline=false"])
    ours, theirs = load_model(again.student).state_dict(), load_model(finished.student).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert set(again.scores) == {"teacher", "student"}


def test_the_result_is_read_from_its_folder_wherever_that_is(finished, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished.output_dir, moved)
    result = DistillationResult.of_folder(moved)
    assert result.scores == finished.scores and result.student == moved / "student"
    assert str(result) == str(DistillationResult.of_folder(finished.output_dir))
    with pytest.raises(DataError, match=r"found no results\.json"):
        DistillationResult.of_folder(tmp_path)
    (moved / "results.json").write_text('{"scores": 1}')
    with pytest.raises(DataError, match="not what a run writes"):
        DistillationResult.of_folder(moved)


def test_only_what_other_settings_change_is_made_again(material, tmp_path, caplog):
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"))
    recipe["training"] = {**recipe["training"], "num_epochs": 1}
    first = distill(recipe)
    caplog.set_level("INFO", "textbrewer.pipeline")
    second = distill(recipe, ["distillation.temperature=8"])
    assert "teacher: already there" in caplog.text and "student: already there" not in caplog.text
    keys = [records_of(tmp_path / "run")[name]["key"] for name in ("teacher", "student")]
    caplog.clear()
    distill(recipe, ["distillation.temperature=8", "training.progress_bar=false", "training.log_every=1"])
    assert caplog.text.count("already there") == 2
    assert [records_of(tmp_path / "run")[name]["key"] for name in ("teacher", "student")] == keys
    assert first.scores["teacher"] == second.scores["teacher"]


def test_train_makes_the_teacher_that_distill_finds(material, tmp_path, caplog):
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"))
    made = train(recipe)
    assert made.folder == str(tmp_path / "run" / "teacher") and made.metric == "accuracy"
    assert [each["step"] for each in made.evaluations] == [15, 30, 45, 60]
    caplog.set_level("INFO", "textbrewer.pipeline")
    filled = fill_cache(recipe)
    assert "teacher: already there" in caplog.text
    assert filled.rows == 240 and 0 < filled.computed <= 240
    assert fill_cache(recipe).computed == 0


def test_a_cache_that_distill_would_not_read_is_told(material, tmp_path, caplog):
    recipe = {**recipe_of(material, output_dir=str(tmp_path / "run")), "data": {"train": str(material / "train.csv")}}
    short = ["teacher.training.num_steps=1", "training.num_steps=1"]
    fill_cache(recipe, short)
    assert "only where the recipe says so: cache: true" in caplog.text
    caplog.clear()
    fill_cache({**recipe, "cache": True}, short)
    assert "only where" not in caplog.text


def test_a_trained_teacher_that_is_trained_again_is_told(finished, material, tmp_path, caplog):
    recipe = recipe_of(material, teacher=str(finished.output_dir / "teacher"), output_dir=str(tmp_path / "run"))
    train(recipe, ["teacher.training.num_steps=1"])
    assert "distill takes it as it is; with teacher.train=true it takes what is trained now" in caplog.text
    caplog.clear()
    train(recipe, ["teacher.training.num_steps=1", "teacher.train=true"])
    assert "as it is" not in caplog.text


def test_another_tokenizer_makes_everything_again(finished, material, tmp_path, caplog):
    shutil.copytree(finished.output_dir, tmp_path / "run")
    other = tmp_path / "other"
    tokenizer = tokenizer_of(material / "base")
    tokenizer.save_pretrained(other)
    described = json.loads((other / "tokenizer.json").read_text())
    words = described["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (other / "tokenizer.json").write_text(json.dumps(described))
    caplog.set_level("INFO", "textbrewer.pipeline")
    short = ["training.num_steps=1", "teacher.training.num_steps=1", "baseline=false"]
    place = f"output_dir={tmp_path / 'run'}"
    distill(finished.output_dir / "recipe.yaml", [place, f"teacher.tokenizer={other}", *short])
    assert "already there" not in caplog.text
    distill(finished.output_dir / "recipe.yaml", [place, f"teacher.tokenizer={other}", *short])
    assert caplog.text.count("already there") == 2


def test_a_vocabulary_pruned_to_the_training_rows(material, tmp_path, caplog):
    films(tmp_path / "train.csv", 240)
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"))
    recipe["teacher"]["prune_vocabulary"] = True
    result = distill(recipe)
    student, teacher = (load(result.output_dir / name) for name in ("student", "teacher"))
    words = student.tokenizer.get_vocab()
    assert "good" in words and not {"bern", "rome"} & set(words)
    assert words == teacher.tokenizer.get_vocab() and len(words) == student.model.config.vocab_size
    assert result.scores["student"]["accuracy"] > 0.8
    caplog.set_level("INFO", "textbrewer.pipeline")
    distill(recipe)
    assert caplog.text.count("already there") == 2


def test_an_export_that_cannot_be_is_told_before_anything_is_trained(material, tmp_path):
    recipe = recipe_of(material, task="masked_lm", export=True, output_dir=str(tmp_path / "run"))
    with pytest.raises(UnsupportedError, match="masked_lm"):
        distill(recipe)
    assert not (tmp_path / "run").exists()


def test_an_export_that_fails_leaves_the_rest(material, tmp_path):
    recipe = recipe_of(material, export={"tolerance": 1e-30}, output_dir=str(tmp_path / "run"))
    short = ["training.num_steps=1", "teacher.training.num_steps=1"]
    with pytest.raises(TextBrewerError, match="tolerance"):
        distill(recipe, short)
    result = DistillationResult.of_folder(tmp_path / "run")
    assert result.exported is None and result.report is not None and result.report.is_file()
    assert distill(recipe, [*short, "export.tolerance=1e-3"]).exported == tmp_path / "run" / "export"


def test_a_recipe_of_ones_own_is_not_written_over(material, tmp_path):
    own = tmp_path / "recipe.yaml"
    own.write_text("# mine\n")
    with pytest.raises(DataError, match="holds other things than a run"):
        distill(recipe_of(material, output_dir=str(tmp_path)))
    assert own.read_text() == "# mine\n"


def test_a_teacher_that_is_fine_tuned_is_taken_as_it_is(finished, material, tmp_path):
    recipe = recipe_of(
        material,
        teacher=str(finished.output_dir / "teacher"),
        student={"num_layers": 1},
        output_dir=str(tmp_path / "run"),
    )
    del recipe["data"]["validation"]
    recipe["data"]["test"] = str(material / "validation.csv")
    result = distill(recipe, ["training.num_steps=10"])
    assert result.teacher == str(finished.output_dir / "teacher") and not (tmp_path / "run" / "teacher").exists()
    assert result.scored_on == "test" and result.scores["teacher"] == finished.scores["teacher"]
    assert any("24 rows with labels held out (seed 0)" in line for line in result.data)
    assert [each["step"] for each in result.evaluations["student"]] == [2, 4, 6, 8, 10]


def test_labels_that_are_numbers_are_the_teacher_s_classes(finished, material, tmp_path, caplog):
    for name in ("train", "validation"):
        text = (material / f"{name}.csv").read_text()
        (tmp_path / f"{name}.csv").write_text(text.replace(",good", ",1").replace(",bad", ",0"))
    recipe = recipe_of(tmp_path, teacher=str(finished.output_dir / "teacher"))
    caplog.set_level("INFO", "textbrewer.pipeline")
    result = distill(recipe, ["training.num_steps=1"])
    assert "0 is bad, 1 is good" in caplog.text
    assert result.scores["teacher"]["accuracy"] == finished.scores["teacher"]["accuracy"]


def test_tokens_from_a_conll_file(material, tmp_path):
    recipe = recipe_of(
        material,
        task="token_classification",
        data={"train": str(sentences(tmp_path / "train.conll", 160)), "validation_share": 0.25},
        augmentation={"n": 1},
        output_dir=str(tmp_path / "run"),
        baseline=True,
    )
    result = distill(recipe)
    assert result.metric == "f1" and result.scores["teacher"]["f1"] > 0.9 and result.scores["student"]["f1"] > 0.6
    assert result.recipe["task"]["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert any("120 variants without labels" in line for line in result.data)
    assert predict(result.student, ["ann was in rome"])[0]["entities"][-1]["text"] == "rome"


def test_answers_from_a_file_in_squad_s_form(material, tmp_path):
    recipe = recipe_of(
        material,
        task={"name": "question_answering", "max_length": 24, "doc_stride": 6, "max_question_length": 4},
        data={
            "train": str(questions(tmp_path / "train.json", 200)),
            "validation": str(questions(tmp_path / "validation.json", 30, seed=1)),
        },
        augmentation={"n": 1, "operations": {"masking": 0.1}},
        output_dir=str(tmp_path / "run"),
    )
    result = distill(recipe, ["teacher.training.num_epochs=8"])
    assert result.metric == "f1" and result.scores["teacher"]["f1"] > 0.3
    (said,) = predict(result.student, [("who", "the film was long ann was in rome")])
    assert said["answer"] in "the film was long ann was in rome"


OTHER_TASKS = {
    "text_regression": lambda row, before: {"text": row["text"], "score": len(row["text"]) / 2},
    "multi_label_classification": lambda row, before: {"text": row["text"], "label": row["text"].split()[:1]},
    "masked_lm": lambda row, before: {"text": row["text"]},
    "sentence_embedding": lambda row, before: {
        "sentence1": row["text"],
        "sentence2": before["text"],
        "score": float(row["label"] == before["label"]),
    },
    "ranking": lambda row, before: {"query": row["label"], "positive": row["text"], "negative": [before["text"]]},
}


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_every_other_task_has_recipes_too(material, tmp_path, task):
    films_ = rows(80)
    written = [OTHER_TASKS[task](row, before) for row, before in zip(films_[1:], films_, strict=False)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, written)))
    recipe = recipe_of(material, task=task, data=str(tmp_path / "rows.jsonl"), output_dir=str(tmp_path / "run"))
    short = ["teacher.training.num_steps=2", "training.num_steps=2"]
    checks = {check.name: check.verdict for check in examine(recipe, short).checks}
    # A pooler that no vector comes from, and a bias that no margin depends on, are odd.
    assert checks["tokenizer"] == "good" and checks["gradients"] != "bad" and not (tmp_path / "run").exists()
    result = distill(recipe, short)
    assert result.metric in result.scores["student"] and (tmp_path / "run" / "student" / "record.json").exists()


def test_all_tasks_are_tried():
    assert set(TASKS) == {*OTHER_TASKS, "text_classification", "token_classification", "question_answering"}


def test_labels_and_names_cannot_break_the_page(material, tmp_path):
    evil = "<script>alert(1)</script>"
    for name, number in (("train", 80), ("validation", 16)):
        text = films(tmp_path / f"{name}.csv", number).read_text()
        (tmp_path / f"{name}.csv").write_text(text.replace(",good", f",{evil}"))
    recipe = recipe_of(tmp_path, teacher=recipe_of(material)["teacher"], output_dir=str(tmp_path / "<b>run"))
    result = distill(recipe, ["teacher.training.num_steps=1", "training.num_steps=1"])
    page = result.report.read_text()
    assert evil in str(result.recipe["task"]["labels"])
    assert "<script>" not in page and "<b>run" not in page
    assert "&lt;script&gt;alert(1)" in page and "&lt;b&gt;run" in page


def test_a_folder_of_something_else_is_left_alone(material, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other things than a run \(notes\.txt\)"):
        distill(recipe_of(material, output_dir=str(tmp_path)))
    run = tmp_path / "run"
    (run / "teacher").mkdir(parents=True)
    (run / "recipe.yaml").write_text("# Written by textbrewer 1.0; it repeats this run.\n")
    (run / "teacher" / "model.safetensors").write_text("precious")
    with pytest.raises(DataError, match=r"teacher is there and was not made by a run"):
        distill(recipe_of(material, output_dir=str(run)))
    assert (run / "teacher" / "model.safetensors").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "run"}


def test_labels_that_the_teacher_does_not_have(finished, material, tmp_path):
    text = (material / "train.csv").read_text().replace(",good", ",fine")
    (tmp_path / "train.csv").write_text(text)
    recipe = recipe_of(tmp_path, teacher=str(finished.output_dir / "teacher"), data=str(tmp_path / "train.csv"))
    with pytest.raises(ConfigError, match=r"expected \['bad', 'fine'\], got \['bad', 'good'\]"):
        distill(recipe)


def test_rows_longer_than_the_teacher_takes(material):
    with pytest.raises(ConfigError, match=r"`task.max_length`: expected at most 40, .*, got 41"):
        distill(recipe_of(material), ["task.max_length=41"])


def test_rows_without_any_label(material, tmp_path):
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"))
    recipe["data"]["train"] = str(material / "more.csv")
    with pytest.raises(DataError, match="no column is taken for 'label'"):
        distill(recipe)
    assert not (tmp_path / "run").exists()


def test_a_student_of_ones_own(finished, material, tmp_path):
    own = base_model(tmp_path / "own", seed=3, num_hidden_layers=1)
    recipe = recipe_of(
        material,
        teacher=str(finished.output_dir / "teacher"),
        student={"model": str(own)},
        output_dir=str(tmp_path / "run"),
    )
    result = distill(recipe, ["training.num_steps=2", "distillation.matches=none"])
    assert load_model(result.student).config.num_hidden_layers == 1


def test_a_student_whose_trained_parameters_are_others_is_made_again(material, tmp_path, caplog):
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"))
    short = ["training.num_steps=1", "teacher.training.num_steps=1"]
    distill(recipe, short)
    caplog.set_level("INFO", "textbrewer.pipeline")
    distill(recipe, [*short, "student.freeze_embeddings=true"])
    assert "teacher: already there" in caplog.text and "student: already there" not in caplog.text


def test_more_text_for_the_student_leaves_the_teacher_and_the_baseline(material, tmp_path, caplog):
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"), baseline=True)
    short = ["training.num_steps=1", "teacher.training.num_steps=1"]
    distill(recipe, short)
    caplog.set_level("INFO", "textbrewer.pipeline")
    distill(recipe, [*short, f"data.unlabelled={material / 'more.csv'}"])
    told = [name for name in ("teacher", "student", "baseline") if f"{name}: already there" in caplog.text]
    assert told == ["teacher", "baseline"]


def test_a_student_of_another_vocabulary_is_refused(material, tmp_path):
    other = base_model(tmp_path / "other", num_hidden_layers=2)
    recipe = recipe_of(material, student={"model": str(other)}, output_dir=str(tmp_path / "run"))
    few = tmp_path / "few.csv"  # of a few tokens from here and there
    few.write_text("text,label\n" + "where,good\nwho,bad\n" * 20)
    with pytest.raises(ConfigError, match=r"student\.model.*after teacher\.prune_vocabulary for .* tokens"):
        distill(recipe, ["teacher.prune_vocabulary=true", f"data.train={few}"])
    described = json.loads((other / "tokenizer.json").read_text())
    words = described["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (other / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match=r"another number than in the teacher's for 2 of"):
        distill(recipe)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_is_told_before_anything_is_trained(material, tmp_path):
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"training\.metric_for_best_model.*'macrof1'; did you mean 'macro_f1'"):
        distill(recipe, ["training.metric_for_best_model=macrof1"])
    with pytest.raises(ConfigError, match=r"task\.metric.*'accuracy', 'macro_f1', .*got 'f1'"):
        distill({**recipe, "task": {"name": "text_classification", "labels": ["bad", "good", "so"], "metric": "f1"}})
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("words")
    with pytest.raises(TextBrewerError, match="taken"):
        distill(recipe, [f"cache={tmp_path / 'taken'}"])
    assert not (tmp_path / "run").exists()


def test_the_baseline_is_chosen_among_as_many_as_the_student(finished):
    records = records_of(finished.output_dir)
    assert len(records["student"]["evaluations"]) == len(records["baseline"]["evaluations"]) == 2


def test_an_export_of_the_student_before_is_told(material, tmp_path, caplog):
    recipe = recipe_of(material, output_dir=str(tmp_path / "run"))
    short = ["training.num_steps=1", "teacher.training.num_steps=1"]
    distill(recipe, short)
    (tmp_path / "run" / "export").mkdir()
    distill(recipe, short)
    assert "of the student before" not in caplog.text
    distill(recipe, [*short, "distillation.temperature=3"])
    assert "is of the student before this one; export=true makes it anew" in caplog.text
