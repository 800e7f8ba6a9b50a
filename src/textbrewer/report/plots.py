"""Plots as SVG text, for pages that need no other file."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#4c5a69", "#d1495b", "#2878a8", "#8d6a9f", "#3f7d4f", "#b8801f")
"""One colour a series, in the order the series are given; told apart in greyscale too."""

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": "#30363d",
    "xtick.color": "#57606a",
    "ytick.color": "#30363d",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    # Fixed, so that the same numbers give the same file.
    "svg.hashsalt": "textbrewer",
}

Curve = Sequence[tuple[int, float]]


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


def quality(scores: Mapping[str, Sequence[float]], label: str) -> str:
    """Scores by model: a dot for each seed, and mean ± standard deviation where there are several."""

    def draw(axes: Axes) -> None:
        for place, (values, colour) in enumerate(zip(scores.values(), COLOURS, strict=False)):
            axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.45, markersize=7, markeredgewidth=0)
            mean = statistics.mean(values)
            if len(values) > 1:
                spread = statistics.stdev(values)
                axes.errorbar(mean, place + 0.22, xerr=spread, fmt="|", color=colour, capsize=3, markersize=9)
            text = f"{mean:.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")
            axes.annotate(text, (mean, place - 0.3), ha="center", va="center", color=colour, fontsize=9)
        axes.set_yticks(range(len(scores)), list(scores))
        axes.set_ylim(len(scores) - 0.5, -0.6)
        axes.margins(x=0.15)
        axes.set_xlabel(label)
        axes.grid(axis="x", color="#e6e9ec")

    return svg_of(draw, height=0.75 * len(scores) + 0.9)


def relative(measures: Mapping[str, Mapping[str, float]], reference: str) -> str:
    """Bars of each measure in % of the reference's.

    Args:
        measures: ``{measure: {model: value}}``.
        reference: the model that is 100 %.
    """

    def draw(axes: Axes) -> None:
        models = list(next(iter(measures.values())))
        height = 0.8 / len(models)
        for row, (model, colour) in enumerate(zip(models, COLOURS, strict=False)):
            shares = [100 * by_model[model] / by_model[reference] for by_model in measures.values()]
            places = [i + (row - (len(models) - 1) / 2) * height for i in range(len(measures))]
            bars = axes.barh(places, shares, height=height * 0.88, color=colour, label=model)
            axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=9, color=colour)
        axes.set_yticks(range(len(measures)), list(measures))
        axes.invert_yaxis()
        axes.set_xlabel(f"% of the {reference}")
        axes.margins(x=0.14)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=len(models))

    return svg_of(draw, height=0.7 * len(measures) + 1.1)


def curves(series: Mapping[str, Sequence[Curve]], label: str, smoothing: int = 5) -> str:
    """Values by step: a thin line for each seed, and their running mean in bold.

    Args:
        series: ``{name: [curve of each seed]}``.
        label: what the values are.
        smoothing: steps that the bold line averages over.
    """

    def draw(axes: Axes) -> None:
        for (name, runs), colour in zip(series.items(), COLOURS[1:], strict=False):
            for run in runs:
                axes.plot(*zip(*run, strict=True), color=colour, alpha=0.2, linewidth=0.8)
            steps = [step for step, _ in min(runs, key=len)]
            means = [statistics.mean(run[i][1] for run in runs) for i in range(len(steps))]
            smooth = [statistics.mean(means[max(0, i - smoothing + 1) : i + 1]) for i in range(len(means))]
            axes.plot(steps, smooth, color=colour, linewidth=2, label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("batch")
        axes.set_ylabel(label)
        axes.grid(axis="y", color="#e6e9ec")
        axes.legend(frameon=False)

    return svg_of(draw, height=3.0)


def svg_of(draw: Any, height: float, width: float = 6.4) -> str:
    """What ``draw(axes)`` draws, as the text of an SVG; sizes in inches."""
    try:
        import matplotlib
    except ImportError:
        raise MissingDependencyError("matplotlib", "report", "drawing plots") from None
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A figure of its own, not pyplot: nothing global is left behind, and no display is needed.
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
