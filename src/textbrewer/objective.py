"""The objective: a sum of weighted terms over what the student and the teacher gave."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .configs import DistillationConfig, EnsembleConfig, IntermediateMatch
from .errors import AdaptorError, ConfigError, MatchError, Problem, UnsupportedError
from .losses import (
    OVER_CLASSES,
    dist_loss,
    full_precision,
    function_of,
    masked_mean,
    needs_index,
    needs_labels,
    takes_mask_T,
    unit_of,
)
from .losses.ensemble import (
    confidence_weights,
    label_loss_weights,
    mean_logits,
    mean_probabilities,
    normalised,
    weighed,
)
from .matching.features import features_of
from .matching.projections import AutoProjection
from .presets import KD_LOSS_MAP, MATCH_LOSS_MAP, TEMPERATURE_SCHEDULER, WEIGHT_SCHEDULER
from .schedules import Weight
from .types import INDEX, LossReport, ModelOutputs

_UNITS_OF_A_MASK = ("tokens", "token_pairs")

Counts = Mapping[str, Tensor | float]


@dataclass(frozen=True)
class Share:
    """What part of an optimiser step one micro-batch is.

    Attributes:
        micro_batches: how many micro-batches the step has; plain means are divided by it.
        counts: valid units of the whole step, by the names of
            :data:`~textbrewer.losses.COUNT_UNITS`; empty when they cannot be told from the batches.
    """

    micro_batches: int = 1
    counts: Counts = field(default_factory=dict)


class Term(Protocol):
    """One summand. ``value`` is unweighted and already this micro-batch's share of the step's mean.

    Attributes:
        name: under which the value is reported.
        weight: its factor, and when it counts.
        shown: whether the value is reported where it weighs nothing too, as in TextBrewer 0.2.1.
    """

    name: str
    weight: Weight
    shown: bool

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None: ...

    def advance(self, progress: float) -> None:
        """Move on to ``progress`` in [0, 1] of the run."""


class Balance(Protocol):
    """What becomes of the terms in place of their weighted sum; see :mod:`textbrewer.balancing`."""

    def __call__(self, values: Mapping[int, Tensor], weights: Mapping[int, float], parts: int, /) -> Tensor: ...


class SoftLabels:
    """``Σ KD(student, teacher, τ)`` over the logits that both sides give; off when a side gives none.

    Args:
        config: the loss, its weight and its temperature.
        ensemble: how several teachers become one target.
    """

    name = "unweighted_kd_loss"
    shown = True

    def __init__(self, config: DistillationConfig, ensemble: EnsembleConfig | None = None) -> None:
        schedule = _schedule(config.kd_loss_weight_scheduler)
        self.weight = Weight(config.kd_loss_weight, schedule, config.kd_loss_active)
        self.loss = config.kd_loss_type if callable(config.kd_loss_type) else KD_LOSS_MAP[config.kd_loss_type]
        self.annealing = _schedule(config.temperature_annealing)
        self.base_temperature: float = config.temperature
        self.base_temperature = self._annealed(0.0)
        self.temperature = _temperature_schedule(config.temperature_scheduler)
        self.probability_shift = config.probability_shift
        self.ensemble = ensemble or EnsembleConfig()
        self._said_single = False

    @property
    def reads_logits(self) -> bool:
        """Whether the teacher's logits ever count."""
        return self.weight.ever

    def advance(self, progress: float) -> None:
        """Move the weight and the temperature on."""
        self.weight.advance(progress)
        self.base_temperature = self._annealed(progress)

    def _annealed(self, progress: float) -> float:
        if self.annealing is None:
            return self.base_temperature
        tau = float(self.annealing(progress))
        if not 0 < tau < math.inf:
            problem = Problem("temperature_annealing", "a temperature above 0", f"{tau} at {progress} of the run")
            raise ConfigError("DistillationConfig", [problem])
        return tau

    @property
    def reads_labels(self) -> bool:
        """Whether the labels do, which a teacher's adaptor may have to give."""
        return self._requires_labels or self.ensemble.teacher_weights == "loss"

    @property
    def _requires_labels(self) -> bool:
        return self.probability_shift or needs_labels(self.loss)

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None:
        members = [] if teacher is None else list(teacher.members or (teacher,))
        if not student.logits or not members or not all(member.logits for member in members):
            return None
        names = ["adaptor_T"] if len(members) == 1 else [f"adaptor_T[{i}]" for i in range(len(members))]
        for member, name in zip(members, names, strict=True):
            if len(student.logits) != len(member.logits):
                raise AdaptorError(
                    f"{self.name}: adaptor_S gave {len(student.logits)} logits and {name} {len(member.logits)}; "
                    "both must give the same number"
                )
        parts = [self._of_one(index, student, members, names, share) for index in range(len(student.logits))]
        return torch.stack(parts).sum()

    def _of_one(
        self, index: int, student: ModelOutputs, members: list[ModelOutputs], names: list[str], share: Share
    ) -> Tensor:
        """The term for one of the logits."""
        of_student = student.logits[index]
        rows, mask = _selected(of_student, student.logits_mask, index, "adaptor_S")
        targets: list[Tensor] = []
        for member, name in zip(members, names, strict=True):
            target, mask_T = _selected(member.logits[index], member.logits_mask, index, name)
            mask = mask_T if mask is None else mask
            if target.shape[:-1] != rows.shape[:-1]:
                raise MatchError(
                    f"{self.name}: student logits {list(of_student.shape)} and teacher logits "
                    f"{list(member.logits[index].shape)} of {name} select {rows.shape[:-1].numel()} and "
                    f"{target.shape[:-1].numel()} positions; both adaptors must give the same logits_mask"
                )
            if targets and target.shape[-1] != targets[0].shape[-1]:
                raise MatchError(
                    f"{self.name}: {names[0]} gave {targets[0].shape[-1]} classes and {name} {target.shape[-1]}; "
                    "give label_maps, which say what class of each teacher a class of the student is"
                )
            targets.append(target)
        if rows.shape[-1] == 1 and not self._said_single and function_of(self.loss) in OVER_CLASSES:
            self._said_single = True
            warnings.warn(
                f"{self.name}: the logits have one output, over which a softmax is always 1: "
                f"{getattr(self.loss, '__name__', 'this loss')} teaches nothing; for a number to predict take "
                "kd_loss_type='logit_mse' or 'huber', for yes or no 'binary_kl'",
                stacklevel=2,
            )
        labels = self._labels(index, student, members, mask)
        unit = "logit_rows" if of_student.dim() < 3 else "selected" if mask is not None else "positions"
        if len(targets) == 1:
            return self._against(rows, self._shifted(targets[0], labels), labels, share, unit)
        return self._against_several(rows, targets, labels, share, unit)

    def _against(self, rows: Tensor, target: Tensor, labels: Tensor | None, share: Share, unit: str) -> Tensor:
        arguments = (rows, target, self._tau(rows, target))
        keywords = {"labels": labels} if needs_labels(self.loss) else {}
        return _shared(self.loss, arguments, keywords, share, unit, self.name)

    def _against_several(
        self, rows: Tensor, targets: list[Tensor], labels: Tensor | None, share: Share, unit: str
    ) -> Tensor:
        how = self.ensemble.combine
        weights = self._weights(targets, labels)
        if how == "losses":
            return self._weighted_losses(rows, [self._shifted(t, labels) for t in targets], weights, share, unit)
        weights = normalised(weights)
        target = mean_logits(targets, weights)
        if how == "probabilities":
            target = mean_probabilities(targets, weights, self._tau(rows, target))
        return self._against(rows, self._shifted(target, labels), labels, share, unit)

    def _weighted_losses(self, rows: Tensor, targets: list[Tensor], weights: Tensor, share: Share, unit: str) -> Tensor:
        """``Σ_t mean over rows of w_t KD(S, T_t)``; rows are taken one by one, since a loss gives their mean."""
        if needs_labels(self.loss) or function_of(self.loss) is dist_loss:
            name = getattr(self.loss, "__name__", "this loss")
            raise UnsupportedError(f"combine='losses' weighs rows one by one, and {name} cannot; use 'probabilities'")
        flat = rows.flatten(0, -2)

        @wraps(self.loss)
        def weighted(*targets: Tensor, count: Tensor | float | None = None) -> Tensor:
            total = masked_mean(flat[:0])
            for target, weight in zip(targets, weights, strict=True):
                if len(flat):
                    tau = torch.as_tensor(self._tau(rows, target), dtype=rows.dtype, device=rows.device)
                    each = torch.vmap(self.loss)(flat, target.flatten(0, -2), tau.expand(rows.shape[:-1]).flatten())
                    total = total + masked_mean(weighed(each, weight.flatten()), count=count)
            return total

        return _shared(weighted, tuple(targets), {}, share, unit, self.name)

    def _weights(self, targets: list[Tensor], labels: Tensor | None) -> Tensor:
        """``(teachers, ...)``, one weight for each teacher and row."""
        given = self.ensemble.teacher_weights
        if given == "confidence":
            return confidence_weights(targets)
        if given == "loss":
            if labels is None:
                raise AdaptorError(
                    f"{self.name}: teacher_weights='loss' needs labels, and no adaptor gave them; add 'labels' to what "
                    "adaptor_S returns"
                )
            return label_loss_weights(targets, labels)
        each = torch.ones(len(targets)) if given == "uniform" else torch.tensor(given)
        shape = (len(targets), *targets[0].shape[:-1])
        weights = (each / each.sum()).to(targets[0]).reshape(-1, *[1] * (len(shape) - 1))
        return weights.expand(shape)

    def _labels(
        self, index: int, student: ModelOutputs, members: list[ModelOutputs], mask: Tensor | None
    ) -> Tensor | None:
        given = next((side.labels for side in (student, *members) if side.labels), None)
        if given is None:
            if self._requires_labels:
                what = (
                    "probability_shift=True" if self.probability_shift else getattr(self.loss, "__name__", "the loss")
                )
                raise AdaptorError(
                    f"{self.name}: {what} needs labels, and adaptor_S gave {list(student.given)}; "
                    "add 'labels' to what it returns"
                )
            return None
        labels = given[min(index, len(given) - 1)]
        return labels[mask] if mask is not None and labels.shape == mask.shape else labels

    def _shifted(self, target: Tensor, labels: Tensor | None) -> Tensor:
        return shift_probability(target, labels) if self.probability_shift and labels is not None else target

    def _tau(self, rows: Tensor, target: Tensor) -> Any:
        base = self.base_temperature
        return base if self.temperature is None else self.temperature(rows, target, base)


