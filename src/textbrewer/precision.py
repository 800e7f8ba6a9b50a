"""What a model computes in, without touching it: autocast around its forward pass, or a copy in eight bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from .errors import ConfigError, Problem

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def computing_in(precision: str, device: torch.device, leaves: bool = False) -> AbstractContextManager[Any]:
    """The context of a forward pass.

    Args:
        precision: ``"fp16"`` and ``"bf16"`` are autocast; any other is that of the weights.
        device: of the model.
        leaves: the precision of the weights must leave an autocast around it, not only not enter one.
    """
    dtype = AUTOCAST.get(precision)
    if dtype is not None:
        return torch.autocast(device.type, dtype=dtype)
    return torch.autocast(device.type, enabled=False) if leaves else nullcontext()


def quantised(model: nn.Module, device: torch.device, setting: str) -> nn.Module:
    """A copy whose linear layers compute in eight bits, with scales that are found anew for each input.

    Args:
        model: left as it is.
        device: on which it computes.
        setting: what asked for it, as ``"TrainingConfig.teacher_precision"``.

    Raises:
        ConfigError: the device is not the CPU.
    """
    if device.type != "cpu":
        title, _, name = setting.rpartition(".")
        problem = Problem(name, "'fp16' or 'bf16' on an accelerator", "'int8'", "use 'bf16'")
        raise ConfigError(title, [problem])
    with warnings.catch_warnings():
        # PyTorch moves its quantisation to another package; this one stays for as long as it is in PyTorch.
        warnings.simplefilter("ignore")
        quantize: Callable[..., nn.Module] = torch.ao.quantization.quantize_dynamic
        return quantize(model, {nn.Linear}, dtype=torch.qint8)
