"""An encoder's layers and positions, and a forward pass that goes no further than the deepest layer anyone reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def layer_list(model: Any) -> str | None:
    """The dotted name of the list of a Transformers encoder's layers; None where there is none."""
    number = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == number and len({type(m) for m in module}) == 1:
            return str(name)
    return None


def positions_of(model: nn.Module) -> int | None:
    """How many tokens a model with learned positions takes; None for any number."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - first_position(module)
    return None


def first_position(table: nn.Embedding) -> int:
    """The place of the first token in a table of positions; those before it are of padding, in RoBERTa's."""
    return 0 if table.padding_idx is None else int(table.padding_idx) + 1


_PLAIN = {
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
}


def layers_give_states(model: Any) -> bool:
    """Whether layer i is fed what the model gives as hidden state i.

    It is so in BERT's kin. Others turn, pad or unpad between their layers (XLNet, Longformer, flash attention).
    """
    config = getattr(model, "config", None)
    plain = getattr(config, "_attn_implementation", None) in (None, "eager", "sdpa")
    return plain and getattr(config, "model_type", None) in _PLAIN


class _DeepEnoughError(Exception):
    """Leaves a forward pass; never seen outside of this module."""


def hidden_states_until(model: nn.Module, deepest: int, forward: Callable[[], Any]) -> list[Tensor | None]:
    """The hidden states 0 to ``deepest`` of a forward pass that stops there; None for the others.

    Hidden state i is what layer i is fed. The hooks are gone on exit, whatever happens.

    Args:
        model: a Transformers encoder with more than ``deepest`` layers.
        deepest: the last hidden state that is needed.
        forward: runs the model.
    """
    layers: Any = model.get_submodule(layer_list(model) or "")
    states: list[Tensor | None] = [None] * (len(layers) + 1)

    def keep(place: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            states[place] = args[0] if args else keywords["hidden_states"]
            if place == deepest:
                raise _DeepEnoughError

        return hook

    handles = [
        layer.register_forward_pre_hook(keep(place), with_kwargs=True)
        for place, layer in enumerate(layers[: deepest + 1])
    ]
    try:
        forward()
    except _DeepEnoughError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return states