class HardLabels:
    """``Σ mean(loss)`` over the student's own losses; off when its adaptor gives none."""

    name = "unweighted_hard_label_loss"
    shown = True

    def __init__(self, weight: float = 1.0, schedule: Any = None, active: tuple[float, float] | None = None) -> None:
        self.weight = Weight(weight, _schedule(schedule), active)

    def advance(self, progress: float) -> None:
        """Move the weight on."""
        self.weight.advance(progress)

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None:
        if not student.losses:
            return None
        return torch.stack([loss.float().mean() for loss in student.losses]).sum() / share.micro_batches


def is_told_teachers_mask(match: IntermediateMatch, loss: Callable[..., Any]) -> bool:
    """Whether a match's loss gets the mask of the teacher's own tokens, as ``mask_T``.

    A mask of the match is of the student's tokens, and says that the teacher has the same.
    """
    return match.mask is None and takes_mask_T(loss)


class FeatureMatch:
    """One intermediate match, with the projection of the student's feature if it has one.

    Args:
        match: what is matched, and how.
        projection: applied to the student's feature.
        both_masks: call the loss as ``f(S, T, mask_S, mask_T)``, as custom matches are, not as ``f(S, T, mask=...)``.
        loss: the loss itself; None looks up the match's.
    """

    shown = False

    def __init__(
        self,
        match: IntermediateMatch,
        projection: Callable[[Tensor], Tensor] | None = None,
        both_masks: bool = False,
        loss: Callable[..., Tensor] | None = None,
    ) -> None:
        self.match = match
        self.name = f"unweighted_{match.name}"
        self.weight = Weight(match.weight, _schedule(match.weight_scheduler), match.active)
        self.loss = loss or (match.loss if callable(match.loss) else MATCH_LOSS_MAP[match.loss])
        self.projection = projection
        self.both_masks = both_masks
        self.takes_mask_T = is_told_teachers_mask(match, self.loss)

    def advance(self, progress: float) -> None:
        """Move the weight on."""
        self.weight.advance(progress)

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None:
        if teacher is None:
            raise AdaptorError(f"{self.name}: a match needs a teacher")
        if teacher.members:
            teacher = teacher.members[self.match.teacher]
        of_student = features_of(student, self.match, "S")
        of_teacher = features_of(teacher, self.match, "T")
        if isinstance(self.projection, AutoProjection):
            self.projection.fit(_first(of_student), _first(of_teacher), self.match.name)
        if self.projection is not None:
            of_student = _each(self._project, of_student)
        features: tuple[Any, ...] = (_each(full_precision, of_student), _each(full_precision, of_teacher))
        if self.both_masks:
            return _shared(
                self.loss, (*features, student.inputs_mask, teacher.inputs_mask), {}, share, "", self.match.name
            )
        unit = unit_of(self.loss)
        keywords: dict[str, Any] = {"mask": student.inputs_mask}
        if self.takes_mask_T:
            keywords["mask_T"] = teacher.inputs_mask
        if self.match.mask is not None:
            keywords["mask"] = self._extra(student, self.match.mask, "(batch, length), non-zero where the match counts")
            unit = f"{unit}@{self.match.mask}" if unit in _UNITS_OF_A_MASK else unit
        if needs_index(self.loss):
            keywords["index"] = self._extra(student, INDEX, "(batch,), which example of the data each row is")
        return _shared(self.loss, features, keywords, share, unit, self.match.name)

    def _extra(self, student: ModelOutputs, key: str, what: str) -> Tensor:
        if key not in student.extra:
            raise AdaptorError(
                f"{self.match.name}: adaptor_S gave {list(student.given)} and no {key!r}, {what}, which this "
                f"match needs; return it from adaptor_S, or let the batch have a column {key!r}"
            )
        return student.extra[key]

    def _project(self, state: Tensor) -> Tensor:
        proj, projection = self.match.proj, self.projection
        if isinstance(proj, list) and state.shape[-1] != proj[1]:
            raise MatchError(
                f"{self.match.name}: proj={proj[:3]} takes width {proj[1]}, but the student's feature is "
                f"{list(state.shape)}; write proj=['{proj[0]}', {state.shape[-1]}, {proj[2]}]"
            )
        parameters = projection.parameters() if isinstance(projection, nn.Module) else iter(())
        weight = next(parameters, None)
        return projection(state if weight is None else state.to(weight.dtype))  # type: ignore[misc]


