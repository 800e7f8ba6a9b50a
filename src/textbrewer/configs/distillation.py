"""What to learn from the teacher: soft labels, hard labels and intermediate matches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..errors import count_of
from ..presets import (
    KD_LOSS_MAP,
    MATCH_LOSS_MAP,
    PAIRED_MATCH_LOSSES,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
)
from ._base import Config, config_class, known_name, reject

Layers = int | str | list[int] | list[str]
"""Indices into the list an adaptor gives, or dotted paths of submodules; two for the losses that take two layers."""


COMBINATIONS = ("logits", "probabilities", "losses")
TEACHER_WEIGHTS = ("uniform", "confidence", "loss")


def _off_or_weight_schedule(value: Any) -> Any:
    if value is None or value == "none":
        return None
    return value if callable(value) else known_name(value, WEIGHT_SCHEDULER)


def _off_or_temperature_schedule(value: Any) -> Any:
    if value is None or value == "none":
        return None
    if callable(value):
        return value
    name, *parameters = value if isinstance(value, (list, tuple)) and value else (value,)
    known_name(name, TEMPERATURE_SCHEDULER)
    needed = {"flsw": 2, "cwsm": 1}.get(name, 0)
    numbers = [p for p in parameters if isinstance(p, (int, float))]
    if len(numbers) < needed or len(numbers) < len(parameters):
        example = ["flsw", 1, 1] if name == "flsw" else ["cwsm", 1]
        raise reject(f"[{name!r}] followed by {count_of(needed, 'number')}, as in {example}")
    return list(value) if isinstance(value, (list, tuple)) else value


def _kd_loss(value: Any) -> Any:
    return value if callable(value) else known_name(value, KD_LOSS_MAP)


def _match_loss(value: Any) -> Any:
    return value if callable(value) else known_name(value, MATCH_LOSS_MAP)


def _layers(value: Any) -> Any:
    """One check for the union, so that a mistake is one problem at its own path."""
    items = value if isinstance(value, (list, tuple)) and value else [value]
    for item in items:
        a_path = isinstance(item, str) and (item.isidentifier() or any(mark in item for mark in ".*:@["))
        if isinstance(item, bool) or not (isinstance(item, int) or a_path):
            raise reject("the index of a layer, the path of a module, a part as in 'query:11', or a list of two")
    if len({isinstance(item, str) for item in items}) > 1:
        raise reject("indices or paths, not both")
    return list(items) if isinstance(value, tuple) else value


def _projection(value: Any) -> Any:
    if value is None or value == "auto":
        return value
    shape = "'auto', or ['linear', student width, teacher width] with an optional dict of optimiser options"
    if not isinstance(value, (list, tuple)) or len(value) not in (3, 4):
        raise reject(shape)
    builder, dim_in, dim_out, *options = value
    if not callable(builder):
        known_name(builder, PROJ_MAP)
    if not all(isinstance(dim, int) and dim > 0 for dim in (dim_in, dim_out)):
        raise reject(f"{shape}, with widths above 0")
    if options and not isinstance(options[0], dict):
        raise reject(f"{shape}; the fourth item to be a dict such as {{'lr': 1e-3}}")
    return [builder, dim_in, dim_out, dict(options[0]) if options else {}]


@config_class
class IntermediateMatch(Config):
    """One pair of intermediate features to match, and how.

    Args:
        layer_T: index into the list the teacher's adaptor gives; two indices for the losses that take two layers.
            Or the dotted path of a submodule, whose output is taken: ``"bert.encoder.layer.11"``. Of a tuple it is the
            first item, or that of ``"path[1]"``. A ``*`` stands for one part of the path; with as many modules on
            both sides, each pair is a match. Or a part of an attention layer, counted from 0 or from the end:
            ``"query:11"``, ``"key:-1"``, ``"value:*"``.
        layer_S: the same for the student.
        feature: ``"hidden"`` or ``"attention"``.
        loss: a name of :data:`textbrewer.MATCH_LOSS_MAP`, or ``f(S, T, mask=None) -> tensor``.
        weight: factor of this term in the total.
        proj: ``[name, dim_S, dim_T]``, with an optional fourth dict of optimiser options: a trained map of the
            student's feature to the teacher's width. ``"auto"``: a linear one where the widths differ.
        teacher: which of several teachers.
    """

    layer_T: Annotated[Layers, BeforeValidator(_layers)]
    layer_S: Annotated[Layers, BeforeValidator(_layers)]
    feature: Literal["hidden", "attention"]
    loss: Annotated[str | Callable[..., Any], BeforeValidator(_match_loss)]
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    proj: Annotated[Literal["auto"] | list[Any] | None, BeforeValidator(_projection)] = None
    teacher: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _layers_fit_the_loss(self) -> IntermediateMatch:
        sides = (self.layer_T, self.layer_S)
        pair = [0, 1]
        if self.loss in PAIRED_MATCH_LOSSES:
            if not all(isinstance(side, list) and len(side) == 2 for side in sides):
                raise reject(
                    f"two layers a side for the loss {self.loss!r}",
                    got=f"layer_T={self.layer_T}, layer_S={self.layer_S}",
                    hint=f"write layer_T: {pair}, layer_S: {pair}",
                )
        elif isinstance(self.loss, str) and any(isinstance(side, list) for side in sides):
            raise reject(
                f"one layer a side for the loss {self.loss!r}", got=f"layer_T={self.layer_T}, layer_S={self.layer_S}"
            )
        return self

    @property
    def name(self) -> str:
        """``{feature}_{loss}_{layer_S}_{layer_T}``, pairs of layers joined by ``-``, and a teacher above 0."""
        loss = self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", "custom")
        of_teacher = f"_teacher{self.teacher}" if self.teacher else ""
        return f"{self.feature}_{loss}_{_joined(self.layer_S)}_{_joined(self.layer_T)}{of_teacher}"


def _joined(layers: Layers) -> str:
    return "-".join(map(str, layers)) if isinstance(layers, list) else str(layers)


@config_class
class DistillationConfig(Config):
    """The objective of distillation.

    ``total = kd_loss_weight · Σ KD(student, teacher, τ) + Σ weight · match + hard_label_weight · Σ mean(losses)``

    The arguments and their order are TextBrewer 0.2.1's.

    Args:
        temperature: τ, by which the logits of both sides are divided.
        temperature_scheduler: ``"none"``, ``"constant"``, ``["flsw", beta, gamma]``, ``["cwsm", beta]``
            or ``f(logits_S, logits_T, base_temperature) -> τ``.
        hard_label_weight: factor of the user's own ``losses``.
        hard_label_weight_scheduler: ``"none"``, ``"linear_decay"``, ``"linear_growth"`` or a function of
            progress in [0, 1], whose value replaces the weight after each optimiser step.
        kd_loss_type: a name of :data:`textbrewer.KD_LOSS_MAP`, or ``f(logits_S, logits_T, temperature)``.
        kd_loss_weight: factor of the soft-label term.
        kd_loss_weight_scheduler: as for the hard labels.
        probability_shift: swap the teacher's logit of the true label with its largest one.
        intermediate_matches: a list of :class:`IntermediateMatch` or of dicts with its arguments.
        is_caching_logits: keep the teacher's logits in memory after the first sight of a batch.

    Raises:
        ConfigError: with every problem at once.

    >>> print(DistillationConfig(temperature_scheduler="flws"))
    Traceback (most recent call last):
    textbrewer.errors.ConfigError: DistillationConfig: 1 problem
      `temperature_scheduler`: expected one of 'constant', 'flsw', 'cwsm', got 'flws'; did you mean 'flsw'?
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4
    temperature_scheduler: Annotated[
        str | list[Any] | Callable[..., Any] | None, BeforeValidator(_off_or_temperature_schedule)
    ] = None
    hard_label_weight: Annotated[float, Field(allow_inf_nan=False)] = 0
    hard_label_weight_scheduler: Annotated[
        str | Callable[..., Any] | None, BeforeValidator(_off_or_weight_schedule)
    ] = None
    kd_loss_type: Annotated[str | Callable[..., Any], BeforeValidator(_kd_loss)] = "ce"
    kd_loss_weight: Annotated[float, Field(allow_inf_nan=False)] = 1
    kd_loss_weight_scheduler: Annotated[str | Callable[..., Any] | None, BeforeValidator(_off_or_weight_schedule)] = (
        None
    )
    probability_shift: bool = False
    intermediate_matches: Annotated[
        list[IntermediateMatch], BeforeValidator(lambda value: [] if value is None else value)
    ] = Field(default_factory=list)
    is_caching_logits: bool = False


