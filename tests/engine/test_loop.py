"""The loop: how many steps, which micro-batches in each, and after which a checkpoint is written."""

from __future__ import annotations

import itertools
import logging
import os
import warnings

import pytest
import torch
from torch import nn

from textbrewer import TrainingConfig
from textbrewer.engine import Engine, Schedule
from textbrewer.engine.checkpoint import RunState
from textbrewer.engine.devices import Placement
from textbrewer.engine.updates import PlainUpdates
from textbrewer.errors import DataError, NonFiniteLossError
from textbrewer.objective import Share
from textbrewer.stream import Stream
from textbrewer.types import LossReport


class Recorder:
    """A step function that keeps what the engine hands it; its loss is the mean of the model's output."""

    def __init__(self, model):
        self.model = model
        self.windows, self.batches, self.progress = [], [], []

    def share(self, window):
        self.windows.append([int(batch) for batch in window])
        return Share(len(window))

    def __call__(self, batch, share):
        self.batches.append((int(batch), share.micro_batches))
        mean = self.model(batch).mean()
        return LossReport(total=mean / share.micro_batches, terms={}, loss=mean.detach())

    def advance(self, progress):
        self.progress.append(progress)


class Loader:
    """Gives the numbers of ``passes`` in turn, one list each time it is read, whatever length it claims."""

    def __init__(self, *passes, length):
        self.passes = itertools.cycle(passes)
        self.length = length

    def __iter__(self):
        return iter(numbers(*next(self.passes)))

    def __len__(self):
        return self.length


def numbers(*values):
    return [torch.full((1, 1), float(value)) for value in values]


def engine_of(config, model, optimizer, loader, max_grad_norm=-1.0):
    placement = Placement(config, model)
    state = RunState(model, [], optimizer, None, placement.scaler(), Stream(loader))
    return Engine(config, state, placement, updates=PlainUpdates(config, state, max_grad_norm))


def run(tmp_path, loader, *, epochs=None, steps=None, train=None, model=None, max_grad_norm=-1.0, **options):
    settings = {"device": "cpu", "progress_bar": False, "save_state": False, **(train or {})}
    config = TrainingConfig(output_dir=str(tmp_path), **settings)
    model = nn.Linear(1, 1) if model is None else model
    recorder = Recorder(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = Schedule.of(config, loader, epochs, steps)
    engine = engine_of(config, model, optimizer, loader, max_grad_norm)
    recorder.done = engine.run(recorder, schedule, **options)
    return recorder


# The rows without keep_last_accumulation are what TextBrewer 0.2.1 does; there num_steps needs ckpt_steps beside it.
CHECKPOINTS = [
    (4, {}, {"num_epochs": 2}, 8, [4, 8]),
    (10, {"ckpt_frequency": 3}, {"num_epochs": 1}, 10, [3, 6, 10]),
    (10, {"ckpt_frequency": 2}, {"num_epochs": 2}, 20, [5, 10, 15, 20]),
    (3, {"ckpt_frequency": 7}, {"num_epochs": 2}, 6, [1, 2, 3, 4, 5, 6]),
    (4, {"ckpt_frequency": 0}, {"num_epochs": 2}, 8, []),
    (4, {"ckpt_epoch_frequency": 2}, {"num_epochs": 5}, 20, [8, 16, 20]),
    (4, {"ckpt_epoch_frequency": 9, "ckpt_frequency": 2}, {"num_epochs": 3}, 12, [10, 12]),
    (7, {"gradient_accumulation_steps": 2}, {"num_epochs": 2}, 6, [3, 6]),
    (7, {"gradient_accumulation_steps": 3, "ckpt_frequency": 2}, {"num_epochs": 2}, 4, [1, 2, 3, 4]),
    (5, {"ckpt_steps": 3}, {"num_epochs": 2}, 10, [5, 10]),
    (4, {}, {"num_steps": 7}, 7, [7]),
    (4, {"ckpt_steps": 3}, {"num_steps": 7}, 7, [3, 6, 7]),
    (4, {"ckpt_steps": 3}, {"num_steps": 6}, 6, [3, 6]),
    (5, {"ckpt_steps": 9}, {"num_steps": 4}, 4, [4]),
    (4, {"ckpt_steps": 2, "gradient_accumulation_steps": 3}, {"num_steps": 5}, 5, [2, 4, 5]),
    (4, {"ckpt_frequency": 2, "ckpt_steps": 4}, {"num_steps": 5, "num_epochs": 1}, 5, [4, 5]),
    (None, {"ckpt_steps": 2}, {"num_steps": 3}, 3, [2, 3]),
    (7, {"gradient_accumulation_steps": 2, "keep_last_accumulation": True}, {"num_epochs": 2}, 8, [4, 8]),
    (6, {"gradient_accumulation_steps": 2, "keep_last_accumulation": True}, {"num_epochs": 2}, 6, [3, 6]),
    (2, {"gradient_accumulation_steps": 5, "keep_last_accumulation": True}, {"num_epochs": 2}, 2, [1, 2]),
]


@pytest.mark.parametrize(("size", "train", "length", "total", "expected"), CHECKPOINTS)
def test_steps_and_checkpoints(size, train, length, total, expected):
    config = TrainingConfig(**train)
    loader = iter(()) if size is None else range(size)
    schedule = Schedule.of(config, loader, length.get("num_epochs"), length.get("num_steps"))
    assert schedule.total_steps == total
    assert [step for step in range(1, total + 1) if schedule.saves_after(step, config)] == expected


@pytest.mark.parametrize(
    ("epochs", "steps", "message"),
    [
        (2, 0, "num_steps >= 1, got 0"),
        (None, -1, "num_steps >= 1, got -1"),
        (-2, 5, "num_epochs >= 1, got -2"),
    ],
)
def test_lengths_below_one_are_refused_whichever_wins(epochs, steps, message):
    with pytest.raises(DataError, match=message):
        Schedule.of(TrainingConfig(), range(3), epochs, steps)


WINDOWS = [
    ("epochs", {"gradient_accumulation_steps": 2}, {"epochs": 2}, [[0, 1], [2, 3], [0, 1], [2, 3]]),
    (
        "the last accumulation kept",
        {"gradient_accumulation_steps": 2, "keep_last_accumulation": True},
        {"epochs": 2},
        [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]],
    ),
    (
        "steps cross the end",
        {"gradient_accumulation_steps": 2},
        {"steps": 4},
        [[0, 1], [2, 3], [4, 0], [1, 2]],
    ),
    ("an accumulation longer than the loader", {"gradient_accumulation_steps": 7}, {"steps": 1}, [[*range(5), 0, 1]]),
    (
        "keeping the last changes nothing with steps",
        {"gradient_accumulation_steps": 3, "keep_last_accumulation": True},
        {"steps": 3},
        [[0, 1, 2], [3, 4, 0], [1, 2, 3]],
    ),
]


