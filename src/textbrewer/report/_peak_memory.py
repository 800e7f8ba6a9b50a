"""Run as a process of its own by :func:`textbrewer.report.profile.peak_memories`; prints one line of JSON."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from textbrewer.students.loading import model_class_in


def high_water() -> int:
    """Peak resident bytes of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its peak survives exec, so a child would report its parent's.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> bool:
    """Make :func:`high_water` begin anew from what is resident now, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def main(folder: str, *input_files: str) -> None:
    batches = [load_file(file) for file in input_files]
    # Transformers imports the modules of an architecture when it is first named; that is not the model's memory.
    model_class = model_class_in(folder)
    before = high_water()
    model = model_class.from_pretrained(folder).eval()
    peaks: list[int] = []
    with torch.inference_mode():
        for tensor in model.state_dict().values():
            # Weights are mapped from the file and enter memory when they are read, as all are in a model long in use.
            tensor.sum()
        for inputs in batches:
            if peaks and not forget_peak():
                break  # the parent starts another process for the rest
            model(**inputs)
            peaks.append(high_water() - before)
    print(json.dumps({"bytes": peaks}))


if __name__ == "__main__":
    main(*sys.argv[1:])
