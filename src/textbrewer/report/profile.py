"""What a model costs: size on disk, latency, throughput and peak memory, measured side by side."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import DataError, TextBrewerError
from ..feeding import to_device
from ..modes import modes_kept

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Speed:
    """How fast a model is.

    Attributes:
        median_ms: median latency of one batch of the first kind, in milliseconds.
        p95_ms: its 95th percentile.
        rows_per_second: rows of the batches of the second kind, by the second.
    """

    median_ms: float
    p95_ms: float
    rows_per_second: float


def parameters_of(model: nn.Module) -> int:
    """Parameters of a model; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def weights_on_disk(folder: str | Path) -> int:
    """Bytes of the safetensors files of a saved model.

    Raises:
        DataError: there are none.
    """
    files = list(Path(folder).glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder}: no *.safetensors file; save the model with save_pretrained")
    return sum(file.stat().st_size for file in files)


def speeds(
    models: Mapping[str, nn.Module], single: Sequence[Inputs], large: Sequence[Inputs], *, warm_up: int = 5
) -> dict[str, Speed]:
    """Measure models side by side: they take turns on every batch, so that a slow moment of the machine hits all.

    Args:
        models: by name; run in eval mode, without gradients, and left as they were.
        single: batches for the latency, usually of one row.
        large: batches for the throughput, usually of 32 rows.
        warm_up: runs before the clock starts.
    """
    latencies: dict[str, list[float]] = {name: [] for name in models}
    totals = dict.fromkeys(models, 0.0)
    with modes_kept(*models.values()), torch.inference_mode():
        for model in models.values():
            model.eval()
            for inputs in list(single)[:warm_up]:
                _seconds(model, inputs)
            _seconds(model, large[0])
        for inputs in single:
            for name, model in models.items():
                latencies[name].append(1000 * _seconds(model, inputs))
        for inputs in large:
            for name, model in models.items():
                totals[name] += _seconds(model, inputs)
    rows = sum(len(next(iter(inputs.values()))) for inputs in large)
    return {
        name: Speed(statistics.median(taken), statistics.quantiles(taken, n=20)[-1], rows / totals[name])
        for name, taken in latencies.items()
    }


def _seconds(model: nn.Module, inputs: Inputs) -> float:
    device = next(model.parameters()).device
    moved = to_device(inputs, device)
    _wait_for(device)
    start = time.perf_counter()
    model(**moved)
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory(folder: str | Path, inputs: Inputs) -> int:
    """Peak bytes that loading a saved Transformers model and one forward pass add to a fresh process on the CPU.

    A process of its own, because memory once used by this one would hide what the model needs. Every weight is read
    once, as it is in a model that has served many texts.

    Raises:
        TextBrewerError: the process failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "inputs.safetensors"
        save_file({name: value.contiguous() for name, value in inputs.items()}, file)
        done = subprocess.run(
            [sys.executable, "-m", "textbrewer.report._peak_memory", os.fspath(folder), os.fspath(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
    if done.returncode:
        raise TextBrewerError(f"measuring the memory of {folder} failed:\n{done.stderr.strip()[-2000:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])
