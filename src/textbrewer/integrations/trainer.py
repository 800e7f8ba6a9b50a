"""Distillation for those who have a script around Transformers' ``Trainer``: one class swapped, their loop kept."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..configs import DistillationConfig, TrainingConfig
from ..distillers import GeneralDistiller
from ..distillers._base import DistillationStep, Run
from ..engine.checkpoint import apart, numbered, set_numbered, weights_of
from ..engine.devices import Placement
from ..errors import CheckpointError, ConfigError, MissingDependencyError, Problem, UnsupportedError
from ..feeding import length_of
from ..objective import Share
from ..teachers import TeacherCache
from ..types import Adaptor

try:
    from transformers import Trainer, TrainerCallback
except ImportError:
    raise MissingDependencyError("transformers", "hf", "DistillationTrainer") from None

BESIDE = "distillation.safetensors"
"""What a checkpoint of the Trainer has beside its own files: projections, and losses with parameters."""


class DistillationTrainer(Trainer):
    """Transformers' ``Trainer`` whose training loss is that of :class:`~textbrewer.GeneralDistiller`.

    ``total = kd_loss_weight · Σ KD(student, teacher, τ) + Σ weight · match + hard_label_weight · loss of the student``,
    of each micro-batch. With ``gradient_accumulation_steps`` the totals are averaged, as Trainer does; the distillers
    average over the valid elements of all of them. Evaluation is Trainer's own, on the student's loss on its labels.

    The loop, the optimiser, precision, logging and checkpoints are Trainer's. Each term is logged under its name. What
    is trained beside the student (projections) is in the optimiser, and in the checkpoints as
    ``distillation.safetensors``.

    Args:
        *args: of ``Trainer``; ``model`` is the student.
        teacher: a trained model; moved to the device, in eval mode while training runs, never changed.
        distill_config: what to learn; None for soft labels alone.
        teacher_cache: keeps what the teacher gives.
        adaptor_T: the teacher's; None reads Transformers outputs.
        adaptor_S: the student's; None reads Transformers outputs.
        **keywords: of ``Trainer``.

    Raises:
        ConfigError: there is no teacher.
        UnsupportedError: several processes, and something is trained beside the student.

    Example::

        trainer = DistillationTrainer(
            student, arguments, train_dataset=rows, teacher=teacher,
            distill_config=DistillationConfig(kd_loss_type="kl", temperature=4, hard_label_weight=0.5),
        )
        trainer.train()
    """

    def __init__(
        self,
        *args: Any,
        teacher: nn.Module | None = None,
        distill_config: DistillationConfig | None = None,
        teacher_cache: TeacherCache | None = None,
        adaptor_T: Adaptor | None = None,
        adaptor_S: Adaptor | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(*args, **keywords)
        if not isinstance(teacher, nn.Module):
            problem = Problem("teacher", "a trained model (nn.Module)", type(teacher).__name__)
            raise ConfigError("DistillationTrainer", [problem])
        # What a micro-batch gives is its mean: Trainer divides it by the number of those it accumulates.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        precision: Any = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else "fp32"
        config = TrainingConfig(
            output_dir=str(self.args.output_dir), device=str(self.args.device), precision=precision, progress_bar=False
        )
        self.distiller = GeneralDistiller(
            config,
            DistillationConfig() if distill_config is None else distill_config,
            teacher,
            cast(nn.Module, self.model),
            adaptor_T,
            adaptor_S,
            teacher_cache=teacher_cache,
        )
        self._step: DistillationStep | None = None
        self._running = ExitStack()
        self._seen: list[dict[str, Tensor]] = []
        self.add_callback(_Progress(self))

    def train(self, *args: Any, **keywords: Any) -> Any:
        """As ``Trainer.train``; hooks, modes and what joined the optimiser are gone when it ends, however it ends."""
        distiller = self.distiller
        beside = distiller._trained_beside()
        if self.args.world_size > 1 and _has_parameters(beside):
            raise UnsupportedError(
                "projections and losses with parameters are not averaged over processes by Trainer; use "
                "GeneralDistiller, which does, or matches without them"
            )
        with ExitStack() as running:
            self._running = running
            # The student's modes are Trainer's.
            running.enter_context(distiller.modes_of_teachers())
            for module in (*beside, *distiller._teachers()):
                module.to(self.args.device)
            placement = Placement(distiller.t_config, distiller.model_S)
            rows = length_of(self.train_dataset)
            step: Any = distiller._assemble(Run(placement, {}, running, rows))
            self._step = step
            try:
                return super().train(*args, **keywords)
            finally:
                self._step = None

    def create_optimizer(self, *args: Any, **keywords: Any) -> Any:
        """As Trainer's, with a parameter group for each projection and each loss with parameters."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **keywords)
        if self._step is not None:
            if not given and "weight_decay" in optimizer.defaults:
                # Trainer says it group by group, and leaves PyTorch's default to those that join.
                optimizer.defaults["weight_decay"] = self.args.weight_decay
            for part in self.distiller._trained_beside():
                self._running.enter_context(part.trained_by(optimizer))
        return optimizer

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective in training, and the student's own loss in evaluation."""
        if self._step is None or not model.training or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._step.forward = model  # perhaps wrapped
        report = self._step(inputs, Share(1))
        self._seen.append(report.terms)
        return report.total

    def log(self, logs: dict[str, float], *args: Any, **keywords: Any) -> None:
        """As Trainer's, with the mean of each term since the last time, over the micro-batches in which it counted."""
        if "loss" in logs and self._seen:
            names = list(dict.fromkeys(name for terms in self._seen for name in terms))
            each = ([terms[name].float() for terms in self._seen if name in terms] for name in names)
            means = torch.stack([torch.stack(values).mean() for values in each]).tolist()
            logs = {**logs, **dict(zip(names, means, strict=True))}
            self._seen.clear()
        super().log(logs, *args, **keywords)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        tensors = numbered([weights_of(part) for part in self.distiller._trained_beside()])
        if tensors:
            save_file(apart(tensors), Path(output_dir or str(self.args.output_dir)) / BESIDE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        beside = self.distiller._trained_beside()
        file = Path(resume_from_checkpoint) / BESIDE
        if file.exists():
            set_numbered(beside, load_file(file))
        elif _has_parameters(beside):
            raise CheckpointError(
                f"{resume_from_checkpoint} has no {BESIDE}: it is of a run without these projections; start anew"
            )

    def after_step(self, progress: float) -> None:
        """Move the weights and temperatures of the terms on, and forget the gradients of what is beside the student.

        Trainer forgets those of its model alone.
        """
        for part in self.distiller._trained_beside():
            part.zero_grad()
        if self._step is not None:
            self._step.advance(progress)


def _has_parameters(modules: Iterable[nn.Module]) -> bool:
    return any(True for module in modules for _ in module.parameters())


class _Progress(TrainerCallback):
    """Tells the objective how far the run is."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.global_step:
            self.trainer.after_step(state.global_step / state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.trainer.after_step(state.global_step / state.max_steps)
