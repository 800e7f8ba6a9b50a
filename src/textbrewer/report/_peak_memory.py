"""Run as a process of its own by :func:`textbrewer.report.profile.peak_memory`; prints one line of JSON."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file


def high_water() -> int:
    """Peak resident bytes of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its peak survives exec, so a child would report its parent's.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(folder: str, inputs_file: str) -> None:
    inputs = load_file(inputs_file)
    config = transformers.AutoConfig.from_pretrained(folder)
    # Transformers imports the modules of an architecture when it is first named; that is not the model's memory.
    model_class = getattr(transformers, config.architectures[0])
    before = high_water()
    model = model_class.from_pretrained(folder).eval()
    with torch.inference_mode():
        for tensor in model.state_dict().values():
            # Weights are mapped from the file and enter memory when they are read, as all are in a model long in use.
            tensor.sum()
        model(**inputs)
    print(json.dumps({"bytes": high_water() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
