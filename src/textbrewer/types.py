"""The values that pass between the rooms: what a model gave, and what a step cost."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from .errors import AdaptorError, did_you_mean

Batch: TypeAlias = Any
"""What a loader yields: a mapping, a tuple or list, or any object that an adaptor understands."""

ADAPTOR_KEYS = ["logits", "logits_mask", "losses", "inputs_mask", "labels", "hidden", "attention"]
"""The keys that an adaptor may return, as in TextBrewer 0.2.1."""

INDEX = "index"
"""The key under which an adaptor tells which example of the data each row is, ``(batch,)``, where a loss needs it."""

MASKED_LOGIT = -1e4
"""The logit of a position of padding. Finite, so that a probability of zero times this logit is zero and not NaN, and
within float16's range."""

FEATURES = ["hidden", "attention"]
"""The kinds of intermediate features that a match may name."""


class Adaptor(Protocol):
    """``(batch, model_outputs) -> dict`` with any of :data:`ADAPTOR_KEYS`."""

    def __call__(self, batch: Batch, model_outputs: Any, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class ModelOutputs:
    """What one model gave for one batch, in the words of the adaptor, with lists where several are allowed.

    Attributes:
        logits: each ``(batch, classes)`` or ``(batch, length, classes)``.
        logits_mask: each ``(batch, length)``; selects positions of 3-d logits. One for all logits or one each.
        losses: the user's own losses, of any shape; their means are added.
        labels: one tensor per logits; used by ``probability_shift``.
        hidden: ``hidden[i]`` is ``(batch, length, width)``.
        attention: ``attention[i]`` is ``(batch, heads, length, length)``.
        inputs_mask: ``(batch, length)``, non-zero where a token is real.
        given: the keys the adaptor returned.
        modules: outputs of submodules by their dotted path, where a match names them.
        extra: what terms asked for by name beside :data:`ADAPTOR_KEYS`: masks of matches, and :data:`INDEX`.
        members: what each of several teachers gave; then the other fields are empty.
    """

    logits: list[Tensor] = field(default_factory=list)
    logits_mask: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    hidden: Sequence[Tensor] = ()
    attention: Sequence[Tensor] = ()
    inputs_mask: Tensor | None = None
    given: tuple[str, ...] = ()
    modules: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    members: tuple[ModelOutputs, ...] = ()

    @classmethod
    def from_adaptor(cls, returned: Any, *, adaptor: str, extra: Collection[str] = ()) -> ModelOutputs:
        """Check and normalise what an adaptor returned.

        Args:
            returned: the adaptor's return value.
            adaptor: its name in messages, e.g. ``adaptor_T``.
            extra: keys that some term asks for beside :data:`ADAPTOR_KEYS`.

        Raises:
            AdaptorError: the value is not a mapping, or an entry is not made of tensors.
        """
        if not isinstance(returned, Mapping):
            raise AdaptorError(
                f"{adaptor} returned {type(returned).__name__}; it must return a dict with keys among {ADAPTOR_KEYS}"
            )
        for key in returned:
            if key not in ADAPTOR_KEYS and key not in extra:
                warnings.warn(
                    f"{adaptor} returned the key {key!r}, which is not used. "
                    f"Known keys: {ADAPTOR_KEYS}. {did_you_mean(key, ADAPTOR_KEYS)}".rstrip(),
                    stacklevel=2,
                )
        known = {*ADAPTOR_KEYS, *extra}
        present = {key: value for key, value in returned.items() if key in known and value is not None}
        lists = {
            key: _as_tensors(present[key], key, adaptor)
            for key in ("logits", "logits_mask", "losses", "labels")
            if key in present
        }
        features = {key: _as_layers(present[key], key, adaptor) for key in FEATURES if key in present}
        asked = {key: present[key] for key in extra if key in present}
        for key, value in asked.items():
            if not isinstance(value, Tensor):
                raise AdaptorError(f"{adaptor} returned {key} as {type(value).__name__}; it must be a tensor")
        mask = present.get("inputs_mask")
        if mask is not None and not isinstance(mask, Tensor):
            raise AdaptorError(f"{adaptor} returned inputs_mask as {type(mask).__name__}; it must be a tensor")
        return cls(**lists, **features, inputs_mask=mask, given=tuple(present), extra=asked)  # type: ignore[arg-type]


def _as_tensors(value: Any, key: str, adaptor: str) -> list[Tensor]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if not isinstance(item, Tensor):
            raise AdaptorError(
                f"{adaptor} returned {key} with a {type(item).__name__}; {key} must be a tensor or a list of tensors"
            )
    return items


def _as_layers(value: Any, key: str, adaptor: str) -> Sequence[Tensor]:
    if isinstance(value, Tensor) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return value  # type: ignore[return-value]
    raise AdaptorError(
        f"{adaptor} returned {key} as {type(value).__name__}; it must be a list of tensors, one per layer"
    )


@dataclass(frozen=True)
class LossReport:
    """The cost of one micro-batch.

    Attributes:
        total: what to call ``backward`` on. Summed over the micro-batches of one optimiser step
            it is the loss of that step.
        terms: detached, unweighted value of every term by name, on the scale of a whole step's mean.
        loss: detached weighted sum of ``terms``, on the same scale.
        task: which of several tasks, or an empty string.
    """

    total: Tensor
    terms: dict[str, Tensor]
    loss: Tensor
    task: str = ""
