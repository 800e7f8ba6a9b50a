"""TrainingConfig: TextBrewer 0.2.1's arguments, and every problem in one error."""

from __future__ import annotations

import inspect
import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from textbrewer import TrainingConfig
from textbrewer.errors import ConfigError, Problem

ORIGINAL = {
    "gradient_accumulation_steps": (1, 4),
    "ckpt_frequency": (1, 0),
    "ckpt_epoch_frequency": (1, 3),
    "ckpt_steps": (None, 100),
    "log_dir": (None, "logs"),
    "output_dir": ("./saved_models", "elsewhere"),
    "device": ("auto", "cuda:1"),
    "fp16": (False, True),
    "fp16_opt_level": ("O1", "O2"),
    "data_parallel": (False, True),
    "local_rank": (-1, 0),
}
NEW = {
    "precision": (None, "bf16"),
    "keep_last_accumulation": (False, True),
    "log_every": (10, 1),
    "progress_bar": (True, False),
    "teacher_precision": (None, "int8"),
    "compile_models": (False, True),
    "save_state": (True, False),
    "keep_last": (2, 1),
    "on_nonfinite": ("stop", "skip"),
    "keep_best": (True, False),
    "metric_for_best_model": (None, "accuracy"),
    "greater_is_better": (None, False),
    "early_stopping_patience": (None, 3),
    "early_stopping_threshold": (0.0, 0.1),
    "load_best_model_at_end": (False, True),
    "save_in_background": (False, True),
    "trackers": ([], ["wandb", "mlflow"]),
    "tracker_project": ("textbrewer", "films"),
}
OTHERS = {name: other for name, (_, other) in ORIGINAL.items()}


def error_of(build, *args, **kwargs):
    with pytest.raises(ConfigError) as raised:
        build(*args, **kwargs)
    return raised.value


def test_the_arguments_come_in_the_order_of_the_original():
    assert list(inspect.signature(TrainingConfig).parameters) == [*ORIGINAL, *NEW]


@pytest.mark.parametrize(("name", "default", "other"), [(n, *v) for n, v in (ORIGINAL | NEW).items()])
def test_every_argument_has_its_default_and_takes_another_value(name, default, other):
    assert getattr(TrainingConfig(), name) == default
    changed = TrainingConfig(**{name: other})
    assert getattr(changed, name) == other
    assert all(getattr(changed, f.name) == getattr(TrainingConfig(), f.name) for f in fields(changed) if f.name != name)


def test_arguments_by_position_keyword_and_dict_are_the_same():
    config = TrainingConfig(*OTHERS.values())
    assert config == TrainingConfig(**OTHERS) == TrainingConfig.from_dict(OTHERS)
    assert {name: getattr(config, name) for name in OTHERS} == OTHERS


def test_a_device_object_and_paths_are_taken(tmp_path):
    config = TrainingConfig(device=torch.device("cpu"), output_dir=tmp_path, log_dir=tmp_path / "logs")
    assert config.device == torch.device("cpu")
    assert (config.output_dir, config.log_dir) == (str(tmp_path), str(tmp_path / "logs"))


@pytest.mark.parametrize("how", ["position", "assignment"])
def test_paths_are_taken_however_they_are_given(tmp_path, how):
    if how == "position":
        config = TrainingConfig(1, 1, 1, None, None, tmp_path)
    else:
        config = TrainingConfig()
        config.output_dir = tmp_path
    assert config.output_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "expected", "got"),
    [
        ("gradient_accumulation_steps", 0, "greater than or equal to 1", "0"),
        ("gradient_accumulation_steps", 1.5, "a valid integer", "1.5"),
        ("ckpt_frequency", -1, "greater than or equal to 0", "-1"),
        ("ckpt_epoch_frequency", 0, "greater than or equal to 1", "0"),
        ("ckpt_steps", 0, "greater than or equal to 1", "0"),
        ("log_dir", 3, "a valid string", "3"),
        ("output_dir", None, "a valid string", "None"),
        ("device", "gpu", "'auto' or a torch device", "'gpu'"),
        ("device", None, "'auto' or a torch device", "None"),
        ("fp16", "maybe", "a valid boolean", "'maybe'"),
        ("fp16_opt_level", "O9", "'O0', 'O1', 'O2' or 'O3'", "'O9'"),
        ("data_parallel", 2, "a valid boolean", "2"),
        ("local_rank", "first", "a valid integer", "'first'"),
        ("precision", "fp8", "'fp32', 'fp16' or 'bf16'", "'fp8'"),
        ("keep_last_accumulation", None, "a valid boolean", "None"),
        ("log_every", 0, "greater than or equal to 1", "0"),
        ("progress_bar", [], "a valid boolean", "[]"),
    ],
)
def test_bad_values_are_refused_at_the_start_and_later(name, value, expected, got):
    config = TrainingConfig()
    for error in (
        error_of(TrainingConfig, **{name: value}),
        error_of(TrainingConfig.from_dict, {name: value}),
        error_of(setattr, config, name, value),
    ):
        (problem,) = error.problems
        assert (problem.path, problem.got) == (name, got)
        assert problem.expected.startswith(expected)
        assert ("leave the key out for its default" in str(problem)) is (value is None)
    assert config == TrainingConfig()


def test_a_good_value_may_be_set_later():
    config = TrainingConfig()
    config.ckpt_steps = 5
    config.device = "cpu"
    assert config == TrainingConfig(ckpt_steps=5, device="cpu")


