"""What to learn from the teacher: soft labels, hard labels and intermediate matches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ..errors import count_of, did_you_mean
from ..presets import (
    BALANCE,
    KD_LOSS_MAP,
    MATCH_LOSS_MAP,
    PAIRED_MATCH_LOSSES,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
    Table,
    asked,
    options_of,
)
from ._base import Config, config_class, known_name, reject

Layers = int | str | list[int] | list[str]
"""Indices into the list an adaptor gives, or dotted paths of submodules; two for the losses that take two layers."""


COMBINATIONS = ("logits", "probabilities", "losses")
TEACHER_WEIGHTS = ("uniform", "confidence", "loss")


def _off_or_weight_schedule(value: Any) -> Any:
    if value is None or value == "none":
        return None
    if callable(value):
        return value
    name, positional, named = asked(value)
    known_name(name, WEIGHT_SCHEDULER)
    options = inspect.signature(WEIGHT_SCHEDULER.entry(name)).parameters
    try:
        schedule = WEIGHT_SCHEDULER[value]
        inspect.signature(schedule).bind(0.5)
        # Only what was built just now is tried out: a function of the user's own is his.
        _ = float(schedule(0.5)) if positional or named else None
    except (TypeError, ValueError, ArithmeticError):
        if len(options) == 1:
            raise reject(f"{name!r} alone, which has no options") from None
        raise reject(f"[{name!r}, {', '.join(options)}]") from None
    return _plain(value)


def _off_or_annealing(value: Any) -> Any:
    given = _off_or_weight_schedule(value)
    if given is None or callable(given):
        return given
    temperatures = [float(WEIGHT_SCHEDULER[given](progress)) for progress in (0.0, 0.5, 1.0)]
    if not all(0 < tau < math.inf for tau in temperatures):
        raise reject("a temperature above 0 throughout the run, as in ['linear', 8, 1]")
    return given


def _part_of_the_run(value: Any) -> Any:
    numbers = isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(x, (int, float)) for x in value)
    if value is not None and not (numbers and 0 <= value[0] < value[1] <= 1):
        raise reject("the start and the end of a part of the run, from 0 to 1, as in [0, 0.5]")
    return value


WeightSchedule = Annotated[
    str | list[Any] | dict[str, Any] | Callable[..., Any] | None, BeforeValidator(_off_or_weight_schedule)
]
Annealing = Annotated[str | list[Any] | dict[str, Any] | Callable[..., Any] | None, BeforeValidator(_off_or_annealing)]
PartOfTheRun = Annotated[tuple[float, float] | None, BeforeValidator(_part_of_the_run)]


def _off_or_temperature_schedule(value: Any) -> Any:
    if value is None or value == "none":
        return None
    if callable(value):
        return value
    name, positional, named = asked(value)
    known_name(name, TEMPERATURE_SCHEDULER)
    needed, parameters = {"flsw": 2, "cwsm": 1}.get(name, 0), [*positional, *named.values()]
    known = {"flsw": {"beta", "gamma", "eps"}, "cwsm": {"beta"}}.get(name)
    numbers = [p for p in parameters if isinstance(p, (int, float))]
    if len(numbers) < needed or len(numbers) < len(parameters) or (known is not None and set(named) - known):
        example = ["flsw", 1, 1] if name == "flsw" else ["cwsm", 1]
        raise reject(f"[{name!r}] followed by {count_of(needed, 'number')}, as in {example}")
    return list(value) if isinstance(value, (list, tuple)) else value


def _with_options(value: Any, table: Table) -> Any:
    """A function or object, or a name of a table: alone, as ``[name, option]``, or as ``{"name": …, "option": …}``."""
    if callable(value):
        return value
    name, positional, named = asked(value)
    known_name(name, table)
    entry = table.entry(name)
    options = options_of(entry)
    required = [option for option, parameter in options.items() if parameter.default is parameter.empty]
    shown = ", ".join(o if o in required else f"{o}={parameter.default!r}" for o, parameter in options.items())
    what = f"{name!r} with the options {shown}" if options else f"{name!r} alone, which has no options"
    given = {**dict(zip(options, positional, strict=False)), **named}
    unknown = [option for option in given if option not in options]
    if unknown or len(positional) > len(options):
        raise reject(what, hint=did_you_mean(unknown[0], options) if unknown else "")
    if missing := [option for option in required if option not in given]:
        raise reject(what, hint=f"{', '.join(missing)} must be given")
    for option, kind in _kinds(entry).items():
        if option in given:
            _require_kind(name, option, given[option], kind)
    return _plain(value)


def _kinds(entry: Any) -> dict[str, Any]:
    is_class = isinstance(entry, type)
    try:
        return get_type_hints(entry.__init__ if is_class else entry)
    except (NameError, TypeError):
        return {}  # of a function of the user's own


def _require_kind(name: str, option: str, value: Any, kind: Any) -> None:
    try:
        TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
    except ValidationError as error:
        expected = error.errors(include_url=False)[0]["msg"].removeprefix("Input should be ")
        raise reject(f"{option} of {name!r} to be {expected}", got=value) from None


def _plain(value: Any) -> Any:
    """A tuple as a list and any mapping as a dict, so that equal configs are equal."""
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _kd_loss(value: Any) -> Any:
    return _with_options(value, KD_LOSS_MAP)


def _match_loss(value: Any) -> Any:
    return _with_options(value, MATCH_LOSS_MAP)


def _off_or_balance(value: Any) -> Any:
    return None if value is None or value == "none" else _with_options(value, BALANCE)


Loss = str | list[Any] | dict[str, Any] | Callable[..., Any]


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
        loss: a name of :data:`textbrewer.MATCH_LOSS_MAP`, alone or with options (``["relation_kl", 48]`` or
            ``{"name": "relation_kl", "heads": 48}``), or ``f(S, T, mask=None) -> tensor``.
        weight: factor of this term in the total.
        proj: ``[name, dim_S, dim_T]``, with an optional fourth dict of optimiser options: a trained map of the
            student's feature to the teacher's width. ``"auto"``: a linear one where the widths differ.
        teacher: which of several teachers.
        weight_scheduler: as for the weights of :class:`DistillationConfig`; its value replaces ``weight``.
        active: the part of the run in which the term counts: ``(0, 0.5)`` is its first half.
        mask: the adaptor's key, or the batch's column, of a mask ``(batch, length)`` to use in place of the student's
            ``inputs_mask``.
    """

    layer_T: Annotated[Layers, BeforeValidator(_layers)]
    layer_S: Annotated[Layers, BeforeValidator(_layers)]
    feature: Literal["hidden", "attention"]
    loss: Annotated[Loss, BeforeValidator(_match_loss)]
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    proj: Annotated[Literal["auto"] | list[Any] | None, BeforeValidator(_projection)] = None
    teacher: Annotated[int, Field(ge=0)] = 0
    weight_scheduler: WeightSchedule = None
    active: PartOfTheRun = None
    mask: str | None = None

    @model_validator(mode="after")
    def _layers_fit_the_loss(self) -> IntermediateMatch:
        sides = (self.layer_T, self.layer_S)
        pair = [0, 1]
        if not callable(self.loss) and asked(self.loss)[0] in PAIRED_MATCH_LOSSES:
            if not all(isinstance(side, list) and len(side) == 2 for side in sides):
                raise reject(
                    f"two layers a side for the loss {self.loss!r}",
                    got=f"layer_T={self.layer_T}, layer_S={self.layer_S}",
                    hint=f"write layer_T: {pair}, layer_S: {pair}",
                )
        elif not callable(self.loss) and any(isinstance(side, list) for side in sides):
            raise reject(
                f"one layer a side for the loss {self.loss!r}", got=f"layer_T={self.layer_T}, layer_S={self.layer_S}"
            )
        return self

    @property
    def name(self) -> str:
        """``{feature}_{loss}_{layer_S}_{layer_T}``, pairs of layers joined by ``-``, and a teacher above 0."""
        loss = _loss_name(self.loss)
        of_teacher = f"_teacher{self.teacher}" if self.teacher else ""
        return f"{self.feature}_{loss}_{_joined(self.layer_S)}_{_joined(self.layer_T)}{of_teacher}"


