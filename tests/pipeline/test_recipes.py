"""Recipes from files: overrides, paths, and names that only other rooms know."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.pipeline.small import recipe_of
from textbrewer.configs.plain_yaml import yaml_value
from textbrewer.errors import ConfigError, DataError
from textbrewer.pipeline import read_recipe
from textbrewer.pipeline.data import table_of

DOCS = Path(__file__).parents[2] / "docs"


def problems_of(source, overrides=()):
    with pytest.raises(ConfigError) as raised:
        read_recipe(source, overrides)
    return {problem.path: str(problem) for problem in raised.value.problems}


@pytest.fixture
def folder(tmp_path):
    """A folder with a recipe, its data and what looks like a model."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "films.csv").write_text("text,label\ngood,good\nbad,bad\n")
    (tmp_path / "films.yaml").write_text(
        "task: text_classification\nteacher: base\ndata: films.csv\noutput_dir: runs/films\ncache: {path: cache}\n"
    )
    return tmp_path


def test_relative_paths_start_at_the_folder_of_the_recipe(folder, monkeypatch):
    monkeypatch.chdir("/")
    recipe = read_recipe(folder / "films.yaml")
    assert recipe.teacher.model == str(folder / "base")
    assert recipe.data.train.path == str(folder / "films.csv")
    assert recipe.output_dir == str(folder / "runs" / "films")
    assert recipe.cache.path == str(folder / "cache")


def test_relative_paths_that_are_typed_start_where_they_are_typed(folder, monkeypatch):
    here = folder / "elsewhere"
    here.mkdir()
    (here / "films.csv").write_text("text,label\ngood,good\nbad,bad\n")
    monkeypatch.chdir(here)
    recipe = read_recipe("../films.yaml", ["data.validation=films.csv", "output_dir=out", "cache=mine"])
    assert recipe.data.train.path == str(folder / "films.csv")
    assert recipe.data.validation.path == str(here / "films.csv")
    assert (recipe.output_dir, recipe.cache.path) == (str(here / "out"), str(here / "mine"))
    assert recipe.teacher.model == str(folder / "base")


def test_names_of_the_hub_stay_names(folder):
    recipe = read_recipe(folder / "films.yaml", ["teacher=org/some-model.v2", "data.test={path: org/data}"])
    assert (recipe.teacher.model, recipe.data.test.path) == ("org/some-model.v2", "org/data")


def test_overrides_are_yaml_and_reach_every_place(folder):
    match = "{layer_T: 2, layer_S: 1, feature: hidden, loss: hidden_mse}"
    recipe = read_recipe(
        folder / "films.yaml",
        [
            "training.learning_rate=1e-3",
            "student=T6",
            "student.layers=[0, 1, 2, 3, 4, 5]",
            f"distillation.intermediate_matches=[{match}]",
            "distillation.intermediate_matches.0.weight=0.5",
            "task.max_length=64",
            "baseline=true",
            "data.train.options={encoding: latin-1}",
        ],
    )
    assert recipe.training.learning_rate == 1e-3 and recipe.baseline
    assert (recipe.student.preset, recipe.student.sizes) == ("T6", {"layers": [0, 1, 2, 3, 4, 5]})
    assert recipe.distillation.intermediate_matches[0].weight == 0.5
    assert recipe.task == {"name": "text_classification", "max_length": 64}
    assert recipe.data.train.path == str(folder / "films.csv") and recipe.data.train.options == {"encoding": "latin-1"}


def test_overrides_of_what_is_said_of_all_files(folder, monkeypatch):
    monkeypatch.chdir(folder)
    recipe = {"task": "text_classification", "teacher": "base", "data": {"train": "films.csv", "columns": {}}}
    recipe["data"]["validation"] = {"path": "films.csv", "columns": {"label": "verdict", "text": "said"}}
    found = read_recipe(recipe, ["data.columns.label=stars", "data.format=tsv", "data.options={encoding: latin-1}"])
    assert found.data.train.columns == {"label": "stars"}
    assert found.data.validation.columns == {"label": "stars", "text": "said"}
    for source in (found.data.train, found.data.validation):
        assert (source.format, source.options) == ("tsv", {"encoding": "latin-1"})
    # So it is of a stored recipe, where each file says it, and of a file that takes the place of another.
    again = read_recipe(found, ["data.columns.label=grade", "data.train=films.csv", "data.test=films.csv"])
    assert again.data.train.columns == again.data.test.columns == {"label": "grade"}
    assert again.data.validation.columns == {"label": "grade", "text": "said"}
    assert "did you mean 'csv'?" in problems_of(recipe, ["data.format=cvs"])["data.format"]


