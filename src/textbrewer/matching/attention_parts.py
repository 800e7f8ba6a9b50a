"""Where attention layers compute their queries, keys and values: ``"query:11"`` as the paths of a model's modules.

The projections are ordinary linear layers also where the attention itself is fused, so that nothing has to be switched
off to read them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, cast

from torch import nn

from ..errors import MatchError

_PART = re.compile(r"(?P<part>query|key|value):(?P<layer>-?\d+|\*)")
_IN_A_LAYER = re.compile(r"(?P<stack>(?:.*\.)?layers?)\.\d+\.(?P<place>.+)")

_KNOWN = "BERT, RoBERTa, ELECTRA, DistilBERT, DeBERTa-v2 and ModernBERT"
# Places inside a layer, in the order of the known models, and the run whose output counts: DeBERTa-v2 runs two of its
# projections again, on relative positions.
_PLACES = {
    "query": {"attention.self.query": "", "attention.q_lin": "", "attention.self.query_proj": "@0"},
    "key": {"attention.self.key": "", "attention.k_lin": "", "attention.self.key_proj": "@0"},
    "value": {"attention.self.value": "", "attention.v_lin": "", "attention.self.value_proj": "@0"},
}
# ModernBERT computes all three at once, side by side in this order.
_FUSED_PLACE, _FUSED_ORDER = "attn.Wqkv", ("query", "key", "value")


def is_part(path: str) -> bool:
    """Whether a path has the form ``query:3``, ``key:-1`` or ``value:*``.

    >>> is_part("query:11"), is_part("encoder.layer.11.attention.self.query")
    (True, False)
    """
    return _PART.fullmatch(path) is not None


def paths_of_part(model: nn.Module, path: str, side: str) -> list[str]:
    """The paths of the modules (with the columns of their outputs, where one computes all parts) that a part names.

    Args:
        model: BERT, RoBERTa, ELECTRA, DistilBERT, DeBERTa-v2, ModernBERT, or any model that has one of these inside.
        path: ``query``, ``key`` or ``value``, a colon, and the layer: from 0, from the end if below 0, or ``*``.
        side: the name of the argument, for messages.

    Raises:
        MatchError: there is no such layer, the model has several encoders, or none of a kind that is known here.
    """
    found = _PART.fullmatch(path)
    if found is None:
        raise MatchError(f"{side}={path!r} is no part of an attention layer; write 'query:11', 'key:-1' or 'value:*'")
    layers = _layers(model, found["part"], path, side)
    if found["layer"] == "*":
        return layers
    index = int(found["layer"])
    if not -len(layers) <= index < len(layers):
        raise MatchError(
            f"{side}={path!r}, but {type(model).__name__} has {len(layers)} attention layers (0..{len(layers) - 1})"
        )
    return [layers[index]]


def _layers(model: nn.Module, part: str, path: str, side: str) -> list[str]:
    """The path of one part in each layer, in the model's order."""
    stacks: dict[str, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        inside = _IN_A_LAYER.fullmatch(name)
        if inside is None:
            continue
        if inside["place"] in _PLACES[part]:
            stacks[inside["stack"]].append(name + _PLACES[part][inside["place"]])
        elif inside["place"] == _FUSED_PLACE:
            width = int(cast(Any, module).out_features) // 3
            start = _FUSED_ORDER.index(part) * width
            stacks[inside["stack"]].append(f"{name}[{start}:{start + width}]")
    if len(stacks) == 1:
        return next(iter(stacks.values()))
    if not stacks:
        raise MatchError(
            f"{side}={path!r}: where {type(model).__name__} computes its attention is not known, as it is for "
            f"{_KNOWN}; give the path of the module whose output it is, or some columns of it as in "
            f"'h.11.attn.c_attn[0:768]'; its layers are {_leaves(model)}"
        )
    example = next(iter(stacks.values()))[0]
    raise MatchError(
        f"{side}={path!r} may be of {' or of '.join(map(repr, stacks))} in {type(model).__name__}; give the path of "
        f"the module, as in {example!r}"
    )


def _leaves(model: nn.Module) -> list[str]:
    """The modules without submodules, layers that repeat written once with ``*``."""
    leaves = (name for name, module in model.named_modules() if next(module.children(), None) is None)
    return list(dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in leaves))
