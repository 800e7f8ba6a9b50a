"""What of a teacher's outputs the terms of a run read, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...configs import IntermediateMatch
from ...errors import AdaptorError, CacheError
from ...matching.capture import item_of, split_path
from ...presets import MATCH_LOSS_MAP
from ...types import FEATURES, ModelOutputs

_LISTS = ("logits", "logits_mask", "labels", *FEATURES)
_OVER_HEADS = {"attention_mse_sum": "sum", "attention_ce_mean": "mean"}


@dataclass(frozen=True)
class Reads:
    """What a run reads of one teacher.

    Attributes:
        logits: whether soft labels are learned from.
        labels: whether some term may need the labels that the teacher's adaptor gives.
        inputs_mask: whether some loss is called with the teacher's mask: of a custom match, or one that pools tokens.
        padding: whether some loss of features may read padding though it is told the mask: one of the user's own.
        layers: of each feature, as matches name them.
        over_heads: attention layers that are read only summed or averaged over their heads, and which.
        modules: paths of submodules, an item of their output in brackets where one is named.
    """

    logits: bool = True
    labels: bool = False
    inputs_mask: bool = False
    padding: bool = False
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    over_heads: Mapping[int, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()

    @property
    def features(self) -> bool:
        """Whether anything but logits is read."""
        return bool(self.modules or any(self.layers.values()))

    @classmethod
    def of(cls, matches: Iterable[IntermediateMatch], **others: bool) -> Reads:
        """What matches read, and the other fields."""
        matches = list(matches)
        layers: dict[str, dict[int, set[str]]] = {feature: {} for feature in FEATURES}
        modules: dict[str, None] = {}
        for match in matches:
            for layer in match.layer_T if isinstance(match.layer_T, list) else [match.layer_T]:
                if isinstance(layer, str):
                    modules[layer] = None
                else:
                    how = _OVER_HEADS.get(match.loss, "") if isinstance(match.loss, str) else ""
                    layers[match.feature].setdefault(layer, set()).add(how)
        over_heads = {layer: min(how) for layer, how in layers["attention"].items() if len(how) == 1 and min(how)}
        return cls(
            padding=not all(_heeds_masks(match) for match in matches),
            layers={feature: tuple(read) for feature, read in layers.items()},
            over_heads=over_heads,
            modules=tuple(modules),
            **others,
        )


def _heeds_masks(match: IntermediateMatch) -> bool:
    """Every loss of this library leaves padding out where it is given the student's own mask."""
    loss = match.loss if callable(match.loss) else MATCH_LOSS_MAP.entry(match.loss)
    return match.mask is None and str(getattr(loss, "__module__", "")).startswith("textbrewer.losses")


@dataclass(frozen=True)
class Part:
    """One tensor of a teacher's outputs.

    Attributes:
        kind: the field of :class:`~textbrewer.types.ModelOutputs` it is in.
        index: its place there; a path for ``modules``.
        over_heads: ``sum`` or ``mean`` of an attention map, or neither.
    """

    kind: str
    index: Any = 0
    over_heads: str = ""

    @property
    def name(self) -> str:
        """Tells it from the other parts of a record's row."""
        return f"{self.kind}{self.over_heads and '-' + self.over_heads}:{self.index}"

    def of(self, outputs: ModelOutputs) -> Tensor:
        """The tensor.

        Raises:
            AdaptorError: there is none.
        """
        if self.kind == "modules":
            path, item = split_path(self.index)
            found = item_of(outputs.modules.get(path), item)
        elif self.kind == "inputs_mask":
            found = outputs.inputs_mask
        else:
            found = getattr(outputs, self.kind)[self.index]
        if not isinstance(found, Tensor):
            raise AdaptorError(f"the teacher gave {type(found).__name__} as {self.name}, not a tensor")
        if self.over_heads and found.dim() == 4:
            return found.sum(dim=1) if self.over_heads == "sum" else found.mean(dim=1)
        return found


def parts_of(reads: Reads, outputs: ModelOutputs) -> list[Part]:
    """The parts to keep, of a teacher that gives such outputs; what it does not give is not kept.

    A layer that is out of range, or a feature that is not given, is left to the match, whose message says more.
    """
    parts = [Part("inputs_mask")] if reads.inputs_mask and outputs.inputs_mask is not None else []
    for kind, read in (("logits", reads.logits), ("logits_mask", reads.logits), ("labels", reads.labels)):
        if read:
            parts += [Part(kind, i) for i in range(len(getattr(outputs, kind)))]
    for feature in FEATURES:
        number = len(getattr(outputs, feature))
        for layer in sorted({layer % number for layer in reads.layers.get(feature, ()) if -number <= layer < number}):
            asked = reads.layers[feature] if feature == "attention" else ()
            how = {reads.over_heads.get(index, "") for index in asked if index % number == layer}
            parts.append(Part(feature, layer, how.pop() if len(how) == 1 else ""))
    return parts + [Part("modules", path) for path in reads.modules]


def without_tensors(outputs: ModelOutputs) -> ModelOutputs:
    """The same outputs with None for every tensor: what was given, and how many layers."""
    blank: dict[str, Any] = {kind: [None] * len(getattr(outputs, kind)) for kind in _LISTS}
    return ModelOutputs(**blank, given=outputs.given)


def outputs_of(values: Mapping[Part, Tensor], like: ModelOutputs) -> ModelOutputs:
    """Outputs with these parts; lists are as long as ``like``'s, with None for a layer that is not kept."""
    fields: dict[str, Any] = {feature: list(getattr(like, feature)) for feature in FEATURES}
    modules: dict[str, Any] = {}
    for part, value in values.items():
        if part.kind == "modules":
            modules[part.index] = value
        elif part.kind == "inputs_mask":
            fields["inputs_mask"] = value
        else:
            fields.setdefault(part.kind, list(getattr(like, part.kind)))[part.index] = value
    return ModelOutputs(**fields, given=like.given, modules=modules)


def require_rows(parts: Sequence[Part], outputs: ModelOutputs, number: int) -> None:
    """Refuse outputs in which the rows of the batch can't be told apart.

    Raises:
        CacheError: naming the part and its shape.
    """
    for part in parts:
        value = part.of(outputs)
        if value.dim() == 0 or len(value) != number:
            raise CacheError(
                f"the teacher gave {part.name} of shape {list(value.shape)} for {number} rows; a teacher cache needs a "
                "first axis with one entry a row"
            )
