"""Heads: from hidden states to the logits and the loss of a task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..configs.student import HeadConfig
from ..losses import full_precision, masked_mean
from ..types import MASKED_LOGIT

HEAD_CLASSES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
_FIELDS = ("loss", "logits", "start_logits", "end_logits", "last_hidden_state", "hidden_states", "attentions")


class StudentOutput(dict[str, Any]):
    """What a student gives: a dict whose items are attributes too; what was not computed reads as None.

    >>> output = StudentOutput(logits=torch.zeros(2, 3))
    >>> output.logits.shape, output.loss
    (torch.Size([2, 3]), None)
    """

    def __getattr__(self, name: str) -> Any:
        if name in _FIELDS:
            return self.get(name)
        raise AttributeError(f"StudentOutput has no {name!r}, only {', '.join(self)}")


class Head(nn.Module):
    """The last layers of a model for one task.

    Texts: logits ``(batch, num_labels)`` of the pooled tokens. Tokens: ``(batch, length, num_labels)``. Answers:
    ``start_logits`` and ``end_logits``, each ``(batch, length)``, with −1e4 at padding.

    Args:
        config: the task.
        width: of the hidden states.
    """

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.config = config
        if config.task == "text-classification" and config.pooling == "first":
            self.dense = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, config.num_labels)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The logits by name.

        Args:
            states: ``(batch, length, width)``.
            mask: ``(batch, length)``, non-zero where a token is real; None for all.
        """
        padding = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask == 0
        if self.config.task == "text-classification":
            states = self._pooled(states, padding)
        logits = self.classifier(self.dropout(states))
        if self.config.task == "question-answering":
            start, end = logits.masked_fill(padding.unsqueeze(-1), MASKED_LOGIT).unbind(-1)
            return {"start_logits": start, "end_logits": end}
        return {"logits": logits}

    def _pooled(self, states: Tensor, padding: Tensor) -> Tensor:
        if self.config.pooling == "first":
            return torch.tanh(self.dense(states[:, 0]))
        largest = states.masked_fill(padding.unsqueeze(-1), -torch.inf).amax(dim=1)
        # A row without any real token would be infinite.
        return largest.masked_fill(padding.all(dim=1, keepdim=True), 0)

    def loss(
        self,
        given: dict[str, Tensor],
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> Tensor | None:
        """The loss of what :meth:`forward` gave, a 0-d tensor; None without the labels of this task.

        As in Transformers: cross-entropy, mean squared error or binary cross-entropy, means over all that is labelled.
        Labels of −100 and positions beyond the text do not count.
        """
        if self.config.task == "question-answering":
            if start_positions is None or end_positions is None:
                return None
            length = given["start_logits"].shape[1]
            start = _cross_entropy(given["start_logits"], start_positions.clamp(0, length), ignored=length)
            return (start + _cross_entropy(given["end_logits"], end_positions.clamp(0, length), ignored=length)) / 2
        if labels is None:
            return None
        logits, problem = given["logits"], self._problem(labels)
        if problem == "single_label_classification":
            return _cross_entropy(logits, labels, ignored=-100)
        values = full_precision(logits).reshape(labels.shape)
        of_element = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
        return of_element(values, labels.to(values.dtype))

    def _problem(self, labels: Tensor) -> str:
        if self.config.task == "token-classification":
            return "single_label_classification"
        if self.config.problem_type is not None:
            return self.config.problem_type
        if self.config.num_labels == 1:
            return "regression"
        return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def output_of(logits: dict[str, Any], loss: Tensor | None, read: Any, return_dict: bool) -> Any:
    """Everything a student gives, in the order of Transformers; a plain tuple without ``return_dict``."""
    output = StudentOutput(logits if loss is None else {"loss": loss, **logits})
    for name in ("hidden_states", "attentions"):
        if getattr(read, name, None) is not None:
            output[name] = getattr(read, name)
    return output if return_dict else tuple(output.values())


def _cross_entropy(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """Mean over the labels that are not ``ignored``; zero where all are."""
    wanted = labels.reshape(-1).long()
    scores = full_precision(logits).reshape(-1, logits.shape[-1])
    return masked_mean(F.cross_entropy(scores, wanted, ignore_index=ignored, reduction="none"), wanted != ignored)


def head_of(teacher: Any) -> HeadConfig | None:
    """The head of a Transformers model as a config, or None where it has none of the three tasks."""
    names = [cls.__name__ for cls in type(teacher).__mro__]
    task = next((task for end, task in HEAD_CLASSES.items() if any(name.endswith(end) for name in names)), None)
    if task is None:
        return None
    config = teacher.config
    labels = [str(config.id2label[i]) for i in range(config.num_labels)]
    problem = config.problem_type if task == "text-classification" else None
    return HeadConfig(task, config.num_labels, None if task == "question-answering" else labels, problem)
