"""A student built from a Transformers encoder: its config, its size, its first weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..configs import StudentConfig
from ..errors import StudentError, count_of
from .presets import preset

logger = logging.getLogger("textbrewer")

_FEED_FORWARD = ("intermediate_size", "hidden_dim")


@dataclass(frozen=True)
class StudentReport:
    """What a student was made of.

    Attributes:
        copied: names of the student's tensors, and the teacher's tensor each was copied from.
        fresh: names of the tensors with random weights (or from the checkpoint, where ``source`` names one).
        layers: the teacher layer that each student layer started from; empty where nothing was copied.
        teacher_parameters: parameters of the teacher.
        student_parameters: parameters of the student.
        source: ``"teacher"``, ``"random"`` or the checkpoint.
    """

    copied: dict[str, str]
    fresh: list[str]
    layers: list[int]
    teacher_parameters: int
    student_parameters: int
    source: str

    def __str__(self) -> str:
        smaller = self.teacher_parameters / max(self.student_parameters, 1)
        text = f"student: {self.student_parameters:,} parameters, {smaller:.1f} x fewer than its teacher; "
        if self.source not in ("teacher", "random"):
            return text + f"weights from {self.source}"
        text += f"{count_of(len(self.copied), 'tensor')} copied, {len(self.fresh)} random"
        if self.layers:
            text += f"; its layers start from teacher layers {self.layers}"
        if self.copied and self.fresh:
            text += f"; random: {', '.join(self.fresh[:4])}{', ...' if len(self.fresh) > 4 else ''}"
        return text


def build_student(
    teacher: nn.Module, config: StudentConfig | str, *, init: str | None = None, seed: int | None = None
) -> Any:
    """A smaller model of the teacher's class; see :func:`build_student_with_report`, whose report is logged."""
    student, report = build_student_with_report(teacher, config, init=init, seed=seed)
    logger.info("%s", report)
    return student


def build_student_with_report(
    teacher: nn.Module, config: StudentConfig | str, *, init: str | None = None, seed: int | None = None
) -> tuple[Any, StudentReport]:
    """A smaller model of the teacher's class, and what it was made of.

    With the teacher's width, chosen layers, the embeddings, the head and everything else of the same name and shape
    are copied from the teacher. A student of another width starts with random weights. Labels and the other settings
    of the teacher's config are kept; the teacher is not changed. The student is returned in eval mode.

    Args:
        teacher: a Transformers encoder, with or without a head.
        config: the student's size, or the name of a preset.
        init: overrides ``config.init``.
        seed: makes random weights repeatable, and leaves the global random state alone.

    Raises:
        StudentError: the teacher has no layers to choose from, or the sizes do not fit.
        UnknownNameError: there is no such preset.
    """
    wanted = preset(config) if isinstance(config, str) else config
    source = init or wanted.init
    if not hasattr(teacher, "config") or not hasattr(teacher.config, "num_hidden_layers"):
        raise StudentError(
            f"build_student: expected a Transformers encoder, got {type(teacher).__name__} without a config that has "
            "num_hidden_layers; build other students yourself: any nn.Module can be distilled"
        )
    prefix = _layer_list(teacher)
    given: Any = teacher.config
    narrower = wanted.hidden_size not in (None, given.hidden_size)
    copying = source == "teacher" and not narrower
    chosen = _chosen_layers(wanted, given.num_hidden_layers, required=copying)
    sized = _sized_config(teacher, wanted, chosen)
    with _seeded(seed):
        if source in ("teacher", "random"):
            student = type(teacher)(sized)
        else:
            student = _from_checkpoint(type(teacher), source, sized)
    student = student.to(next(teacher.parameters()).dtype).eval()
    copied = _copy_weights(teacher, student, prefix, chosen) if copying else {}
    fresh = [name for name in student.state_dict() if name not in copied]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (teacher, student)]
    label = "random" if source == "teacher" and not copying else source
    return student, StudentReport(copied, fresh, chosen if copying else [], counts[0], counts[1], label)


def _layer_list(teacher: Any) -> str:
    """The dotted name of the list of the encoder's layers."""
    number = teacher.config.num_hidden_layers
    for name, module in teacher.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == number and len({type(m) for m in module}) == 1:
            return str(name)
    raise StudentError(
        f"build_student: {type(teacher).__name__} has no list of {number} layers to choose from (models such as ALBERT "
        "share one layer); build the student from a config of your own"
    )


def _chosen_layers(wanted: StudentConfig, teacher_layers: int, required: bool) -> list[int]:
    number = wanted.num_layers
    if isinstance(wanted.layers, list):
        if len(wanted.layers) != number or max(wanted.layers) >= teacher_layers:
            raise StudentError(
                f"build_student: layers={wanted.layers} must name {count_of(number, 'teacher layer')} among "
                f"0..{teacher_layers - 1}"
            )
        return list(wanted.layers)
    if number > teacher_layers:
        if required:
            raise StudentError(
                f"build_student: num_layers={number}, but the teacher has {teacher_layers} layers to copy; use at most "
                f"{teacher_layers}, or init='random'"
            )
        return [min(i, teacher_layers - 1) for i in range(number)]
    if wanted.layers == "first":
        return list(range(number))
    if wanted.layers == "last":
        return list(range(teacher_layers - number, teacher_layers))
    # The i-th of n students layers ends where the i-th of n equal parts of the teacher ends.
    return [(i + 1) * teacher_layers // number - 1 for i in range(number)]


def _sized_config(teacher: Any, wanted: StudentConfig, chosen: list[int]) -> Any:
    given = teacher.config
    config = copy.deepcopy(given)
    width = wanted.hidden_size or given.hidden_size
    config.num_hidden_layers = wanted.num_layers
    config.hidden_size = width
    heads = wanted.num_attention_heads
    if heads is None:
        head_width = given.hidden_size // given.num_attention_heads
        heads = width // head_width if width % head_width == 0 else given.num_attention_heads
    if width % heads:
        raise StudentError(
            f"build_student: hidden_size={width} is not a multiple of num_attention_heads={heads}; "
            "give a number of heads that divides it"
        )
    config.num_attention_heads = heads
    for name in _FEED_FORWARD:
        if hasattr(given, name):
            narrowed = round(getattr(given, name) * width / given.hidden_size)
            setattr(config, name, wanted.intermediate_size or narrowed)
            break
    if getattr(given, "layer_types", None):
        config.layer_types = [given.layer_types[i] for i in chosen]
    return config


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _from_checkpoint(model_class: Any, source: str, config: Any) -> Any:
    try:
        return model_class.from_pretrained(source, config=config)
    except (RuntimeError, OSError, ValueError) as error:
        raise StudentError(
            f"build_student: init={source!r} is neither 'teacher' nor 'random', and no checkpoint of "
            f"{model_class.__name__} with {config.num_hidden_layers} layers of width {config.hidden_size} "
            f"could be loaded from it: {error}"
        ) from error


def _copy_weights(teacher: nn.Module, student: nn.Module, prefix: str, chosen: list[int]) -> dict[str, str]:
    """Copy every tensor that has a counterpart of its shape; return student name → teacher name."""
    available = teacher.state_dict()
    sources: dict[str, str] = {}
    for name, tensor in student.state_dict().items():
        source = name
        if name.startswith(f"{prefix}."):
            index, rest = name[len(prefix) + 1 :].split(".", 1)
            source = f"{prefix}.{chosen[int(index)]}.{rest}"
        if source in available and available[source].shape == tensor.shape:
            sources[name] = source
    student.load_state_dict({name: available[source] for name, source in sources.items()}, strict=False)
    return sources
