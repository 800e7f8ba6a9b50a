"""How a batch reaches a model: which side gets which part, on which device, by which call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import DataError
from .types import Batch

ABSENT: Any = object()
"""Stands for "the batch has no such part"; None is a value a user may put there."""


@dataclass(frozen=True)
class Fed:
    """The parts of one batch.

    Attributes:
        teacher: what the teacher is fed.
        student: what the student is fed.
        teacher_cache: ready outputs of the teacher, or :data:`ABSENT`.
        host: the teacher's part before it was moved to a device, or :data:`ABSENT` where it is ``teacher`` itself.
    """

    teacher: Batch
    student: Batch
    teacher_cache: Any = ABSENT
    host: Batch = ABSENT

    @property
    def teacher_on_host(self) -> Batch:
        """The teacher's part where its content can be read without waiting for a device, if the loader gave it so."""
        return self.teacher if self.host is ABSENT else self.host

    def on(self, device: torch.device) -> Fed:
        """The parts on a device, beside the teacher's as it was."""
        student = to_device(self.student, device)
        teacher = student if self.teacher is self.student else to_device(self.teacher, device)
        return Fed(teacher, student, to_device(self.teacher_cache, device), host=self.teacher)

    def for_teacher(self, index: int, number: int) -> Fed:
        """The parts for one of several teachers: a list with a batch for each is split, anything else goes to all.

        Raises:
            DataError: ready outputs that are not a list with one entry for each teacher.
        """
        if number == 1:
            return self
        own, host = self.teacher, self.host
        if isinstance(own, (list, tuple)) and len(own) == number and all(_is_batch(item) for item in own):
            own, host = own[index], host if host is ABSENT else host[index]
        cached = self.teacher_cache
        if cached is not ABSENT:
            if not isinstance(cached, (list, tuple)) or len(cached) != number:
                raise DataError(f"'teacher_cache': expected a list with the outputs of each of {number} teachers")
            cached = cached[index]
        return Fed(own, self.student, cached, host)


def _is_batch(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def sides(batch: Batch) -> Fed:
    """Split a batch into what the teacher and the student get.

    A mapping with ``"student"`` and (``"teacher"`` or ``"teacher_cache"``) feeds each side its own part;
    any other batch goes to both.
    """
    if isinstance(batch, Mapping) and "student" in batch and ("teacher" in batch or "teacher_cache" in batch):
        return Fed(batch.get("teacher"), batch["student"], batch.get("teacher_cache", ABSENT))
    return Fed(batch, batch)


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in ``value`` to ``device``, wherever it is nested; other values pass.

    Anything with a ``.to`` method is moved by it. Copies from pinned memory do not wait.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        moved = {key: to_device(item, device) for key, item in value.items()}
        return moved if type(value) is dict else rebuilt(value, moved)
    if callable(getattr(value, "to", None)):
        return value.to(device)  # before tuples: a PackedSequence is one, and keeps its lengths on the CPU
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def rebuilt(original: Mapping[Any, Any], moved: dict[Any, Any]) -> Mapping[Any, Any]:
    """``moved`` in a mapping of the original's kind, if one can be made of it."""
    try:
        return type(original)(moved)  # type: ignore[call-arg]
    except TypeError:
        return moved


def call(model: nn.Module, batch: Batch, args: Mapping[str, Any]) -> Any:
    """``model(**batch, **args)`` for a mapping, ``model(*batch, **args)`` for a tuple or list.

    Raises:
        DataError: a label or an id is outside of what the model knows, where PyTorch says only that an index is; or the
            model cannot be run on a batch without rows or tokens.
    """
    try:
        if isinstance(batch, Mapping):
            return model(**batch, **args)
        if isinstance(batch, (list, tuple)):
            return model(*batch, **args)
        return model(batch, **args)
    except (IndexError, RuntimeError) as error:
        told = _emptiness(model, batch) or _outside(model, batch, str(error))
        if told is None:
            raise
        raise DataError(f"{type(model).__name__}: {told} ({error})") from error


def _emptiness(model: nn.Module, batch: Batch) -> str | None:
    """That nothing is in a batch, if so."""
    values = named_inputs(model, batch).items()
    shapes = {name: list(value.shape) for name, value in values if isinstance(value, Tensor) and value.dim()}
    empty = next((f"{name} {shape}" for name, shape in shapes.items() if 0 in shape), None)
    return empty and f"the batch is empty ({empty}), and the model cannot be run on nothing; leave such batches out"


def _outside(model: nn.Module, batch: Batch, error: str) -> str | None:
    """What a whole number of the batch lies outside of, if that is what PyTorch's message means."""
    values = named_inputs(model, batch).items()
    ranges = ", ".join(
        f"{name} {int(value.min())} to {int(value.max())}"
        for name, value in values
        if isinstance(value, Tensor) and not value.is_floating_point() and value.numel()
    )
    if error.startswith("Target ") and "out of bounds" in error:
        classes = getattr(getattr(model, "config", None), "num_labels", "an unknown number of")
        return (
            f"a label is outside of its {classes} classes. The batch has {ranges}. Give the model as many "
            "classes as the data has (num_labels), count labels from 0, and mark what has none with -100"
        )
    if error.startswith("index out of range in self"):
        sizes = [f"{name} {m.num_embeddings}" for name, m in model.named_modules() if isinstance(m, nn.Embedding)]
        return (
            f"an id is outside of its embeddings. The batch has {ranges}; rows of the embeddings: {', '.join(sizes)}. "
            "Is the tokenizer this model's, and are rows no longer than its positions?"
        )
    return None


def named_inputs(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The batch as names to values; the items of a tuple are named by the order of ``model.forward``."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if not isinstance(batch, (list, tuple)):
        return {}
    return dict(zip(inspect.signature(model.forward).parameters, batch, strict=False))


def without(batch: Batch, names: Set[str]) -> Batch:
    """A mapping without some of its columns; any other batch as it is."""
    if not isinstance(batch, Mapping) or names.isdisjoint(batch):
        return batch
    return {key: value for key, value in batch.items() if key not in names}


def accepts(model: nn.Module, name: str) -> bool:
    """Whether ``model.forward`` takes a keyword called ``name``."""
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def length_of(loader: Any) -> int | None:
    """``len(loader)``, or None for a loader without a length."""
    try:
        return len(loader)
    except TypeError:
        return None


def rows_of(loader: Any) -> int | None:
    """How many rows the data of a loader has, if it tells; of a dict of loaders, by task."""
    if isinstance(loader, Mapping):
        return {task: rows_of(own) for task, own in loader.items()}  # type: ignore[return-value]
    return length_of(getattr(loader, "dataset", None))


def require_batches(number: int | None, accumulation: int, keep_last: bool, processes: int = 1) -> None:
    """Refuse a loader that could not give a single optimiser step.

    Raises:
        DataError: the loader is empty, or shorter than one accumulation.
    """
    if number == 0:
        raise DataError("the dataloader is empty: it gives no batch to train on (an iterator can be read once only)")
    if number is not None and number < accumulation * processes and not keep_last:
        each = f" for each of {processes} processes" if processes > 1 else ""
        raise DataError(
            f"the dataloader gives {number} batch(es), fewer than gradient_accumulation_steps={accumulation}{each}: "
            "no optimiser step would ever be taken; lower gradient_accumulation_steps, use smaller batches, "
            "or set keep_last_accumulation=True"
        )
