"""Students that teach each other, against a loop written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tiny import EncoderAdaptor, batch_of, batches, encoder, weights
from textbrewer import BasicTrainer, DistillationConfig, TeacherCache, TrainingConfig
from textbrewer.errors import ConfigError, UnsupportedError
from textbrewer.schemes import MutualDistiller

CONFIG = {"temperature": 1, "kd_loss_type": "kl", "hard_label_weight": 1}
SIZES = [{"width": 8}, {"width": 6, "layers": 1}, {"width": 10}]


def mutual(folder, number=2, train=None, adaptors=None, **config):
    students = [encoder(i + 1, **SIZES[i]) for i in range(number)]
    settings = TrainingConfig(output_dir=folder, device="cpu", progress_bar=False, **(train or {}))
    return MutualDistiller(settings, DistillationConfig(**{**CONFIG, **config}), students, adaptors or EncoderAdaptor())


def trained(distiller, loader, **more):
    optimizer = torch.optim.AdamW(distiller.model_S.parameters(), lr=0.02)
    with distiller:
        distiller.train(optimizer, loader, **{"num_epochs": 2, **more})
    return [weights(student) for student in distiller.students]


def divergence(of, told):
    """``KL(p ‖ q)`` of the peer's p and the own q, mean over rows."""
    p = told.softmax(-1)
    return (p * (p.log() - of.log_softmax(-1))).sum(-1).mean()


@pytest.mark.parametrize("number", [2, 3])
def test_it_is_the_loop_written_out(tmp_path, number):
    found = trained(mutual(tmp_path, number), batches(5))
    students = [encoder(i + 1, **SIZES[i]) for i in range(number)]
    optimizers = [torch.optim.AdamW(student.parameters(), lr=0.02) for student in students]
    for batch in batches(5) * 2:
        outputs = [student(**batch) for student in students]
        for own in range(number):
            peers = [outputs[j][0].detach() for j in range(number) if j != own]
            told = sum(divergence(outputs[own][0], peer) for peer in peers) / len(peers)
            (told + nn.functional.cross_entropy(outputs[own][0], batch["labels"])).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for student, own in zip(students, found, strict=True):
        for name, value in student.state_dict().items():
            torch.testing.assert_close(own[name], value, rtol=1e-6, atol=1e-6)


def test_equal_students_have_nothing_to_tell_each_other(tmp_path):
    students = [encoder(1), encoder(1)]
    settings = TrainingConfig(output_dir=tmp_path, device="cpu", progress_bar=False)
    config = DistillationConfig(**{**CONFIG, "hard_label_weight": 0})
    optimizer = torch.optim.SGD([p for student in students for p in student.parameters()], lr=1.0)
    MutualDistiller(settings, config, students, EncoderAdaptor()).train(optimizer, batches(3), num_epochs=1)
    for student in students:
        for name, value in encoder(1).state_dict().items():
            torch.testing.assert_close(student.state_dict()[name], value, rtol=0, atol=1e-6)


def test_without_peers_each_learns_as_if_alone(tmp_path):
    found = trained(mutual(tmp_path / "a", kd_loss_weight=0), batches(3))
    alone = encoder(1, **SIZES[0])
    settings = TrainingConfig(output_dir=tmp_path / "b", device="cpu", progress_bar=False)
    trainer = BasicTrainer(settings, alone, EncoderAdaptor())
    trainer.train(torch.optim.AdamW(alone.parameters(), lr=0.02), batches(3), num_epochs=2)
    for name, value in weights(alone).items():
        torch.testing.assert_close(found[0][name], value)


def test_two_accumulated_batches_are_one_twice_as_large(tmp_path):
    one, other = batch_of(seed=1), batch_of(seed=2)
    whole = {name: torch.cat([one[name], other[name]]) for name in one}
    parts = trained(mutual(tmp_path / "a", train={"gradient_accumulation_steps": 2}), [one, other])
    for found, expected in zip(parts, trained(mutual(tmp_path / "b"), [whole]), strict=True):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


def test_it_goes_on_with_the_same_bits(tmp_path):
    whole = trained(mutual(tmp_path, train={"ckpt_frequency": 2}), batches(4))

    def stop(model, step):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(mutual(tmp_path, train={"ckpt_frequency": 2}), batches(4), callback=stop)
    again = trained(mutual(tmp_path, train={"ckpt_frequency": 2}), batches(4), resume="auto")
    for one, other in zip(whole, again, strict=True):
        assert all(torch.equal(one[name], value) for name, value in other.items())


def test_checkpoints_hold_all_students_and_logs_tell_them_apart(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    distiller = mutual(tmp_path / "out", train={"log_dir": tmp_path / "logs"})
    found = trained(distiller, batches(2), num_epochs=1)
    saved = torch.load(tmp_path / "out" / "gs2.pkl", weights_only=True)
    assert all(torch.equal(saved[f"1.{name}"], value) for name, value in found[1].items())
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    terms = [f"unweighted_{term}_loss_{k}" for term in ("kd", "hard_label") for k in (0, 1)]
    assert set(events.Tags()["scalars"]) == {"scalar/total_loss", *(f"scalar/{term}" for term in terms)}


def test_the_students_modes_come_back(tmp_path):
    distiller = mutual(tmp_path)
    distiller.students[0].eval()
    trained(distiller, batches(1))
    assert [student.training for student in distiller.students] == [False, True]


def test_there_is_no_teacher_to_keep(tmp_path):
    with pytest.raises(UnsupportedError, match="MutualDistiller has no teacher whose outputs could be cached"):
        TeacherCache.in_memory().build(mutual(tmp_path), loader=batches(1))


HIDDEN = {"layer_T": 1, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse"}


@pytest.mark.parametrize(
    ("students", "adaptors", "config", "message"),
    [
        ([encoder(1)], None, {}, "`students`: expected at least two, each another model, got 1 of them"),
        ([encoder(1)] * 2, None, {}, "`students`: expected at least two, each another model, got 2 of them"),
        ([encoder(1), encoder(2)], [None] * 3, {}, "`adaptors`: expected one, or one for each of 2, got 3"),
        (
            [encoder(1), encoder(2)],
            None,
            {"intermediate_matches": [HIDDEN], "balance": "uncertainty"},
            "(?s)2 problems.*`distill_config.intermediate_matches`: expected none.*`distill_config.balance`",
        ),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, students, adaptors, config, message):
    with pytest.raises(ConfigError, match=message):
        MutualDistiller(TrainingConfig(output_dir=tmp_path), DistillationConfig(**config), students, adaptors)
