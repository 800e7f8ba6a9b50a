"""Modules of a teacher replaced one by one by those of a student, until the student is whole: BERT-of-Theseus."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adaptors import AdaptedModel
from ..configs import TrainingConfig
from ..distillers import BasicTrainer
from ..distillers._base import DistillationStep, Distiller, Run
from ..engine.checkpoint import described
from ..engine.loop import Step
from ..errors import ConfigError, MatchError, Problem
from ..matching.layers import layer_list
from ..objective import HardLabels, Objective, Share
from ..presets import WEIGHT_SCHEDULER
from ..types import Adaptor, Batch, LossReport
from .stages import Stage, Stages


class ReplacingTrainer(Distiller):
    """Train a student's layers inside its teacher: each stands in for some of the teacher's, now and then.

    In every forward pass layer i of the student, or the g layers of the teacher that it stands for, takes part:
    ``y_{i+1} = r S_i(y_i) + (1 − r) T_{g(i+1)−1}(… T_{gi}(y_i))``, ``r ~ Bernoulli(rate)``, for each i anew. What is
    learned is the task alone, ``Σ mean(losses)``; there is no loss between the models.

    Only the student's layers are trained. What it has below and above them, which the paper takes from the teacher, is
    left as it is: build the student by :func:`textbrewer.build_student`, which copies it. The teacher's layers have
    their own modes and no gradients of their own, but gradients go through them. Outside of training, and in whatever
    a callback does in eval mode or without gradients, the student is itself.

    Args:
        train_config: how to train.
        model_T: the teacher, of g times as many layers and the same width.
        model_S: the student.
        adaptor: the student's: ``(batch, model_outputs) -> {"losses": …}``; None for Transformers outputs.
        rate: how likely a layer is replaced: a number, or a schedule of :data:`textbrewer.WEIGHT_SCHEDULER` such as
            ``["linear", 0.3, 1]`` or ``["linear", 0.3, 1, 0.8]``, the paper's ``min(1, k t + b)``; kept in [0, 1].
        layers_T: the dotted path of the list of the teacher's layers; None finds that of a Transformers encoder.
        layers_S: the same of the student.

    Raises:
        ConfigError: a rate outside [0, 1].
        MatchError: layers that are not found, numbers of them that do not divide, or layers of another kind of
            attention than those they stand for.

    Source: 2002.02925.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        model_T: nn.Module,
        model_S: nn.Module,
        adaptor: Adaptor | None = None,
        *,
        rate: Any = 0.5,
        layers_T: str | None = None,
        layers_S: str | None = None,
    ) -> None:
        super().__init__(train_config, model_S)
        self.model_T = model_T
        self.adaptor = adaptor
        self.rate = rate
        self.schedule = _schedule_of(rate)
        self.layers_T, self.layers_S = _layers(model_T, layers_T, "layers_T"), _layers(model_S, layers_S, "layers_S")
        if len(self.layers_T) % len(self.layers_S):
            raise MatchError(
                f"theseus: {len(self.layers_T)} layers of the teacher and {len(self.layers_S)} of the student; the "
                "teacher's must be a multiple, so that each layer of the student stands for as many of them"
            )
        widths = [getattr(getattr(model, "config", None), "hidden_size", None) for model in (model_T, model_S)]
        if None not in widths and widths[0] != widths[1]:
            raise MatchError(
                f"theseus: width {widths[0]} of the teacher and {widths[1]} of the student, whose layers stand for "
                "each other; both must be the same"
            )
        _require_attention(self.layers_T, self.layers_S)

    def _teachers(self) -> list[nn.Module]:
        return [self.model_T]

    def _identity(self) -> dict[str, str]:
        return {**super()._identity(), "rate": described(self.rate)}

    def _assemble(self, run: Run) -> Step:
        adapted = AdaptedModel(self.model_S, self.adaptor, name="adaptor")
        run.running.enter_context(adapted.ready())
        replacement = Replacement(self.layers_T, self.layers_S)
        trained = {id(parameter) for layer in self.layers_S for parameter in layer.parameters()}
        others = [p for p in (*self.model_T.parameters(), *self.model_S.parameters()) if id(p) not in trained]
        run.running.enter_context(_frozen(others))
        run.running.enter_context(replacement.attached())
        forward = run.placement.forward_of(self.model_S)
        objective, trims = Objective([HardLabels()]), self.adaptor is None
        # Layers of both models would write into one cache of keys and values.
        caches = "use_cache" in inspect.signature(self.model_S.forward).parameters
        args = {**run.args, **({"use_cache": False} if caches else {})}
        step = DistillationStep(adapted, None, objective, run.placement, forward, args, trims=trims)
        return ReplacingStep(step, replacement, self.schedule)


class Replacement:
    """Which layers of the student take part in a forward pass, and the teacher's in place of the others.

    Args:
        layers_T: of the teacher, in order.
        layers_S: of the student, in order.
    """

    def __init__(self, layers_T: Iterable[nn.Module], layers_S: Iterable[nn.Module]) -> None:
        self.layers_T, self.layers_S = list(layers_T), list(layers_S)
        self.own = [True] * len(self.layers_S)

    def draw(self, rate: float) -> None:
        """Choose for the next forward pass."""
        self.own = (torch.rand(len(self.layers_S)) < rate).tolist()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the hooks on the student's layers, and take them off whatever happens."""
        with ExitStack() as attached:
            for place, layer in enumerate(self.layers_S):
                attached.callback(layer.register_forward_hook(self._hook(place), with_kwargs=True).remove)
            yield

    def _hook(self, place: int) -> Callable[..., Any]:
        predecessors = _groups(self.layers_T, self.layers_S)[place]

        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
            # What a callback runs is the student alone.
            if self.own[place] or not (module.training and torch.is_grad_enabled()):
                return None
            state, rest = (args[0], args[1:]) if args else (keywords["hidden_states"], ())
            others = {name: value for name, value in keywords.items() if name != "hidden_states"}
            for predecessor in predecessors:
                state = _state(predecessor(state, *rest, **others))
            return state if isinstance(output, Tensor) else (state, *output[1:])

        return hook