@pytest.mark.parametrize(("train", "length", "expected"), [row[1:] for row in WINDOWS], ids=[row[0] for row in WINDOWS])
def test_windows(tmp_path, train, length, expected):
    recorder = run(tmp_path, numbers(*range(5)), train=train, **length)
    assert recorder.windows == expected
    assert recorder.batches == [(batch, len(window)) for window in expected for batch in window]
    assert recorder.done == len(expected)
    assert recorder.progress == [(i + 1) / len(expected) for i in range(len(expected))]


@pytest.mark.parametrize("length", [{"epochs": 2}, {"steps": 6}])
def test_the_loader_is_read_anew_in_every_pass(tmp_path, length):
    recorder = run(tmp_path, Loader([1, 2, 3], [3, 1, 2], length=3), **length)
    assert recorder.windows == [[1], [2], [3], [3], [1], [2]]


def test_a_loader_without_length_is_read_no_further_than_needed(tmp_path):
    loader = iter(numbers(*range(10)))
    recorder = run(tmp_path, loader, steps=2, train={"gradient_accumulation_steps": 3})
    assert recorder.windows == [[0, 1, 2], [3, 4, 5]]
    assert int(next(loader)) == 6


def test_an_iterator_that_ends_too_soon_is_said(tmp_path):
    with pytest.raises(DataError, match="an iterator can be read once only"):
        run(tmp_path, iter(numbers(1, 2)), steps=5)


def test_a_loader_that_gives_less_than_it_promised_is_said(tmp_path):
    with pytest.raises(DataError, match="ended after 2 of 6 optimiser steps"):
        run(tmp_path, Loader([1, 2], length=3), epochs=2)


def test_a_loader_that_gives_more_than_it_promised_is_cut(tmp_path):
    assert run(tmp_path, Loader([1, 2, 3, 4], length=3), epochs=1).windows == [[1], [2], [3]]


def test_the_postprocessor_comes_before_everything_else(tmp_path):
    recorder = run(tmp_path, numbers(1, 2), epochs=1, batch_postprocessor=lambda batch: batch + 10)
    assert recorder.windows == [[11], [12]]
    assert [batch for batch, _ in recorder.batches] == [11, 12]


