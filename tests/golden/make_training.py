"""Writes training.json with TextBrewer 0.2.1.

Run it in an environment of its own, from the root of the checkout:

    pip install --no-deps textbrewer==0.2.1.post1 && pip install torch numpy tqdm tensorboard
    python tests/golden/make_training.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.golden.training_cases import CASES, CHECKPOINTS, run


def short(value: Any) -> Any:
    """Floats with the nine digits that tell one float32 from the next."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [short(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


if __name__ == "__main__":
    found = {name: short(run(case, "textbrewer")) for name, case in CASES.items()}
    checkpoints = {name: run(case, "textbrewer", logged=False)["calls"] for name, case in CHECKPOINTS.items()}
    sections = {"trajectories": found, "checkpoints": checkpoints}
    # A line for each case: small, and a change shows where it is.
    lines = {
        section: ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in cases.items())
        for section, cases in sections.items()
    }
    text = ",\n".join(f"{json.dumps(section)}: {{\n{body}\n}}" for section, body in lines.items())
    Path(__file__).with_name("training.json").write_text(f"{{\n{text}\n}}\n")
