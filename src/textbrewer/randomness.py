"""The random states of a process as plain values, and back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Of Python, NumPy, PyTorch and every accelerator in use; tensors, numbers, texts and lists of them."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, inner, gauss_next = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(inner), gauss_next],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    initialised: Callable[[], bool] = torch.cuda.is_initialized
    if initialised():
        state["cuda"] = list(torch.cuda.get_rng_state_all())
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on as if nothing had been drawn since :func:`random_state`."""
    version, inner, gauss_next = state["python"]
    random.setstate((version, tuple(inner), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the random states as they were, whatever is drawn meanwhile."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
