"""Plots as SVG text, for pages that need no other file, and as PNG."""

from __future__ import annotations

import io
import re
import statistics
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from ..errors import DataError, MissingDependencyError
from .table import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIGHT = {
    "ink": "#1f2328",
    "soft": "#57606a",
    "edge": "#9aa3ad",
    "grid": "#e6e9ec",
    "series-0": "#4c5a69",
    "series-1": "#d1495b",
    "series-2": "#2878a8",
    "series-3": "#8d6a9f",
    "series-4": "#3f7d4f",
    "series-5": "#b8801f",
    "heat-0": "#f2f6fa",
    "heat-1": "#dde8f2",
    "heat-2": "#c4d8e8",
    "heat-3": "#a9c7de",
    "heat-4": "#8db4d2",
    "heat-5": "#709fc6",
    "heat-6": "#2f74a8",
    "heat-7": "#28689a",
    "heat-8": "#205b8b",
    "heat-9": "#174e7c",
    "heat-10": "#0d406c",
    "on-heat": "#ffffff",
}
"""The colours that plots are drawn in. Each is of one name, so that a page can put another in its place."""

DARK = {
    "ink": "#e6edf3",
    "soft": "#9da7b3",
    "edge": "#6e7681",
    "grid": "#30363d",
    "series-0": "#9fb0c1",
    "series-1": "#f0808d",
    "series-2": "#5aafe0",
    "series-3": "#c39bd6",
    "series-4": "#6fbf85",
    "series-5": "#e0ad52",
    "heat-0": "#161f29",
    "heat-1": "#192c3c",
    "heat-2": "#1c394f",
    "heat-3": "#1f4763",
    "heat-4": "#225578",
    "heat-5": "#25648d",
    "heat-6": "#4792c8",
    "heat-7": "#5ba3d6",
    "heat-8": "#74b5e2",
    "heat-9": "#91c7ec",
    "heat-10": "#b0daf5",
    "on-heat": "#06121c",
}
"""The same on a dark page."""

COLOURS = tuple(LIGHT[f"series-{i}"] for i in range(6))
"""One colour a series, in the order the series are given; told apart in greyscale too."""

_HEAT = tuple(LIGHT[f"heat-{i}"] for i in range(11))
_DARK_STEPS = 6
"""From this step of the heat on, text is written in ``on-heat``."""

_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_DASHES = ("-", "--", ":")

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": LIGHT["ink"],
    # Names of classes and runs are text, whatever they hold between dollars.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT["edge"],
    "axes.labelcolor": LIGHT["ink"],
    "xtick.color": LIGHT["soft"],
    "ytick.color": LIGHT["ink"],
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    # Fixed, so that the same numbers give the same file.
    "svg.hashsalt": "textbrewer",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

Curve = Sequence[tuple[int, float]]


class Drawing(str):
    """A plot: the text of its SVG, and on demand its pixels.

    Args:
        draw: draws into the axes it is given.
        width: of all of it, in inches.
        height: likewise.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """

    _parts: tuple[Callable[[Axes], None], float, float]

    def __new__(cls, draw: Callable[[Axes], None], width: float, height: float) -> Self:
        text = _rendered(draw, width, height, "svg").decode("utf-8")
        made = super().__new__(cls, text[text.index("<svg") :])
        made._parts = draw, width, height
        return made

    def png(self) -> bytes:
        """The plot as a PNG file, on white."""
        return _rendered(*self._parts, "png")


class Bin(NamedTuple):
    """Answers that a model was about equally sure of.

    Attributes:
        share: of all answers.
        confidence: their mean probability by the model.
        right: the share of them that is right.
    """

    share: float
    confidence: float
    right: float


class Point(NamedTuple):
    """A model by its cost and its score."""

    name: str
    cost: float
    score: float


