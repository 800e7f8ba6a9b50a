"""Distillers as users use them: what is learned, what is left alone, and what bad input gets."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch

from tests.tiny import EncoderAdaptor, batch_of, batches, encoder, weights
from textbrewer import BasicDistiller, BasicTrainer, DistillationConfig, GeneralDistiller, TrainingConfig
from textbrewer.errors import AdaptorError, ConfigError, DataError, MatchError, NonFiniteLossError

HIDDEN = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}


def distiller_of(tmp_path, distill: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **parts: Any):
    settings = {"output_dir": str(tmp_path / "out"), "progress_bar": False, "device": "cpu", **(train or {})}
    parts = {"model_T": encoder(1, layers=3), "model_S": encoder(2), **parts}
    parts = {"adaptor_T": EncoderAdaptor(), "adaptor_S": EncoderAdaptor(), **parts}
    kind = parts.pop("kind", GeneralDistiller)
    return kind(TrainingConfig(**settings), DistillationConfig(**(distill or {})), **parts)


def sgd(distiller, lr=0.5):
    return torch.optim.SGD(distiller.model_S.parameters(), lr=lr)


def test_the_student_approaches_the_teacher(tmp_path):
    distiller = distiller_of(tmp_path, {"temperature": 1, "intermediate_matches": [HIDDEN]})
    batch = batch_of(labels=False)

    def distance():
        with torch.no_grad():
            return (distiller.model_S(**batch)[0].softmax(-1) - distiller.model_T(**batch)[0].softmax(-1)).norm()

    before = distance()
    with distiller:
        distiller.train(sgd(distiller), [batch] * 40, num_epochs=1)
    assert distance() < 0.3 * before


def test_the_teacher_is_left_as_it_was(tmp_path):
    distiller = distiller_of(tmp_path)
    teacher = distiller.model_T
    teacher.train()
    teacher.head.eval()
    teacher.embedding.weight.requires_grad_(False)
    before, requires = weights(teacher), [p.requires_grad for p in teacher.parameters()]
    seen = []
    teacher.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    with distiller:
        assert not teacher.training
        distiller.train(sgd(distiller), batches(2), num_epochs=1)
    assert seen == [(False, False)] * 2
    assert teacher.training and not teacher.head.training
    assert [p.requires_grad for p in teacher.parameters()] == requires
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert "forward" not in vars(teacher)


def test_modes_are_restored_when_training_fails(tmp_path):
    distiller = distiller_of(tmp_path)
    distiller.model_S.eval()
    distiller.model_T.train()

    def broken(batch):
        raise RuntimeError("broken loader")

    with pytest.raises(RuntimeError, match="broken loader"), distiller:
        distiller.train(sgd(distiller), batches(2), num_epochs=1, batch_postprocessor=broken)
    assert distiller.model_T.training
    assert not distiller.model_S.training
    assert not any(module.training for module in distiller.model_S.modules())


def test_projections_are_trained_and_leave_the_optimiser(tmp_path):
    match = {**HIDDEN, "layer_T": 1, "proj": ["linear", 8, 12, {"lr": 0.25}]}
    distiller = distiller_of(tmp_path, {"intermediate_matches": [match]}, model_T=encoder(1, width=12))
    before = weights(distiller.projections)
    optimizer = sgd(distiller)
    rates = []
    with distiller:
        distiller.train(
            optimizer,
            batches(3),
            num_epochs=1,
            callback=lambda model, step: rates.extend(group["lr"] for group in optimizer.param_groups),
        )
    assert rates == [0.5, 0.25]
    assert len(optimizer.param_groups) == 1
    assert not torch.equal(before["0.weight"], distiller.projections[0].weight)


def test_a_scheduler_built_by_the_user_does_not_see_the_projections(tmp_path):
    match = {**HIDDEN, "layer_T": 1, "proj": ["linear", 8, 12, {"lr": 0.25}]}
    distiller = distiller_of(tmp_path, {"intermediate_matches": [match]}, model_T=encoder(1, width=12))
    optimizer = sgd(distiller)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    distiller.train(optimizer, batches(3), num_epochs=1, scheduler=scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5 * 0.5**3]


def test_schedulers_step_once_an_optimiser_step(tmp_path):
    distiller = distiller_of(tmp_path, train={"gradient_accumulation_steps": 2})
    optimizer = sgd(distiller)
    distiller.train(
        optimizer,
        batches(6),
        num_epochs=1,
        scheduler_class=torch.optim.lr_scheduler.ExponentialLR,
        scheduler_args={"gamma": 0.1},
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 0.1**3)


def test_checkpoints_are_state_dicts_and_the_callback_follows_them(tmp_path):
    distiller = distiller_of(tmp_path, train={"ckpt_frequency": 2})
    calls = []

    def callback(model, step):
        saved = torch.load(tmp_path / "out" / f"gs{step}.pkl", weights_only=True)
        assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
        model.eval()
        calls.append(step)

    modes = []
    distiller.model_S.register_forward_hook(lambda module, *_: modes.append(module.training))
    with distiller:
        distiller.train(sgd(distiller), batches(4), num_epochs=2, callback=callback)
    assert calls == [2, 4, 6, 8]
    assert all(modes)
    assert sorted(path.name for path in (tmp_path / "out").glob("gs*")) == ["gs2.pkl", "gs4.pkl", "gs6.pkl", "gs8.pkl"]


def test_constructing_touches_no_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    distiller_of(tmp_path)
    TrainingConfig(output_dir="somewhere", log_dir="elsewhere")
    assert os.listdir(tmp_path) == []


def test_tensorboard_has_the_total_and_every_term(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    gram = {"layer_T": [0, 1], "layer_S": [0, 1], "feature": "hidden", "loss": "gram", "weight": 1}
    config = {"hard_label_weight": 0.5, "intermediate_matches": [HIDDEN, gram]}
    log_dir = str(tmp_path / "logs")
    distiller = distiller_of(tmp_path, config, {"log_dir": log_dir, "gradient_accumulation_steps": 2})
    distiller.train(sgd(distiller), batches(4), num_epochs=1)
    events = EventAccumulator(log_dir)
    events.Reload()
    values = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert set(values) == {
        "scalar/total_loss",
        "scalar/unweighted_kd_loss",
        "scalar/unweighted_hard_label_loss",
        "scalar/unweighted_hidden_hidden_mse_1_2",
        "scalar/unweighted_hidden_gram_0-1_0-1",
    }
    total = values.pop("scalar/total_loss")
    hard = values.pop("scalar/unweighted_hard_label_loss")
    expected = [sum(terms) + 0.5 * h for h, *terms in zip(hard, *values.values(), strict=True)]
    assert len(total) == 4
    assert total == pytest.approx(expected, rel=1e-5)


def test_two_precisions_in_one_process(tmp_path):
    dtypes = []
    for precision in ("bf16", "fp32", "bf16"):
        distiller = distiller_of(tmp_path, train={"precision": precision})
        handle = distiller.model_S.register_forward_hook(lambda *args: dtypes.append(args[-1][0].dtype))
        distiller.train(sgd(distiller), batches(1), num_epochs=1)
        handle.remove()
        assert "forward" not in vars(distiller.model_S)
        assert all(p.dtype == torch.float32 for p in distiller.model_S.parameters())
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_fp16_means_native_mixed_precision(tmp_path):
    distiller = distiller_of(tmp_path, train={"fp16": True, "fp16_opt_level": "O2"})
    before = weights(distiller.model_S)
    distiller.train(sgd(distiller, 0.01), batches(2), num_epochs=1, max_grad_norm=1.0)
    assert any(not torch.equal(before[name], value) for name, value in distiller.model_S.state_dict().items())
    assert all(torch.isfinite(value).all() for value in distiller.model_S.state_dict().values())


def test_separate_batches_and_cached_outputs(tmp_path):
    plain, separate, cached = (distiller_of(tmp_path) for _ in range(3))
    loader = batches(3)
    plain.train(sgd(plain), loader, num_epochs=1)
    separate.train(sgd(separate), [{"teacher": b, "student": b} for b in loader], num_epochs=1)

    def refuse(*_):
        pytest.fail("the teacher ran although its outputs were in the batch")

    with torch.no_grad():
        outputs = [cached.model_T(**batch) for batch in loader]
    cached.model_T.register_forward_pre_hook(refuse)
    fed = [{"teacher": b, "student": b, "teacher_cache": o} for b, o in zip(loader, outputs, strict=True)]
    cached.train(sgd(cached), fed, num_epochs=1)
    for other in (separate, cached):
        for name, value in plain.model_S.state_dict().items():
            assert torch.equal(value, other.model_S.state_dict()[name])


def test_extra_keywords_reach_both_models(tmp_path):
    distiller = distiller_of(tmp_path)
    seen = []
    for model in (distiller.model_T, distiller.model_S):
        model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["scale"]), with_kwargs=True)
    distiller.train(sgd(distiller), batches(1), num_epochs=1, scale=2.0)
    assert seen == [2.0, 2.0]


def test_num_steps_cycles_the_loader(tmp_path):
    distiller = distiller_of(tmp_path, train={"ckpt_steps": 3})
    distiller.train(sgd(distiller), iter_once_a_time(batches(2)), num_steps=7)
    assert sorted(path.name for path in (tmp_path / "out").glob("gs*")) == ["gs3.pkl", "gs6.pkl", "gs7.pkl"]


def iter_once_a_time(items):
    class NoLength:
        def __iter__(self):
            return iter(items)

    return NoLength()


def test_scheduled_weights_replace_the_configured_one(tmp_path):
    values = []

    def kd(logits_S, logits_T, temperature):
        return (logits_S * 0).sum() + 1.0

    config = {"kd_loss_type": kd, "kd_loss_weight": 5, "kd_loss_weight_scheduler": lambda x: 10 * x}
    distiller = distiller_of(tmp_path, config, {"log_dir": str(tmp_path / "logs")})
    distiller.train(sgd(distiller), batches(4, labels=False), num_epochs=1)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    values = [event.value for event in events.Scalars("scalar/total_loss")]
    assert values == pytest.approx([5, 2.5, 5, 7.5])


def test_the_basic_trainer_lowers_its_loss(tmp_path):
    model = encoder(3)
    batch = batch_of()
    before = model(**batch)[3].item()
    trainer = BasicTrainer(TrainingConfig(output_dir=str(tmp_path), progress_bar=False), model, EncoderAdaptor())
    with trainer:
        trainer.train(torch.optim.SGD(model.parameters(), lr=0.5), [batch] * 20, num_epochs=1)
    assert model(**batch)[3].item() < 0.5 * before


def test_basic_says_that_matches_are_not_used(tmp_path):
    with pytest.warns(UserWarning, match="GeneralDistiller"):
        distiller_of(tmp_path, {"intermediate_matches": [HIDDEN]}, kind=BasicDistiller)


class Without(EncoderAdaptor):
    """Leaves some keys out, as in TextBrewer's multi-stage training."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def __call__(self, batch, outputs):
        return {key: value for key, value in super().__call__(batch, outputs).items() if key not in self.keys}