def _loss_name(loss: Any) -> str:
    """As logs have it: with its options, but for the classes, whose options are no part of what is compared."""
    if callable(loss):
        return str(getattr(loss, "__name__", "custom"))
    name, positional, named = asked(loss)
    options = () if isinstance(MATCH_LOSS_MAP.entry(name), type) else (*positional, *named.values())
    return "_".join(map(str, (name, *options)))


def _joined(layers: Layers) -> str:
    return "-".join(map(str, layers)) if isinstance(layers, list) else str(layers)


@config_class
class DistillationConfig(Config):
    """The objective of distillation.

    ``total = kd_loss_weight · Σ KD(student, teacher, τ) + Σ weight · match + hard_label_weight · Σ mean(losses)``

    The first ten arguments and their order are TextBrewer 0.2.1's.

    Args:
        temperature: τ, by which the logits of both sides are divided.
        temperature_scheduler: ``"none"``, ``"constant"``, ``["flsw", beta, gamma]``, ``["cwsm", beta]``
            or ``f(logits_S, logits_T, base_temperature) -> τ``.
        hard_label_weight: factor of the user's own ``losses``.
        hard_label_weight_scheduler: ``"none"``, a name of :data:`textbrewer.WEIGHT_SCHEDULER`, alone
            (``"linear_decay"``, ``"linear_growth"``) or with options (``["linear", 1, 0.1]``, ``["cosine", 1, 0]``), or
            a function of progress in [0, 1], whose value replaces the weight after each optimiser step.
        kd_loss_type: a name of :data:`textbrewer.KD_LOSS_MAP`, alone or with options (``["jsd", 0.1]`` or
            ``{"name": "jsd", "beta": 0.1}``), or ``f(logits_S, logits_T, temperature)``.
        kd_loss_weight: factor of the soft-label term.
        kd_loss_weight_scheduler: as for the hard labels.
        probability_shift: swap the teacher's logit of the true label with its largest one.
        intermediate_matches: a list of :class:`IntermediateMatch` or of dicts with its arguments.
        is_caching_logits: keep the teacher's logits in memory after the first sight of a batch.
        kd_loss_active: the part of the run in which the soft labels count: ``(0.5, 1)`` is its second half.
        hard_label_active: the same for the hard labels.
        temperature_annealing: a schedule of the temperature over the run, which takes the place of ``temperature``:
            ``["linear", 8, 1]``, ``["cosine", 8, 1]``, ``["steps", 7, 1, 7]`` or a function of progress in [0, 1]. From
            a hot start to 1 it is the idea of Annealed-KD (2104.07163), which scales the logits of the teacher alone.
        balance: what makes the total of the weighted terms, if not their sum: ``"uncertainty"``
            (:class:`~textbrewer.balancing.UncertaintyWeights`) or ``"gradient_norm"``
            (:class:`~textbrewer.balancing.GradientNorms`), alone or with options, or an object of these.

    Raises:
        ConfigError: with every problem at once.

    >>> print(DistillationConfig(temperature_scheduler="flws"))
    Traceback (most recent call last):
    textbrewer.errors.ConfigError: DistillationConfig: 1 problem
      `temperature_scheduler`: expected one of 'constant', 'flsw', 'cwsm', got 'flws'; did you mean 'flsw'?
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4
    temperature_scheduler: Annotated[
        str | list[Any] | dict[str, Any] | Callable[..., Any] | None, BeforeValidator(_off_or_temperature_schedule)
    ] = None
    hard_label_weight: Annotated[float, Field(allow_inf_nan=False)] = 0
    hard_label_weight_scheduler: WeightSchedule = None
    kd_loss_type: Annotated[Loss, BeforeValidator(_kd_loss)] = "ce"
    kd_loss_weight: Annotated[float, Field(allow_inf_nan=False)] = 1
    kd_loss_weight_scheduler: WeightSchedule = None
    probability_shift: bool = False
    intermediate_matches: Annotated[
        list[IntermediateMatch], BeforeValidator(lambda value: [] if value is None else value)
    ] = Field(default_factory=list)
    is_caching_logits: bool = False
    kd_loss_active: PartOfTheRun = None
    hard_label_active: PartOfTheRun = None
    temperature_annealing: Annealing = None
    balance: Annotated[Loss | None, BeforeValidator(_off_or_balance)] = None


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
