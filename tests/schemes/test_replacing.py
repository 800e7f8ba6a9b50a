"""Layers of a student inside its teacher: which take part, what is trained, and what is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.tiny import EncoderAdaptor, batch_of, batches, encoder, weights
from textbrewer import BasicTrainer, StudentConfig, TeacherCache, TrainingConfig, build_student
from textbrewer.errors import CheckpointError, ConfigError, MatchError, UnknownNameError, UnsupportedError
from textbrewer.schemes import ReplacingTrainer, theseus
from textbrewer.schemes.replacing import Replacement

WHERE = {"layers_T": "layers", "layers_S": "layers"}


def training(folder, **more):
    return TrainingConfig(output_dir=folder, device="cpu", progress_bar=False, **more)


def models(seed=1):
    """A teacher, and a student that differs from it in its layers alone."""
    teacher, student = encoder(seed, layers=2), encoder(seed, layers=2)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for layer in student.layers:
            layer.weight.normal_(std=0.3)
    return teacher, student


def trainer_of(folder, rate, teacher, student, **train):
    return ReplacingTrainer(training(folder, **train), teacher, student, EncoderAdaptor(), rate=rate, **WHERE)


def sgd(student):
    return torch.optim.SGD(student.parameters(), lr=0.5)


def trained(trainer, loader, **more):
    with trainer:
        trainer.train(sgd(trainer.model_S), loader, **{"num_epochs": 1, **more})
    return weights(trainer.model_S)


def losses_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars("scalar/total_loss")]


def test_with_rate_1_the_student_is_trained_alone(tmp_path):
    teacher, student = models()
    alone = copy.deepcopy(student)
    for name, parameter in alone.named_parameters():
        parameter.requires_grad_(name.startswith("layers"))
    found = trained(trainer_of(tmp_path / "a", 1, teacher, student), batches(4))
    trainer = BasicTrainer(training(tmp_path / "b"), alone, EncoderAdaptor())
    trainer.train(sgd(alone), batches(4), num_epochs=1)
    assert all(torch.equal(found[name], value) for name, value in weights(alone).items())


def test_with_rate_0_it_is_the_teacher_and_nothing_is_trained(tmp_path):
    teacher, student = models()
    before = weights(student)
    trainer = trainer_of(tmp_path / "out", 0.0, teacher, student, log_dir=tmp_path / "logs")
    found = trained(trainer, batches(3))
    with torch.no_grad():
        expected = [float(teacher(**batch)[3]) for batch in batches(3)]
    assert losses_of(tmp_path / "logs") == pytest.approx(expected)
    assert all(torch.equal(found[name], value) for name, value in before.items())


def test_layers_of_another_kind_of_attention_are_refused_with_the_way_out(tmp_path):
    teacher, student = encoder(1, layers=4), encoder(1, layers=2)
    kinds = ["full", "sliding", "sliding", "sliding"]
    for layer, kind in zip([*teacher.layers, *student.layers], [*kinds, "full", "sliding"], strict=True):
        layer.attention_type = kind
    message = (
        r"layer 0 of the student \(full\) for 0 \(full\), 1 \(sliding\) of the teacher; choose `layers=` of "
        "StudentConfig so that they agree"
    )
    with pytest.raises(MatchError, match=message):
        trainer_of(tmp_path, 0.5, teacher, student)
    teacher.layers[1].attention_type = "full"
    trained(trainer_of(tmp_path, 0.5, teacher, student), batches(2))


@pytest.mark.parametrize("own", [[True, False], [False, True]])
def test_a_mixed_pass_and_its_gradient_are_those_of_a_model_put_together(own):
    teacher, student = models()
    mixed = copy.deepcopy(student)
    for place, mine in enumerate(own):
        if not mine:
            mixed.layers[place].load_state_dict(teacher.layers[place].state_dict())
    replacement = Replacement(teacher.layers, student.layers)
    replacement.own = own
    batch = batch_of()
    with replacement.attached():
        found = student(**batch)
    found[3].backward()
    expected = mixed(**batch)
    expected[3].backward()
    assert torch.equal(found[0], expected[0])
    for place, mine in enumerate(own):
        gradient = student.layers[place].weight.grad
        if mine:
            torch.testing.assert_close(gradient, mixed.layers[place].weight.grad)
        else:
            assert gradient is None or not gradient.any()
    assert torch.equal(student(**batch)[0], models()[1](**batch)[0])  # the hooks are gone


def test_only_the_layers_of_the_student_are_trained_and_all_comes_back(tmp_path):
    teacher, student = models()
    teacher.head.weight.requires_grad_(False)
    before_T, before_S = weights(teacher), weights(student)
    wanted = [p.requires_grad for model in (teacher, student) for p in model.parameters()]
    found = trained(trainer_of(tmp_path, 0.5, teacher, student), batches(8))
    changed = {name for name, value in found.items() if not torch.equal(value, before_S[name])}
    assert changed == {f"layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert all(torch.equal(value, before_T[name]) for name, value in weights(teacher).items())
    assert [p.requires_grad for model in (teacher, student) for p in model.parameters()] == wanted
    assert not any(module._forward_hooks for module in student.modules())
    assert all(p.grad is None for p in teacher.parameters())


def test_all_comes_back_when_training_fails(tmp_path):
    teacher, student = models()

    def broken(batch):
        raise RuntimeError("broken loader")

    with pytest.raises(RuntimeError, match="broken loader"):
        trained(trainer_of(tmp_path, 0.5, teacher, student), batches(2), batch_postprocessor=broken)
    assert all(p.requires_grad for model in (teacher, student) for p in model.parameters())
    assert not any(module._forward_hooks for module in student.modules())


def test_each_layer_is_drawn_by_itself_with_the_rate():
    torch.manual_seed(0)
    replacement = Replacement([nn.Identity()] * 4, [nn.Identity()] * 4)
    drawn = []
    for _ in range(2000):
        replacement.draw(0.3)
        drawn.append(replacement.own)
    shares = torch.tensor(drawn).float()
    assert shares.mean(0).tolist() == pytest.approx([0.3] * 4, abs=0.04)
    assert shares.T.corrcoef().fill_diagonal_(0).abs().max() < 0.1


def test_the_rate_may_grow_over_the_run(tmp_path, monkeypatch):
    rates = []
    draw = Replacement.draw
    monkeypatch.setattr(Replacement, "draw", lambda self, rate: (rates.append(rate), draw(self, rate)))
    trained(trainer_of(tmp_path, ["linear", 0.5, 1.25], *models()), batches(6))
    assert rates == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0, 1.0])  # no more than 1


def test_a_callback_sees_the_student_alone(tmp_path):
    teacher, student = models()
    batch, seen = batch_of(), []

    def callback(model, step):
        model.eval()
        with torch.no_grad():
            copied = encoder(1, layers=2)
            copied.load_state_dict(model.state_dict())
            seen.append(torch.equal(model(**batch)[0], copied(**batch)[0]))

    trained(trainer_of(tmp_path, 0.0, teacher, student), batches(2), callback=callback)
    assert seen == [True]


def test_it_goes_on_with_the_same_bits(tmp_path):
    def trainer():
        return trainer_of(tmp_path, ["linear", 0.2, 1], *models(), ckpt_frequency=3)

    torch.manual_seed(0)
    whole = trained(trainer(), batches(6))

    def stop(model, step):
        if step == 4:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        trained(trainer(), batches(6), callback=stop)
    torch.manual_seed(99)
    again = trained(trainer(), batches(6), resume="auto")
    assert all(torch.equal(whole[name], value) for name, value in again.items())


def bert(layers, width=16):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    sizes = {"hidden_size": width, "intermediate_size": 32, "vocab_size": 50, "num_attention_heads": 2}
    config = transformers.BertConfig(num_hidden_layers=layers, num_labels=3, **sizes)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config, name, 0.0)
    torch.manual_seed(layers)
    return transformers.BertForSequenceClassification(config)


def test_a_layer_stands_for_several_of_a_transformers_teacher(tmp_path):
    """As the scheme: first inside the teacher, then alone."""
    teacher = bert(4)
    student = build_student(teacher, StudentConfig(num_layers=2))
    rate0 = ReplacingTrainer(training(tmp_path / "0", log_dir=tmp_path / "logs"), teacher, student, rate=0)
    trained(rate0, batches(2))
    with torch.no_grad():
        expected = [float(teacher.eval()(**batch).loss) for batch in batches(2)]
    assert losses_of(tmp_path / "logs") == pytest.approx(expected)

    before = weights(student)
    stages = theseus(training(tmp_path / "both"), teacher, student, fine_tuning={"num_epochs": 2})
    first, second = stages.train(sgd, batches(2), num_epochs=1)
    assert first is second is student
    saved = torch.load(tmp_path / "both" / "replacing" / "gs2.pkl", weights_only=True)
    assert {n for n in before if not torch.equal(before[n], saved[n])} <= {n for n in before if ".layer." in n}
    assert not torch.equal(saved["classifier.weight"], student.classifier.weight)
    assert (tmp_path / "both" / "fine-tuning" / "gs4.pkl").exists()


def test_other_widths_are_told(tmp_path):
    message = "theseus: width 16 of the teacher and 8 of the student, whose layers stand for each other; both must be"
    with pytest.raises(MatchError, match=message):
        ReplacingTrainer(training(tmp_path), bert(4), bert(2, width=8))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda c: ReplacingTrainer(c, *models(), rate=1.5, **WHERE),
            ConfigError,
            "`rate`: expected a number from 0 to",
        ),
        (lambda c: ReplacingTrainer(c, *models(), rate="linaer", **WHERE), UnknownNameError, "did you mean 'linear'?"),
        (
            lambda c: ReplacingTrainer(c, *models()),
            MatchError,
            r"theseus: the layers are not found in Encoder; give layers_T as one of \['layers'\]",
        ),
        (
            lambda c: ReplacingTrainer(c, *models(), layers_T="layers", layers_S="head"),
            MatchError,
            r"theseus: 'head' is no list of layers in Encoder; give layers_S as one of \['layers'\]",
        ),
        (
            lambda c: ReplacingTrainer(c, encoder(1, layers=3), encoder(2), **WHERE),
            MatchError,
            "theseus: 3 layers of the teacher and 2 of the student; the teacher's must be a multiple",
        ),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, build, error, message):
    with pytest.raises(error, match=message):
        build(training(tmp_path))


def test_there_are_no_teacher_outputs_to_keep(tmp_path):
    with pytest.raises(UnsupportedError, match="ReplacingTrainer has no teacher whose outputs could be cached"):
        TeacherCache.in_memory().build(trainer_of(tmp_path, 0.5, *models()), loader=batches(1))


def test_stages_of_another_rate_are_refused(tmp_path):
    teacher, student = models()
    theseus(training(tmp_path), teacher, student, EncoderAdaptor(), rate=0.3, **WHERE).train(
        sgd, batches(2), num_epochs=1
    )
    again = theseus(training(tmp_path), teacher, models()[1], EncoderAdaptor(), rate=0.9, **WHERE)
    with pytest.raises(CheckpointError, match="rate"):
        again.train(sgd, batches(2), num_epochs=1, resume="auto")
