"""A run, examined before it is started: data, teacher, tokenizer, matches, gradients, memory and time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from .adaptors import are_unnamed, label_names
from .configs import TrainingConfig
from .errors import count_of
from .feeding import sides
from .report.findings import calibration
from .report.profile import bytes_of, parameters_of
from .tasks import Encoded, Task, TextClassification
from .tasks.scores import told

Verdict = Literal["good", "odd", "bad"]
"""``odd`` may be meant so; ``bad`` spoils the run or its scores."""

_FEW_ROWS = 5
_UNEVEN = 20
_CUT_SHARE = 0.05
_UNKNOWN_SHARE = 0.02
_WELL_CALIBRATED = 0.1
_SHOWN = 0.3
"""The least share of what a teacher knows beyond a guess that is to be seen in its confidence."""
_ROWS, _BATCHES = 50, 20
# Weights, gradients and the two moments of Adam, of four bytes each.
_BYTES_TRAINED = 16


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        verdict: how it is.
        found: what was found.
        way_out: what to change; empty where nothing need be.
    """

    name: str
    verdict: Verdict
    found: str
    way_out: str = ""


@dataclass(frozen=True)
class Examination:
    """What :func:`examine` found. It prints as a table, with what to change below.

    Attributes:
        checks: in their order.
    """

    checks: Sequence[Check]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is bad."""
        return all(check.verdict != "bad" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {"is_sound": self.is_sound, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        lines = [f"{check.verdict:<4}  {check.name}: {check.found}" for check in self.checks]
        changes = [f"- {check.name}: {check.way_out}" for check in self.checks if check.way_out]
        return "\n".join([*lines, *(["", "What to change:", *changes] if changes else [])])


def examine(
    task: Task,
    parts: Mapping[str, Encoded],
    tokenizer: Any,
    teacher: nn.Module,
    student: nn.Module,
    distiller: Callable[[TrainingConfig], Any],
    batch: Any,
    *,
    trained: bool,
    steps: int,
    accumulated: int = 1,
) -> Examination:
    """Look over what a run is made of. Models are left as they were.

    Args:
        task: what is learned.
        parts: rows by name, ``"train"`` and ``"validation"`` at least.
        tokenizer: that encoded them.
        teacher: the model to learn from.
        student: the model to train.
        distiller: ``f(train_config) -> distiller`` of both.
        batch: that one step is tried with.
        trained: whether the teacher is fine-tuned already; one that is not is not scored.
        steps: optimiser steps of the run.
        accumulated: batches of an optimiser step.
    """
    found = [
        *(_rows(name, part) for name, part in parts.items()),
        *(_labels(name, task, part) for name, part in parts.items() if name in ("train", "validation")),
        *(_lengths(name, part) for name, part in parts.items() if name == "train"),
        *(_duplicates(task, parts["train"], name, part) for name, part in parts.items() if name != "train"),
        _tokenizer(tokenizer, teacher, student, parts["train"]),
        _label_order(task, teacher, student),
    ]
    untrained = Check("teacher", "good", "has no head for this task: it is fine-tuned first")
    found += _teacher(task, teacher, parts["validation"]) if trained else [untrained]
    return Examination([*found, *_one_step(distiller, student, teacher, batch, steps, accumulated)])


# Rows.


def _rows(name: str, part: Encoded) -> Check:
    report = part.report
    odd = [str(finding) for finding in report.findings]
    text = f"{report.used:,} of {report.rows:,} rows used"
    if odd:
        return Check(
            f"{name} rows", "odd", f"{text}; {'; '.join(odd)}", "look at the places named, and correct the data"
        )
    return Check(f"{name} rows", "good", text)


def _labels(name: str, task: Task, part: Encoded) -> Check:
    known = [row for row in part.rows if row[task.target] is not None]
    numbers = task.counted(known)
    title = f"{name} labels"
    if not numbers:
        return Check(title, "good", count_of(len(known), "row"))
    text = ", ".join(f"{label} {number:,}" for label, number in numbers.items())
    missing = [label for label, number in numbers.items() if number == 0]
    few = [label for label, number in numbers.items() if 0 < number < _FEW_ROWS]
    if missing:
        verdict: Verdict = "bad" if name == "train" else "odd"
        return Check(
            title, verdict, text, f"there is nothing of {', '.join(missing)}: add rows, or leave the class out"
        )
    if few:
        return Check(title, "odd", text, f"{', '.join(few)} can hardly be learned or scored from so little: add rows")
    if max(numbers.values()) > _UNEVEN * min(numbers.values()):
        way_out = "accuracy says little of classes that are this uneven: choose by task.metric: macro_f1"
        return Check(title, "odd", text, way_out)
    return Check(title, "good", text)


def _lengths(name: str, part: Encoded) -> Check:
    lengths = part.report.lengths
    if lengths is None:
        return Check(f"{name} lengths", "good", "not counted")
    share = lengths.longer / max(len(part.rows), 1)
    if share > _CUT_SHARE and lengths.action == "cut":
        way_out = (
            f"raise task.max_length, up to {lengths.longest}, as far as the teacher takes it, or cut texts yourself"
        )
        return Check(f"{name} lengths", "odd", f"{lengths} ({share:.1%})", way_out)
    return Check(f"{name} lengths", "good", str(lengths))


def _duplicates(task: Task, train: Encoded, name: str, part: Encoded) -> Check:
    known = {task.group(row) for row in train.rows}
    number = sum(task.group(row) in known for row in part.rows)
    if not number:
        return Check(f"{name} apart from train", "good", "no row of the one is in the other")
    way_out = "take them out of the training rows: scores on what was trained on are too good"
    text = f"{count_of(number, 'row')} of {len(part.rows):,} trained on too"
    return Check(f"{name} apart from train", "bad" if number > 0.01 * len(part.rows) else "odd", text, way_out)


# Models.


def _tokenizer(tokenizer: Any, teacher: Any, student: Any, part: Encoded) -> Check:
    sizes = {}
    for name, model in (("teacher", teacher), ("student", student)):
        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
        if isinstance(embeddings, nn.Embedding):
            sizes[name] = embeddings.num_embeddings
    small = [f"{name} {size:,}" for name, size in sizes.items() if size < len(tokenizer)]
    if small:
        way_out = "give the tokenizer that the model was trained with: teacher.tokenizer"
        return Check("tokenizer", "bad", f"{len(tokenizer):,} tokens, and embeddings of {', '.join(small)}", way_out)
    shown: list[Any] = [sides(batch).student for batch in islice(part.loader(_ROWS), _BATCHES)]
    ids = torch.cat([batch["input_ids"][batch["attention_mask"] != 0] for batch in shown])
    unknown = 0.0 if tokenizer.unk_token_id is None else float((ids == tokenizer.unk_token_id).float().mean())
    text = f"{len(tokenizer):,} tokens; {unknown:.1%} of the text unknown to it"
    if unknown > _UNKNOWN_SHARE:
        return Check("tokenizer", "odd", text, "is it of the language of the data, cased or not as the data is?")
    return Check("tokenizer", "good", text)


def _label_order(task: Task, teacher: Any, student: Any) -> Check:
    wanted = task.class_names
    if not wanted:
        return Check("label order", "good", "no classes")
    for name, model in (("teacher", teacher), ("student", student)):
        found = label_names(getattr(model, "config", None))
        if found is None:
            continue
        if are_unnamed(found):
            way_out = f"its classes have no names; make sure that they are {', '.join(wanted)}, in this order"
            return Check("label order", "odd", f"the {name} counts {', '.join(found)}", way_out)
        if found != wanted:
            way_out = "write task.labels in the order of the model"
            return Check("label order", "bad", f"the {name} has {found}, the task {wanted}", way_out)
    return Check("label order", "good", ", ".join(wanted))


def _teacher(task: Task, teacher: nn.Module, part: Encoded) -> Iterator[Check]:
    scores = task.evaluate(teacher, part)
    text = told(scores)
    numbers = task.counted([row for row in part.rows if row[task.target] is not None])
    guess = max(numbers.values(), default=0) / max(sum(numbers.values()), 1)
    if task.name == "text_classification" and scores["accuracy"] <= guess:
        way_out = (
            f"always saying the same is right in {guess:.1%}: fine-tune it (teacher.train: true), or check the labels"
        )
        yield Check("teacher", "bad", text, way_out)
    else:
        yield Check("teacher", "good", text)
    calibrated = teacher_calibration(task, teacher, part)
    if calibrated is not None:
        yield calibrated


def teacher_calibration(task: Task, teacher: nn.Module, part: Encoded) -> Check | None:
    """How far a teacher's confidence is from being right; None for a task whose answers are no classes.

    Args:
        task: what is learned.
        teacher: the model to learn from.
        part: rows with labels that it was not trained on.

    Returns:
        ``bad`` is a teacher that is often right, and yet hardly surer than one that guesses: it was trained too
        little, and there is little in its soft labels to learn.
    """
    if not isinstance(task, TextClassification):
        return None
    said = task.decoded(task._logits(teacher, part, 64, {}), part)
    sure = np.asarray([max(each["scores"].values()) for each in said])
    right = np.asarray([each["label"] == row["label"] for each, row in zip(said, part.rows, strict=True)], dtype=float)
    error = calibration(sure.tolist(), right.tolist())["error"]
    text = f"expected calibration error {error:.3f}; right in {right.mean():.1%}, on average sure by {sure.mean():.1%}"
    guess = 1 / len(task.class_names)
    knows, shows = float(right.mean()) - guess, float(sure.mean()) - guess
    if shows < _SHOWN * knows and knows - shows > 2 * float(right.std()) / len(right) ** 0.5:
        way_out = (
            f"it is hardly surer than a guess ({guess:.1%}), as after too little training: give it more of "
            "teacher.training.num_epochs, or a higher teacher.training.learning_rate; and let the student learn from "
            "the labels too (distillation.hard_label_weight)"
        )
        return Check("teacher calibration", "bad", text, way_out)
    if error <= _WELL_CALIBRATED:
        return Check("teacher calibration", "good", text)
    if knows > shows:
        way_out = "it is less sure than it is right: train it longer, or lower distillation.temperature"
    else:
        way_out = "its soft labels say little beside the hard ones: raise distillation.temperature"
    return Check("teacher calibration", "odd", text, way_out)


# One step.


def _one_step(
    make: Callable[[TrainingConfig], Any],
    student: nn.Module,
    teacher: nn.Module,
    batch: Any,
    steps: int,
    accumulated: int,
) -> Iterator[Check]:
    """A step that changes nothing: which parameters it reaches, and what the run will cost."""
    with tempfile.TemporaryDirectory() as folder, _norms_of(student) as norms:
        config = TrainingConfig(output_dir=folder, ckpt_frequency=0, save_state=False, progress_bar=False)
        distiller = make(config)
        yield _matches(distiller)
        taken = []
        for _ in range(2):
            norms.clear()
            started = time.perf_counter()
            with distiller:
                distiller.train(torch.optim.SGD(student.parameters(), lr=0.0), [batch], num_epochs=1)
            taken.append(time.perf_counter() - started)
    named = {name: norms.get(id(p)) for name, p in student.named_parameters() if p.requires_grad}
    broken = [name for name, norm in named.items() if norm is not None and not np.isfinite(norm)]
    still = [name for name, norm in named.items() if not norm]
    if broken:
        yield Check("gradients", "bad", f"not finite at {broken[0]}", "lower weights of terms, or take precision: fp32")
    elif len(still) == len(named):
        yield Check("gradients", "bad", "none reaches the student", "no term of the loss depends on the student")
    elif still:
        text = f"{len(named) - len(still)} of {len(named)} tensors; none at {', '.join(still[:3])}"
        yield Check("gradients", "odd", text, "these are not trained by any term: match a later layer, or keep logits")
    else:
        yield Check("gradients", "good", f"all {len(named)} tensors")
    yield _costs(accumulated * min(taken), steps, student, teacher)


@contextmanager
def _norms_of(student: nn.Module) -> Iterator[dict[int, float]]:
    """The norm of each parameter's gradient in the last step, by the parameter's id."""
    norms: dict[int, float] = {}

    def note(parameter: Any) -> None:
        norms[id(parameter)] = float(parameter.grad.norm())

    trained: list[Any] = [parameter for parameter in student.parameters() if parameter.requires_grad]
    hooks = [parameter.register_post_accumulate_grad_hook(note) for parameter in trained]
    try:
        yield norms
    finally:
        for hook in hooks:
            hook.remove()


def _matches(distiller: Any) -> Check:
    found = [f"{match.feature} {match.layer_T} to {match.layer_S}" for match in distiller.lesson.matches]
    return Check("matches", "good", ", ".join(found) or "none: soft labels alone")


def _costs(seconds: float, steps: int, student: nn.Module, teacher: nn.Module) -> Check:
    least = _BYTES_TRAINED * parameters_of(student) + bytes_of(teacher)
    text = (
        f"{count_of(steps, 'step')} of {seconds:.2f} s here, about {steps * seconds / 60:,.1f} minutes; at least "
        f"{least / 1e6:,.0f} MB for weights, gradients and optimiser, and what a batch takes"
    )
    return Check("time and memory", "good", text)
