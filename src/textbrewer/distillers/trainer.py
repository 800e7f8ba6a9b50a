"""Supervised training, without a teacher."""

from __future__ import annotations

from torch import nn

from ..adaptors import AdaptedModel
from ..configs import TrainingConfig
from ..engine.loop import Step
from ..objective import HardLabels, Objective
from ..types import Adaptor
from ._base import DistillationStep, Distiller, Run


class BasicTrainer(Distiller):
    """Train one model on its own losses: fine-tune a teacher, or run the baseline of a distillation.

    ``loss = Σ mean(loss)`` over the ``losses`` that the adaptor gives.

    Args:
        train_config: how to train.
        model: the model to train.
        adaptor: ``(batch, model_outputs) -> {"losses": ...}``; None reads the loss of Transformers outputs.
    """

    def __init__(self, train_config: TrainingConfig, model: nn.Module, adaptor: Adaptor | None = None) -> None:
        super().__init__(train_config, model)
        self.model = model
        self.adaptor = adaptor

    def _assemble(self, run: Run) -> Step:
        adapted = AdaptedModel(self.model_S, self.adaptor, name="adaptor")
        run.running.enter_context(adapted.ready())
        forward = run.placement.forward_of(self.model_S, self.t_config.data_parallel)
        return DistillationStep(
            adapted, None, Objective([HardLabels()]), run.placement, forward, run.args, trims=self.adaptor is None
        )
