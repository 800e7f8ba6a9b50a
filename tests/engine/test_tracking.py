"""Losses are buffered, read many at a time, checked for NaN and written to TensorBoard."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
import torch

from textbrewer import BasicTrainer, TrainingConfig
from textbrewer.engine.tracking import Tracker, _mean, services_of
from textbrewer.errors import ConfigError, MissingDependencyError, NonFiniteLossError
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


def test_a_term_that_some_processes_lack_is_a_mean_over_the_others():
    labelled, unlabelled = {"total": 4.0, "kd": 1.0, "hard": 3.0}, {"total": 1.0, "kd": 1.0}
    expected = {"total": 2.5, "kd": 1.0, "hard": 3.0}
    assert _mean([labelled, unlabelled]) == _mean([unlabelled, labelled]) == expected


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


class Service:
    """A tracker as Accelerate has them, which takes nothing of an earlier step any more, as Weights & Biases does."""

    made: ClassVar[list] = []

    def __init__(self, project):
        self.project, self.told, self.state = project, {}, "made"
        Service.made.append(self)

    def start(self):
        self.state = "started"

    def store_init_configuration(self, values):
        assert self.state == "started"
        self.settings = values

    def log(self, values, step=None):
        assert self.state == "started" and step >= max(self.told, default=0)
        self.told.setdefault(step, {}).update(values)

    def finish(self):
        self.state = "finished"


@pytest.fixture
def accelerate(monkeypatch):
    """Accelerate with services that keep what they are told."""
    accelerate = pytest.importorskip("accelerate")
    for name, package in (("WandBTracker", "wandb"), ("MLflowTracker", "mlflow")):
        monkeypatch.setattr(f"accelerate.tracking.{name}", Service)
        monkeypatch.setattr(f"accelerate.utils.is_{package}_available", lambda: True)
    monkeypatch.setattr(Service, "made", [])
    return accelerate


def test_services_are_told_all_that_tensorboard_is(tmp_path):
    service = Service("films")
    service.start()
    tracker = Tracker(str(tmp_path), 10, check_each=False, services=[service])
    for batch in range(4):
        tracker.add(report(float(batch), kd=batch / 2), batch=batch, step=batch)
    tracker.add_scores({"accuracy": 0.5}, batch=3)
    assert service.told == {}
    tracker.add(report(9.0), batch=4, step=4)
    tracker.flush()
    tracker.add_scores({"accuracy": 0.75}, batch=4)
    tracker.close()
    expected = {}
    for tag, values in scalars(tmp_path).items():
        for step, value in values:
            expected.setdefault(step, {})[tag] = value
    assert service.told == expected and set(expected) == set(range(5)) and service.state == "finished"
    assert expected[4] == {"scalar/total_loss": 9.0, "evaluation/accuracy": 0.75}


def test_what_led_to_an_error_is_told_too():
    service = Service("films")
    service.start()
    with pytest.raises(NonFiniteLossError), Tracker(None, 1, check_each=False, services=[service]) as tracker:
        tracker.add(report(1.0), batch=0, step=0)
        tracker.add(report(float("nan")), batch=1, step=1)
        tracker.flush()
    assert service.told[0] == {"scalar/total_loss": 1.0} and service.state == "finished"


def test_services_are_started_with_the_settings(accelerate):
    config = TrainingConfig(trackers=["wandb", "mlflow"], tracker_project="films", device="cpu")
    found = services_of(config)
    assert found == Service.made and [each.project for each in found] == ["films", "films"]
    assert found[0].settings["log_every"] == 10 and found[0].settings["device"] == "cpu"
    assert all(isinstance(value, (str, int, float)) for value in found[0].settings.values())
    assert services_of(TrainingConfig()) == []


def test_without_its_package_a_service_is_refused_before_any_is_started(accelerate, monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_mlflow_available", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"trackers: mlflow needs the package `mlflow`: pip install"):
        services_of(TrainingConfig(trackers=["wandb", "mlflow"]))
    assert Service.made == []


def test_an_unknown_service_is_refused():
    with pytest.raises(ConfigError, match=r"`trackers\[0\]`: expected 'wandb' or 'mlflow', got 'wand'"):
        TrainingConfig(trackers=["wand"])


def test_a_run_tells_its_losses_and_scores(accelerate, tmp_path):
    from tests.tiny import EncoderAdaptor, batches, encoder

    model = encoder()
    config = TrainingConfig(output_dir=str(tmp_path), trackers=["wandb"], progress_bar=False, device="cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = BasicTrainer(config, model, EncoderAdaptor())
    trainer.train(optimizer, batches(3), num_epochs=1, evaluate=lambda model: {"accuracy": 0.5})
    (service,) = Service.made
    assert service.state == "finished" and set(service.told) == {0, 1, 2}
    assert service.told[2]["evaluation/accuracy"] == 0.5 and "scalar/total_loss" in service.told[0]
