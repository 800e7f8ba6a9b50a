"""YAML that is only data."""

from __future__ import annotations

import pytest

from textbrewer.configs.plain_yaml import read_yaml, yaml_text, yaml_value
from textbrewer.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2.5E+3", 2500.0),
        ("1.0e-5", 1e-5),
        ("3", 3),
        ("'1e-4'", "1e-4"),
        ("[a, 1]", ["a", 1]),
        ("", None),
    ],
)
def test_values(text, value):
    found = yaml_value(text, "a value")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch ran']",
        "a: !!python/name:os.system",
        "!!python/object/new:subprocess.Popen [[touch, ran]]",
        "a: !include /etc/passwd",
    ],
)
def test_tags_that_would_run_code_are_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"could not determine a constructor for the tag"):
        read_yaml(tmp_path / "recipe.yaml")
    assert not (tmp_path / "ran").exists()


def test_aliases_are_refused_because_a_small_file_could_grow_huge():
    with pytest.raises(ConfigError, match=r"line 2, column 5.*aliases"):
        yaml_value("a: &x [1, 2]\nb: [*x, *x]", "a recipe")


def test_a_key_that_stands_twice():
    with pytest.raises(ConfigError, match=r"line 3, column 1.*'seed' is there twice"):
        yaml_value("seed: 1\ntask: x\nseed: 2", "a recipe")


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t- x", "[" * 5000, "when: 2024-99-99"])
def test_what_is_no_yaml(text):
    with pytest.raises(ConfigError, match="YAML of plain values"):
        yaml_value(text, "a recipe")


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"task: \xff\xfe")
    with pytest.raises(ConfigError, match=r"text in UTF-8, got byte 0xff at 6"):
        read_yaml(tmp_path / "bytes.yaml")
    with pytest.raises(ConfigError, match="expected a file"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("value", ["1e5", "12E4", "-3e-4", "no", "1", "1.5", "null", "2020-01-01", "text", ""])
def test_texts_are_read_as_they_were_written(value):
    for on_one_line in (False, True):
        assert yaml_value(yaml_text({"labels": [value]}, on_one_line=on_one_line), "") == {"labels": [value]}


def test_what_stands_twice_is_written_twice():
    shared = [1, 2]
    assert yaml_value(yaml_text({"a": shared, "b": shared}), "") == {"a": [1, 2], "b": [1, 2]}
