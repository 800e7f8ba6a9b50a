"""Writes losses.json with TextBrewer 0.2.1.

Run it in an environment of its own, from the root of the checkout:

    pip install --no-deps textbrewer==0.2.1.post1 && pip install torch numpy tqdm tensorboard
    python tests/golden/make_losses.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from loss_inputs import numbers

from textbrewer import KD_LOSS_MAP, MATCH_LOSS_MAP, TEMPERATURE_SCHEDULER

if __name__ == "__main__":
    found = numbers(KD_LOSS_MAP, MATCH_LOSS_MAP, TEMPERATURE_SCHEDULER)
    Path(__file__).with_name("losses.json").write_text(json.dumps(found, indent=1) + "\n")