def test_a_missing_optional_input_is_said_once(tmp_path):
    distiller = distiller_of(tmp_path, {"intermediate_matches": [HIDDEN]}, adaptor_S=Without("logits"))
    with pytest.warns(UserWarning, match="unweighted_kd_loss is off") as record:
        distiller.train(sgd(distiller), batches(3), num_epochs=1)
    assert len([warning for warning in record if "is off" in str(warning.message)]) == 1


BAD = {
    "layer out of range": (
        {"intermediate_matches": [{**HIDDEN, "layer_T": 9}]},
        {},
        MatchError,
        r"layer_T=9, but adaptor_T gave 4 hidden layers \(0\.\.3\)",
    ),
    "widths differ": (
        {"intermediate_matches": [HIDDEN]},
        {"model_T": encoder(1, width=12)},
        MatchError,
        r"hidden_hidden_mse_1_2.*\[4, 6, 12\].*\[4, 6, 8\].*proj=\['linear', 8, 12\]",
    ),
    "projection of another width": (
        {"intermediate_matches": [{**HIDDEN, "proj": ["linear", 7, 8]}]},
        {},
        MatchError,
        r"takes width 7.*\[4, 6, 8\].*'linear', 8, 8",
    ),
    "an adaptor that lacks hidden": (
        {"intermediate_matches": [HIDDEN]},
        {"adaptor_S": Without("hidden")},
        AdaptorError,
        r"adaptor_S gave .*no 'hidden'",
    ),
    "different classes": ({}, {"model_T": encoder(1, classes=5)}, MatchError, "3.*5"),
    "no dict": ({}, {"adaptor_T": lambda batch, outputs: outputs[0]}, AdaptorError, "must return a dict"),
    "no tensors": ({}, {"adaptor_T": lambda batch, outputs: {"logits": 3}}, AdaptorError, "logits with a int"),
    "nothing to learn": ({}, {"adaptor_S": lambda batch, outputs: {}}, AdaptorError, "nothing to learn from"),
    "mask of the wrong shape": (
        {"intermediate_matches": [HIDDEN]},
        {"adaptor_S": lambda b, o: {"hidden": o[1], "logits": o[0], "inputs_mask": torch.ones(4, 5)}},
        MatchError,
        r"hidden_hidden_mse_1_2.*\[4, 5\]",
    ),
    "probability shift without labels": (
        {"probability_shift": True},
        {"adaptor_S": Without("labels"), "adaptor_T": Without("labels")},
        AdaptorError,
        "needs labels",
    ),
}