def test_without_an_output_dir_there_is_one_beside_the_recipe(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "bare.yaml").write_text("task: text_classification\nteacher: base\ndata: films.csv\n")
    found = read_recipe(folder / "bare.yaml")
    assert found.output_dir == str(folder / "runs" / "distilled")
    assert read_recipe(found.to_dict()).output_dir == found.output_dir


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("training.num_epochs", "training.num_epochs", "key.path=value"),
        ("=3", "=3", "key.path=value"),
        ("a..b=3", "a..b=3", "key.path=value"),
        ("training.num_epochs=[", "training.num_epochs", "YAML of plain values"),
        ("training.num_epochs=!!python/name:os.system", "training.num_epochs", "YAML of plain values"),
        ("output_dir.name=3", "output_dir.name", "a mapping or an item at `output_dir`"),
        ("training.num_epoch=3", "training.num_epoch", "did you mean 'num_epochs'?"),
        ("data.train=flims.csv", "data.train.path", "did you mean"),
        ("seed=none", "seed", "a valid integer"),
    ],
)
def test_an_override_that_cannot_be_used(folder, monkeypatch, override, path, message):
    monkeypatch.chdir(folder)
    assert message in problems_of(folder / "films.yaml", [override])[path]


def test_names_that_other_rooms_know_are_checked_with_the_rest(folder):
    found = problems_of(
        {
            "task": {"name": "text_clasification"},
            "teacher": str(folder / "base"),
            "student": "T-4tiny",
            "data": {"train": {"path": str(folder / "films.csv"), "format": "cvs"}},
            "augmentation": {"operations": {"maskin": 0.1}},
            "export": {"card": {"license": "MIT"}},
            "training": {"batch_size": 0},
        }
    )
    hints = {
        "task.name": "did you mean 'text_classification'?",
        "student.preset": "did you mean 'T4-tiny'?",
        "data.train.format": "did you mean 'csv'?",
        "export.card.license": "did you mean 'licence'?",
        "training.batch_size": "greater than or equal to 1",
    }
    assert set(hints) < set(found) and any(path.startswith("augmentation") for path in found)
    for path, hint in hints.items():
        assert hint in found[path]


def test_settings_of_the_task_are_checked_before_the_data_is_read(folder):
    found = problems_of(folder / "films.yaml", ["task.max_lenght=64", "task.metric=f2"])
    assert "did you mean 'max_length'?" in found["task.max_lenght"]
    assert "'accuracy'" in found["task.metric"]


def test_the_soft_loss_is_the_task_s(folder):
    assert read_recipe(folder / "films.yaml").distillation.kd_loss_type == "ce"
    assert read_recipe(folder / "films.yaml", ["task=text_regression"]).distillation.kd_loss_type == "logit_mse"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("teacher.model", "../../etc/passwd", "where nothing is"),
        ("teacher.model", "org/../../secret", "where nothing is"),
        ("teacher.model", "..", "a folder written by save_pretrained"),
        ("teacher.model", "a b", "a path, or a name of the hub"),
        ("teacher.model", "  ", "a path"),
        ("output_dir", "runs/\0x", "a path"),
        ("output_dir", "a\nb", "a path"),
        ("data.train.path", "x" * 5000, "a path, or a name of the hub|where nothing is"),
        ("data.train.path", "./nothing.csv", "where nothing is"),
        ("data.train.path", "$(touch ran)", "a path, or a name of the hub"),
        ("cache.path", "films.csv", "a folder, got the file"),
        ("output_dir", "films.csv/run", "a folder, got the file"),
    ],
)
def test_a_place_that_cannot_be_used(folder, monkeypatch, key, value, message):
    monkeypatch.chdir(folder)
    values = recipe_of(folder, cache={"path": "cache"})
    values["data"] = {"train": {"path": "films.csv"}}
    section, _, name = key.rpartition(".")
    holder = values
    for part in section.split(".") if section else []:
        holder = holder[part]
    holder[name] = value
    assert re.search(message, problems_of(values)[key])
    assert not (folder / "ran").exists()


def test_a_pattern_stands_for_all_files_that_fit(folder):
    recipe = read_recipe(folder / "films.yaml", [f"data.train={folder}/fil*.csv"])
    assert recipe.data.train.path == str(folder / "fil*.csv")
    assert len(table_of(recipe.data.train)) == 2
    assert "where nothing is" in problems_of(folder / "films.yaml", [f"data.train={folder}/x*.csv"])["data.train.path"]


