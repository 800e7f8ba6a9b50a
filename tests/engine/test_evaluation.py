"""Evaluation along a run: what it keeps, when it stops, and that it changes nothing of the training."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import BasicTrainer, TrainingConfig
from textbrewer.engine.evaluation import Evaluations
from textbrewer.errors import ConfigError, DataError

ADAPTOR = EncoderAdaptor()


def rows(number):
    whole = batch_of(number, 6, 7)
    return [{key: value[i] for key, value in whole.items()} for i in range(number)]


def fitted(tmp_path, scores=None, *, evaluate=None, epochs=4, lr=0.05, resume=None, callback=None, **config):
    """Train on four batches an epoch; ``scores`` are what the evaluations give in turn."""
    torch.manual_seed(0)
    np.random.seed(0)
    student = encoder(2, layers=1)
    given = iter(scores or ())
    if scores is not None:
        evaluate = lambda model: {"accuracy": next(given)}  # noqa: E731
    settings = {"device": "cpu", "progress_bar": False, "output_dir": str(tmp_path), **config}
    trainer = BasicTrainer(TrainingConfig(**settings), student, ADAPTOR)
    loader = DataLoader(rows(12), batch_size=3, shuffle=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr)
    with trainer:
        trainer.train(optimizer, loader, num_epochs=epochs, evaluate=evaluate, resume=resume, callback=callback)
    return trainer, student


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_scores_are_kept_with_their_steps_and_written_for_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, _ = fitted(tmp_path, [0.5, 0.7, 0.6, 0.7], log_dir=tmp_path / "log")
    assert trainer.evaluations == [
        {"step": 4, "accuracy": 0.5},
        {"step": 8, "accuracy": 0.7},
        {"step": 12, "accuracy": 0.6},
        {"step": 16, "accuracy": 0.7},
    ]
    log = EventAccumulator(str(tmp_path / "log")).Reload()
    found = [(each.step, pytest.approx(each.value)) for each in log.Scalars("evaluation/accuracy")]
    assert found == [(3, 0.5), (7, 0.7), (11, 0.6), (15, 0.7)]


def test_the_earliest_best_student_is_in_its_folder_and_its_checkpoint_is_kept(tmp_path):
    _, student = fitted(tmp_path, [0.5, 0.7, 0.6, 0.7, 0.1], epochs=5, keep_last=1)
    best = load_file(tmp_path / "best" / "student.safetensors")
    assert same(best, torch.load(tmp_path / "gs8.pkl", weights_only=True))
    assert not same(best, weights(student))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-20", "step-8"]
    about = json.loads((tmp_path / "checkpoints" / "step-20" / "state.json").read_text())
    assert about["best"] == 8 and len(about["evaluations"]) == 5


def test_without_keep_best_nothing_is_kept_for_it(tmp_path):
    fitted(tmp_path, [0.9, 0.5, 0.5], epochs=3, keep_last=1, keep_best=False)
    assert not (tmp_path / "best").exists()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-12"]


def test_a_transformers_student_is_saved_by_its_save_pretrained(tmp_path):
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    student = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=8, num_labels=3))
    config = student.config.to_dict()
    trainer = BasicTrainer(TrainingConfig(device="cpu", progress_bar=False, output_dir=str(tmp_path)), student)
    batch = {"input_ids": torch.arange(6).view(2, 3), "labels": torch.tensor([0, 2])}
    seen = []
    with trainer:
        trainer.train(
            torch.optim.SGD(student.parameters(), lr=0.1),
            [batch],
            num_epochs=2,
            evaluate=lambda model: {"loss": seen.append(weights(model)) or len(seen)},
        )
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "best")
    assert same(weights(again), seen[0])  # a loss of 1 is better than one of 2
    saved = again.config.to_dict()
    assert {key: saved[key] for key in ("hidden_size", "id2label")} == {
        key: config[key] for key in ("hidden_size", "id2label")
    }
    assert student.config.to_dict() == config


@pytest.mark.parametrize(
    ("scores", "config", "steps"),
    [
        ([0.5, 0.7, 0.6, 0.7, 0.8, 0.9], {"early_stopping_patience": 2}, 16),
        ([0.5, 0.4, 0.6, 0.5, 0.7, 0.6], {"early_stopping_patience": 2}, 24),
        ([0.5, 0.55, 0.58, 0.9, 0.9, 0.9], {"early_stopping_patience": 2, "early_stopping_threshold": 0.1}, 12),
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], {"early_stopping_patience": 3, "greater_is_better": False}, 24),
        ([math.nan, math.nan, 0.1, 0.2, 0.3, 0.4], {"early_stopping_patience": 2}, 8),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], {}, 24),
    ],
)
def test_a_run_ends_when_its_scores_stall(tmp_path, caplog, scores, config, steps):
    caplog.set_level(logging.INFO, "textbrewer")
    trainer, _ = fitted(tmp_path, scores, epochs=6, **config)
    assert trainer.evaluations[-1]["step"] == steps
    assert (tmp_path / f"gs{steps}.pkl").exists() and not (tmp_path / f"gs{steps + 4}.pkl").exists()
    assert (steps < 24) == ("without a better accuracy than at step" in caplog.text)


def test_a_run_that_had_stalled_is_resumed_to_nothing(tmp_path):
    _, student = fitted(tmp_path, [0.9, 0.1, 0.1], epochs=6, early_stopping_patience=2)
    before = weights(student)
    trainer, again = fitted(tmp_path, [], epochs=6, early_stopping_patience=2, resume="auto")
    assert same(before, weights(again))
    assert [each["accuracy"] for each in trainer.evaluations] == [0.9, 0.1, 0.1]


def test_the_best_weights_are_given_back_at_the_end(tmp_path):
    _, student = fitted(tmp_path, [0.1, 0.9, 0.5, 0.5], load_best_model_at_end=True)
    assert same(weights(student), torch.load(tmp_path / "gs8.pkl", weights_only=True))
    assert not same(weights(student), torch.load(tmp_path / "gs16.pkl", weights_only=True))


def test_an_evaluation_changes_nothing_of_the_run(tmp_path):
    def evaluate(model):
        assert not model.training and not torch.is_grad_enabled()
        model.train()
        np.random.rand(), torch.rand(3)
        return {"accuracy": torch.tensor(0.5)}

    _, plain = fitted(tmp_path / "plain")
    _, evaluated = fitted(tmp_path / "evaluated", evaluate=evaluate)
    assert same(weights(plain), weights(evaluated))


def test_a_failing_evaluation_leaves_a_checkpoint_and_is_made_up_for_after_resuming(tmp_path):
    def failing(model):
        raise OSError("the file of answers is gone")

    with pytest.raises(OSError, match="file of answers"):
        fitted(tmp_path, evaluate=failing)
    assert (tmp_path / "checkpoints" / "step-4").exists() and (tmp_path / "gs4.pkl").exists()
    trainer, student = fitted(tmp_path, [0.1, 0.2, 0.3, 0.4], resume="auto")
    assert [each["step"] for each in trainer.evaluations] == [4, 8, 12, 16]
    _, undisturbed = fitted(tmp_path / "other", [0.1, 0.2, 0.3, 0.4])
    assert same(weights(student), weights(undisturbed))


def test_a_resumed_run_knows_the_best_of_before(tmp_path):
    class Stop(Exception):
        pass

    def stop(model, step):
        if step == 8:
            raise Stop

    with pytest.raises(Stop):
        fitted(tmp_path, [0.9, 0.1], callback=stop)
    trainer, _ = fitted(tmp_path, [0.2, 0.3], resume="auto", load_best_model_at_end=True)
    assert [each["accuracy"] for each in trainer.evaluations] == [0.9, 0.1, 0.2, 0.3]
    assert same(weights(trainer.model_S), torch.load(tmp_path / "gs4.pkl", weights_only=True))


def test_without_checkpoints_it_is_evaluated_each_epoch(tmp_path):
    trainer, _ = fitted(tmp_path, [0.1, 0.2, 0.3, 0.1], ckpt_frequency=0)
    assert [each["step"] for each in trainer.evaluations] == [4, 8, 12, 16]
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.9, "expected a dict of scores by name"),
        ({}, "expected a dict of scores by name"),
        (None, "got None"),
        ({"accuracy": "good"}, "expected a number for 'accuracy', got 'good'"),
        ({"logits": torch.ones(3)}, "expected a number for 'logits'"),
        ({"step": 3}, "the name 'step' is taken"),
    ],
)
def test_what_is_no_score_is_refused(tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        fitted(tmp_path, evaluate=lambda model: given)


def test_a_score_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(ConfigError, match=r"metric_for_best_model.*one of 'accuracy', got 'acuracy'.*did you mean"):
        fitted(tmp_path, [0.1], metric_for_best_model="acuracy")


def test_a_score_that_goes_missing_is_an_error(tmp_path):
    given = iter([{"f1": 0.5}, {"accuracy": 0.5}])
    with pytest.raises(ConfigError, match="one of 'accuracy', got 'f1'"):
        fitted(tmp_path, evaluate=lambda model: next(given))


@pytest.mark.parametrize(
    "config", [{"early_stopping_patience": 2}, {"load_best_model_at_end": True}, {"metric_for_best_model": "f1"}]
)
def test_what_takes_scores_is_refused_without_them(tmp_path, config):
    with pytest.raises(ConfigError, match=rf"{next(iter(config))}.*train\(evaluate"):
        fitted(tmp_path, **config)


def test_the_best_cannot_be_loaded_where_none_is_saved(tmp_path):
    with pytest.raises(ConfigError, match=r"load_best_model_at_end.*ckpt_frequency=0"):
        fitted(tmp_path, [0.5], ckpt_frequency=0, load_best_model_at_end=True)


@pytest.mark.parametrize(
    ("name", "greater", "values", "best"),
    [
        ("accuracy", None, [1, 3, 2], 1),
        ("loss", None, [1, 3, 2], 0),
        ("eval_loss", None, [3, 1, 2], 1),
        ("loss", True, [1, 3, 2], 1),
        ("error", False, [2, 3, 1], 2),
        ("error", None, [2, 3, 1], 1),
    ],
)
def test_of_a_loss_less_is_better_unless_it_is_said(name, greater, values, best):
    kept = Evaluations(TrainingConfig(greater_is_better=greater), lambda model: {})
    for step, value in enumerate(values):
        kept.add(step, {name: value, "other": -value})
    assert kept.best["step"] == best


def test_modes_of_the_student_are_as_they_were(tmp_path):
    student = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    student[1].eval()
    Evaluations(TrainingConfig(), lambda model: {"accuracy": 1}).measured(student)
    assert student.training and student[0].training and not student[1].training