@pytest.mark.parametrize(("distill", "parts", "error", "message"), BAD.values(), ids=list(BAD))
@pytest.mark.filterwarnings("ignore:.* is off in this run")
def test_bad_inputs_give_one_clear_error(tmp_path, distill, parts, error, message):
    distiller = distiller_of(tmp_path, distill, **{name: copy.deepcopy(part) for name, part in parts.items()})
    before = weights(distiller.model_S)
    with pytest.raises(error, match=f"(?s){message}"):
        distiller.train(sgd(distiller), batches(2), num_epochs=1)
    assert all(torch.equal(before[name], value) for name, value in distiller.model_S.state_dict().items())


@pytest.mark.parametrize(
    ("loader", "train", "arguments", "message"),
    [
        ([], {}, {"num_epochs": 1}, "empty"),
        ([], {}, {"num_steps": 1}, "empty"),
        (iter([]), {}, {"num_steps": 1}, "empty"),
        (batches(2), {"gradient_accumulation_steps": 3}, {"num_epochs": 1}, "fewer than gradient_accumulation_steps=3"),
        (iter_once_a_time(batches(2)), {}, {"num_epochs": 1}, "num_steps"),
        (batches(2), {}, {}, "num_epochs or num_steps"),
        (batches(2), {}, {"num_epochs": 0}, "num_epochs >= 1"),
    ],
)
def test_loaders_that_cannot_be_trained_on(tmp_path, loader, train, arguments, message):
    distiller = distiller_of(tmp_path, train=train)
    with pytest.raises(DataError, match=message):
        distiller.train(sgd(distiller), loader, **arguments)


