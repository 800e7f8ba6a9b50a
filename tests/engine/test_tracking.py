"""Losses are buffered, read many at a time, checked for NaN and written to TensorBoard."""

from __future__ import annotations

import os

import pytest
import torch

from textbrewer.engine.tracking import Tracker
from textbrewer.errors import NonFiniteLossError
from textbrewer.types import LossReport


def report(loss, **terms):
    loss = torch.tensor(loss)
    return LossReport(loss, {name: torch.tensor(value) for name, value in terms.items()}, loss)


def scalars(log_dir):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(log_dir))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize(
    ("every", "check_each", "due"),
    [(3, False, [0, 2, 5, 8]), (1, False, list(range(10))), (3, True, list(range(10))), (50, False, [0])],
)
def test_the_first_step_and_every_so_many_are_due(every, check_each, due):
    tracker = Tracker(None, every, check_each)
    assert [step for step in range(10) if tracker.due(step)] == due


def test_nothing_is_read_before_the_flush(tmp_path):
    tracker = Tracker(str(tmp_path), 10, check_each=False)
    tracker.add(report(float("nan")), batch=1, step=0)
    assert tracker.latest == {}
    tracker.close()
    assert scalars(tmp_path) == {}


def test_a_flush_reads_everything_in_one_transfer(monkeypatch):
    tracker = Tracker(None, 10, check_each=False)
    for batch in range(1, 5):
        tracker.add(report(float(batch), kd=batch / 2), batch=batch, step=batch - 1)
    transfers = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(tensor.numel()) or tolist(tensor))
    tracker.flush()
    assert transfers == [8]
    assert tracker.latest == {"total_loss": 4.0, "kd": 2.0}


def test_a_second_flush_has_nothing_to_do(tmp_path):
    tracker = Tracker(str(tmp_path), 1, check_each=True)
    tracker.add(report(1.0), batch=1, step=0)
    tracker.flush()
    tracker.flush()
    tracker.close()
    assert scalars(tmp_path) == {"scalar/total_loss": [(1, 1.0)]}


def test_tensorboard_tags_and_batches(tmp_path):
    tracker = Tracker(str(tmp_path), 2, check_each=False)
    tracker.add(report(3.0, unweighted_kd_loss=1.0, unweighted_hidden_mse_0_1=2.0), batch=1, step=0)
    tracker.add(report(2.5, unweighted_kd_loss=0.5), batch=2, step=0)
    tracker.flush()
    tracker.close()
    assert scalars(tmp_path) == {
        "scalar/total_loss": [(1, 3.0), (2, 2.5)],
        "scalar/unweighted_kd_loss": [(1, 1.0), (2, 0.5)],
        "scalar/unweighted_hidden_mse_0_1": [(1, 2.0)],
    }


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(None, 1, check_each=True)
    tracker.add(report(1.0), batch=1, step=0)
    tracker.flush()
    tracker.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_named_with_its_own_step(value):
    tracker = Tracker(None, 10, check_each=False)
    tracker.add(report(1.0, kd=1.0, hard=2.0), batch=1, step=4)
    tracker.add(report(1.0, kd=value, hard=2.0), batch=2, step=5)
    tracker.add(report(1.0, kd=1.0, hard=value), batch=3, step=6)
    with pytest.raises(NonFiniteLossError) as raised:
        tracker.flush()
    assert str(raised.value).startswith(f"optimiser step 6: kd is not finite (total_loss=1, kd={value:g}, hard=2)")


def test_every_broken_term_is_named():
    tracker = Tracker(None, 1, check_each=True)
    nan = float("nan")
    tracker.add(report(nan, kd=nan, hard=2.0), batch=1, step=0)
    with pytest.raises(NonFiniteLossError, match=r"optimiser step 1: total_loss, kd is not finite"):
        tracker.flush()


def test_half_precision_and_float64_terms_are_read_together():
    tracker = Tracker(None, 1, check_each=True)
    half, double = torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor(2.5, dtype=torch.float64)
    tracker.add(LossReport(double, {"kd": half}, double), batch=1, step=0)
    tracker.flush()
    assert tracker.latest == {"total_loss": 2.5, "kd": 1.5}


def test_a_hard_label_loss_of_nothing_says_what_it_most_often_is():
    tracker = Tracker(None, 1, check_each=True)
    tracker.add(report(float("nan"), unweighted_hard_label_loss=float("nan")), batch=0, step=0)
    with pytest.raises(NonFiniteLossError, match=r"all labels of a batch are masked \(-100\)"):
        tracker.flush()
