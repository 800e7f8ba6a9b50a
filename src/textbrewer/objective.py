"""The objective: a sum of weighted terms over what the student and the teacher gave."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .configs import DistillationConfig, IntermediateMatch
from .errors import AdaptorError, MatchError
from .losses import COUNT_UNITS, full_precision
from .matching.features import features_of
from .presets import KD_LOSS_MAP, MATCH_LOSS_MAP, TEMPERATURE_SCHEDULER, WEIGHT_SCHEDULER
from .types import LossReport, ModelOutputs

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
    """One summand. ``value`` is unweighted and already this micro-batch's share of the step's mean."""

    name: str
    weight: float
    schedule: Callable[[float], float] | None

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None: ...


class SoftLabels:
    """``Σ KD(student, teacher, τ)`` over the logits that both sides give; off when a side gives none."""

    name = "unweighted_kd_loss"

    def __init__(self, config: DistillationConfig) -> None:
        self.weight = float(config.kd_loss_weight)
        self.schedule = _weight_schedule(config.kd_loss_weight_scheduler)
        self.loss = KD_LOSS_MAP[config.kd_loss_type] if isinstance(config.kd_loss_type, str) else config.kd_loss_type
        self.base_temperature = config.temperature
        self.temperature = _temperature_schedule(config.temperature_scheduler)
        self.probability_shift = config.probability_shift

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None:
        if teacher is None or not student.logits or not teacher.logits:
            return None
        if len(student.logits) != len(teacher.logits):
            raise AdaptorError(
                f"{self.name}: adaptor_S gave {len(student.logits)} logits and adaptor_T {len(teacher.logits)}; "
                "both must give the same number"
            )
        labels = student.labels or teacher.labels
        if self.probability_shift and not labels:
            raise AdaptorError(
                f"{self.name}: probability_shift=True needs labels, and adaptor_S gave {list(student.given)}; "
                "add 'labels' to what it returns"
            )
        total = None
        for index, (of_student, of_teacher) in enumerate(zip(student.logits, teacher.logits, strict=True)):
            selected_s, _ = _selected(of_student, student.logits_mask, index, "adaptor_S")
            selected_t, mask_t = _selected(of_teacher, teacher.logits_mask, index, "adaptor_T")
            if selected_s.shape[:-1] != selected_t.shape[:-1]:
                raise MatchError(
                    f"{self.name}: student logits {list(of_student.shape)} and teacher logits "
                    f"{list(of_teacher.shape)} select {selected_s.shape[0]} and {selected_t.shape[0]} positions; "
                    "both adaptors must give the same logits_mask"
                )
            if self.probability_shift:
                here = labels[min(index, len(labels) - 1)]
                here = here[mask_t] if mask_t is not None and here.dim() == 2 else here
                selected_t = shift_probability(selected_t, here)
            one = self._one(selected_s, selected_t, share, "tokens" if of_student.dim() > 2 else "rows")
            total = one if total is None else total + one
        return total

    def _one(self, student: Tensor, teacher: Tensor, share: Share, unit: str) -> Tensor:
        tau: Any = self.base_temperature
        if self.temperature is not None:
            tau = self.temperature(student, teacher, tau)
        return _shared(self.loss, (student, teacher, tau), {}, share, unit, self.name)


class HardLabels:
    """``Σ mean(loss)`` over the student's own losses; off when its adaptor gives none."""

    name = "unweighted_hard_label_loss"

    def __init__(self, weight: float = 1.0, schedule: Any = None) -> None:
        self.weight = float(weight)
        self.schedule = _weight_schedule(schedule)

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None:
        if not student.losses:
            return None
        return torch.stack([loss.float().mean() for loss in student.losses]).sum() / share.micro_batches


class FeatureMatch:
    """One intermediate match, with the projection of the student's feature if it has one."""

    def __init__(self, match: IntermediateMatch, projection: nn.Module | None = None) -> None:
        self.match = match
        self.name = f"unweighted_{match.name}"
        self.weight = float(match.weight)
        self.schedule: Callable[[float], float] | None = None
        self.loss = MATCH_LOSS_MAP[match.loss] if isinstance(match.loss, str) else match.loss
        self.projection = projection

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None:
        if teacher is None:
            raise AdaptorError(f"{self.name}: a match needs a teacher")
        of_student = features_of(student, self.match, "S")
        of_teacher = features_of(teacher, self.match, "T")
        if self.projection is not None:
            of_student = _each(self._project, of_student)
        arguments = (_each(full_precision, of_student), _each(full_precision, of_teacher))
        unit = COUNT_UNITS.get(self.loss, "tokens")
        return _shared(self.loss, arguments, {"mask": student.inputs_mask}, share, unit, self.name)

    def _project(self, state: Tensor) -> Tensor:
        weight = next(self.projection.parameters())  # type: ignore[union-attr]
        if state.shape[-1] != self.match.proj[1]:  # type: ignore[index]
            raise MatchError(
                f"{self.name}: proj={self.match.proj[:3]} takes width {self.match.proj[1]}, "  # type: ignore[index]
                f"but the student's feature is {list(state.shape)}; write proj=['{self.match.proj[0]}', "  # type: ignore[index]
                f"{state.shape[-1]}, {self.match.proj[2]}]"  # type: ignore[index]
            )
        return self.projection(state.to(weight.dtype))  # type: ignore[misc,no-any-return]


