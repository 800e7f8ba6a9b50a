"""The most capable student that keeps to a latency and a size, by measuring candidates on this machine."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from .configs import StudentConfig
from .errors import StudentError, count_of
from .matching.layers import positions_of
from .report.inspection import random_tokens
from .report.plots import COLOURS, LIGHT, Point, is_on_front, svg_of
from .report.profile import Inputs, machine, parameters_of, seconds
from .report.table import aligned
from .students import build_student_with_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger("textbrewer")

_TOGETHER = 8
"""Candidates measured in turns, and in memory, at a time."""


@dataclass(frozen=True)
class Limits:
    """What a student may cost, and how that is measured. At least one limit is needed.

    Attributes:
        max_latency_ms: median latency of a batch, in milliseconds.
        max_mb: size of the parameters in their precision, in millions of bytes.
        max_params: parameters; shared ones count once.
        batch: rows of the batch.
        length: tokens of each row.
        threads: of PyTorch; None for as many as it has.
        headroom: share of ``max_latency_ms`` that is left free when it is measured, because other moments are slower.
    """

    max_latency_ms: float | None = None
    max_mb: float | None = None
    max_params: int | None = None
    batch: int = 1
    length: int = 128
    threads: int | None = None
    headroom: float = 0.1

    def __str__(self) -> str:
        found = [(self.max_latency_ms, "{:g} ms"), (self.max_mb, "{:g} MB"), (self.max_params, "{:,} parameters")]
        return ", ".join(text.format(limit) for limit, text in found if limit is not None)


@dataclass(frozen=True)
class Candidate:
    """A student that could be, and what it costs.

    Attributes:
        config: its size; None for the teacher.
        layers: how many it has.
        width: of its hidden states.
        heads: of its attention.
        parameters: all of them.
        capacity: parameters that are in no embedding table.
        megabytes: of all parameters.
        latency_ms: median latency, or None where it was not measured because the size does not fit.
    """

    config: StudentConfig | None
    layers: int
    width: int
    heads: int
    parameters: int
    capacity: int
    megabytes: float
    latency_ms: float | None = None

    def __str__(self) -> str:
        return f"{count_of(self.layers, 'layer')} x {self.width}"

    def excess(self, limits: Limits) -> float:
        """Its largest cost as a share of what is allowed, which it fits at 1 and less; unknown costs do not count."""
        pairs = [
            (self.latency_ms, limits.max_latency_ms and limits.max_latency_ms * (1 - limits.headroom)),
            (self.megabytes, limits.max_mb),
            (self.parameters, limits.max_params),
        ]
        return max((cost / limit for cost, limit in pairs if cost is not None and limit is not None), default=0.0)


@dataclass(frozen=True)
class Plan:
    """What :func:`plan` found.

    Attributes:
        chosen: the most capable candidate that fits.
        candidates: all, the most capable first.
        teacher: what the teacher costs.
        limits: what was asked for.
        machine: where it was measured.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    teacher: Candidate
    limits: Limits
    machine: str

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The candidates of a size that fits which no other beats: what less latency costs in capacity.

        Size is no third axis, since it grows with capacity: nearly everything would be on that front.
        """
        measured = [each for each in self.candidates if each.latency_ms is not None]
        points = [Point(str(each), each.latency_ms or 0.0, each.capacity) for each in measured]
        return tuple(each for each, point in zip(measured, points, strict=True) if is_on_front(point, points))

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {**asdict(self), "front": [asdict(each) for each in self.front]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The plan of :meth:`to_dict`; keys that are not a plan's are passed over."""
        candidates = tuple(_candidate(each) for each in plain["candidates"])
        chosen = candidates[candidates.index(_candidate(plain["chosen"]))]
        return cls(chosen, candidates, _candidate(plain["teacher"]), Limits(**plain["limits"]), plain["machine"])

    def __str__(self) -> str:
        head = ["", "heads", "parameters", "of them no embeddings", "MB", "median, ms", "fits", "front"]
        front = self.front
        rows = [
            [
                "teacher" if each is self.teacher else str(each),
                str(each.heads),
                f"{each.parameters:,}",
                f"{each.capacity:,}",
                f"{each.megabytes:.1f}",
                "" if each.latency_ms is None else f"{each.latency_ms:.2f}",
                "yes" if each.latency_ms is not None and each.excess(self.limits) <= 1 else "",
                "chosen" if each is self.chosen else "yes" if each in front else "",
            ]
            for each in (self.teacher, *self.candidates)
        ]
        free = f", {self.limits.headroom:.0%} of the time left free" if self.limits.max_latency_ms is not None else ""
        how = f"{self.limits.batch} x {self.limits.length} tokens{free}"
        return f"{aligned([head, *rows])}\n\nAt most {self.limits}; {how}. Measured on {self.machine}."

    def svg(self) -> str:
        """Capacity by latency as a plot, with the front as a line, and the limit."""

        def draw(axes: Axes) -> None:
            measured = [each for each in (*self.candidates, self.teacher) if each.latency_ms is not None]
            front = self.front
            kinds = {
                "candidates": ([each for each in measured if each not in front], COLOURS[0], "o"),
                "front": (sorted(front, key=lambda each: each.latency_ms or 0.0), COLOURS[2], "o-"),
                "chosen": ([self.chosen], COLOURS[1], "D"),
            }
            for name, (some, colour, marker) in kinds.items():
                points = [(each.latency_ms, each.capacity / 1e6) for each in some]
                axes.plot(*zip(*points, strict=True), marker, color=colour, label=name) if points else None
            place = (self.teacher.latency_ms or 0.0, self.teacher.capacity / 1e6)
            axes.annotate("teacher", place, fontsize=9, ha="right")
            if self.limits.max_latency_ms is not None:
                axes.axvline(self.limits.max_latency_ms, color=COLOURS[1], linestyle=":", linewidth=1)
            axes.set_xlabel(f"median latency, ms ({self.limits.batch} x {self.limits.length} tokens)")
            axes.set_ylabel("parameters without embeddings, millions")
            axes.grid(color=LIGHT["grid"])
            axes.legend(frameon=False)

        return svg_of(draw, height=3.6)


