"""Writes data_utils.json with TextBrewer 0.2.1.

Run it in an environment of its own, from the root of the checkout:

    pip install --no-deps textbrewer==0.2.1.post1 && pip install torch numpy tqdm tensorboard
    python tests/golden/make_data_utils.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from textbrewer import data_utils

# The tokens are the numbers below ``count``; TextBrewer 0.2.1 fails on, or never comes back from, what is missing here.
CASES = {
    "masking": [(count, {}) for count in (0, 1, 40)] + [(20, {"p": p, "mask": -1}) for p in (0, 0.3, 1)],
    "deleting": [(count, {}) for count in (0, 1, 40)] + [(20, {"p": p}) for p in (0, 0.3, 0.7, 1)],
    "n_gram_sampling": [(count, {}) for count in (5, 6, 40)]
    + [(count, {"p_ng": [0.25, 0.75], "l_ng": [2, 7]}) for count in (7, 8, 40)],
    "short_disorder": [(count, {}) for count in (0, 1, 2, 3, 40)]
    + [(count, {"p": [0.2] * 5}) for count in (2, 3, 40)]
    + [(8, {"p": [float(i == choice) for i in range(5)]}) for choice in range(5)],
    "long_disorder": [(count, {}) for count in (0, 1, 19, 20, 60)]
    + [(count, {"p": 0.5, "length": length}) for count in (1, 23) for length in (2, 3, 4, 5.5, 6.5, 24)]
    + [(23, {"p": 0.5, "length": length}) for length in (0.05, 0.1, 0.3, 0.5, 1, 1.01, 1.5, 1.99)]
    + [(3, {"p": 1, "length": 0.5}), (23, {"p": 0, "length": 4}), (23, {"p": 1, "length": 4})],
}
SEEDS = range(3)


def run(name: str, count: int, arguments: dict, seed: int) -> dict:
    """What a function gives, and the next draw after it, which tells how many it took."""
    np.random.seed(seed)
    found = getattr(data_utils, name)(list(range(count)), **arguments)
    return {"seed": seed, "found": found, "next": np.random.rand()}


if __name__ == "__main__":
    lines = [
        json.dumps({"name": name, "count": count, "arguments": arguments, **run(name, count, arguments, seed)})
        for name, cases in CASES.items()
        for count, arguments in cases
        for seed in SEEDS
    ]
    Path(__file__).with_name("data_utils.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
