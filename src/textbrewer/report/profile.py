"""What a model costs: size on disk, latency, throughput and peak memory, measured side by side."""

from __future__ import annotations

import json
import os
import platform
import re
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

from ..errors import DataError, TextBrewerError, count_of
from ..feeding import to_device
from ..modes import modes_kept

Inputs = Mapping[str, Tensor]
_WEIGHTS = "model*.safetensors"
"""The files in which a saved model has its weights."""

_TURN = 5
"""Batches of a turn."""
_LEAD_IN = 0.02
"""Seconds of a turn that do not count, or one batch if that takes longer."""


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


def machine() -> str:
    """What measurements depend on, to be written beside them: system, processor and PyTorch's threads."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    processor = found[1] if found else platform.processor() or platform.machine()
    return f"{platform.system()} {platform.machine()}, {processor}, {count_of(torch.get_num_threads(), 'thread')}"


def _text(path: str) -> str:
    file = Path(path)
    return file.read_text(encoding="utf-8") if file.exists() else ""


def parameters_of(model: nn.Module) -> int:
    """Parameters of a model; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def bytes_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; memory that several share counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in model.state_dict().values()}
    return sum(storage.nbytes() for storage in storages.values())


def weights_on_disk(folder: str | Path) -> int:
    """Bytes of the safetensors files of a saved model, however many; what else lies beside them does not count.

    Raises:
        DataError: there are none.
    """
    files = list(Path(folder).glob(_WEIGHTS))
    if not files:
        raise DataError(f"{folder}: no {_WEIGHTS} file; save the model with save_pretrained")
    return sum(file.stat().st_size for file in files)


def speeds(
    models: Mapping[str, nn.Module], single: Sequence[Inputs], large: Sequence[Inputs], *, warm_up: int = 5
) -> dict[str, Speed]:
    """Measure models side by side: they take turns of some batches, so that a slow moment of the machine hits all.

    What the model before left behind is not counted: its threads, which wait for more work a while, and its weights in
    the processor's caches. So a turn begins with runs without a clock.

    Args:
        models: by name; run in eval mode, without gradients, and left as they were.
        single: batches for the latency, usually of one row.
        large: batches for the throughput, usually of 32 rows.
        warm_up: runs before the clock starts.
    """
    latency = seconds(models, single, warm_up=warm_up)
    total = seconds(models, large, warm_up=1)
    rows = sum(len(next(iter(inputs.values()))) for inputs in large)
    return {name: speed_of(latency[name], rows / sum(total[name])) for name in models}


def speed_of(latency: Sequence[float], rows_per_second: float) -> Speed:
    """The :class:`Speed` of at least two latencies in seconds."""
    taken = [1000 * each for each in latency]
    return Speed(statistics.median(taken), statistics.quantiles(taken, n=20, method="inclusive")[-1], rows_per_second)


def seconds(models: Mapping[str, nn.Module], batches: Sequence[Inputs], *, warm_up: int = 5) -> dict[str, list[float]]:
    """The seconds that each model takes for each batch; see :func:`speeds`, which has the arguments."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    with modes_kept(*models.values()), torch.inference_mode():
        for model in models.values():
            model.eval()
            for inputs in list(batches)[:warm_up]:
                _seconds(model, inputs)
        for start in range(0, len(batches), _TURN):
            turn = batches[start : start + _TURN]
            for name, model in models.items():
                if len(models) > 1:
                    _lead_in(model, turn[0])
                taken[name] += [_seconds(model, inputs) for inputs in turn]
    return taken


def _lead_in(model: nn.Module, inputs: Inputs) -> None:
    start = time.perf_counter()
    while True:
        _seconds(model, inputs)
        if time.perf_counter() - start >= _LEAD_IN:
            return


def _seconds(model: nn.Module, inputs: Inputs) -> float:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
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
    """Peak bytes that loading a saved model and one forward pass add to a fresh process on the CPU.

    A process of its own, because memory once used by this one would hide what the model needs. Every weight is read
    once, as it is in a model that has served many texts.

    Raises:
        TextBrewerError: the process failed.
    """
    return peak_memories(folder, [inputs])[0]


def peak_memories(folder: str | Path, batches: Sequence[Inputs]) -> list[int]:
    """:func:`peak_memory` for each batch, with the model loaded once where the system allows that.

    Memory that a large batch needed may not be given back before a small one: put the small ones first.
    """
    found: list[int] = []
    while len(found) < len(batches):
        found += _measured(folder, batches[len(found) :])
    return found


def _measured(folder: str | Path, batches: Sequence[Inputs]) -> list[int]:
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"inputs{i}.safetensors" for i in range(len(batches))]
        for file, inputs in zip(files, batches, strict=True):
            save_file({name: value.contiguous() for name, value in inputs.items()}, file)
        done = subprocess.run(
            [sys.executable, "-m", "textbrewer.report._peak_memory", os.fspath(folder), *map(os.fspath, files)],
            capture_output=True,
            text=True,
            env={**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
    if done.returncode:
        raise TextBrewerError(f"measuring the memory of {folder} failed:\n{done.stderr.strip()[-2000:]}")
    return list(json.loads(done.stdout.splitlines()[-1])["bytes"])
