"""One vector a text, out of what an encoder gives for its tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..losses import full_precision
from ..losses.relations import Pooling, pooled_states, unit_vectors


def vectors_of(logits: Any, outputs: Any, mask: Tensor | None, pooling: Pooling, normalise: bool) -> Tensor | None:
    """``(texts, width)``, in float32 at least; None if there are none.

    Args:
        logits: what outputs without names were taken for.
        outputs: of the model: with ``last_hidden_state``, or a tensor of ``(texts, length, width)`` or, ready,
            ``(texts, width)``.
        mask: ``(texts, length)``, non-zero where a token is real.
        pooling: ``"mean"`` over the tokens, or the ``"first"`` one.
        normalise: whether vectors are of length 1.
    """
    states = outputs.get("last_hidden_state") if hasattr(outputs, "keys") else logits
    if not isinstance(states, Tensor) or states.dim() not in (2, 3):
        return None
    vectors, _ = pooled_states(full_precision(states), mask, pooling, "sentence vectors")
    return unit_vectors(vectors) if normalise else vectors


def cosines_of(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of each row of one side with that of the other; 0 beside a vector of zeros."""
    return (unit_vectors(first) * unit_vectors(second)).sum(dim=-1)