class Objective:
    """All terms of a run; see :class:`~textbrewer.DistillationConfig` for the formula.

    A term that weighs nothing at the moment is left alone: whatever is wrong with it does no harm.

    Args:
        terms: the summands, in the order they are reported.
        balance: makes the total of them; None adds them up by their weights.
    """

    def __init__(self, terms: Sequence[Term], balance: Balance | None = None) -> None:
        self.terms = list(terms)
        self.balance = balance
        self._said: set[str] = set()

    def __call__(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> LossReport:
        """The cost of one micro-batch.

        Raises:
            AdaptorError: an adaptor left out what a term needs.
            MatchError: tensors of a term do not fit; the message names the term and the shapes.
        """
        counting: dict[int, Tensor] = {}
        reported: dict[str, Tensor] = {}
        idle: list[Term] = []
        for place, term in enumerate(self.terms):
            if term.weight.now:
                value = term.value(student, teacher, share)
            elif term.weight.rests or not term.shown:
                idle.append(term)
                continue
            else:
                value = _without_effect(term, student, teacher, share)
            if value is None:
                self._say_off(term, student, teacher)
                continue
            key = term.name if term.name not in reported else f"{term.name}_{place}"
            reported[key] = value.detach() * share.micro_batches
            if term.weight.now:
                counting[place] = value
            else:
                idle.append(term)
        if not counting and not idle:
            raise AdaptorError(
                f"nothing to learn from: {_given(student, teacher)}; give 'logits' on both sides, 'losses' of the "
                "student, or a match"
            )
        total = self._total(counting, share) if counting else _zero_of(student)
        if counting and not any(self.terms[place].shown for place in counting) and any(term.shown for term in idle):
            # As in 0.2.1 the gradient of what only such terms reach is zero and not missing: weight decay goes on.
            total = total + _zero_of(student)
        return LossReport(total=total, terms=reported, loss=total.detach() * share.micro_batches)

    def _total(self, values: dict[int, Tensor], share: Share) -> Tensor:
        weights = {place: self.terms[place].weight.now for place in values}
        if self.balance is not None:
            return self.balance(values, weights, share.micro_batches)
        first, *others = (value * weights[place] for place, value in values.items())
        return sum(others, start=first)

    def advance(self, progress: float) -> None:
        """Move every weight and temperature on to ``progress`` in [0, 1]."""
        for term in self.terms:
            term.advance(progress)

    def per_element(self) -> bool:
        """Whether some term averages over the valid elements of the whole step, and so needs its counts."""
        return any(unit_of(term.loss) for term in self.terms if isinstance(term, (SoftLabels, FeatureMatch)))

    def _say_off(self, term: Term, student: ModelOutputs, teacher: ModelOutputs | None) -> None:
        if term.name in self._said:
            return
        self._said.add(term.name)
        if not term.weight.ever:
            return
        warnings.warn(f"{term.name} is off in this run: {_given(student, teacher)}", stacklevel=2)


def _without_effect(term: Term, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None:
    """The value of a term for the log alone."""
    try:
        with torch.no_grad():
            value = term.value(student, teacher, share)
    except Exception:
        return None
    # What is not finite stops a run, and this is no part of it.
    return None if value is None else value.nan_to_num(posinf=0.0, neginf=0.0)


def _zero_of(student: ModelOutputs) -> Tensor:
    """A zero on the graph of what the student gave, though that be NaN."""
    given = (*student.logits, *student.losses, *student.hidden, *student.attention, *student.modules.values())
    first = next((tensor for tensor in given if isinstance(tensor, Tensor) and tensor.requires_grad), torch.zeros(0))
    return first.flatten()[:0].float().sum()


def _given(student: ModelOutputs, teacher: ModelOutputs | None) -> str:
    text = f"adaptor_S gave {list(student.given)}"
    for member in () if teacher is None else teacher.members or (teacher,):
        text += f", adaptor_T gave {list(member.given)}"
    return text


def shift_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Swap the logit of each row's true label with the row's largest; rows with a negative label stay.

    Args:
        logits: ``(..., classes)``.
        labels: ``(...)``, integers.

    Raises:
        MatchError: the labels do not fit the logits, or name a class there is not.

    >>> shift_probability(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1]))
    tensor([[1., 3., 2.]])
    """
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        raise MatchError(
            f"probability_shift: labels {list(labels.shape)} ({labels.dtype}) do not fit logits "
            f"{list(logits.shape)}; one class index per row is needed"
        )
    if labels.numel() == 0:
        return logits
    if not logits.is_cuda and int(labels.max()) >= logits.shape[-1]:
        classes = logits.shape[-1]
        raise MatchError(
            f"probability_shift: label {int(labels.max())}, but there are {classes} classes (0..{classes - 1}); mark "
            "rows without a label by a negative one, as in -100"
        )
    true = labels.clamp(min=0).unsqueeze(-1)
    best = logits.argmax(dim=-1, keepdim=True)
    shifted = logits.scatter(-1, true, logits.gather(-1, best)).scatter(-1, best, logits.gather(-1, true))
    return torch.where((labels < 0).unsqueeze(-1), logits, shifted)


def counts_of(masks: Sequence[Mapping[str, Any]]) -> Counts:
    """The valid units of a step, from what each of its micro-batches tells.

    ``rows`` is their number, and ``logit_rows`` that of 2-d logits, where they have another. ``mask``,
    ``(batch, length)``, counts ``tokens`` and ``token_pairs`` (Σ length²), and its elements are ``positions``.
    ``logits_mask`` counts the ``selected`` rows of 3-d logits. Any other mask counts ``tokens@name`` and
    ``token_pairs@name``. What some micro-batch does not tell is not counted.
    """
    counts: dict[str, Any] = {}
    if not masks or not all("rows" in tells for tells in masks):
        return counts
    counts["rows"] = float(sum(tells["rows"] for tells in masks))
    counts["logit_rows"] = float(sum(tells.get("logit_rows", tells["rows"]) for tells in masks))
    for name in [name for name in masks[0] if name not in ("rows", "logit_rows", "logits_mask")]:
        if all(_is_mask(tells.get(name)) for tells in masks):
            lengths = [(tells[name] != 0).sum(dim=1).float() for tells in masks]
            of_mask = "" if name == "mask" else f"@{name}"
            counts[f"tokens{of_mask}"] = torch.stack([length.sum() for length in lengths]).sum()
            counts[f"token_pairs{of_mask}"] = torch.stack([(length**2).sum() for length in lengths]).sum()
    if all(_is_mask(tells.get("mask")) for tells in masks):
        counts["positions"] = float(sum(tells["mask"].numel() for tells in masks))
    if all(_is_mask(tells.get("logits_mask")) for tells in masks):
        counts["selected"] = torch.stack([(tells["logits_mask"] != 0).sum() for tells in masks]).sum().float()
    return counts


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2


def _shared(
    loss: Callable[..., Tensor],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    share: Share,
    unit: str,
    name: str,
) -> Tensor:
    """A loss as this micro-batch's share of the step: by count of ``unit`` where it can be, else an equal part."""
    try:
        if unit_of(loss) and unit in share.counts:
            return loss(*arguments, **keywords, count=share.counts[unit])
        return loss(*arguments, **keywords) / share.micro_batches
    except MatchError as error:
        raise MatchError(f"{name}: {error}") from None


