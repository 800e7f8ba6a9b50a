"""Where a run computes and in what precision, without touching the user's models beyond moving them.

Accelerate's ``PartialState`` tells devices and ranks. Its ``Accelerator`` is not used for precision: it patches the
``forward`` of the models it prepares, and its state is one per process, so that a second run could not have another
precision. ``torch.autocast`` around the forward passes does the same work and leaves nothing behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..configs import TrainingConfig
from ..errors import ConfigError, Problem
from ..precision import AUTOCAST, computing_in, quantised
from ..ranks import Ranks
from .replicas import ReplicatedStep

logger = logging.getLogger("textbrewer")


class Placement:
    """Device, precision and rank of one run.

    Args:
        config: the run's settings.
        student: the model that is trained; ``device="auto"`` stays where it is if that is an accelerator.

    Raises:
        ConfigError: the device asked for is not there, or ``local_rank`` is not this process's.
    """

    def __init__(self, config: TrainingConfig, student: nn.Module) -> None:
        from accelerate import PartialState

        self.ranks = Ranks.of(config)
        self.is_main = self.ranks.index == 0
        self.device = _device(config, student, PartialState().device, self.ranks.number)
        self.precision = _precision(config)
        self.dtype = AUTOCAST.get(self.precision)
        self.teacher_precision = config.teacher_precision or self.precision
        self.compiles = config.compile_models

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass of the student."""
        return self._in_precision(self.precision)

    def teacher_autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass of a teacher."""
        return self._in_precision(self.teacher_precision)

    def _in_precision(self, precision: str) -> AbstractContextManager[Any]:
        return computing_in(precision, self.device, leaves=self.dtype is not None)

    def teacher(self, model: nn.Module) -> nn.Module:
        """The model that computes in a teacher's place: a quantised copy for ``int8``.

        Raises:
            ConfigError: ``int8`` on another device than the CPU.
        """
        is_int8 = self.teacher_precision == "int8"
        return quantised(model, self.device, "TrainingConfig.teacher_precision") if is_int8 else model

    def scaler(self) -> torch.amp.GradScaler:
        """The gradient scaler of float16; one that does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def replicated(self, step: Any, trained: Sequence[nn.Module]) -> Any:
        """The step with its gradients averaged over the processes, where there are several."""
        return step if self.ranks.number == 1 else ReplicatedStep(step, trained, self.ranks)

    def forward_of(self, model: nn.Module, data_parallel: bool = False) -> nn.Module:
        """What to call in the model's place: compiled if asked, on all GPUs of this process if there are several."""
        if self.compiles:
            compiled: Any = torch.compile(model)
            return self._on_all_gpus(compiled, data_parallel)
        return self._on_all_gpus(model, data_parallel)

    def _on_all_gpus(self, model: nn.Module, data_parallel: bool) -> nn.Module:
        if data_parallel and self.ranks.number == 1 and self.device.type == "cuda" and torch.cuda.device_count() > 1:
            return nn.DataParallel(model)
        return model


def _device(config: TrainingConfig, student: nn.Module, best: torch.device, processes: int = 1) -> torch.device:
    if config.device == "auto":
        here = next((parameter.device for parameter in student.parameters()), best)
        # Each of several processes has its own, though the script moved the student to the first one in all of them.
        its_own = processes > 1 and here.type == best.type
        return best if here.type == "cpu" or its_own else here
    device = torch.device(config.device)
    if device.index is None and device.type == best.type:
        device = best  # under several processes each has its own
    available: Callable[[], bool] | None = getattr(getattr(torch, device.type, None), "is_available", None)
    if device.type != "cpu" and available is not None and not available():
        problem = Problem("device", "'auto', 'cpu' or a device of this machine", repr(str(device)), "use device='auto'")
        raise ConfigError("TrainingConfig", [problem])
    return device


def _precision(config: TrainingConfig) -> str:
    if config.precision is not None:
        return config.precision
    if not config.fp16:
        return "fp32"
    if config.fp16_opt_level == "O0":
        logger.info("fp16_opt_level='O0': Apex's name for float32; training runs in float32")
        return "fp32"
    if config.fp16_opt_level != "O1":
        logger.info("fp16_opt_level=%r: Apex is not used; PyTorch's native mixed precision is", config.fp16_opt_level)
    return "fp16"
