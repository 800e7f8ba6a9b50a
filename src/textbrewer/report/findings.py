"""A student beside its teacher: where it errs, how sure it is, where they part, how alike their layers are.

All of it is plain values, as JSON takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..feeding import call, sides, to_device
from ..losses import cka, full_precision
from ..losses.relations import pooled_states
from ..modes import modes_kept
from ..tasks import Encoded, MultiLabelClassification, Task, TextClassification, TokenClassification
from ..tasks.adaptor import TaskAdaptor
from ..tasks.data import Row

Predictions: TypeAlias = Sequence[Mapping[str, Any]]
Example: TypeAlias = dict[str, Any]
"""``text``, ``truth``, and of ``teacher`` and ``student`` their ``answer`` and its ``probability``, or None."""

BINS = 15
EXAMPLES = 20
_LETTERS = 280
_DIFFERENCES = 8
_LEAST_ROWS = 10
"""Fewer rows say nothing of how alike layers are: of two, any two representations are equal."""


def findings_of(
    task: Task, teacher: nn.Module, student: nn.Module, encoded: Encoded, tokenizer: Any, batch_size: int = 64
) -> dict[str, Any]:
    """All that is found on rows with labels. What makes no sense for a task, or cannot be read of a model, is left out.

    ``confusion`` of the student (:func:`confusion`), with the ``labels`` of its rows and columns; ``calibration`` of
    both (:func:`calibration`); ``disagreements`` (:func:`disagreements`); ``similarity`` (:func:`layer_similarity`).

    Args:
        task: what both models do.
        teacher: it stays as it was.
        student: likewise.
        encoded: rows with labels.
        tokenizer: that they were encoded with.
        batch_size: sequences of a batch.
    """
    found: dict[str, Any] = {"rows": len(encoded.rows)}
    if task.name in _PARTINGS:
        models = {"teacher": teacher, "student": student}
        said = {name: task.predict(model, encoded.rows, tokenizer, batch_size) for name, model in models.items()}
        found["confusion"] = _confusion(task, encoded.rows, said["student"])
        by_model = {name: _calibration(task, encoded.rows, each) for name, each in said.items()}
        found["calibration"] = by_model if all(by_model.values()) else None
        found["disagreements"] = disagreements(task, encoded.rows, said["teacher"], said["student"])
    found["similarity"] = layer_similarity(task, teacher, student, encoded)
    return {name: value for name, value in found.items() if value is not None}


def confusion(true: Sequence[int], said: Sequence[int], classes: int) -> list[list[int]]:
    """How often each class (row) was called each class (column).

    >>> confusion([0, 0, 1], [0, 1, 1], 2)
    [[1, 1], [0, 1]]
    """
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(true, dtype=np.int64), np.asarray(said, dtype=np.int64)), 1)
    return [list(map(int, row)) for row in counts]


def calibration(confidence: Sequence[float], right: Sequence[bool], bins: int = BINS) -> dict[str, Any]:
    """``error``, the expected calibration error, and the ``bins`` that have answers.

    ``ECE = Σ_b (n_b / n) |right_b − confidence_b|`` over bins of equal width, the upper end of each included

    Args:
        confidence: the probability that the model gives to each of its answers.
        right: whether the answer is right.
        bins: how many.

    Returns:
        Of each bin its ``share`` of the answers, their mean ``confidence``, and the share of them that is ``right``.

    Source: 1706.04599.

    >>> round(calibration([0.75, 0.75], [True, False])["error"], 2)
    0.25
    """
    sure, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    places = np.searchsorted(np.arange(1, bins) / bins, sure, side="left")
    found = [
        {"share": float(own.mean()), "confidence": float(sure[own].mean()), "right": float(hits[own].mean())}
        for own in (places == place for place in np.unique(places))
    ]
    error = sum(each["share"] * abs(each["right"] - each["confidence"]) for each in found)
    return {"error": error, "bins": found}


def disagreements(task: Task, rows: Sequence[Row], teacher: Predictions, student: Predictions) -> dict[str, Any]:
    """``number`` of the rows on which the two differ, and up to :data:`EXAMPLES` ``examples``.

    Where answers have probabilities, those come first of which both are surest; of tags and sets of classes those that
    differ most.
    """
    read = _PARTINGS[task.name]
    parted = [found for each in zip(rows, teacher, student, strict=True) if (found := read(*each)) is not None]
    parted.sort(key=lambda found: -found[0])
    return {"number": len(parted), "examples": [example for _, example in parted[:EXAMPLES]]}


def layer_similarity(
    task: Task, teacher: nn.Module, student: nn.Module, encoded: Encoded, rows: int = 200
) -> dict[str, Any] | None:
    """Linear CKA of the hidden states of both models, each the mean over the tokens of a row.

    ``cka[i][j]`` is that of the teacher's hidden state i and the student's j, of which 0 are the embeddings. ``rows``
    says of how many it is. None where a model gives no hidden states, where rows have several sequences, and of fewer
    than 10 rows.

    Args:
        task: of both models.
        teacher: it stays as it was.
        student: likewise.
        encoded: the rows, of which some at even distances are taken.
        rows: how many at most.

    Source: 1905.00414.
    """
    if len(encoded) < _LEAST_ROWS or encoded.sequences > 1:
        return None
    places = np.unique(np.linspace(0, len(encoded) - 1, min(rows, len(encoded))).round().astype(int)).tolist()
    chosen = [[encoded[i] for i in places[start : start + 16]] for start in range(0, len(places), 16)]
    batches = [sides(encoded.padding(each)).student for each in chosen]
    layers = [_pooled_layers(task, model, batches) for model in (teacher, student)]
    if not all(layers):
        return None
    return {"rows": len(places), "cka": [[float(cka(mine, theirs)) for theirs in layers[1]] for mine in layers[0]]}


@torch.no_grad()
def _pooled_layers(task: Task, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> list[Tensor]:
    """``(rows, width)`` of each hidden state; an empty list where there are none with a vector for each token."""
    adaptor = TaskAdaptor(task, model, frozenset({"hidden"}), logits=False)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    pooled: list[list[Tensor]] = []
    with modes_kept(model), adaptor.ready():
        model.eval()
        for given in batches:
            batch = to_device(given, device)
            found = adaptor(batch, call(model, adaptor.feed(batch), adaptor.request()))
            states, mask = found.get("hidden", ()), batch["attention_mask"]
            if any(not isinstance(state, Tensor) or state.shape[:-1] != mask.shape for state in states):
                return []
            pooled.append([pooled_states(full_precision(s), mask, "mean", "cka")[0].cpu().double() for s in states])
    return [torch.cat(parts) for parts in zip(*pooled, strict=True)]


# What tasks tell of their predictions.


def _confusion(task: Task, rows: Sequence[Row], said: Predictions) -> dict[str, Any] | None:
    names = task.class_names
    if isinstance(task, TextClassification):
        sides_ = [row["label"] for row in rows], [each["label"] for each in said]
    elif isinstance(task, TokenClassification):
        sides_ = [tag for row in rows for tag in row["tags"]], [tag for each in said for tag in each["tags"]]
    else:
        return None
    true, answered = ([names.index(name) for name in side] for side in sides_)
    return {"labels": names, "counts": confusion(true, answered, len(names))}


def _calibration(task: Task, rows: Sequence[Row], said: Predictions) -> dict[str, Any] | None:
    """Of classes, the probability of the one that is given; of sets of classes, that of each class."""
    if isinstance(task, TextClassification):
        sure = [each["scores"][each["label"]] for each in said]
        return calibration(sure, [each["label"] == row["label"] for each, row in zip(said, rows, strict=True)])
    if isinstance(task, MultiLabelClassification):
        names = task.class_names
        sure = [each["scores"][name] for each in said for name in names]
        return calibration(sure, [name in row["label"] for row in rows for name in names])
    return None


def _classes_part(row: Row, *said: Mapping[str, Any]) -> tuple[float, Example] | None:
    teacher, student = ({"answer": each["label"], "probability": each["scores"][each["label"]]} for each in said)
    if teacher["answer"] == student["answer"]:
        return None
    return teacher["probability"] + student["probability"], _example(_text_of(row), row["label"], teacher, student)


def _sets_part(row: Row, *said: Mapping[str, Any]) -> tuple[float, Example] | None:
    teacher, student = ({"answer": _listed(each["labels"]), "probability": None} for each in said)
    differing = set(said[0]["labels"]) ^ set(said[1]["labels"])
    return (len(differing), _example(_text_of(row), _listed(row["label"]), teacher, student)) if differing else None


def _tags_part(row: Row, *said: Mapping[str, Any]) -> tuple[float, Example] | None:
    places = [i for i, (a, b) in enumerate(zip(said[0]["tags"], said[1]["tags"], strict=True)) if a != b]
    if not places:
        return None

    def shown(tags: Sequence[str]) -> str:
        more = ", …" if len(places) > _DIFFERENCES else ""
        return ", ".join(f"{row['tokens'][i]}: {tags[i]}" for i in places[:_DIFFERENCES]) + more

    teacher, student = ({"answer": shown(each["tags"]), "probability": None} for each in said)
    return len(places), _example(" ".join(row["tokens"]), shown(row["tags"]), teacher, student)


def _answers_part(row: Row, *said: Mapping[str, Any]) -> tuple[float, Example] | None:
    if said[0]["answer"] == said[1]["answer"]:
        return None
    starts = [each["start"] for each in said if each["start"] is not None]
    # Where one of the answers stands, since a context is long.
    begin = max(0, min(starts, default=0) - _LETTERS // 3)
    context = ("…" if begin else "") + row["context"][begin : begin + 2 * _LETTERS]
    truth = " / ".join(dict.fromkeys(answer["text"] for answer in row["answers"])) or "no answer"
    teacher, student = ({"answer": each["answer"] or "no answer", "probability": each["score"]} for each in said)
    sure = teacher["probability"] + student["probability"]
    return sure, _example(f"{row['question']} — {context}", truth, teacher, student)


_PARTINGS: dict[str, Callable[..., tuple[float, Example] | None]] = {
    "text_classification": _classes_part,
    "multi_label_classification": _sets_part,
    "token_classification": _tags_part,
    "question_answering": _answers_part,
}
"""By task, of a row and what teacher and student say of it: how far they part, and that as an example; or None."""


def _example(text: str, truth: str, teacher: dict[str, Any], student: dict[str, Any]) -> Example:
    cut = ({**each, "answer": _excerpt(each["answer"])} for each in (teacher, student))
    return {"text": _excerpt(text), "truth": _excerpt(truth), **dict(zip(("teacher", "student"), cut, strict=True))}


def _text_of(row: Row) -> str:
    return " ‖ ".join(row[role] for role in ("text", "text_pair") if role in row)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "none"


def _excerpt(text: str) -> str:
    """A text on one line, cut to a length that can be read, of letters that any file can hold."""
    whole = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return whole if len(whole) <= _LETTERS else f"{whole[: _LETTERS - 1].rstrip()}…"