def _candidate(plain: Mapping[str, Any]) -> Candidate:
    config = plain["config"]
    return Candidate(**{**plain, "config": config and StudentConfig.from_dict(config)})


def plan(
    teacher: nn.Module,
    limits: Limits,
    *,
    candidates: Sequence[StudentConfig] | None = None,
    repeats: int = 20,
    inputs: Callable[[int, int], Inputs] | None = None,
) -> Plan:
    """Measure candidates on this machine, and choose the most capable that keeps to the limits.

    Capacity is the number of parameters outside of embedding tables: what is computed with at every token. It ranks
    models of one family only roughly, and says nothing of deep against wide ones; those on the front are worth a try.
    Sizes are known without building anything; latency is measured of candidates whose size fits, in turns, on weights
    at random. The chosen one is measured a second time and must keep to the limits again, else the next one is chosen.

    The vocabulary is the teacher's: to plan with fewer tokens, plan for the teacher that
    :func:`~textbrewer.prune_vocabulary` has pruned.

    Args:
        teacher: a Transformers encoder.
        limits: what the student may cost.
        candidates: sizes to choose from. None makes them: fractions of the teacher's layers, and of its number of heads
            with the teacher's width of a head and ratio of the feed-forward width. What is chosen starts from the
            teacher's layers, narrowed by importance where it is narrower and its teacher's layers are like BERT's.
        repeats: runs by which the latency of each is measured; at least 2.
        inputs: ``(rows, tokens) -> batch``; None for random tokens without padding.

    Raises:
        StudentError: nothing fits, and the message names what comes closest; a limit is missing or not positive; the
            teacher takes fewer tokens.
        UnsupportedError: nothing tells how to feed the model.
    """
    _require_sensible(teacher, limits, candidates, repeats)
    sizes = [_sized(teacher, config) for config in (default_candidates(teacher) if candidates is None else candidates)]
    sizes.sort(key=lambda each: (each.capacity, -each.parameters), reverse=True)
    batch = (inputs or random_tokens(teacher))(limits.batch, limits.length)
    measured = {place: each for place, each in enumerate(sizes) if each.excess(limits) <= 1}
    with _threads(limits.threads):
        where, itself = machine(), []
        for start in range(0, len(measured), _TOGETHER):
            places = list(measured)[start : start + _TOGETHER]
            first, *others = _latency(teacher, [measured[place] for place in places], batch, repeats)
            itself.append(first)
            measured |= {
                place: replace(measured[place], latency_ms=found) for place, found in zip(places, others, strict=True)
            }
        for place in [place for place, each in measured.items() if each.excess(limits) <= 1]:
            first, again = _latency(teacher, [measured[place]], batch, repeats)
            itself.append(first)
            slower = max(again, measured[place].latency_ms or 0.0)
            measured[place] = replace(measured[place], latency_ms=slower)
            if measured[place].excess(limits) <= 1:
                break
    told = tuple(measured.get(place, each) for place, each in enumerate(sizes))
    chosen = next((each for each in told if each.latency_ms is not None and each.excess(limits) <= 1), None)
    if chosen is None:
        raise StudentError(_nothing_fits(told, limits))
    of_teacher = replace(_costs(teacher, None), latency_ms=statistics.median(itself))
    found = Plan(chosen, told, of_teacher, limits, where)
    logger.info("plan: %s of %s fits best: %s", chosen, count_of(len(told), "candidate"), limits)
    return found


