"""One teacher, its soft labels, and the student's own losses."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from ..adaptors import AdaptedModel
from ..configs import DistillationConfig, TrainingConfig
from ..engine.devices import Placement
from ..objective import HardLabels, Objective, SoftLabels, Term
from ..teachers import LiveTeacher
from ..types import Adaptor
from ._base import DistillationStep, Distiller


class BasicDistiller(Distiller):
    """Distil one teacher by its logits, without intermediate matches.

    Args:
        train_config: how to train.
        distill_config: what to learn; its ``intermediate_matches`` are not used here.
        model_T: the teacher; run in eval mode and without gradients, and left as it was.
        model_S: the student.
        adaptor_T: ``(batch, model_outputs) -> dict`` for the teacher; None for Transformers outputs.
        adaptor_S: the same for the student.

    >>> from textbrewer import BasicDistiller, DistillationConfig, TrainingConfig
    >>> teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    >>> config = TrainingConfig(output_dir=folder, progress_bar=False)
    >>> adaptor = lambda batch, outputs: {"logits": outputs}
    >>> distiller = BasicDistiller(config, DistillationConfig(), teacher, student, adaptor, adaptor)
    >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    >>> with distiller:
    ...     distiller.train(optimizer, [(torch.ones(2, 4),)], num_epochs=1)
    """

    matched = False

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: nn.Module,
        model_S: nn.Module,
        adaptor_T: Adaptor | None = None,
        adaptor_S: Adaptor | None = None,
    ) -> None:
        super().__init__(train_config, model_S)
        self.d_config = distill_config
        self.model_T = model_T
        self.adaptor_T = adaptor_T
        self.adaptor_S = adaptor_S
        if distill_config.intermediate_matches and not self.matched:
            warnings.warn(f"{type(self).__name__} uses no intermediate matches; GeneralDistiller does", stacklevel=3)

    def _teachers(self) -> list[nn.Module]:
        return [self.model_T]

    def _feature_terms(self) -> list[Term]:
        return []

    def _features(self) -> frozenset[str]:
        return frozenset()

    def _assemble(self, placement: Placement, args: Mapping[str, Any], running: ExitStack) -> DistillationStep:
        if self.d_config.is_caching_logits:
            warnings.warn(
                "is_caching_logits=True: this release runs the teacher on every batch; the result is the same",
                stacklevel=4,
            )
        teacher = AdaptedModel(self.model_T, self.adaptor_T, name="adaptor_T", features=self._features(), teacher=True)
        student = AdaptedModel(self.model_S, self.adaptor_S, name="adaptor_S", features=self._features())
        for adapted in (teacher, student):
            running.enter_context(adapted.ready())
        config = self.d_config
        hard = HardLabels(config.hard_label_weight, config.hard_label_weight_scheduler)
        objective = Objective([SoftLabels(config), *self._feature_terms(), hard])
        forward = placement.forward_of(self.model_S, self.t_config.data_parallel)
        source = LiveTeacher(teacher, placement.autocast)
        return DistillationStep(student, source, objective, placement, forward, args)