class ReplacingStep:
    """A step in which some layers of the student are the teacher's.

    Args:
        step: of the student.
        replacement: of its layers.
        rate: a schedule over the run.
    """

    source = None

    def __init__(self, step: DistillationStep, replacement: Replacement, rate: Callable[[float], float]) -> None:
        self.step, self.replacement, self.schedule = step, replacement, rate
        self.rate = rate(0.0)

    def __call__(self, batch: Batch, share: Share) -> LossReport:
        self.replacement.draw(self.rate)
        report = self.step(batch, share)
        if report.total.requires_grad:
            return report
        # All layers were the teacher's, and nothing that is trained took part.
        one = next(p for layer in self.replacement.layers_S for p in layer.parameters() if p.requires_grad)
        return replace(report, total=report.total + one.flatten()[:0].sum())

    def share(self, window: list[Batch]) -> Share:
        """As of the step."""
        return self.step.share(window)

    def advance(self, progress: float) -> None:
        self.rate = self.schedule(progress)
        self.step.advance(progress)


def theseus(
    train_config: TrainingConfig,
    model_T: nn.Module,
    model_S: nn.Module,
    adaptor: Adaptor | None = None,
    *,
    rate: Any = 0.5,
    layers_T: str | None = None,
    layers_S: str | None = None,
    replacing: Mapping[str, Any] | None = None,
    fine_tuning: Mapping[str, Any] | None = None,
) -> Stages:
    """Both stages of BERT-of-Theseus: :class:`ReplacingTrainer`, then the student alone and all of it.

    Args:
        train_config: of both stages.
        model_T: see :class:`ReplacingTrainer`, as for what is not said here.
        model_S: the student.
        adaptor: the student's.
        rate: how likely a layer is replaced.
        layers_T: where the teacher's layers are.
        layers_S: where the student's are.
        replacing: arguments of ``train`` in which the first stage differs, such as ``{"num_epochs": 3}``.
        fine_tuning: the same of the second.

    Source: 2002.02925.
    """
    where = {"rate": rate, "layers_T": layers_T, "layers_S": layers_S}
    first = Stage("replacing", lambda c: ReplacingTrainer(c, model_T, model_S, adaptor, **where), replacing or {})
    return Stages(
        train_config, [first, Stage("fine-tuning", lambda c: BasicTrainer(c, model_S, adaptor), fine_tuning or {})]
    )


def _schedule_of(rate: Any) -> Callable[[float], float]:
    """The rate over the run, kept in [0, 1]."""
    if isinstance(rate, (int, float)) and not 0 <= rate <= 1:
        problem = Problem("rate", "a number from 0 to 1, or a schedule such as ['linear', 0.3, 1]", repr(rate))
        raise ConfigError("ReplacingTrainer", [problem])
    if isinstance(rate, (int, float)):
        return lambda progress: float(rate)
    schedule = rate if callable(rate) else WEIGHT_SCHEDULER[rate]
    return lambda progress: min(1.0, max(0.0, float(schedule(progress))))


def _layers(model: nn.Module, path: str | None, side: str) -> list[nn.Module]:
    found = layer_list(model) if path is None else path
    modules = dict(model.named_modules())
    if found is None or not isinstance(modules.get(found), (nn.ModuleList, nn.Sequential)):
        names = [name for name, module in modules.items() if isinstance(module, (nn.ModuleList, nn.Sequential))]
        what = "the layers are not found" if path is None else f"{path!r} is no list of layers"
        raise MatchError(f"theseus: {what} in {type(model).__name__}; give {side} as one of {names}")
    return list(modules[found].children())


def _groups(layers_T: list[nn.Module], layers_S: list[nn.Module]) -> list[list[nn.Module]]:
    """The layers of the teacher that each of the student stands for."""
    group = len(layers_T) // len(layers_S)
    return [layers_T[place * group : (place + 1) * group] for place in range(len(layers_S))]


def _require_attention(layers_T: list[nn.Module], layers_S: list[nn.Module]) -> None:
    """Refuse layers of several kinds of attention in one place: a model makes masks and positions for each kind, and
    the teacher's layers are called with those of the student's layer.

    Raises:
        MatchError: with every place.
    """
    differ = []
    for place, (predecessors, layer) in enumerate(zip(_groups(layers_T, layers_S), layers_S, strict=True)):
        own, *kinds = (getattr(one, "attention_type", None) for one in (layer, *predecessors))
        if any(kind != own for kind in kinds):
            first = place * len(kinds)
            numbers = ", ".join(f"{first + i} ({kind})" for i, kind in enumerate(kinds))
            differ.append(f"layer {place} of the student ({own}) for {numbers} of the teacher")
    if differ:
        raise MatchError(
            f"theseus: layers stand for others of another attention_type: {'; '.join(differ)}; choose `layers=` of "
            "StudentConfig so that they agree, or use a distiller with matches where the teacher's own are of several"
        )


def _state(output: Any) -> Tensor:
    """The hidden state among what a layer gives."""
    state: Tensor = output if isinstance(output, Tensor) else output[0]
    return state


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Without gradients of their own, and then as they were."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
