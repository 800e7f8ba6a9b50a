"""The plots of a run's page, from its numbers and what was found of its models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..report import plots
from ..report.findings import BINS
from ..report.plots import Bin, Curve, Point

if TYPE_CHECKING:
    from .results import DistillationResult

NAMES = {"teacher": "Teacher", "student": "Student, distilled", "baseline": "Student, no teacher"}
"""The models of a run as tables call them, in this order."""

Figure = dict[str, Any]
"""``name``, that of its files; ``title``, ``svg`` and ``text``, as :func:`~textbrewer.report.page.write_page` takes."""

_CLASSES = 20
"""Of more classes, those are shown on which the student errs most."""


_INITIALS = ("f1", "mcc", "mrr", "mse", "ndcg")


def words(name: str, within: bool = False) -> str:
    """A name as people write it; ``within`` a sentence its first word stays small.

    >>> words("macro_f1"), words("mrr@10"), words("exact_match")
    ('Macro F1', 'MRR@10', 'Exact match')
    >>> words("macro_f1", within=True), words("f1", within=True)
    ('macro F1', 'F1')
    """
    text = " ".join(word.upper() if word.partition("@")[0] in _INITIALS else word for word in name.split("_"))
    return text if within else text[:1].upper() + text[1:]


def figures_of(result: DistillationResult, findings: Mapping[str, Any]) -> list[Figure]:
    """All plots that a run has the numbers for."""
    return [
        _quality(result),
        _cost(result),
        *tradeoffs(result.metric, points_of(result, findings)),
        *_training(result),
        *_confusion(findings),
        *_calibration(result, findings),
        *_similarity(findings),
    ]


def figure(name: str, title: str, svg: str, text: str) -> Figure:
    """One plot of a page."""
    return {"name": name, "title": title, "svg": svg, "text": text}


def _quality(result: DistillationResult) -> Figure:
    metric = words(result.metric)
    values = {NAMES[name]: [100 * result.scores[name][result.metric]] for name in result.names}
    title = f"{metric} on the {result.scored_on} rows"
    return figure("score", title, plots.quality(values, f"{metric}, %"), "One run each.")


def _cost(result: DistillationResult) -> Figure:
    measures = {"Parameters": "parameters", "Weights on disk": "file_bytes", "Latency, batch 1": "median_ms"}
    shares = {
        title: {NAMES[name]: result.costs[name][key] for name in ("teacher", "student")}
        for title, key in measures.items()
    }
    return figure("cost", "Cost, relative to the teacher", plots.relative(shares, NAMES["teacher"]), "Less is better.")


def points_of(result: DistillationResult, findings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each model's ``name``, ``median_ms``, ``file_bytes`` and ``score``: those of the run, and the export's."""
    found = [
        {"name": NAMES[name], **result.costs[name], "score": result.scores[name][result.metric]}
        for name in result.names
    ]
    small = findings.get("int8")
    if small is not None:
        took = small["latency"] * result.costs["student"]["median_ms"]
        score = small["scores"][result.metric]
        found.append({"name": "Student, int8", **small, "median_ms": took, "score": score})
    return found


def tradeoffs(metric: str, points: Sequence[Mapping[str, Any]], relative: bool = False) -> Iterator[Figure]:
    """What a score costs: time and bytes.

    Args:
        metric: the score.
        points: see :func:`points_of`.
        relative: whether ``median_ms`` is a share of the teacher's.
    """
    costs = {
        "latency": ("latency", "latency, % of the teacher's" if relative else "latency, batch 1, median, ms"),
        "size": ("size on disk", "weights on disk, MB"),
    }
    for name, (title, axis) in costs.items():
        drawn = [
            Point(
                each["name"],
                each["median_ms"] * (100 if relative else 1) if name == "latency" else each["file_bytes"] / 1e6,
                100 * each["score"],
            )
            for each in points
        ]
        text = "Up and to the left is better; the dashed line joins the models that no other beats in both."
        svg = plots.pareto(drawn, axis, f"{words(metric)}, %")
        yield figure(f"score-by-{name}", f"{words(metric)} by {title}", svg, text)