def scalars(log_dir: str | Path, tag: str = "scalar/total_loss") -> list[tuple[int, float]]:
    """``(step, value)`` of one tag of a run's TensorBoard log.

    Raises:
        DataError: the log has no such tag; the message lists those there are.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    log = EventAccumulator(str(log_dir), size_guidance={SCALARS: 0})
    log.Reload()
    if tag not in log.Tags()[SCALARS]:
        raise DataError(f"{log_dir}: no scalar {tag!r}; there are {log.Tags()[SCALARS]}")
    return [(event.step, event.value) for event in log.Scalars(tag)]


def thinned(curve: Curve, most: int = 400) -> list[tuple[int, float]]:
    """A curve of at most so many points: the means of neighbours, at the last of each group.

    >>> thinned([(0, 4.0), (1, 2.0), (2, 1.0), (3, 0.0)], most=2)
    [(1, 3.0), (3, 0.5)]
    """
    size = -(-len(curve) // most) or 1
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(group[-1][0], statistics.fmean(value for _, value in group)) for group in groups]


def quality(scores: Mapping[str, Sequence[float]], label: str) -> Drawing:
    """Scores by model: a dot for each seed, and mean ± standard deviation where there are several."""

    def draw(axes: Axes) -> None:
        for place, (values, colour) in enumerate(zip(scores.values(), cycle(COLOURS), strict=False)):
            alpha = 0.45 if len(values) > 1 else 1
            axes.plot(values, [place] * len(values), "o", color=colour, alpha=alpha, markersize=7, markeredgewidth=0)
            mean = statistics.mean(values)
            if len(values) > 1:
                axes.errorbar(
                    mean, place + 0.22, xerr=statistics.stdev(values), fmt="|", color=colour, capsize=3, markersize=9
                )
            axes.annotate(spread(values), (mean, place - 0.3), ha="center", va="center", fontsize=9)
        axes.set_yticks(range(len(scores)), list(scores))
        axes.set_ylim(len(scores) - 0.5, -0.6)
        axes.margins(x=0.15)
        axes.set_xlabel(label)
        axes.grid(axis="x", color=LIGHT["grid"])

    return svg_of(draw, height=0.75 * len(scores) + 0.9)


def relative(measures: Mapping[str, Mapping[str, float]], reference: str) -> Drawing:
    """Bars of each measure in % of the reference's.

    Args:
        measures: ``{measure: {model: value}}``.
        reference: the model that is 100 %.
    """

    def draw(axes: Axes) -> None:
        models = list(next(iter(measures.values())))
        height = 0.8 / len(models)
        for row, (model, colour) in enumerate(zip(models, cycle(COLOURS), strict=False)):
            shares = [100 * by_model[model] / by_model[reference] for by_model in measures.values()]
            places = [i + (row - (len(models) - 1) / 2) * height for i in range(len(measures))]
            bars = axes.barh(places, shares, height=height * 0.88, color=colour, label=model)
            axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=9)
        axes.set_yticks(range(len(measures)), list(measures))
        axes.invert_yaxis()
        axes.set_xlabel(f"% of the {reference}")
        axes.margins(x=0.14)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=len(models))

    return svg_of(draw, height=0.7 * len(measures) + 1.1)


def curves(series: Mapping[str, Sequence[Curve]], label: str, smoothing: int = 5) -> Drawing:
    """Values by step: a thin line for each seed, and their running mean in bold.

    Args:
        series: ``{name: [curve of each seed]}``.
        label: what the values are.
        smoothing: steps that the bold line averages over.
    """

    def draw(axes: Axes) -> None:
        for (name, runs), style in zip(series.items(), _styles(first=1), strict=False):
            for run in runs:
                axes.plot(*zip(*run, strict=True), color=style["color"], alpha=0.2, linewidth=0.8)
            steps = [step for step, _ in min(runs, key=len)]
            means = [statistics.mean(run[i][1] for run in runs) for i in range(len(steps))]
            smooth = [statistics.mean(means[max(0, i - smoothing + 1) : i + 1]) for i in range(len(means))]
            axes.plot(steps, smooth, linewidth=2, label=name, **style)
        # Of losses that balance each other the total may be below 0.
        if all(value >= 0 for runs in series.values() for run in runs for _, value in run):
            axes.set_ylim(bottom=0)
        axes.set_xlabel("batch")
        axes.set_ylabel(label)
        axes.grid(axis="y", color=LIGHT["grid"])
        _legend_above(axes)

    return svg_of(draw, height=2.7 + _legend_height(series))


def progress(series: Mapping[str, Curve], label: str, reference: tuple[str, float] | None = None) -> Drawing:
    """Scores along a training, with a ring around the best of each.

    Args:
        series: ``{name: (optimiser step, score)}``.
        label: what the scores are.
        reference: the name and the score of a line to reach.
    """

    def draw(axes: Axes) -> None:
        for (name, curve), style, marker in zip(series.items(), _styles(first=1), cycle(_MARKERS), strict=False):
            axes.plot(*zip(*curve, strict=True), marker=marker, markersize=4, linewidth=1.6, label=name, **style)
            best = max(curve, key=lambda point: point[1])
            axes.plot(*best, "o", markersize=10, markerfacecolor="none", markeredgecolor=style["color"])
        if reference is not None:
            axes.axhline(reference[1], color=COLOURS[0], linestyle="--", linewidth=1.2, label=reference[0])
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(label)
        axes.grid(axis="y", color=LIGHT["grid"])
        _legend_above(axes)

    return svg_of(draw, height=2.7 + _legend_height([*series, *([reference[0]] if reference else [])]))


def pareto(points: Sequence[Point], cost: str, score: str) -> Drawing:
    """Score against cost. The line joins the models that no other beats in both.

    Args:
        points: a model each.
        cost: what the costs are, with their unit.
        score: what the scores are, with their unit.
    """

    def draw(axes: Axes) -> None:
        front = sorted((point for point in points if is_on_front(point, points)), key=lambda point: point.cost)
        axes.plot([p.cost for p in front], [p.score for p in front], color=LIGHT["edge"], linestyle="--", zorder=1)
        for point, colour, marker in zip(points, cycle(COLOURS), cycle(_MARKERS), strict=False):
            axes.plot(point.cost, point.score, marker, color=colour, markersize=9, markeredgewidth=0, label=point.name)
        axes.margins(x=0.1, y=0.15)
        axes.set_xlim(left=0)
        axes.set_xlabel(cost)
        axes.set_ylabel(score)
        axes.grid(color=LIGHT["grid"])
        _legend_above(axes)

    return svg_of(draw, height=2.7 + _legend_height([point.name for point in points]))


def is_on_front(point: Point, points: Iterable[Point]) -> bool:
    """Whether no other point costs as little and scores as much, and is better in one of both."""
    mine = (-point.cost, point.score)
    others = [(-other.cost, other.score) for other in points]
    return not any(a >= mine[0] and b >= mine[1] and (a, b) != mine for a, b in others)


def reliability(models: Mapping[str, Sequence[Bin]], confidence: str, right: str) -> Drawing:
    """How often models are right by how sure they are; the larger a mark, the more answers it stands for.

    Args:
        models: the bins of each.
        confidence: what the horizontal axis is.
        right: what the vertical axis is.

    Source: 1706.04599.
    """

    def draw(axes: Axes) -> None:
        marks = zip(models.items(), COLOURS, _MARKERS, strict=False)
        for (name, bins), colour, marker in marks:
            places = [each.confidence for each in bins], [each.right for each in bins]
            sizes = [15 + 220 * each.share for each in bins]
            axes.plot(*places, color=colour, linewidth=1.2, alpha=0.7)
            axes.scatter(*places, s=sizes, color=colour, marker=marker, label=name, linewidths=0, zorder=3)
        axes.plot([0, 1], [0, 1], color=LIGHT["edge"], linestyle="--", linewidth=1, label="as sure as right")
        axes.set_xlim(0, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(confidence)
        axes.set_ylabel(right)
        axes.grid(color=LIGHT["grid"])
        # As marks of one size, whatever the first bin has.
        for handle in _legend_above(axes).legend_handles[:-1]:
            handle.set_sizes([40])

    return svg_of(draw, height=3.7)


def heat_map(
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    down: str,
    across: str,
    cell: float = 0.4,
) -> Drawing:
    """A table of numbers from 0 to 1 as colours, with a text in each cell.

    Args:
        values: by row and column.
        texts: what stands in the cells.
        rows: their names.
        columns: likewise.
        down: what the rows are.
        across: what the columns are.
        cell: width and height of a cell, in inches.
    """
    names = [cut(name) for name in rows], [cut(name) for name in columns]
    upright = max(map(len, names[1])) * 0.09 > cell
    room = [0.45 + 0.085 * max(map(len, names[0])), 0.45 + (0.085 * max(map(len, names[1])) if upright else 0.2)]

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        # The cells lie within the axes: what is arranged around those need not measure them.
        inside: dict[str, Any] = {"in_layout": False}
        centred: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.15, **inside}
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                step = min(10, max(0, round(10 * value)))
                place = (x - 0.48, y - 0.48)
                axes.add_patch(Rectangle(place, 0.96, 0.96, facecolor=_HEAT[step], linewidth=0, **inside))
                colour = LIGHT["on-heat" if step >= _DARK_STEPS else "ink"]
                axes.text(x, y, texts[y][x], fontsize=8, color=colour, **centred)
        axes.set_xticks(range(len(columns)), names[1], rotation=90 if upright else 0)
        axes.set_yticks(range(len(rows)), names[0])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(across)
        axes.set_ylabel(down)

    return svg_of(draw, height=len(rows) * cell + room[1], width=max(2.4, len(columns) * cell + room[0]))


def svg_of(draw: Callable[[Axes], None], height: float, width: float = 4.2) -> Drawing:
    """What ``draw(axes)`` draws; sizes in inches. The width is one that a phone shows without making text small."""
    return Drawing(draw, width, height)


def themed(svg: str) -> str:
    """An SVG for a page that has the colours of :data:`LIGHT` as CSS variables, and may be one of several there."""
    names = {colour: name for name, colour in LIGHT.items()}

    def in_tag(tag: re.Match[str]) -> str:
        # Ids of groups are the same in every plot, and nothing refers to them.
        text = re.sub(r'^<g id="[^"]*"', "<g", tag[0])
        return re.sub(
            r"#[0-9a-f]{6}\b", lambda found: f"var(--{names[found[0]]})" if found[0] in names else found[0], text
        )

    return re.sub(r"<[^>]+>", in_tag, svg)


def _styles(first: int) -> Iterator[dict[str, Any]]:
    """A colour and a dash for each series; colours come again in other dashes."""
    for dash in cycle(_DASHES):
        for colour in COLOURS[first:]:
            yield {"color": colour, "linestyle": dash}


def _legend_columns(names: Iterable[str]) -> int:
    return 2 if max(map(len, names), default=0) <= 22 else 1


def _legend_height(names: Collection[str]) -> float:
    """Inches that a legend takes."""
    return 0.17 * -(-len(names) // _legend_columns(names))


def _legend_above(axes: Axes) -> Any:
    """A legend that hides nothing of the plot."""
    handles, names = axes.get_legend_handles_labels()
    shown = [cut(name, most=42) for name in names]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    return axes.legend(handles, shown, frameon=False, fontsize=9, ncols=_legend_columns(names), **place)


def cut(name: str, most: int = 18) -> str:
    """A name of at most so many letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _rendered(draw: Callable[[Axes], None], width: float, height: float, form: Literal["svg", "png"]) -> bytes:
    try:
        import matplotlib
    except ImportError:
        raise MissingDependencyError("matplotlib", "report", "drawing plots") from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A figure of its own, not pyplot: nothing global is left behind, and no display is needed.
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A browser has more letters than Matplotlib's own font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        (FigureCanvasSVG if form == "svg" else FigureCanvasAgg)(figure)
        draw(figure.subplots())
        buffer = io.BytesIO()
        if form == "svg":
            figure.savefig(buffer, format=form, transparent=True, metadata=_NO_METADATA)
        else:
            figure.savefig(buffer, format=form, facecolor="white", dpi=200, metadata={"Software": None})
    return buffer.getvalue()
