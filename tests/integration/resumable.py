"""Run by ``test_kill_resume.py`` in a process of its own, and killed: trains one of several jobs to its end.

Usage: resumable.py JOB FOLDER. It goes on from what FOLDER holds, counts the steps it takes in FOLDER/steps.txt, and
writes what the student became to FOLDER/end.pt.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import (
    DistillationConfig,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
    TeacherCache,
    TrainingConfig,
)
from textbrewer.losses import VariationalLoss

HIDDEN = {"feature": "hidden", "weight": 0.5, "loss": "hidden_mse"}


class Dropping(nn.Module):
    """A student with dropout, so that the random state matters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = encoder(2, layers=2)
        self.inner.layers[0].register_forward_hook(lambda module, args, output: self.dropout(output))
        self.dropout = nn.Dropout(0.2)

    def forward(self, **inputs):
        return self.inner(**inputs)


def rows(number: int, seed: int = 7) -> list[dict[str, torch.Tensor]]:
    whole = batch_of(number, 6, seed)
    return [{key: value[i] for key, value in whole.items()} for i in range(number)]


def slowly(batch):
    """Counts a batch, and leaves time for a kill."""
    with (folder / "batches.txt").open("a") as file:
        file.write(".")
    return batch


def called(model, step):
    # An evaluation that draws: what it draws must not differ after a resume.
    np.random.rand(), torch.rand(1)
    with (folder / "steps.txt").open("a") as file:
        file.write(f"{step}\n")


def main(job: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    adaptor, student = EncoderAdaptor(), Dropping()
    teacher, other = encoder(0, width=12, layers=2), encoder(1, width=12, layers=3)
    match = {**HIDDEN, "layer_T": 2, "layer_S": 1, "proj": ["linear", 8, 12]}
    # Of a known width: several processes cannot take it from the first batch.
    vid = {**match, "layer_S": 2, "loss": VariationalLoss(12)}
    config = DistillationConfig(
        temperature=2, hard_label_weight=0.5, intermediate_matches=[match, vid], kd_loss_weight_scheduler="linear_decay"
    )
    training = TrainingConfig(
        gradient_accumulation_steps=2,
        ckpt_frequency=4,
        ckpt_steps=2,
        output_dir=str(folder / "out"),
        log_dir=str(folder / "log"),
        device="cpu",
        progress_bar=False,
    )
    cache = TeacherCache(folder / "cache") if job == "cached" else None
    how = {
        "scheduler_class": torch.optim.lr_scheduler.LinearLR,
        "scheduler_args": {"total_iters": 30},
        "max_grad_norm": 1.0,
        "callback": called,
        "resume": "auto",
    }
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    loader = DataLoader(rows(34), batch_size=2, shuffle=True)
    if job == "teachers":
        distiller = MultiTeacherDistiller(training, config, [teacher, other], student, adaptor, adaptor)
        distiller.train(optimizer, loader, num_steps=30, batch_postprocessor=slowly, **how)
    elif job == "tasks":
        tasks = {"a": teacher, "b": other}
        adaptors = dict.fromkeys(tasks, adaptor)
        distiller = MultiTaskDistiller(training, config, tasks, student, adaptors, adaptors)
        loaders = {"a": loader, "b": DataLoader(rows(9, seed=3), batch_size=2, shuffle=True)}
        distiller.train(optimizer, loaders, 30, batch_postprocessors=dict.fromkeys(tasks, slowly), **how)
    else:
        distiller = GeneralDistiller(training, config, teacher, student, adaptor, adaptor, teacher_cache=cache)
        distiller.train(optimizer, loader, num_epochs=4, batch_postprocessor=slowly, **how)
    state = {f"student.{key}": value for key, value in student.state_dict().items()}
    state |= {
        f"beside.{i}.{k}": v for i, p in enumerate(distiller._trained_beside()) for k, v in p.state_dict().items()
    }
    if "RANK" not in os.environ or os.environ["RANK"] == "0":
        torch.save(state, folder / "end.pt")


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    main(sys.argv[1])