class Objective:
    """All terms of a run; see :class:`~textbrewer.DistillationConfig` for the formula.

    Args:
        terms: the summands, in the order they are reported.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = list(terms)
        self._said: set[str] = set()

    def __call__(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> LossReport:
        """The cost of one micro-batch.

        Raises:
            AdaptorError: an adaptor left out what a term needs.
            MatchError: tensors of a term do not fit; the message names the term and the shapes.
        """
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for term in self.terms:
            value = term.value(student, teacher, share)
            if value is None:
                self._say_off(term, student, teacher)
                continue
            key = term.name if term.name not in values else f"{term.name}_{len(values)}"
            values[key] = value.detach() * share.micro_batches
            total = value * term.weight if total is None else total + value * term.weight
        if total is None:
            raise AdaptorError(
                f"nothing to learn from: adaptor_S gave {list(student.given)}"
                + (f", adaptor_T gave {list(teacher.given)}" if teacher is not None else "")
                + "; give 'logits' on both sides, 'losses' of the student, or a match"
            )
        return LossReport(total=total, terms=values, loss=total.detach() * share.micro_batches)

    def advance(self, progress: float) -> None:
        """Replace every scheduled weight by its value at ``progress`` in [0, 1]."""
        for term in self.terms:
            if term.schedule is not None:
                term.weight = float(term.schedule(progress))

    def per_element(self) -> bool:
        """Whether some term averages over the valid elements of the whole step, and so needs its counts."""
        return any(getattr(term, "loss", None) in COUNT_UNITS for term in self.terms)

    def _say_off(self, term: Term, student: ModelOutputs, teacher: ModelOutputs | None) -> None:
        if term.name in self._said:
            return
        self._said.add(term.name)
        if term.weight == 0 and term.schedule is None:
            return
        given = f"adaptor_S gave {list(student.given)}"
        given += f", adaptor_T gave {list(teacher.given)}" if teacher is not None else ""
        warnings.warn(f"{term.name} is off in this run: {given}", stacklevel=2)


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
        raise MatchError(f"probability_shift: label {int(labels.max())}, but there are {logits.shape[-1]} classes")
    true = labels.clamp(min=0).unsqueeze(-1)
    best = logits.argmax(dim=-1, keepdim=True)
    shifted = logits.scatter(-1, true, logits.gather(-1, best)).scatter(-1, best, logits.gather(-1, true))
    return torch.where((labels < 0).unsqueeze(-1), logits, shifted)


def counts_of(masks: Sequence[Mapping[str, Any]]) -> Counts:
    """The valid units of a step, from what each of its micro-batches tells (``rows``, ``mask``).

    Empty when some micro-batch cannot tell.
    """
    counts: dict[str, Any] = {}
    if not masks or not all("rows" in tells for tells in masks):
        return counts
    counts["rows"] = float(sum(tells["rows"] for tells in masks))
    if all(isinstance(tells.get("mask"), Tensor) and tells["mask"].dim() == 2 for tells in masks):
        lengths = [(tells["mask"] != 0).sum(dim=1).float() for tells in masks]
        counts["tokens"] = torch.stack([length.sum() for length in lengths]).sum()
        counts["token_pairs"] = torch.stack([(length**2).sum() for length in lengths]).sum()
    return counts


def _shared(
    loss: Callable[..., Tensor],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    share: Share,
    unit: str,
    name: str,
) -> Tensor:
    """A loss as this micro-batch's share of the step: by count where it can be, else an equal part."""
    try:
        if loss in COUNT_UNITS:
            unit = unit if COUNT_UNITS[loss] == "logit_rows" else COUNT_UNITS[loss]
            if unit in share.counts:
                return loss(*arguments, **keywords, count=share.counts[unit])
        return loss(*arguments, **keywords) / share.micro_batches
    except MatchError as error:
        raise MatchError(f"{name}: {error}") from None


def _selected(logits: Tensor, masks: list[Tensor], index: int, adaptor: str) -> tuple[Tensor, Tensor | None]:
    """The logits as rows, in float32 at least; 3-d logits only where their mask is non-zero."""
    logits = full_precision(logits)
    if not masks or logits.dim() < 3:
        return logits, None
    mask = masks[0] if len(masks) == 1 else masks[index] if index < len(masks) else None
    if mask is None or mask.shape != logits.shape[:2]:
        found = "nothing" if mask is None else str(list(mask.shape))
        raise MatchError(
            f"logits_mask of {adaptor}: expected {list(logits.shape[:2])} for logits {list(logits.shape)}, got {found}"
        )
    chosen = mask != 0
    return logits[chosen], chosen


def _each(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return [function(item) for item in value] if isinstance(value, list) else function(value)


def _weight_schedule(given: Any) -> Callable[[float], float] | None:
    return WEIGHT_SCHEDULER[given] if isinstance(given, str) else given


def _temperature_schedule(given: Any) -> Callable[..., Any] | None:
    return given if given is None or callable(given) else TEMPERATURE_SCHEDULER[given]
