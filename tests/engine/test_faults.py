"""Faults of PyTorch, in words that help."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from textbrewer import BasicTrainer, TrainingConfig
from textbrewer.engine.faults import loader_explained, step_explained
from textbrewer.errors import DataError, OutOfMemoryError


class Model(nn.Module):
    """Its loss, after whatever ``effect`` does."""

    def __init__(self, effect=lambda: None):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.effect = effect

    def forward(self, x):
        self.effect()
        return {"loss": self.layer(x).mean()}


def train(tmp_path, model, loader, **config):
    settings = {"device": "cpu", "progress_bar": False, "output_dir": str(tmp_path), **config}
    trainer = BasicTrainer(TrainingConfig(**settings), model, lambda batch, outputs: {"losses": outputs["loss"]})
    with trainer:
        trainer.train(torch.optim.SGD(model.parameters(), lr=0.1), loader, num_epochs=1)


def raising(error):
    def effect():
        raise error

    return effect


ALLOCATION = "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried 1 bytes"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more"),
        RuntimeError(ALLOCATION),
        MemoryError(),
    ],
    ids=["device", "cpu", "python"],
)
def test_a_step_without_memory_says_what_it_had_and_what_takes_less(tmp_path, error):
    with pytest.raises(OutOfMemoryError) as raised:
        train(tmp_path, Model(raising(error)), [{"x": torch.ones(7, 2)}])
    told = str(raised.value)
    assert told.startswith("optimiser step 1 ran out of memory. The largest of its batches: x [7, 2].")
    assert "gradient_accumulation_steps" in told and "\n" not in told
    assert raised.value.__cause__ is error


def test_a_dead_device_says_what_it_most_often_means(tmp_path):
    dead = RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")
    with pytest.raises(DataError, match=r"in or before optimiser step 1: CUDA error.*out of range.*device='cpu'"):
        train(tmp_path, Model(raising(dead)), [{"x": torch.ones(7, 2)}])


def test_memory_really_runs_out(tmp_path):
    with pytest.raises(OutOfMemoryError, match="can't allocate memory"):
        train(tmp_path, Model(lambda: torch.empty(1 << 60, dtype=torch.uint8)), [{"x": torch.ones(7, 2)}])


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(RuntimeError, match=r"^something else$"):
        train(tmp_path, Model(raising(RuntimeError("something else"))), [{"x": torch.ones(7, 2)}])


def test_of_several_batches_the_largest_is_named():
    window = [(torch.ones(2, 3), {"a": torch.ones(9, 9)}), (torch.ones(4, 3), 5)]
    with pytest.raises(OutOfMemoryError, match=r"\[0\] \[2, 3\], a \[9, 9\]\."), step_explained(0, window):
        raise MemoryError


class Deadly(Dataset):
    """Its fourth row kills the process that reads it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 3 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x": torch.ones(2)}


def test_a_worker_of_the_loader_that_is_killed_ends_the_run_with_a_word(tmp_path):
    loader = DataLoader(Deadly(), batch_size=2, num_workers=1)
    with pytest.raises(DataError, match=r"lost a worker process.*pid.*num_workers=0") as raised:
        train(tmp_path, Model(), loader)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_an_error_of_the_data_set_stays_what_it_is():
    with pytest.raises(RuntimeError, match=r"^mine$"), loader_explained(0):
        raise RuntimeError("mine")
