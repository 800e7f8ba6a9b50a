"""ZeRO by DeepSpeed, as Accelerate's config asks for it: an optimiser's state and gradients spread over the processes.

Weights stay whole in every process (stages 1 and 2), so that whatever reads the student reads it as ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..configs import TrainingConfig
from ..errors import ConfigError, MissingDependencyError, NonFiniteLossError, Problem, UnsupportedError
from ..ranks import Ranks
from ..types import LossReport
from .checkpoint import RunState
from .devices import Placement
from .replicas import ReplicatedStep
from .sharding import is_sharded


def is_asked_for() -> bool:
    """Whether ``accelerate launch`` was given a config for DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


class Zero:
    """DeepSpeed's engine, in the place of a replica of the step and of PyTorch's backward passes and optimiser steps.

    Args:
        engine: what ``deepspeed.initialize`` made of :class:`_Told`.
        state: of the run.
    """

    def __init__(self, engine: Any, state: RunState) -> None:
        self.engine, self.state = engine, state

    def __call__(self, batch: Any, share: Any) -> LossReport:
        report: LossReport
        total, report = self.engine(batch, share)
        return replace(report, total=total)

    def no_sync(self) -> AbstractContextManager[Any]:
        """Of a replica; here :meth:`backward` says when gradients travel."""
        return nullcontext()

    def backward(self, total: Tensor, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        # The parts of a window are weighed by the objective.
        self.engine.backward(total, scale_wrt_gas=False)

    def norm(self) -> Tensor | None:
        """None: DeepSpeed's step clips, and tells no norm before."""
        return None

    def take(self, norm: Tensor | None) -> None:
        """As of :class:`~textbrewer.engine.updates.Updates`.

        Raises:
            NonFiniteLossError: the gradients are not finite, so that DeepSpeed took no step.
        """
        self.engine.step()
        if self.engine.optimizer.overflow:
            raise NonFiniteLossError(
                f"optimiser step {self.state.step + 1}: the gradients are not finite, and DeepSpeed took no step; "
                "lower the learning rate, or clip with max_grad_norm"
            )


class SpreadOptimizer:
    """The user's optimiser, which has in each process a part of each group of weights, laid end to end.

    Args:
        zero: what DeepSpeed put around it.
        ranks: the processes.
    """

    def __init__(self, zero: Any, ranks: Ranks) -> None:
        self.zero, self.ranks = zero, ranks

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.zero.optimizer.param_groups
        return groups

    def zero_grad(self) -> None:
        self.zero.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The state; what is spread over the processes is told as such, to be put together by all of them."""
        state: dict[str, Any] = self.zero.optimizer.state_dict()
        if self.ranks.number == 1:
            return state
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Shard

        mesh = init_device_mesh(self._parts[0].device.type, (self.ranks.number,))
        return self._changed(state, 1, lambda part: DTensor.from_local(part, mesh, [Shard(0)]))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take this process's part of a whole state, after the weights were loaded."""
        number, index = self.ranks.number, self.ranks.index
        self.zero.optimizer.load_state_dict(
            self._changed(state, number, lambda all_: all_.chunk(number)[index].clone())
        )
        self.zero.refresh_fp32_params()

    @property
    def _parts(self) -> list[Tensor]:
        return [part for group in self.param_groups for part in group["params"]]

    def _changed(self, state: Mapping[str, Any], times: int, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """A state in which tensors as long as so many parts are changed; others, such as numbers of steps, are not."""
        lengths = [(times * len(part),) for part in self._parts]
        every = {
            i: {name: change(v) if getattr(v, "shape", None) == lengths[i] else v for name, v in own.items()}
            for i, own in state["state"].items()
        }
        return {**state, "state": every}


@contextmanager
def spread_by_zero(
    step: Any, state: RunState, config: TrainingConfig, placement: Placement, max_grad_norm: float
) -> Iterator[tuple[ReplicatedStep, Zero]]:
    """Hand a run to DeepSpeed, and take back models and optimiser as they were.

    What the optimiser knew is put aside meanwhile, and what it learns is gone afterwards.

    Args:
        step: of this process.
        state: of the run; its optimiser is told whole.
        config: of the run.
        placement: device, precision and processes.
        max_grad_norm: clip the gradients of all that is trained to this norm; not above 0: off.

    Yields:
        The step, and what makes optimiser steps of its losses.

    Raises:
        MissingDependencyError: DeepSpeed is not installed.
        ConfigError: its config and the run's do not go together.
        UnsupportedError: DeepSpeed takes another optimiser in the place of the user's.
    """
    try:
        import deepspeed
    except ImportError:
        raise MissingDependencyError("deepspeed", "deepspeed", "a launch with a config for DeepSpeed") from None
    settings = _settings(config, placement, max_grad_norm, state.student)
    optimizer = state.optimizer
    with _put_aside(optimizer), ExitStack() as running:

        def begun(whole: nn.Module) -> Zero:
            first = placement.ranks.agree([buffer.cpu() for buffer in whole.buffers()])
            for buffer, value in zip(whole.buffers(), first, strict=True):
                buffer.copy_(value)
            engine, *_ = deepspeed.initialize(model=_Told(whole), optimizer=optimizer, config=settings)
            running.callback(engine.destroy)
            return Zero(engine, state)

        replicated = ReplicatedStep(step, [state.student, *state.beside], placement.ranks, begun)
        zero: Any = replicated.replica
        spread: Any = SpreadOptimizer(zero.engine.optimizer, placement.ranks)
        state.optimizer = spread
        if spread.zero.optimizer is not optimizer:
            raise UnsupportedError(
                f"DeepSpeed takes an optimiser of its own in the place of {type(optimizer).__name__}, which no "
                "scheduler would reach; use torch.optim.AdamW"
            )
        yield replicated, zero


@contextmanager
def _put_aside(optimizer: Optimizer) -> Iterator[None]:
    """Let groups of parameters be cut, and their memory be shared, for as long as this lasts."""
    groups = [list(group["params"]) for group in optimizer.param_groups]
    attributes = {parameter: dict(vars(parameter)) for group in groups for parameter in group}
    known = dict(optimizer.state)
    optimizer.state.clear()
    try:
        yield
    finally:
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = parameters
        optimizer.state.clear()
        optimizer.state.update(known)
        for parameter, own in attributes.items():
            parameter.data, parameter.grad = parameter.data.clone(), None
            vars(parameter).clear()
            vars(parameter).update(own)


class _Told(nn.Module):
    """A module whose report is told with its total beside it: DeepSpeed looks for tensors in no class but its own."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, batch: Any, share: Any) -> tuple[Tensor, LossReport]:
        report: LossReport = self.whole(batch, share)
        return report.total, report


def _settings(config: TrainingConfig, placement: Placement, max_grad_norm: float, student: nn.Module) -> dict[str, Any]:
    """Accelerate's config of DeepSpeed, with what the run says.

    Raises:
        ConfigError: they do not go together; with all problems.
    """
    from accelerate.utils import DeepSpeedPlugin

    given = _without_autos(DeepSpeedPlugin().deepspeed_config)
    stage, parts = given["zero_optimization"].get("stage", 0), given.get("gradient_accumulation_steps", 1)
    clip, own = max(max_grad_norm, 0.0), config.gradient_accumulation_steps
    clips, low = given.get("gradient_clipping", clip), [n for n in ("fp16", "bf16") if given.get(n, {}).get("enabled")]
    owned = [name for name in ("optimizer", "scheduler") if name in given]
    out = "start without DeepSpeed" + (": textbrewer.shard(model) spreads weights too" if stage == 3 else "")
    checks: list[tuple[bool, str, str, Any, str]] = [
        (stage in (1, 2), "zero_optimization.stage", "1 or 2", stage, out),
        (not low, ", ".join(low), "none", "enabled", "give TrainingConfig precision='bf16' instead"),
        (not owned, ", ".join(owned), "none", "a section of the file", "give them to train(...)"),
        (clips == clip, "gradient_clipping", f"train's max_grad_norm={max_grad_norm}", clips, "let both agree"),
        # Accelerate says 1 where nobody says anything.
        (parts in (1, own), "gradient_accumulation_steps", f"TrainingConfig's {own}", parts, "let both agree"),
        (placement.precision != "fp16", "precision", "'fp32' or 'bf16'", "'fp16'", "use 'bf16'"),
        (config.on_nonfinite == "stop", "on_nonfinite", "'stop'", "'skip'", "steps are DeepSpeed's"),
        (not is_sharded(student), "model_S", "whole weights", "sharded ones", "leave out shard, or DeepSpeed"),
    ]
    problems = [Problem(path, expected, str(got), hint) for fits, path, expected, got, hint in checks if not fits]
    if problems:
        raise ConfigError("DeepSpeed", problems)
    given.pop("train_batch_size", None)
    return given | {
        "train_micro_batch_size_per_gpu": 1,  # rows are nothing to it
        "gradient_accumulation_steps": own,
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _without_autos(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is left to Accelerate, or else to DeepSpeed."""
    return {
        name: _without_autos(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if value != "auto"
    }
