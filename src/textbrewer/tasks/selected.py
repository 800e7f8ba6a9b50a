"""Logits at the masked positions alone: vocabularies are wide, and other positions are neither learned nor scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import DataError
from ..types import Batch
from .adaptor import MASK, TaskAdaptor

if TYPE_CHECKING:
    from .masked_lm import MaskedLM


def places_of(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Where a mask is set: ``(batch, most)`` positions in order, and which of them are any.

    Args:
        mask: ``(batch, length)``.
        most: positions of a row, always as many, so that what is made of them has one shape.

    Raises:
        DataError: a row has more, where finding out waits for no device.
    """
    wanted = mask != 0
    number = wanted.sum(dim=1, keepdim=True)
    if not mask.is_cuda and bool((number > most).any()):
        raise DataError(
            f"a row has {int(number.max())} masked tokens, and at most {most} are read, the share `probability` of "
            "`max_length`; raise one of them, or mask fewer"
        )
    places = wanted.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    places = functional.pad(places, (0, most - places.shape[1]))
    return places, torch.arange(most, device=mask.device) < number


def taken_at(values: Tensor, places: Tensor) -> Tensor:
    """``(batch, places, ...)`` of values of ``(batch, length, ...)``."""
    return values[torch.arange(len(values), device=values.device).unsqueeze(1), places]


class SelectingAdaptor(TaskAdaptor):
    """A :class:`TaskAdaptor` that lets a head compute at masked positions alone, while it is :meth:`ready`.

    Of a Transformers model with a base model, what follows the base model is given the hidden states of those positions
    only, by hooks that are there for the run. Any other model computes all logits, of which the same are taken.
    """

    def __init__(self, task: MaskedLM, *args: Any, **options: Any) -> None:
        super().__init__(task, *args, **options)
        self.most = task.most
        self._next: Tensor | None = None
        self._wanted: Tensor | None = None

    def feed(self, batch: Batch) -> Batch:
        """As of every task; what is masked is kept in mind for the head."""
        fed = super().feed(batch)
        mask = batch.get(MASK) if isinstance(batch, Mapping) else None
        self._next = None if mask is None else places_of(mask, self.most)[0]
        return fed

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Put the hooks on, and take them off whatever happens."""
        with super().ready(), ExitStack() as hooks:
            base = getattr(self.model, "base_model", self.model)
            if base is not self.model:
                hooks.callback(base.register_forward_hook(self._encoded).remove)
                for head in self.model.children():
                    if head is not base:
                        hooks.callback(head.register_forward_pre_hook(self._narrowed).remove)
            yield

    def _encoded(self, base: nn.Module, inputs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self._wanted, self._next = self._next, None

    def _narrowed(self, head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The inputs of the first module behind the base model, at the masked positions.

        All of them where it is compiled: what is kept in mind here would be taken for a constant.
        """
        if torch.compiler.is_compiling():
            return None
        places, self._wanted = self._wanted, None
        states = inputs[0] if inputs else None
        if places is None or not isinstance(states, Tensor) or states.dim() != 3:
            return None
        # Not of a part of the batch, as a replica on another device has it, nor where nothing would be saved.
        if len(states) != len(places) or states.shape[1] <= places.shape[1]:
            return None
        return (taken_at(states, places), *inputs[1:])
