"""How to train: steps, checkpoints, device and precision."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator

from ._base import Config, config_class, reject

Precision = Literal["fp32", "fp16", "bf16"]
TeacherPrecision = Literal["fp32", "fp16", "bf16", "int8"]


def _device_name(value: Any) -> Any:
    if value == "auto" or isinstance(value, torch.device):
        return value
    try:
        torch.device(value)
    except (RuntimeError, TypeError):
        raise reject("'auto' or a torch device such as 'cpu', 'cuda', 'cuda:1'") from None
    return value


def _path_as_text(value: Any) -> Any:
    return fspath(value) if isinstance(value, PathLike) else value


@config_class
class TrainingConfig(Config):
    """Settings of a training run. Constructing it touches no disk.

    The first eleven arguments and their order are TextBrewer 0.2.1's.

    Args:
        gradient_accumulation_steps: micro-batches per optimiser step.
        ckpt_frequency: checkpoints per epoch, evenly spread, the last at its end.
        ckpt_epoch_frequency: write them in every so-many-th epoch (and in the last one).
        ckpt_steps: with ``num_steps``: optimiser steps between checkpoints.
        log_dir: folder for TensorBoard scalars; None writes none.
        output_dir: folder for ``gs{step}.pkl``, created when training starts.
        device: ``"auto"`` (where the student already is if that is an accelerator, else the best device
            there is) or a torch device. (0.2.1's default was ``"cuda"``.)
        fp16: mixed precision with float16; the same as ``precision="fp16"``.
        fp16_opt_level: an Apex level, accepted for old scripts. ``"O0"`` means float32;
            ``"O1"``, ``"O2"`` and ``"O3"`` all mean PyTorch's native mixed precision.
        data_parallel: use all visible GPUs of one process. Without several GPUs it changes nothing.
        local_rank: rank on this machine, or -1 for a single process.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``; None follows ``fp16``.
        keep_last_accumulation: take an optimiser step with the micro-batches left over at the end of an epoch,
            which 0.2.1 drops.
        log_every: optimiser steps between reads of the losses from the device (for the progress bar,
            TensorBoard and the check for NaN). On a CPU the check is made at every step.
        progress_bar: show a progress bar on the main process.
        teacher_precision: what teachers compute in: ``"fp32"``, ``"fp16"``, ``"bf16"``, or ``"int8"`` (a copy whose
            linear layers are quantised dynamically, on the CPU). None follows ``precision``.
        compile_models: run student and teachers through ``torch.compile``.
        save_state: write, with each ``gs{step}.pkl``, a folder ``checkpoints/step-N`` from which ``resume`` goes on.
        keep_last: how many of these folders are kept.
        on_nonfinite: what a NaN or infinity in the losses or gradients does: ``"stop"`` ends the run with an error that
            names the step and the terms (found every ``log_every`` steps on an accelerator, at every step on a CPU);
            ``"skip"`` takes no optimiser step, says so and goes on; for that an accelerator is waited for at each step,
            unless the optimiser is a fused one of PyTorch.
        keep_best: with ``train(evaluate=...)``: keep the best student in ``output_dir/best``, by its
            ``save_pretrained`` if it has one, and its folder ``checkpoints/step-N`` beside the last ones.
        metric_for_best_model: the score that tells the best; None takes the first that ``evaluate`` gives.
        greater_is_better: whether more of it is better; None means yes, but of a name that ends in ``loss``.
        early_stopping_patience: end the run after so many evaluations in a row without a better score.
        early_stopping_threshold: by how much a score must be better to count for that.
        load_best_model_at_end: give the student its best weights when training ends.
        save_in_background: write checkpoints in a thread while training goes on, from a copy in memory.
        trackers: what is told the losses and scores beside TensorBoard: ``"wandb"`` and ``"mlflow"``, through
            Accelerate. They read their own environment variables, such as ``WANDB_MODE`` and ``MLFLOW_TRACKING_URI``.
        tracker_project: the project of Weights & Biases, the experiment of MLflow.

    Raises:
        ConfigError: with every problem at once.

    >>> TrainingConfig(gradient_accumulation_steps=2).ckpt_frequency
    1
    """

    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    ckpt_frequency: Annotated[int, Field(ge=0)] = 1
    ckpt_epoch_frequency: Annotated[int, Field(ge=1)] = 1
    ckpt_steps: Annotated[int, Field(ge=1)] | None = None
    log_dir: Annotated[str | None, BeforeValidator(_path_as_text)] = None
    output_dir: Annotated[str, BeforeValidator(_path_as_text)] = "./saved_models"
    device: Annotated[str | torch.device, BeforeValidator(_device_name)] = "auto"
    fp16: bool = False
    fp16_opt_level: Literal["O0", "O1", "O2", "O3"] = "O1"
    data_parallel: bool = False
    local_rank: int = -1
    precision: Precision | None = None
    keep_last_accumulation: bool = False
    log_every: Annotated[int, Field(ge=1)] = 10
    progress_bar: bool = True
    teacher_precision: TeacherPrecision | None = None
    compile_models: bool = False
    save_state: bool = True
    keep_last: Annotated[int, Field(ge=1)] = 2
    on_nonfinite: Literal["stop", "skip"] = "stop"
    keep_best: bool = True
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    load_best_model_at_end: bool = False
    save_in_background: bool = False
    trackers: list[Literal["wandb", "mlflow"]] = Field(default_factory=list)
    tracker_project: Annotated[str, Field(min_length=1)] = "textbrewer"

    @model_validator(mode="after")
    def _precisions_agree(self) -> Self:
        if self.fp16 and self.precision not in (None, "fp16"):
            raise reject(
                "`precision` and `fp16` to agree",
                got=f"fp16=True, precision={self.precision}",
                hint="leave fp16 out",
            )
        return self
