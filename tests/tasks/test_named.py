"""A task as plain settings, and back."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers", reason="needs the extra `hf`")

from textbrewer.errors import ConfigError
from textbrewer.tasks import TASKS
from textbrewer.tasks.named import task_from, task_settings

LABELS = {"text_classification", "multi_label_classification", "token_classification"}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_comes_back_from_its_settings(name):
    task = TASKS[name].from_dict({"labels": ["O", "B-X", "I-X"]} if name in LABELS else {})
    settings = task_settings(task)
    assert settings["name"] == name and task_from(json.loads(json.dumps(settings))) == task


@pytest.mark.parametrize("settings", [None, [], {}, {"name": "spelling"}, "text_regression"])
def test_what_names_no_task(settings):
    assert task_from(settings) is None


def test_settings_that_do_not_fit():
    with pytest.raises(ConfigError, match="max_length"):
        task_from({"name": "text_regression", "max_length": 1})
