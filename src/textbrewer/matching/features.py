"""The tensors a match asks for, out of what an adaptor gave."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from ..configs import IntermediateMatch
from ..errors import AdaptorError, MatchError
from ..types import ModelOutputs
from .capture import item_of, split_path


def features_of(outputs: ModelOutputs, match: IntermediateMatch, side: Literal["S", "T"]) -> Tensor | list[Tensor]:
    """The feature of one side: a tensor, or a list where the match names several layers.

    Raises:
        AdaptorError: the adaptor gave no such feature.
        MatchError: a layer index is out of range, or its entry is not a tensor.
    """
    asked = match.layer_S if side == "S" else match.layer_T
    if isinstance(asked, str):
        return _of_module(outputs, match, side, asked)
    if isinstance(asked, list) and isinstance(asked[0], str):
        return [_of_module(outputs, match, side, str(path)) for path in asked]
    layers = getattr(outputs, match.feature)
    adaptor = f"adaptor_{side}"
    if match.feature not in outputs.given:
        raise AdaptorError(
            f"{match.name}: adaptor_{side} gave {list(outputs.given)} and no {match.feature!r}, which this match "
            f"needs; return {match.feature!r} from it, and make the model give them "
            f"(output_{'attentions' if match.feature == 'attention' else 'hidden_states'}=True)"
        )

    def at(index: Any) -> Tensor:
        if not -len(layers) <= index < len(layers):
            raise MatchError(
                f"{match.name}: layer_{side}={asked}, but {adaptor} gave {len(layers)} {match.feature} layers "
                f"(0..{len(layers) - 1})"
            )
        layer = layers[index]
        if not isinstance(layer, Tensor):
            raise MatchError(
                f"{match.name}: {adaptor} gave {type(layer).__name__} as {match.feature}[{index}], not a tensor. "
                "Fused attention gives no maps: load the model with attn_implementation='eager'"
            )
        return layer

    return [at(index) for index in asked] if isinstance(asked, list) else at(asked)


def _of_module(outputs: ModelOutputs, match: IntermediateMatch, side: str, path: str) -> Tensor:
    module, item = split_path(path)
    if isinstance(taken := outputs.modules.get(path), Tensor):
        return taken  # the module gives a tensor, or a cache kept what the path names
    if module not in outputs.modules:
        raise MatchError(
            f"{match.name}: {module!r} did not run in this forward pass (a teacher whose outputs come with the batch "
            "is not run); match layers of the adaptor instead"
        )
    found = item_of(outputs.modules[module], item)
    if not isinstance(found, Tensor):
        raise MatchError(
            f"{match.name}: the output of {path!r} is {type(outputs.modules[module]).__name__} without a tensor there; "
            f"choose an item of it, as in layer_{side}='{module}[0]'"
        )
    return found
