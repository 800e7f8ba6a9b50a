"""Run by ``test_rank_death.py`` under torchrun: the second process ends in its third step, by an error or a kill.

Usage: in_rank_death.py FOLDER raise|kill.
"""

from __future__ import annotations

import os
import signal
import sys

import torch

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import BasicTrainer, TrainingConfig

folder, how = sys.argv[1:]
taken = 0


def dying(batch):
    global taken
    taken += 1
    if taken == 3 and os.environ["RANK"] == "1":
        if how == "raise":
            raise ValueError("this one is broken")
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


student = encoder(0, layers=1)
trainer = BasicTrainer(TrainingConfig(output_dir=folder, device="cpu", progress_bar=False), student, EncoderAdaptor())
with trainer:
    trainer.train(
        torch.optim.SGD(student.parameters(), lr=0.1),
        [batch_of(3, 6, seed) for seed in range(16)],
        num_epochs=1,
        batch_postprocessor=dying,
    )
