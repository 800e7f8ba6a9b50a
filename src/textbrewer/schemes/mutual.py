"""Students that teach each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adaptors import AdaptedModel
from ..configs import DistillationConfig, TrainingConfig
from ..distillers._base import DistillationStep, Distiller, Run
from ..engine.loop import Step
from ..errors import ConfigError, Problem
from ..objective import HardLabels, Objective, Share, SoftLabels
from ..types import Adaptor, Batch, LossReport, ModelOutputs


class MutualDistiller(Distiller):
    """Deep mutual learning: two or more students trained together, each on the labels and on what its peers say.

    ``Σ_k [kd_loss_weight · mean over j ≠ k of KD(S_k, S_j, τ) + hard_label_weight · Σ mean(losses of S_k)]``; what a
    peer says is a constant of the gradient

    The paper's config is ``DistillationConfig(temperature=1, kd_loss_type="kl", hard_label_weight=1)``. There the
    students are updated one after the other, each from what the others say after their update; here all are updated at
    once, from what they say with the same weights, so that a step has one forward pass of each.

    ``model_S`` is the ``ModuleList`` of the students: callbacks get it, and checkpoints hold it, with keys ``0.…``,
    ``1.…``. The optimizer is to hold the parameters of all: ``AdamW(distiller.model_S.parameters())``. Terms are logged
    with the number of their student behind.

    Args:
        train_config: how to train.
        distill_config: what each learns from the others and from the labels.
        students: two or more; they may be of different kinds.
        adaptors: one for all students, or a list with one for each; None for Transformers outputs.

    Raises:
        ConfigError: fewer than two students or one of them twice, adaptors that do not fit, or a config with matches.

    Source: 1706.00384.

    >>> students = [nn.Linear(4, 3), nn.Linear(4, 3)]
    >>> config = DistillationConfig(temperature=1, kd_loss_type="kl")
    >>> adaptor = lambda batch, outputs: {"logits": outputs}
    >>> distiller = MutualDistiller(TrainingConfig(output_dir=folder, progress_bar=False), config, students, adaptor)
    >>> optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.1)
    >>> with distiller:
    ...     distiller.train(optimizer, [(torch.ones(2, 4),)], num_epochs=1)
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        students: Sequence[nn.Module],
        adaptors: Adaptor | Sequence[Adaptor | None] | None = None,
    ) -> None:
        several = isinstance(adaptors, (list, tuple))
        self.adaptors: list[Any] = list(adaptors) if several else [adaptors] * len(students)  # type: ignore[arg-type]
        problems = []
        if len({id(student) for student in students}) != len(students) or len(students) < 2:
            problems.append(Problem("students", "at least two, each another model", f"{len(students)} of them"))
        if len(self.adaptors) != len(students):
            problems.append(Problem("adaptors", f"one, or one for each of {len(students)}", str(len(self.adaptors))))
        for name in ("intermediate_matches", "balance"):
            if getattr(distill_config, name):
                hint = "students teach each other by their logits alone"
                problems.append(Problem(f"distill_config.{name}", "none", repr(getattr(distill_config, name)), hint))
        if problems:
            raise ConfigError("MutualDistiller", problems)
        super().__init__(train_config, nn.ModuleList(students))
        self.d_config = distill_config
        self.students = list(students)

    def _assemble(self, run: Run) -> Step:
        return MutualStep([self._step(k, run) for k in range(len(self.students))])

    def _step(self, number: int, run: Run) -> DistillationStep:
        student, config = self.students[number], self.d_config
        adapted = AdaptedModel(student, self.adaptors[number], name=f"adaptors[{number}]")
        run.running.enter_context(adapted.ready())
        hard = HardLabels(config.hard_label_weight, config.hard_label_weight_scheduler, config.hard_label_active)
        objective = Objective([PeerLabels(config), hard])
        forward = run.placement.forward_of(student, self.t_config.data_parallel)
        trims = not any(self.adaptors)
        return DistillationStep(adapted, None, objective, run.placement, forward, run.args, trims=trims)


class PeerLabels(SoftLabels):
    """The mean of :class:`~textbrewer.objective.SoftLabels` over the peers, which are the members of its teacher."""

    def value(self, student: ModelOutputs, teacher: ModelOutputs | None, share: Share) -> Tensor | None:
        peers = () if teacher is None else teacher.members
        values = [SoftLabels.value(self, student, peer, share) for peer in peers]
        present = [value for value in values if value is not None]
        return torch.stack(present).mean() if present and len(present) == len(values) else None


class MutualStep:
    """One micro-batch: a forward pass of each student, and each one's objective with the others as its teachers.

    Args:
        students: the step of each, without a teacher.
    """

    source = None

    def __init__(self, students: Sequence[DistillationStep]) -> None:
        self.students = list(students)

    def __call__(self, batch: Batch, share: Share) -> LossReport:
        first = self.students[0]
        fed = first.parts_of(batch).on(first.placement.device)
        with first.placement.autocast():
            outputs = [own.student(fed.student, own.student_args, own.forward) for own in self.students]
        said = [_constant(each) for each in outputs]
        reports = []
        for number, own in enumerate(self.students):
            peers = ModelOutputs(members=tuple(said[:number] + said[number + 1 :]))
            reports.append(own.objective(outputs[number], peers, share))
        terms = {f"{name}_{k}": value for k, report in enumerate(reports) for name, value in report.terms.items()}
        total = torch.stack([report.total for report in reports]).sum()
        return LossReport(total=total, terms=terms, loss=torch.stack([report.loss for report in reports]).sum())

    def share(self, window: list[Batch]) -> Share:
        """That of the first student: all see the same batches."""
        return self.students[0].share(window)

    def advance(self, progress: float) -> None:
        for own in self.students:
            own.advance(progress)


def _constant(outputs: ModelOutputs) -> ModelOutputs:
    """What a peer learns from."""
    return replace(outputs, logits=[logits.detach() for logits in outputs.logits], losses=[], hidden=(), attention=())
