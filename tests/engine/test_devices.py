"""Where a run computes and in what precision."""

from __future__ import annotations

import logging

import accelerate
import pytest
import torch
from torch import nn

from textbrewer import TrainingConfig
from textbrewer.engine.devices import Placement, _device
from textbrewer.errors import ConfigError


class OtherMachine:
    """Stands for Accelerate's ``PartialState`` on a machine with an accelerator, here torch's ``meta``."""

    num_processes = 1
    local_process_index = 0
    device = torch.device("meta")


def placement(student=None, **train):
    return Placement(TrainingConfig(**{"device": "cpu", **train}), nn.Linear(1, 1) if student is None else student)


@pytest.mark.parametrize(
    ("train", "precision", "dtype"),
    [
        ({}, "fp32", None),
        ({"precision": "fp32"}, "fp32", None),
        ({"precision": "fp16"}, "fp16", torch.float16),
        ({"precision": "bf16"}, "bf16", torch.bfloat16),
        ({"fp16": True}, "fp16", torch.float16),
        ({"fp16": True, "precision": "fp16"}, "fp16", torch.float16),
        ({"fp16": True, "fp16_opt_level": "O0"}, "fp32", None),
        ({"fp16": True, "fp16_opt_level": "O2"}, "fp16", torch.float16),
        ({"fp16": True, "fp16_opt_level": "O3"}, "fp16", torch.float16),
        ({"fp16_opt_level": "O2"}, "fp32", None),
        ({"fp16_opt_level": "O0", "precision": "fp16"}, "fp16", torch.float16),
    ],
)
def test_precision(train, precision, dtype):
    placed = placement(**train)
    assert (placed.precision, placed.dtype) == (precision, dtype)
    assert placed.scaler().is_enabled() == (precision == "fp16")
    with placed.autocast():
        assert torch.is_autocast_enabled("cpu") == (dtype is not None)
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == (dtype or torch.float32)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("level", "words"), [("O0", "float32"), ("O1", ""), ("O2", "native mixed precision")])
def test_what_becomes_of_an_apex_level_is_said(caplog, level, words):
    caplog.set_level(logging.INFO, logger="textbrewer")
    placement(fp16=True, fp16_opt_level=level)
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_device_asked_for(monkeypatch, device):
    monkeypatch.setattr(accelerate, "PartialState", OtherMachine)
    assert placement(device=device).device == torch.device("cpu")


@pytest.mark.parametrize("student", [nn.Linear(1, 1), nn.Identity()], ids=["on the CPU", "without parameters"])
def test_auto_takes_the_best_device(monkeypatch, student):
    monkeypatch.setattr(accelerate, "PartialState", OtherMachine)
    assert placement(student, device="auto").device.type == "meta"


def test_auto_leaves_the_student_on_its_accelerator(monkeypatch):
    monkeypatch.setattr(accelerate, "PartialState", OtherMachine)
    monkeypatch.setattr(OtherMachine, "device", torch.device("cpu"))
    assert placement(nn.Linear(1, 1, device="meta"), device="auto").device.type == "meta"
    assert placement(device="auto").device.type == "cpu"


def test_each_of_several_processes_has_its_own_device():
    """Though the script moved the student to the first one in all of them."""
    student, own = nn.Linear(1, 1, device="meta"), torch.device("meta:1")
    config = TrainingConfig(device="auto")
    assert _device(config, student, own, processes=2) == own
    assert _device(config, student, own) == torch.device("meta")


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_there_is_a_problem_of_the_config(monkeypatch, device):
    for backend in (torch.cuda, torch.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(ConfigError) as raised:
        placement(device=device)
    (problem,) = raised.value.problems
    assert (problem.path, problem.got, problem.hint) == ("device", repr(device), "use device='auto'")


@pytest.mark.parametrize(("processes", "hint"), [(1, "start the script with torchrun"), (2, "leave it out")])
def test_a_rank_that_is_not_this_processs_is_a_problem_of_the_config(monkeypatch, processes, hint):
    monkeypatch.setattr(OtherMachine, "num_processes", processes)
    monkeypatch.setattr(accelerate, "PartialState", OtherMachine)
    with pytest.raises(ConfigError) as raised:
        placement(local_rank=1)
    (problem,) = raised.value.problems
    assert (problem.path, problem.got) == ("local_rank", "1") and hint in problem.hint


@pytest.mark.parametrize("rank", [-1, 0])
def test_a_script_started_alone_may_tell_its_rank(rank):
    ranks = placement(local_rank=rank).ranks
    assert (ranks.number, ranks.index) == (1, 0)


def test_data_parallel_changes_nothing_on_the_cpu():
    model = nn.Linear(1, 1)
    placed = placement(model)
    assert placed.forward_of(model, data_parallel=True) is model
    assert placed.forward_of(model, data_parallel=False) is model


@pytest.mark.parametrize(
    ("train", "student", "teacher"),
    [
        ({}, None, None),
        ({"teacher_precision": "bf16"}, None, torch.bfloat16),
        ({"precision": "bf16"}, torch.bfloat16, torch.bfloat16),
        ({"precision": "bf16", "teacher_precision": "fp32"}, torch.bfloat16, None),
    ],
)
def test_teachers_may_compute_in_another_precision(train, student, teacher):
    placed = placement(**train)
    with placed.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == (student or torch.float32)
        with placed.teacher_autocast():
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == (teacher or torch.float32)


def test_a_teacher_in_int8_is_a_copy(recwarn):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    before = model[0].weight.clone()
    quantised = placement(teacher_precision="int8").teacher(model)
    assert quantised is not model and torch.equal(model[0].weight, before) and type(model[0]) is nn.Linear
    inputs = torch.rand(4, 8)
    difference = (quantised(inputs) - model(inputs)).abs().max()
    assert 0 < difference < 0.05
    assert not recwarn.list
    assert placement().teacher(model) is model


def test_a_teacher_in_int8_needs_the_cpu(monkeypatch):
    monkeypatch.setattr(accelerate, "PartialState", OtherMachine)
    with pytest.raises(ConfigError, match="use 'bf16'"):
        placement(device="auto", teacher_precision="int8").teacher(nn.Linear(1, 1))


def test_models_are_compiled_if_asked_and_left_as_they_are():
    model = nn.Linear(3, 3)
    compiled = placement(compile_models=True).forward_of(model)
    assert compiled is not model and compiled._orig_mod is model
