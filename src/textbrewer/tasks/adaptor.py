"""The ready adaptor of the tasks: the loss on what is labelled, and the masks of what a teacher's outputs mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..adaptors import TransformersAdaptor
from ..errors import AdaptorError, DataError
from ..feeding import accepts, named_inputs
from ..matching.layers import positions_of
from ..types import Batch
from .encoded import TARGETS
from .groups import COLUMNS, GIVEN, PRESENT, is_grouped, sequences_of

if TYPE_CHECKING:
    from .task import Task

MASK = "logits_mask"
"""The key by which a batch says at which positions logits mean something."""


class TaskAdaptor(TransformersAdaptor):
    """What a model's outputs mean for a task, for any module that gives logits.

    The model is fed neither labels nor masks of logits, so it need not know them, nor token types if it takes none: the
    loss is the task's, a mean over what is labelled. A batch may mix rows with and without labels; one without any
    costs nothing. All else is as in :class:`~textbrewer.TransformersAdaptor`.

    Args:
        task: says what the logits mean.
        model: the model whose outputs are read.
        features: the intermediate features that matches read: ``"hidden"``, ``"attention"``.
        teacher: True leaves the loss out.
        logits: False leaves the logits out too, where matches alone are learned from.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        features: frozenset[str] = frozenset(),
        *,
        teacher: bool = False,
        logits: bool = True,
    ) -> None:
        super().__init__(model, features, teacher=teacher)
        self.task = task
        self.gives_logits = logits
        self.positions = positions_of(model)

    def feed(self, batch: Batch) -> Batch:
        """The batch without labels and masks of logits; of rows with several sequences, the sequences.

        Raises:
            DataError: its rows are longer than the model has positions.
        """
        if not isinstance(batch, Mapping):
            return batch
        shown = sequences_of(batch)
        ids = shown.get("input_ids")
        if self.positions is not None and isinstance(ids, Tensor) and ids.shape[-1] > self.positions:
            raise DataError(
                f"the batch has {ids.shape[-1]} tokens a row, and {type(self.model).__name__} takes {self.positions}; "
                f"encode with max_length={self.positions} or less"
            )
        return {
            key: value
            for key, value in shown.items()
            if key not in (*TARGETS, *UNFED) and (key != "token_type_ids" or accepts(self.model, key))
        }

    def read(self, batch: Batch) -> Batch:
        """What of the batch the outputs depend on: what the model is fed, and what is masked of its logits."""
        fed = self.feed(batch)
        if not isinstance(batch, Mapping):
            return fed
        return {key: value for key, value in batch.items() if key in fed or key in (MASK, PRESENT)}

    @property
    def cache_key(self) -> str:
        """Tells a teacher cache what this adaptor makes of a model's outputs; masks stand in the batch."""
        return self.task.cache_key

    def masks(self, batch: Batch) -> dict[str, Any]:
        """What of the batch is real, without running the model."""
        found = super().masks(sequences_of(batch))
        if found and is_grouped(batch):
            found["logit_rows"] = len(batch["input_ids"])
        return {**found, **self.task.masks(named_inputs(self.model, batch))} if found else found

    def logits(self, batch: Batch, model_outputs: Any) -> Any:
        """The model's logits, as they are but for those of padded positions of an answer.

        Raises:
            AdaptorError: there are none.
        """
        found = self._found(batch, model_outputs)
        if "logits" not in found:
            raise AdaptorError(
                f"{type(self.model).__name__} gives no logits; this task's head is {self.task.model_class}"
            )
        return found["logits"]

    def __call__(self, batch: Batch, model_outputs: Any) -> dict[str, Any]:
        """The adaptor itself: ``(batch, model_outputs) -> dict``."""
        found = self._found(batch, model_outputs)
        kept = {key: value for key, value in found.items() if key in ("hidden", "attention", "inputs_mask")}
        if "logits" not in found or not self.gives_logits:
            return kept  # of a teacher that stopped at a hidden state, say
        learned = self.task.learned(found["logits"], named_inputs(self.model, batch))
        if self.teacher:
            learned.pop("losses", None)
        return {**kept, **learned}

    def _found(self, batch: Batch, model_outputs: Any) -> dict[str, Any]:
        """What is in the outputs, the logits as the task reads them."""
        found = super().__call__(sequences_of(batch), model_outputs)
        logits = self.task.logits_of(found.pop("logits", None), model_outputs, named_inputs(self.model, batch))
        return found if logits is None else {**found, "logits": logits}


UNFED = (MASK, PRESENT, COLUMNS, GIVEN)
"""Columns that a task reads, and no model is fed."""