def test_non_finite_losses_stop_before_the_weights_change(tmp_path):
    distiller = distiller_of(tmp_path)
    with torch.no_grad():
        distiller.model_T.head.bias[0] = float("nan")
    before = weights(distiller.model_S)
    with pytest.raises(NonFiniteLossError, match=r"optimiser step 1: .*unweighted_kd_loss"):
        distiller.train(sgd(distiller), batches(2), num_epochs=1)
    assert all(torch.equal(before[name], value) for name, value in distiller.model_S.state_dict().items())


def test_an_optimiser_of_other_parameters_is_said(tmp_path):
    distiller = distiller_of(tmp_path)
    other = torch.optim.SGD(encoder(5).parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="holds none of the student's parameters"):
        distiller.train(other, batches(1), num_epochs=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(tmp_path):
    distiller = distiller_of(tmp_path, train={"device": "cuda"})
    with pytest.raises(ConfigError, match="use device='auto'"):
        distiller.train(sgd(distiller), batches(1), num_epochs=1)


def test_a_left_over_accumulation_is_dropped_or_kept(tmp_path):
    for keep, steps in ((False, 2), (True, 3)):
        train = {
            "gradient_accumulation_steps": 2,
            "keep_last_accumulation": keep,
            "output_dir": str(tmp_path / str(keep)),
        }
        distiller = distiller_of(tmp_path, train=train)
        distiller.train(sgd(distiller), batches(5), num_epochs=1)
        assert [path.name for path in (tmp_path / str(keep)).glob("gs*")] == [f"gs{steps}.pkl"]
