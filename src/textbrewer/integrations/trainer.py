"""Distillation for those who have a script around Transformers' ``Trainer``: one class swapped, their loop kept."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..configs import DistillationConfig, TrainingConfig
from ..configs._base import Config
from ..distillers import GeneralDistiller
from ..distillers._base import DistillationStep, OwnGroups, Run
from ..engine.checkpoint import apart, numbered, set_numbered, weights_of
from ..engine.devices import Placement
from ..errors import CheckpointError, ConfigError, MissingDependencyError, Problem, UnsupportedError
from ..feeding import length_of, sides, without
from ..objective import Share
from ..tasks.adaptor import UNFED
from ..teachers import TeacherCache
from ..types import Adaptor

try:
    from transformers import PreTrainedModel, Trainer, TrainerCallback
except ImportError:
    raise MissingDependencyError("transformers", "hf", "DistillationTrainer") from None

BESIDE = "distillation.safetensors"
"""What a checkpoint of the Trainer has beside its own files: projections, and losses with parameters."""
_SIDES = ("teacher", "student", "teacher_cache")


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
        UnsupportedError: several processes, and something is trained beside the student; or ``model_init``,
            ``label_smoothing_factor`` or ``compute_loss_func``, which the objective would not know of.

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
        student = keywords.get("model", next(iter(args), None))
        if isinstance(getattr(student, "config", None), Config):
            raise UnsupportedError(
                f"DistillationTrainer: Trainer writes into the config of its model, which {type(student).__name__} "
                "does not let it; use GeneralDistiller"
            )
        super().__init__(*args, **keywords)
        self._require_its_own_loss()
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
        self._lent = ExitStack()
        self._of_teacher: set[str] = set()
        self._read: set[str] = set()
        self._seen: list[dict[str, Tensor]] = []
        self.add_callback(_Progress(self))

    def _require_its_own_loss(self) -> None:
        """Refuse what of Trainer would change the loss of evaluation alone, or the student behind the distiller.

        Raises:
            UnsupportedError: there is something of the kind.
        """
        own = "the term of the labels is the student's own loss, or what adaptor_S gives as 'losses'"
        refused = {
            "label_smoothing_factor": (self.args.label_smoothing_factor, f"leave it at 0: {own}"),
            "compute_loss_func": (self.compute_loss_func, f"leave it out: {own}"),
            "model_init": (
                self.model_init,
                "give the student itself: a new one would not be distilled",
            ),
        }
        for name, (given, way_out) in refused.items():
            if given:
                raise UnsupportedError(f"DistillationTrainer: {name} is not for distillation; {way_out}")

    def train(self, *args: Any, **keywords: Any) -> Any:
        """As ``Trainer.train``; hooks, modes and what joined the optimiser are gone when it ends, however it ends."""
        distiller = self.distiller
        beside = distiller._trained_beside()
        if self.args.world_size > 1 and _has_parameters(beside):
            raise UnsupportedError(
                "projections and losses with parameters are not averaged over processes by Trainer; use "
                "GeneralDistiller, which does, or matches without them"
            )
        scheduler = self.lr_scheduler
        with ExitStack() as running:
            running.callback(self._lent.close)
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
                if scheduler is not None:
                    self.lr_scheduler = scheduler

    def create_optimizer(self, *args: Any, **keywords: Any) -> Any:
        """As Trainer's, with a parameter group for each projection and each loss with parameters."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **keywords)
        if self._step is not None:
            if not given and "weight_decay" in optimizer.defaults:
                # Trainer says it group by group, and leaves PyTorch's default to those that join.
                optimizer.defaults["weight_decay"] = self.args.weight_decay
            # With another batch size Trainer begins anew, with the same optimiser.
            self._lent.close()
            groups = len(optimizer.param_groups)
            for part in self.distiller._trained_beside():
                self._lent.enter_context(part.trained_by(optimizer))
            if self.lr_scheduler is not None and len(optimizer.param_groups) > groups:
                if isinstance(self.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                    raise UnsupportedError(
                        "DistillationTrainer: ReduceLROnPlateau was built before the projections joined the optimiser; "
                        "ask for it by lr_scheduler_type='reduce_lr_on_plateau'"
                    )
                self.lr_scheduler = cast(Any, OwnGroups(self.lr_scheduler, optimizer, groups))
        return optimizer

    def _set_signature_columns_if_needed(self) -> None:
        """As Trainer's, with what the teacher takes and the objective reads beside what the student takes."""
        if self._signature_columns is not None:
            return
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        lesson = self.distiller.lesson
        taken = [name for teacher in lesson.teachers for name in inspect.signature(teacher.forward).parameters]
        self._of_teacher = set(taken) - set(columns)
        self._read = {*lesson._extra(), *UNFED, *_SIDES} - set(columns)
        columns += sorted(self._of_teacher | self._read)

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **keywords: Any) -> Any:
        """As Trainer's, on what the student takes."""
        return super().prediction_step(model, self._of_student(inputs), *args, **keywords)

    def _of_student(self, inputs: Any) -> Any:
        """What the student is fed outside of training."""
        return without(sides(inputs).student, self._of_teacher | self._read)

    def _parted(self, inputs: Any) -> Any:
        """A batch of which the student is not fed what its teacher alone takes."""
        if not isinstance(inputs, Mapping) or self._of_teacher.isdisjoint(inputs):
            return inputs
        return {"teacher": inputs, "student": without(inputs, self._of_teacher)}

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective in training, and the student's own loss in evaluation."""
        if self._step is None or not model.training or return_outputs:
            return super().compute_loss(model, self._of_student(inputs), return_outputs, num_items_in_batch)
        self._step.forward = model  # perhaps wrapped
        report = self._step(self._parted(inputs), Share(1))
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
        folder = Path(output_dir or str(self.args.output_dir))
        student: Any = self.distiller.model_S
        if not isinstance(student, PreTrainedModel) and callable(getattr(student, "save_pretrained", None)):
            student.save_pretrained(folder)  # with its config, which Trainer leaves out
        beside = self.distiller._trained_beside()
        # Though it may be without a tensor: a projection between equal widths has none.
        if any(len(part) for part in beside):
            save_file(apart(numbered([weights_of(part) for part in beside])), folder / BESIDE)

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
