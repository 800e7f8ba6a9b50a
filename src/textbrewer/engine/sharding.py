"""Models whose parameters are spread over the processes by PyTorch's ``fully_shard`` (FSDP2)."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from ..matching.layers import layer_list
from ..ranks import Ranks


def shard(model: nn.Module, **options: Any) -> nn.Module:
    """Spread a model's parameters over the processes of ``torchrun``: each layer by itself, then the rest.

    Do so before the optimiser is made from them. A student and a teacher may be sharded, or one of them. Alone, the
    model is returned as it is, so that the same script runs in one process. Other ways to cut a model go too: what
    counts is that its parameters are those of ``torch.distributed.fsdp.fully_shard``.

    Args:
        model: a Transformers model, or any module.
        **options: of ``fully_shard``, such as ``mp_policy`` or ``mesh``.

    Returns:
        The model itself.
    """
    if Ranks.here().number == 1:
        return model
    from torch.distributed.fsdp import fully_shard

    path = layer_list(model)
    for layer in model.get_submodule(path).children() if path else ():
        fully_shard(layer, **options)
    fully_shard(model, **options)
    return model


def is_sharded(module: nn.Module) -> bool:
    """Whether some parameter is spread over the processes."""
    return any(_is_spread(parameter) for parameter in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over the processes, all of which must ask for it."""
    found: Any = tensor
    return found.full_tensor() if _is_spread(tensor) else tensor


def spread_as(tensor: Tensor, template: Any) -> Tensor:
    """``tensor``, the same in all processes, spread as ``template`` is."""
    if not _is_spread(template) or tensor.shape != template.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(template.device), template.device_mesh, template.placements)


def _is_spread(tensor: Any) -> bool:
    # What nobody imported nobody has used: the import costs as much as the rest of this library.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)