def test_an_accumulation_is_one_step_of_the_mean_and_no_gradient_leaks_into_the_next(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.full_like(model.weight, 100.0)
    before = model.weight.item()
    run(tmp_path, numbers(1, 2, 6, 4, 4, 4), epochs=1, train={"gradient_accumulation_steps": 3}, model=model)
    assert model.weight.item() == pytest.approx(before - 3.0 - 4.0)


@pytest.mark.parametrize(("max_grad_norm", "moved"), [(-1.0, 30.0), (0.0, 30.0), (0.5, 0.5), (100.0, 30.0)])
def test_gradients_are_clipped_to_the_norm(tmp_path, max_grad_norm, moved):
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    run(tmp_path, numbers(30), epochs=1, model=model, max_grad_norm=max_grad_norm)
    assert before - model.weight.item() == pytest.approx(moved, rel=1e-4)


def test_only_the_gradients_of_the_student_are_clipped(tmp_path):
    student, projection = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD([*student.parameters(), *projection.parameters()], lr=1.0)
    before = [module.weight.item() for module in (student, projection)]
    config = TrainingConfig(output_dir=str(tmp_path), device="cpu", progress_bar=False)
    loader = numbers(30)
    engine = engine_of(config, student, optimizer, loader, max_grad_norm=0.5)
    both = Recorder(lambda batch: student(batch) + projection(batch))
    engine.run(both, Schedule.of(config, loader, 1, None))
    moved = [b - module.weight.item() for b, module in zip(before, (student, projection), strict=True)]
    assert moved == pytest.approx([0.5, 30.0], rel=1e-4)


def test_checkpoints_and_callbacks_come_together_after_each_due_step(tmp_path):
    calls = []

    def callback(model, step):
        calls.append((step, sorted(os.listdir(tmp_path))))

    run(tmp_path, numbers(1, 2, 3), steps=5, train={"ckpt_steps": 2}, callback=callback)
    files = ["gs2.pkl", "gs4.pkl", "gs5.pkl"]
    assert calls == [(2, files[:1]), (4, files[:2]), (5, files)]


def test_a_dropped_accumulation_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="textbrewer")
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        run(tmp_path, numbers(1, 2, 3), epochs=2, train={"gradient_accumulation_steps": 2})
    said = [message.getMessage() for message in caplog.records] + [str(warning.message) for warning in record]
    assert sum("keep_last_accumulation" in text for text in said) == 1


def broken_at(places, model, kind):
    """A step whose loss or gradient is NaN at some batches."""

    class Broken(Recorder):
        def __call__(self, batch, share):
            report = super().__call__(batch, share)
            if len(self.batches) - 1 not in places:
                return report
            if kind == "loss":
                return LossReport(
                    report.total * float("nan"), {"unweighted_x": report.loss * float("nan")}, report.loss
                )
            # The square root of zero is zero, and its slope infinite.
            zero = (model.weight.sum() - model.weight.detach().sum()) * 0
            return LossReport(report.total + (zero + 0.0).sqrt() * 0 + zero.abs().sqrt(), {}, report.loss)

    return Broken(model)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_is_skipped_and_counted_if_asked(tmp_path, caplog, kind):
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    config = TrainingConfig(output_dir=str(tmp_path), device="cpu", progress_bar=False, on_nonfinite="skip")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = numbers(1, 2, 3, 4)
    moved = []
    step = broken_at({1, 2}, model, kind)
    step.advance = lambda progress: moved.append(model.weight.item())
    engine_of(config, model, optimizer, loader).run(step, Schedule.of(config, loader, 1, None))
    assert moved[0] == moved[1] == moved[2] != moved[3]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert "optimiser step 2" in caplog.text and "Skipped; 2 in all" in caplog.text


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_fused_optimiser_skips_on_the_device(tmp_path, monkeypatch, kind):
    """As an optimiser that is asked before each step would, with its momentum and its count of steps."""
    trained = {}
    for fused in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        config = TrainingConfig(output_dir=str(tmp_path), device="cpu", progress_bar=False, on_nonfinite="skip")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
        loader = numbers(1, 2, 3, 4, 5)
        if fused:
            # What would wait for a device.
            monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: pytest.fail("read from the device"))
        engine_of(config, model, optimizer, loader).run(
            broken_at({1, 3}, model, kind), Schedule.of(config, loader, 1, None)
        )
        monkeypatch.undo()
        steps = {float(state["step"]) for state in optimizer.state.values()}
        trained[fused] = ([parameter.detach().clone() for parameter in model.parameters()], steps)
        assert not hasattr(optimizer, "found_inf")
    assert trained[True][1] == trained[False][1] == {3.0}
    torch.testing.assert_close(trained[True][0], trained[False][0])


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_weights_are_touched(tmp_path, kind):
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    config = TrainingConfig(output_dir=str(tmp_path), device="cpu", progress_bar=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = numbers(1, 2)
    with pytest.raises(NonFiniteLossError, match="optimiser step 2"):
        engine_of(config, model, optimizer, loader).run(
            broken_at({1}, model, kind), Schedule.of(config, loader, 1, None)
        )
    assert all(parameter.isfinite().all() for parameter in model.parameters())