def _training(result: DistillationResult) -> Iterator[Figure]:
    trained = [name for name in result.names if name != "teacher"]
    losses = {NAMES[name]: [curve] for name in trained if (curve := loss_of(result, name))}
    if losses:
        text = "The losses of several models differ in what they measure: only their course can be compared."
        yield figure("loss", "Loss while training", plots.curves(losses, "training loss"), text)
    along = {NAMES[name]: curve for name in trained if (curve := scores_of(result, name))}
    if along:
        svg = plots.progress(along, f"{words(result.metric)}, %", _teacher_line(result))
        text = "On the validation rows; a ring marks the best."
        yield figure("progress", f"{words(result.metric)} while training", svg, text)


def loss_of(result: DistillationResult, name: str) -> Curve:
    """The losses of a model of a run; empty where it was not trained there."""
    log = result.output_dir / name / "log"
    return plots.thinned(plots.scalars(log)) if log.is_dir() else []


def scores_of(result: DistillationResult, name: str) -> Curve:
    """The main score of a model along its training, in %."""
    return [(int(each["step"]), 100 * each[result.metric]) for each in result.evaluations.get(name, ())]


def _teacher_line(result: DistillationResult) -> tuple[str, float] | None:
    """The teacher's score on the validation rows, where it is known."""
    if result.scored_on == "validation":
        return NAMES["teacher"], 100 * result.scores["teacher"][result.metric]
    own = scores_of(result, "teacher")
    return (NAMES["teacher"], max(score for _, score in own)) if own else None


def _confusion(findings: Mapping[str, Any]) -> Iterator[Figure]:
    found = findings.get("confusion")
    if found is None:
        return
    labels, counts = found["labels"], found["counts"]
    totals = [sum(row) for row in counts]
    wrong = [total - row[i] for i, (total, row) in enumerate(zip(totals, counts, strict=True))]
    order = sorted(range(len(labels)), key=lambda i: -wrong[i])
    shown = sorted(order[:_CLASSES])
    shares = [[counts[i][j] / totals[i] if totals[i] else 0.0 for j in shown] for i in shown]
    many = len(shown) > 10
    texts = [
        [
            "" if not share else f"{share:.0%}" if many else f"{counts[i][j]:,}\n{share:.0%}"
            for j, share in zip(shown, row, strict=True)
        ]
        for i, row in zip(shown, shares, strict=True)
    ]
    names = [labels[i] for i in shown]
    svg = plots.heat_map(shares, texts, names, names, down="truth", across="the student says", cell=0.5)
    text = f"{'Shares' if many else 'Rows, and their share'} of what is truly of the class."
    if len(shown) < len(labels):
        text += f" The {len(shown)} of {len(labels)} classes with the most errors."
    yield figure("confusion", "Confusion matrix of the student", svg, text)


def _calibration(result: DistillationResult, findings: Mapping[str, Any]) -> Iterator[Figure]:
    found = findings.get("calibration")
    if found is None:
        return
    by_class = result.recipe["task"]["name"] == "multi_label_classification"
    axes = (
        ("probability of a class", "share of rows that have it")
        if by_class
        else ("probability of the answer", "share of answers that are right")
    )
    bins = {NAMES[name]: [Bin(**each) for each in own["bins"]] for name, own in found.items()}
    errors = ", ".join(f"{NAMES[name].split(',')[0].lower()} {own['error']:.3f}" for name, own in found.items())
    text = f"Below the diagonal a model is too sure. Expected calibration error: {errors} ({BINS} bins; 0 is best)."
    yield figure("calibration", "Calibration", plots.reliability(bins, *axes), text)


def _similarity(findings: Mapping[str, Any]) -> Iterator[Figure]:
    found = findings.get("similarity")
    if found is None:
        return
    values = found["cka"]
    texts = [[f"{value:.2f}" for value in row] for row in values]
    rows, columns = ([str(i) for i in range(len(side))] for side in (values, values[0]))
    svg = plots.heat_map(values, texts, rows, columns, down="teacher, layer", across="student, layer", cell=0.38)
    text = (
        f"Linear CKA of hidden states, averaged over the tokens of {found['rows']} rows; 0 are the embeddings, 1 means "
        "alike but for a rotation. The fewer rows, the higher it is: compare the cells with each other."
    )
    yield figure("similarity", "Layer similarity of teacher and student", svg, text)