def test_all_problems_come_at_once_with_the_nearest_key():
    error = error_of(
        TrainingConfig.from_dict,
        {"ckpt_freqency": 2, "gradient_accumulation_steps": 0, "device": "gpu", "precision": "fp8"},
    )
    names = ", ".join(repr(name) for name in [*ORIGINAL, *NEW])
    assert str(error) == (
        "TrainingConfig: 4 problems\n"
        "  `gradient_accumulation_steps`: expected greater than or equal to 1, got 0\n"
        "  `device`: expected 'auto' or a torch device such as 'cpu', 'cuda', 'cuda:1', got 'gpu'\n"
        "  `precision`: expected 'fp32', 'fp16' or 'bf16', got 'fp8'\n"
        f"  `ckpt_freqency`: expected one of {names}, got the unknown key 'ckpt_freqency'; "
        "did you mean 'ckpt_frequency'?"
    )


def test_positional_problems_are_named_and_extra_positions_refused():
    error = error_of(TrainingConfig, 0, -1)
    assert [problem.path for problem in error.problems] == ["gradient_accumulation_steps", "ckpt_frequency"]
    everything = [default for default, _ in (ORIGINAL | NEW).values()]
    assert error_of(TrainingConfig, *everything, "more").problems == (
        Problem("[29]", "at most 29 positional arguments", "'more'"),
    )


def test_fp16_and_precision_must_agree():
    assert TrainingConfig(fp16=True, precision="fp16").fp16
    assert str(error_of(TrainingConfig, fp16=True, precision="bf16")) == (
        "TrainingConfig: 1 problem\n  `(the whole config)`: expected `precision` and `fp16` to agree, "
        "got 'fp16=True, precision=bf16'; leave fp16 out"
    )


def test_a_refused_change_changes_nothing():
    config = TrainingConfig(precision="bf16")
    error_of(setattr, config, "fp16", True)
    assert config == TrainingConfig(precision="bf16")


def test_an_unknown_attribute_is_refused():
    config = TrainingConfig()
    assert error_of(setattr, config, "ckpt_step", 5).problems[0].path == "ckpt_step"
    assert not hasattr(config, "ckpt_step")


def test_an_unknown_attribute_is_told_the_nearest_one():
    (problem,) = error_of(setattr, TrainingConfig(), "ckpt_step", 5).problems
    assert problem.hint == "did you mean 'ckpt_steps'?"


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        ("from_json_file", '{"ckpt_frequency": 2, "output_dir": "répertoire", "ckpt_steps": null, "fp16": true}'),
        ("from_yaml_file", "ckpt_frequency: 2\noutput_dir: répertoire\nckpt_steps:\nfp16: true\n"),
    ],
)
def test_files_in_utf8_are_read(tmp_path, reader, text):
    path = tmp_path / "config"
    path.write_text(text, encoding="utf-8")
    expected = TrainingConfig(ckpt_frequency=2, output_dir="répertoire", fp16=True)
    for given in (path, str(path)):
        assert getattr(TrainingConfig, reader)(given) == expected


@pytest.mark.parametrize("reader", ["from_json_file", "from_yaml_file"])
def test_problems_in_a_file_name_the_file(tmp_path, reader):
    path = tmp_path / "config"
    path.write_text('{"log_every": 0, "fp16": "maybe"}')
    error = error_of(getattr(TrainingConfig, reader), path)
    assert error.title == f"TrainingConfig in {path}"
    assert {problem.path for problem in error.problems} == {"log_every", "fp16"}


@pytest.mark.parametrize("reader", ["from_json_file", "from_yaml_file"])
def test_a_missing_file_is_named(tmp_path, reader):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        getattr(TrainingConfig, reader)(tmp_path / "nowhere")


def test_broken_json_is_told_by_line(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"fp16": true,\n "log_every": }')
    assert str(error_of(TrainingConfig.from_json_file, path)) == (
        f"{path}: 1 problem\n  `line 2`: expected JSON, got Expecting value"
    )


@pytest.mark.parametrize("text", ["log_dir: [", "log_dir: !!python/object:pathlib.Path {}", "a: b: c"])
def test_broken_or_unsafe_yaml_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    (problem,) = error_of(TrainingConfig.from_yaml_file, path).problems
    assert problem.expected == "YAML"


def test_yaml_that_would_run_code_runs_none(tmp_path):
    path, trace = tmp_path / "config.yaml", tmp_path / "trace"
    path.write_text(f"log_dir: !!python/object/apply:os.mkdir ['{trace}']")
    assert "python/object/apply:os.mkdir" in str(error_of(TrainingConfig.from_yaml_file, path))
    assert not trace.exists()


@pytest.mark.parametrize("text", ["[1, 2]", "3", '"words"'])
@pytest.mark.parametrize("reader", ["from_json_file", "from_yaml_file"])
def test_a_file_must_hold_a_mapping(tmp_path, reader, text):
    path = tmp_path / "config"
    path.write_text(text)
    (problem,) = error_of(getattr(TrainingConfig, reader), path).problems
    assert problem.expected == "a mapping of keys to values"


def test_an_empty_yaml_file_is_all_defaults(tmp_path):
    (tmp_path / "empty.yaml").touch()
    assert TrainingConfig.from_yaml_file(tmp_path / "empty.yaml") == TrainingConfig()


def test_constructing_touches_no_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TrainingConfig(output_dir="made/by/nobody", log_dir="logs")
    TrainingConfig()
    assert os.listdir(Path.cwd()) == []


def test_printing_lists_every_setting_on_a_line():
    values = {name: default for name, (default, _) in (ORIGINAL | NEW).items()} | {"ckpt_steps": 5}
    assert str(TrainingConfig(ckpt_steps=5)) == "".join(f"{name} : {value}\n" for name, value in values.items())
