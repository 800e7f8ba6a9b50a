"""Students that become teachers: who is taught by whom, against runs by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.tiny import EncoderAdaptor, batches, encoder, weights
from textbrewer import BasicDistiller, DistillationConfig, TrainingConfig
from textbrewer.errors import ConfigError
from textbrewer.schemes import born_again, teacher_assistants

CONFIG = DistillationConfig(temperature=2, kd_loss_type="kl")


def training(folder):
    return TrainingConfig(output_dir=folder, device="cpu", progress_bar=False)


def sgd(student):
    return torch.optim.SGD(student.parameters(), lr=0.3, momentum=0.9)


def taught(folder, teacher, student, config=CONFIG, loader=None):
    adaptor = EncoderAdaptor()
    distiller = BasicDistiller(training(folder), config, teacher, student, adaptor, adaptor)
    with distiller:
        distiller.train(sgd(student), loader or batches(4), num_epochs=1)
    return student


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_each_assistant_teaches_the_next(tmp_path):
    teacher, sizes = encoder(1, width=12, layers=3), [{"width": 10}, {"width": 8}, {"width": 6, "layers": 1}]
    students = [encoder(2 + i, **size) for i, size in enumerate(sizes)]
    stages = teacher_assistants(training(tmp_path / "chain"), CONFIG, teacher, students, EncoderAdaptor())
    assert [stage.name for stage in stages.stages] == ["assistant-1", "assistant-2", "student"]
    found = stages.train(sgd, batches(4), num_epochs=1)
    assert found == students
    for i, size in enumerate(sizes):
        teacher = taught(tmp_path / str(i), teacher, encoder(2 + i, **size))
        assert same(weights(teacher), weights(found[i]))


def test_assistants_may_have_configs_and_adaptors_of_their_own(tmp_path):

    calls = []

    class Noting(EncoderAdaptor):
        def __init__(self, name):
            self.name = name

        def __call__(self, batch, outputs):
            calls.append(self.name)
            return super().__call__(batch, outputs)

    configs = [CONFIG, DistillationConfig(hard_label_weight=1)]
    adaptors = [Noting(name) for name in "TAS"]
    students = [encoder(2), encoder(3)]
    teacher_assistants(training(tmp_path), configs, encoder(1), students, adaptors).train(sgd, batches(1), num_epochs=1)
    assert calls == ["A", "T", "S", "A"]


def test_generations_are_new_students_of_the_one_before(tmp_path):
    built = []

    def build(teacher):
        built.append(teacher)
        return encoder(10 + len(built))

    teacher = encoder(1)
    stages = born_again(training(tmp_path / "ban"), CONFIG, teacher, build, 3, EncoderAdaptor())
    found = stages.train(sgd, batches(4), num_epochs=1)
    assert built == [teacher, *found[:-1]]
    for i in range(3):
        teacher = taught(tmp_path / str(i), teacher, encoder(11 + i))
        assert same(weights(teacher), weights(found[i]))


def test_self_distillation_begins_as_its_teacher(tmp_path):
    """Which stays as it was: the gradient of a divergence from itself is zero, and the labels move the student."""
    teacher = encoder(1)
    before = weights(teacher)
    alone = born_again(training(tmp_path / "a"), CONFIG, teacher, copy.deepcopy, 1, EncoderAdaptor())
    (found,) = alone.train(sgd, batches(1), num_epochs=1)
    for name, value in weights(found).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
    labelled = DistillationConfig(kd_loss_type="kl", hard_label_weight=1)
    moved = born_again(training(tmp_path / "b"), labelled, teacher, copy.deepcopy, 1, EncoderAdaptor())
    (found,) = moved.train(sgd, batches(1), num_epochs=1)
    assert not same(weights(found), before) and same(weights(teacher), before)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6])
def test_generations_go_on_with_the_same_bits(tmp_path, stop_at):
    """Students are drawn anew, in a run that goes on too."""

    def build(teacher):
        drawn = encoder(2)
        with torch.no_grad():
            drawn.head.weight.normal_()
        return drawn

    def run(folder, callback=None, resume=None):
        torch.manual_seed(0 if resume is None else 99)
        config = TrainingConfig(output_dir=folder, device="cpu", progress_bar=False, ckpt_frequency=2)
        stages = born_again(config, CONFIG, encoder(1), build, 3, EncoderAdaptor())
        return [weights(s) for s in stages.train(sgd, batches(4), num_epochs=1, callback=callback, resume=resume)]

    calls = 0

    def stop(model, step):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop)
    again = run(tmp_path / "stopped", resume="auto")
    assert all(same(one, other) for one, other in zip(whole, again, strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda c: teacher_assistants(c, CONFIG, encoder(1), []), "`students`: expected at least one, got none"),
        (
            lambda c: teacher_assistants(c, [CONFIG] * 3, encoder(1), [encoder(2)] * 2, [None] * 2),
            "(?s)2 problems.*`distill_config`: expected one, or one for each of 2, got 3.*`adaptors`: .*, got 2",
        ),
        (
            lambda c: born_again(c, CONFIG, encoder(1), encoder(2), 0),
            "(?s)2 problems.*`generations`: expected at least 1, got 0.*a function of its teacher, got Encoder; write",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_told(tmp_path, build, message):
    with pytest.raises(ConfigError, match=message):
        build(training(tmp_path))
