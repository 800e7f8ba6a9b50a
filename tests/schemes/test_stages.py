"""Stages, each finished once: the same bits as runs by hand and as runs that were never stopped."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.utils.data import DataLoader

from tests.tiny import EncoderAdaptor, batch_of, batches, encoder, weights
from textbrewer import BasicTrainer, DistillationConfig, GeneralDistiller, MultiTaskDistiller, TrainingConfig
from textbrewer.balancing import UncertaintyWeights
from textbrewer.errors import CheckpointError, ConfigError
from textbrewer.schemes import Stage, Stages, features_then_logits

HIDDEN = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid", "proj": ["linear", 8, 12]}
CONFIG = DistillationConfig(temperature=2, hard_label_weight=0.5, intermediate_matches=[HIDDEN])
LENGTHS = {"features": {"num_epochs": 1}, "logits": {"num_epochs": 2}}


def training(folder, **more):
    return TrainingConfig(output_dir=folder, device="cpu", progress_bar=False, ckpt_frequency=2, **more)


def adam(student):
    return torch.optim.AdamW(student.parameters(), lr=0.01)


def shuffled(generator=None):
    """Batches in an order that is drawn."""
    batch = batch_of(16)
    rows = [{name: value[i] for name, value in batch.items()} for i in range(16)]
    return DataLoader(rows, batch_size=4, shuffle=True, generator=generator)


def two_stages(folder, student=None, config=CONFIG, lengths=LENGTHS):
    teacher = encoder(1, width=12, layers=2)
    adaptor = EncoderAdaptor()
    return features_then_logits(
        training(folder), config, teacher, encoder(2) if student is None else student, adaptor, adaptor, **lengths
    )


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_two_stages_are_two_runs_by_hand(tmp_path):
    torch.manual_seed(0)
    first, second = two_stages(tmp_path / "scheme").train(adam, shuffled())
    assert first is second

    torch.manual_seed(0)
    student, teacher, loader = encoder(2), encoder(1, width=12, layers=2), shuffled()
    features = DistillationConfig(kd_loss_weight=0, intermediate_matches=[HIDDEN])
    logits = DistillationConfig(temperature=2, hard_label_weight=0.5)
    for name, config, epochs in (("a", features, 1), ("b", logits, 2)):
        adaptor = EncoderAdaptor()
        distiller = GeneralDistiller(training(tmp_path / name), config, teacher, student, adaptor, adaptor)
        with distiller:
            distiller.train(adam(student), loader, num_epochs=epochs)
    assert same(weights(second), weights(student))


def test_a_balance_in_the_config_is_of_each_stage_by_itself(tmp_path):
    balance = UncertaintyWeights(lr=0.1)
    config = DistillationConfig(hard_label_weight=0.5, intermediate_matches=[HIDDEN], balance=balance)
    stages = two_stages(tmp_path, config=config)
    before = weights(encoder(2))
    assert not same(before, weights(stages.train(adam, shuffled())[-1]))
    assert not weights(balance)


class StopError(Exception):
    """Ends a run, as a kill would."""


@pytest.mark.parametrize("generator", [False, True])
@pytest.mark.parametrize("stop_at", [1, 2, 3, 5, 6])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, stop_at, generator):
    def run(folder, callback=None, resume=None, seed=0):
        torch.manual_seed(seed)
        drawn = torch.Generator().manual_seed(seed) if generator else None
        return two_stages(folder).train(adam, shuffled(drawn), callback=callback, resume=resume)[-1]

    whole = run(tmp_path / "whole")
    calls = 0

    def stop(model, step):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise StopError

    with pytest.raises(StopError):
        run(tmp_path / "stopped", stop)
    assert same(weights(whole), weights(run(tmp_path / "stopped", resume="auto", seed=99)))


def test_what_is_finished_is_not_run_again(tmp_path, caplog):
    torch.manual_seed(0)
    done = two_stages(tmp_path).train(adam, shuffled())[-1]
    ran = []
    with caplog.at_level(logging.INFO, "textbrewer"):
        again = two_stages(tmp_path).train(adam, shuffled(), resume="auto", callback=lambda **_: ran.append(1))[-1]
    assert ran == [] and same(weights(done), weights(again))
    assert [r.message for r in caplog.records if "this stage is finished" in r.message] == [
        f"{tmp_path / name / 'finished.pt'}: this stage is finished" for name in ("features", "logits")
    ]


def test_without_resume_all_begins_anew(tmp_path):
    two_stages(tmp_path).train(adam, shuffled())
    ran = []
    two_stages(tmp_path).train(adam, shuffled(), callback=lambda **_: ran.append(1))
    assert len(ran) == 6


def test_what_followed_a_stage_that_is_run_again_is_run_again_too(tmp_path):
    two_stages(tmp_path).train(adam, shuffled())
    (tmp_path / "features" / "finished.pt").unlink()
    ran = []
    two_stages(tmp_path).train(adam, shuffled(), resume="auto", callback=lambda model, step: ran.append(step))
    assert ran == [4, 2, 4, 6, 8]  # the callback of the last checkpoint is called again


def test_a_finished_stage_of_another_job_is_told(tmp_path):
    two_stages(tmp_path).train(adam, shuffled())
    longer = two_stages(tmp_path, lengths={"features": {"num_epochs": 5}, "logits": {"num_epochs": 2}})
    with pytest.raises(CheckpointError, match=r"(?s)finished.pt is of a stage that was another one.*num_epochs: 1.*5"):
        longer.train(adam, shuffled(), resume="auto")
    with pytest.raises(CheckpointError, match="student"):
        two_stages(tmp_path, student=encoder(2, layers=3)).train(adam, shuffled(), resume="auto")


def test_a_damaged_file_is_told(tmp_path):
    two_stages(tmp_path).train(adam, shuffled())
    (tmp_path / "logits" / "finished.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"logits/finished.pt is damaged \(UnpicklingError\); delete it"):
        two_stages(tmp_path).train(adam, shuffled(), resume="auto")


def test_folders_logs_and_arguments_of_each_stage(tmp_path):
    student, seen = encoder(2), []

    def trainer(config):
        seen.append((config.output_dir, config.log_dir))
        return BasicTrainer(config, student, EncoderAdaptor())

    stages = [Stage("a", trainer), Stage("b", trainer, {"num_steps": 3, "dataloader": batches(1)})]
    config = training(tmp_path / "out", log_dir=tmp_path / "logs")
    Stages(config, stages).train(adam, batches(2), num_epochs=1)
    assert seen == [(str(tmp_path / "out" / n), str(tmp_path / "logs" / n)) for n in ("a", "b")]
    written = [path.name for name in ("a", "b") for path in sorted((tmp_path / "out" / name).glob("gs*"))]
    assert written == ["gs1.pkl", "gs2.pkl", "gs3.pkl"]


def test_several_tasks_may_be_a_stage(tmp_path):
    student, tasks = encoder(2), ("a", "b")

    def distiller(config):
        adaptors = dict.fromkeys(tasks, EncoderAdaptor())
        teachers, config_D = {task: encoder(1) for task in tasks}, DistillationConfig()
        return MultiTaskDistiller(config, config_D, teachers, student, adaptors, adaptors)

    stages = Stages(training(tmp_path), [Stage("tasks", distiller)])
    arguments = {"dataloaders": {task: batches(2) for task in tasks}, "num_steps": 3}
    done = weights(stages.train(adam, **arguments)[0])
    assert same(done, weights(stages.train(adam, **arguments, resume="auto")[0]))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "`stages`: expected at least one, got none"),
        (["a", "a"], r"`stages\[1\].name`: expected another name for each stage, got 'a' again"),
        (["../a"], r"`stages\[0\].name`: expected the name of a folder: .*, got '../a'"),
        (["a", "", "a"], "Stages: 2 problems"),
    ],
)
def test_stages_that_cannot_be_run(tmp_path, names, message):
    with pytest.raises(ConfigError, match=message):
        Stages(training(tmp_path), [Stage(name, lambda config: None) for name in names])


def test_an_optimizer_and_a_path_cannot_serve_all_stages(tmp_path):
    optimizer = adam(encoder(2))
    message = "(?s)2 problems.*a function of the student, got AdamW; write .*'auto' or None"
    with pytest.raises(ConfigError, match=message):
        two_stages(tmp_path).train(optimizer, shuffled(), resume="some/folder")


def test_features_need_matches(tmp_path):
    message = "`intermediate_matches`: expected at least one, for the first stage, got none"
    with pytest.raises(ConfigError, match=message):
        two_stages(tmp_path, config=DistillationConfig())


def test_a_finished_stage_of_another_job_is_refused(tmp_path):
    two_stages(tmp_path).train(adam, batches(3))
    teacher, adaptor = encoder(1, width=12, layers=3), EncoderAdaptor()
    other = features_then_logits(training(tmp_path), CONFIG, teacher, encoder(2), adaptor, adaptor, **LENGTHS)
    with pytest.raises(CheckpointError, match="teachers"):
        other.train(adam, batches(3), resume="auto")
    with pytest.raises(CheckpointError, match="data"):
        two_stages(tmp_path).train(adam, batches(2), resume="auto")


def test_a_stage_that_begins_anew_forgets_those_behind_it(tmp_path):
    two_stages(tmp_path).train(adam, batches(3))
    assert (tmp_path / "logits" / "finished.pt").exists()
    stages = two_stages(tmp_path)
    stages.stages = [stages.stages[0], Stage("logits", None)]  # the second one fails when it is built
    with pytest.raises(TypeError):
        stages.train(adam, batches(3))
    assert (tmp_path / "features" / "finished.pt").exists()
    assert not (tmp_path / "logits" / "finished.pt").exists() and not (tmp_path / "logits" / "checkpoints").exists()