def default_candidates(teacher: Any) -> list[StudentConfig]:
    """Fractions of the teacher's layers × fractions of its heads, without the teacher's own size.

    Narrower ones start with ``init="importance"`` where this teacher's weights can be narrowed.
    """
    config = teacher.config
    head_width = config.hidden_size // config.num_attention_heads

    def fractions(number: int) -> list[int]:
        return sorted({max(1, round(number * share / 12)) for share in (1, 2, 3, 4, 6, 8, 12)}, reverse=True)

    starts = {heads: _start_of(teacher, heads * head_width, heads) for heads in fractions(config.num_attention_heads)}
    return [
        StudentConfig(layers, hidden_size=heads * head_width, num_attention_heads=heads, init=start)
        for layers in fractions(config.num_hidden_layers)
        for heads, start in starts.items()
        if (layers, heads) != (config.num_hidden_layers, config.num_attention_heads)
    ]


def _start_of(teacher: Any, width: int, heads: int) -> str:
    """The ``init`` by which a student of this width has most of the teacher; whether it can be narrowed is tried."""
    if width == teacher.config.hidden_size:
        return "teacher"
    try:
        _built(teacher, StudentConfig(1, hidden_size=width, num_attention_heads=heads), init="importance")
    except StudentError:
        return "teacher"
    return "importance"


def _require_sensible(teacher: Any, limits: Limits, candidates: Sequence[StudentConfig] | None, repeats: int) -> None:
    if not 0 <= limits.headroom < 1:
        raise StudentError(f"plan: expected headroom from 0 to below 1, got {limits.headroom}")
    numbers = {name: value for name, value in vars(limits).items() if name != "headroom"} | {"repeats": repeats}
    wrong = [f"{name}={value}" for name, value in numbers.items() if value is not None and value <= 0]
    if wrong:
        raise StudentError(f"plan: expected numbers above 0, got {', '.join(wrong)}")
    if repeats < 2:
        raise StudentError(f"plan: expected repeats of at least 2, got {repeats}")
    if not str(limits):
        raise StudentError("plan: nothing is limited; give Limits max_latency_ms, max_mb or max_params")
    if candidates is not None and not candidates:
        raise StudentError("plan: there are no candidates; give some, or leave them out")
    positions = positions_of(teacher)
    if positions is not None and limits.length > positions:
        raise StudentError(
            f"plan: {type(teacher).__name__} takes {positions} tokens a row, got length={limits.length}; give less"
        )


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _built(teacher: nn.Module, config: StudentConfig, init: str = "random") -> Any:
    return build_student_with_report(teacher, config, init=init, seed=0)[0]


def _sized(teacher: nn.Module, config: StudentConfig) -> Candidate:
    with torch.device("meta"):
        return _costs(_built(teacher, config), config)


def _costs(model: Any, config: StudentConfig | None) -> Candidate:
    """What is known without running a model."""
    tables = {id(module.weight): module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    parameters = parameters_of(model)
    return Candidate(
        config=config,
        # A recurrent student has layers of another name, and no heads.
        layers=getattr(model.config, "num_hidden_layers", None) or model.config.num_layers,
        width=model.config.hidden_size,
        heads=getattr(model.config, "num_attention_heads", 0),
        parameters=parameters,
        capacity=parameters - sum(weight.numel() for weight in tables.values()),
        megabytes=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6,
    )


def _latency(teacher: nn.Module, candidates: Sequence[Candidate], batch: Inputs, repeats: int) -> list[float]:
    """Median milliseconds of the teacher and of candidates, which take turns."""
    device = next(teacher.parameters()).device
    models = {"teacher": teacher}
    for place, each in enumerate(candidates):
        if each.config is not None:
            models[str(place)] = _built(teacher, each.config).to(device)
    return [1000 * statistics.median(taken) for taken in seconds(models, [batch] * repeats).values()]


def _nothing_fits(candidates: Sequence[Candidate], limits: Limits) -> str:
    closest = min(candidates, key=lambda each: each.excess(limits))
    latency = "" if closest.latency_ms is None else f", {closest.latency_ms:.2f} ms"
    share = 1 - closest.capacity / closest.parameters
    return (
        f"plan: none of {count_of(len(candidates), 'candidate')} has at most {limits}; the closest is {closest} with "
        f"{closest.parameters:,} parameters, {closest.megabytes:.1f} MB{latency}. Allow more, give smaller candidates, "
        f"or prune the vocabulary first, as teacher.prune_vocabulary does in a recipe: {share:.0%} of these parameters "
        "are embeddings"
    )
