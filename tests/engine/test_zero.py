"""What is handed to DeepSpeed and taken back; a stand-in does in one process what it does in several.

``tests/integration/test_zero_ranks.py`` has the real one, where it is installed.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.tiny import EncoderAdaptor, batches, encoder, weights
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from textbrewer.errors import CheckpointError, ConfigError, MissingDependencyError, NonFiniteLossError, UnsupportedError

HIDDEN = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid", "proj": ["linear", 8, 12]}


class Cut:
    """Stands for DeepSpeed's optimiser: each group is one vector, which weights are views of."""

    def __init__(self, optimizer, clip):
        self.optimizer, self.clip, self.groups, self.overflow = optimizer, clip, [], False
        for group in optimizer.param_groups:
            own = group["params"]
            flat = torch.cat([parameter.data.flatten() for parameter in own])
            views = flat.split([parameter.numel() for parameter in own])
            for parameter, view in zip(own, views, strict=True):
                parameter.data, parameter.is_cut = view.view_as(parameter), True
            group["params"] = [flat.clone().requires_grad_()]
            self.groups.append((own, flat))

    @property
    def parts(self):
        return [group["params"][0] for group in self.optimizer.param_groups]

    def step(self):
        for part, (own, _) in zip(self.parts, self.groups, strict=True):
            part.grad = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in own])
        self.overflow = not all(part.grad.isfinite().all() for part in self.parts)
        if self.overflow:
            return
        if self.clip > 0:
            nn.utils.clip_grad_norm_(self.parts, self.clip)
        self.optimizer.step()
        for part, (_, flat) in zip(self.parts, self.groups, strict=True):
            flat.copy_(part.detach())
        self.zero_grad()

    def zero_grad(self):
        for own, _ in self.groups:
            for parameter in own:
                parameter.grad = None

    def refresh_fp32_params(self):
        for part, (_, flat) in zip(self.parts, self.groups, strict=True):
            part.data.copy_(flat)


class Engine:
    """Stands for DeepSpeed's engine, and keeps what is asked of it."""

    def __init__(self, model, optimizer, config):
        self.model, self.config, self.calls = model, config, []
        self.optimizer = Cut(optimizer, config["gradient_clipping"])

    def __call__(self, *args):
        return self.model(*args)

    def set_gradient_accumulation_boundary(self, is_boundary):
        self.calls.append("last" if is_boundary else "more")

    def backward(self, loss, scale_wrt_gas=True):
        assert not scale_wrt_gas
        self.calls.append("backward")
        loss.backward()

    def step(self):
        self.calls.append("step")
        self.optimizer.step()

    def destroy(self):
        self.calls.append("destroy")


@pytest.fixture
def engines(monkeypatch):
    """Those that were made, by a launch with a config for DeepSpeed."""
    made = []

    def initialize(model, optimizer, config):
        made.append(Engine(model, optimizer, config))
        return made[-1], optimizer, None, None

    deepspeed = ModuleType("deepspeed")
    deepspeed.__spec__ = ModuleSpec("deepspeed", None)
    deepspeed.initialize = initialize
    monkeypatch.setitem(sys.modules, "deepspeed", deepspeed)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    return made


def distiller_of(folder, **train):
    torch.manual_seed(3)
    settings = {"gradient_accumulation_steps": 2, "device": "cpu", "progress_bar": False, **train}
    config = DistillationConfig(kd_loss_type="kl", hard_label_weight=0.5, intermediate_matches=[HIDDEN])
    models = encoder(1, width=12), encoder(2, layers=1)
    return GeneralDistiller(
        TrainingConfig(output_dir=str(folder), **settings), config, *models, *[EncoderAdaptor()] * 2
    )


def learned(distiller, optimizer=None, epochs=2, **how):
    student = distiller.model_S
    optimizer = optimizer or torch.optim.AdamW(student.parameters(), lr=0.01)
    with distiller:
        distiller.train(
            optimizer,
            batches(4),
            num_epochs=epochs,
            scheduler_class=torch.optim.lr_scheduler.StepLR,
            scheduler_args={"step_size": 1, "gamma": 0.5},
            **how,
        )
    return {**weights(student), **{f"proj.{key}": value for key, value in weights(distiller.projections).items()}}


def test_a_run_is_what_it_is_without(tmp_path, engines, monkeypatch):
    found = learned(distiller_of(tmp_path))
    (engine,) = engines
    assert engine.calls == ["more", "backward", "last", "backward", "step"] * 4 + ["destroy"]
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    expected = learned(distiller_of(tmp_path))
    assert len(engines) == 1
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)