def test_a_list_stands_for_its_files_in_their_order(folder, monkeypatch):
    (folder / "more.csv").write_text("label,text\ngood,fine\n")
    monkeypatch.chdir("/")
    text = (folder / "films.yaml").read_text().replace("data: films.csv", "data: {train: [films.csv, m*.csv]}")
    (folder / "films.yaml").write_text(text)
    recipe = read_recipe(folder / "films.yaml")
    assert recipe.data.train.path == [str(folder / "films.csv"), str(folder / "m*.csv")]
    assert [row["text"] for row in table_of(recipe.data.train)] == ["good", "bad", "fine"]
    assert read_recipe(recipe) == recipe


def test_lists_that_are_typed_start_where_they_are_typed_item_by_item(folder, monkeypatch):
    here = folder / "elsewhere"
    here.mkdir()
    for name in ("one.csv", "two.txt"):
        (here / name).write_text("text,label\nfine,good\n")
    monkeypatch.chdir(here)
    changes = ["data.train=[../films.csv, org/data]", "data.train.path.1=one.csv", "data.unlabelled={path: [two.txt]}"]
    data = read_recipe(folder / "films.yaml", changes).data
    assert data.train.path == [str(folder / "films.csv"), str(here / "one.csv")]
    assert data.unlabelled.path == [str(here / "two.txt")]


def test_each_file_of_a_list_must_be_there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = problems_of(folder / "films.yaml", ["data.train=[films.csv, flims.csv, x*.csv, ' ']"])
    assert set(found) == {f"data.train.path[{place}]" for place in (1, 2, 3)}
    assert str(folder / "flims.csv") in found["data.train.path[1]"] and "did you mean" in found["data.train.path[1]"]


def test_files_of_a_list_need_the_same_columns(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "odd.csv").write_text("text,verdict\nfine,good\n")
    recipe = read_recipe(folder / "films.yaml", ["data.train=[films.csv, odd.csv]"])
    with pytest.raises(DataError, match=r"odd\.csv has the columns 'text', 'verdict', and .*films\.csv"):
        table_of(recipe.data.train)


def test_a_missing_recipe_names_the_nearest(folder):
    found = problems_of(folder / "flims.yaml")
    assert "films.yaml" in found[os.fspath(folder / "flims.yaml")]


@pytest.mark.parametrize("page", ["recipes.md"])
def test_the_recipes_of_the_documentation_are_recipes(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    for block in blocks:
        for name in re.findall(r"[\w.-]+\.(?:csv|tsv|jsonl|txt|conll|json)\b", block):
            (folder / name).touch()
        read_recipe(yaml_value(block, page))


def test_first_weights_in_a_folder_start_at_the_recipe_too(folder, monkeypatch):
    monkeypatch.chdir("/")
    (folder / "small").mkdir()
    (folder / "small" / "config.json").write_text("{}")
    assert read_recipe(folder / "films.yaml", []).student.sizes == {}
    text = (folder / "films.yaml").read_text() + "student: {num_layers: 1, init: ./small}\n"
    (folder / "films.yaml").write_text(text)
    assert read_recipe(folder / "films.yaml").student.sizes["init"] == str(folder / "small")
    (folder / "teacher").mkdir()  # as a run leaves it; the word still means the teacher's weights
    monkeypatch.chdir(folder)
    assert read_recipe(folder / "films.yaml", ["student.init=teacher"]).student.sizes["init"] == "teacher"


def test_a_section_with_nothing_in_it_has_its_defaults(folder):
    changes = ["task=text_regression", "distillation=null"]
    assert read_recipe(folder / "films.yaml", changes).distillation.kd_loss_type == "logit_mse"


def test_patterns_start_at_the_recipe_whatever_their_ending(folder, monkeypatch):
    monkeypatch.chdir("/")
    (folder / "part-1").write_text('{"text": "a", "label": "b"}\n')
    data = {"train": {"path": "part-*", "format": "jsonl"}}
    monkeypatch.chdir(folder)
    recipe = read_recipe({"task": "text_classification", "teacher": "base", "data": data})
    assert recipe.data.train.path == str(folder / "part-*")


def test_a_recipe_always_saves(folder):
    assert "greater than or equal to 1" in problems_of(folder / "films.yaml", ["training.ckpt_frequency=0"])[
        "training.ckpt_frequency"
    ].replace("at least", "greater than or equal to")