def _teacher_weights(value: Any) -> Any:
    if isinstance(value, str):
        return known_name(value, TEACHER_WEIGHTS)
    if isinstance(value, (list, tuple)) and (min(value, default=0) < 0 or sum(value) <= 0):
        raise reject("weights that are not negative, with a sum above 0")
    return value


@config_class
class EnsembleConfig(Config):
    """How several teachers of one task become one target.

    Args:
        combine: ``"logits"``: the student learns from the weighted mean of the logits (TextBrewer's).
            ``"probabilities"``: from the weighted mean of the softened probabilities. ``"losses"``: from each teacher
            apart, and the weighted losses are added.
        teacher_weights: ``"uniform"``; a list with a weight each (their ratio counts); by example ``"confidence"``,
            ``1 − entropy / log classes``; or ``"loss"``, ``1 / (1 + cross-entropy on the label)``. All but the last are
            made to add up to 1; the last is not where losses are added, as in MT-BERT.
        label_maps: for each teacher None, or a list with the teacher's class for each class of the student, or
            ``"names"`` to read it from the labels in both models' configs.

    Sources: confidence, 1702.01802; loss, MT-BERT, 2106.01023.
    """

    combine: Annotated[str, BeforeValidator(lambda value: known_name(value, COMBINATIONS))] = "logits"
    teacher_weights: Annotated[str | list[float], BeforeValidator(_teacher_weights)] = "uniform"
    label_maps: list[Literal["names"] | list[Annotated[int, Field(ge=0)]] | None] | None = None