def test_the_config_is_accelerates_with_what_the_run_says(tmp_path, engines, monkeypatch):
    file = {
        "zero_optimization": {"stage": 1, "reduce_bucket_size": "auto"},
        "gradient_clipping": "auto",
        "own": {"a": 3},
    }
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", json.dumps(file | {"train_batch_size": 64}))
    learned(distiller_of(tmp_path), max_grad_norm=0.5)
    assert engines[0].config == {
        "zero_optimization": {"stage": 1},
        "own": {"a": 3},
        "steps_per_print": float("inf"),
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


class Fails:
    def __iter__(self):
        yield from batches(2)
        raise OSError("the disk is gone")

    def __len__(self):
        return 4


@pytest.mark.parametrize("fails", [False, True])
def test_models_and_optimiser_come_back_as_they_were(tmp_path, engines, fails):
    distiller = distiller_of(tmp_path)
    student = distiller.model_S
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    student(**batches(1)[0])[3].backward()
    optimizer.step()
    known = {parameter: dict(state) for parameter, state in optimizer.state.items()}
    before = weights(student)
    with distiller:
        if fails:
            with pytest.raises(OSError, match="the disk is gone"):
                distiller.train(optimizer, Fails(), num_epochs=1)
        else:
            distiller.train(optimizer, batches(4), num_epochs=1)
    assert any(not torch.equal(before[name], value) for name, value in student.state_dict().items())
    (group,) = optimizer.param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in student.parameters()]
    assert optimizer.state.keys() == known.keys()
    for parameter, state in known.items():
        assert all(optimizer.state[parameter][name] is value for name, value in state.items())
    for parameter in [*student.parameters(), *distiller.projections.parameters()]:
        assert vars(parameter) == {} and parameter.grad is None
        assert parameter.untyped_storage().nbytes() == parameter.nbytes
    assert engines[0].calls[-1] == "destroy"


def test_a_run_is_gone_on_from_with_the_same_bits(tmp_path, engines, monkeypatch):
    expected = learned(distiller_of(tmp_path / "whole"))
    learned(distiller_of(tmp_path / "parts"), epochs=1)
    found = learned(distiller_of(tmp_path / "parts"), resume="auto")
    assert engines[-1].calls.count("step") == 2
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    saved = torch.load(tmp_path / "parts" / "gs4.pkl", weights_only=True)
    assert all(torch.equal(value, expected[key]) for key, value in saved.items())
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    with pytest.raises(CheckpointError, match="optimizer: AdamW, spread by DeepSpeed"):
        learned(distiller_of(tmp_path / "parts"), epochs=3, resume="auto")


def test_gradients_that_are_not_finite_end_the_run_with_the_weights_of_before(tmp_path, engines):
    distiller = distiller_of(tmp_path)
    before = weights(distiller.model_S)
    handle = distiller.model_S.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(
        NonFiniteLossError, match="optimiser step 1: the gradients are not finite, and DeepSpeed took no"
    ):
        learned(distiller)
    handle.remove()
    assert all(torch.equal(before[name], value) for name, value in distiller.model_S.state_dict().items())


def test_what_does_not_go_together_is_told_at_once(tmp_path, engines, monkeypatch):
    file = {
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW"},
        "gradient_clipping": 2.0,
        "gradient_accumulation_steps": 8,
    }
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", json.dumps(file))
    with pytest.raises(ConfigError) as raised:
        learned(distiller_of(tmp_path, precision="fp16", on_nonfinite="skip"), max_grad_norm=1.0)
    assert str(raised.value).splitlines() == [
        "DeepSpeed: 7 problems",
        "  `zero_optimization.stage`: expected 1 or 2, got 3; start without DeepSpeed: textbrewer.shard(model) spreads "
        "weights too",
        "  `bf16`: expected none, got enabled; give TrainingConfig precision='bf16' instead",
        "  `optimizer`: expected none, got a section of the file; give them to train(...)",
        "  `gradient_clipping`: expected train's max_grad_norm=1.0, got 2.0; let both agree",
        "  `gradient_accumulation_steps`: expected TrainingConfig's 2, got 8; let both agree",
        "  `precision`: expected 'fp32' or 'bf16', got 'fp16'; use 'bf16'",
        "  `on_nonfinite`: expected 'stop', got 'skip'; steps are DeepSpeed's",
    ]
    assert not engines


def test_another_optimiser_in_the_place_of_the_users_is_refused(tmp_path, engines, monkeypatch):
    def takes_its_own(self, model, optimizer, config):
        init(self, model, optimizer, config)
        self.optimizer.optimizer = torch.optim.Adagrad(self.optimizer.parts)

    init = Engine.__init__
    monkeypatch.setattr(Engine, "__init__", takes_its_own)
    with pytest.raises(UnsupportedError, match="in the place of AdamW, which no scheduler would reach"):
        learned(distiller_of(tmp_path))


def test_without_deepspeed_it_is_told_what_to_install(tmp_path, engines, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MissingDependencyError, match=r"config for DeepSpeed needs .* 'textbrewer-next\[deepspeed\]'"):
        learned(distiller_of(tmp_path))