def _selected(logits: Tensor, masks: list[Tensor], index: int, adaptor: str) -> tuple[Tensor, Tensor | None]:
    """The logits as rows, in float32 at least; 3-d logits only where their mask is non-zero."""
    if not masks or logits.dim() < 3:
        return full_precision(logits), None
    mask = masks[0] if len(masks) == 1 else masks[index] if index < len(masks) else None
    if mask is None or mask.shape != logits.shape[:2]:
        found = "nothing" if mask is None else str(list(mask.shape))
        raise MatchError(
            f"logits_mask of {adaptor}: expected {list(logits.shape[:2])} for logits {list(logits.shape)}, got {found}"
        )
    chosen = mask != 0
    # Selected first: a copy of all positions of a vocabulary is large.
    return full_precision(logits[chosen]), chosen


def _first(feature: Tensor | list[Tensor]) -> Tensor:
    return feature[0] if isinstance(feature, list) else feature


def _each(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return [function(item) for item in value] if isinstance(value, list) else function(value)


def _schedule(given: Any) -> Callable[[float], float] | None:
    return given if given is None or callable(given) else WEIGHT_SCHEDULER[given]


def _temperature_schedule(given: Any) -> Callable[..., Any] | None:
    return given if given is None or callable(given) else TEMPERATURE_SCHEDULER[given]
