"""What the engine costs beside a bare loop over the same steps: side by side, in one run.

    engine / bare loop             a run without saving, over a loop of forward, backward and optimiser step written by
                                   hand (target <= 1.02)
    with checkpoints / without     a checkpoint after every ``--every`` steps; and the same written in the background

Random weights and tokens: only time is measured. A round of each takes turns; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from step import MODELS, Timed, build, ratio, timed
from transformers import set_seed

import textbrewer
from textbrewer import BasicTrainer, TrainingConfig

TARGET = 1.02
LIMITED = "engine / bare loop"


def measure(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The ratios of one student."""
    set_seed(0)
    student = build(MODELS[name][1])
    loader = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.randint(0, 5, (args.batch_size,))}
        for ids in torch.randint(5, 30000, (args.batches + 1, args.batch_size, args.length))
    ]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    student.train()

    def bare() -> float:
        clock = Timed(loader)
        for batch in clock:
            student(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return clock.seconds_a_step()

    def trained(where: str, **config: Any) -> float:
        settings = {"device": "cpu", "progress_bar": False, "ckpt_frequency": 0, **config}
        trainer = BasicTrainer(TrainingConfig(output_dir=str(folder / where), **settings), student)
        clock = Timed(loader)
        how = {"num_epochs": 1} if settings["ckpt_frequency"] == 0 else {"num_steps": len(loader)}
        trainer.train(optimizer, clock, **how)
        return clock.seconds_a_step()

    saving = {"ckpt_frequency": 1, "ckpt_steps": args.every, "keep_last": 1}
    runs: dict[str, Callable[[], float]] = {
        "bare loop": bare,
        "engine": partial(trained, "engine"),
        "saving": partial(trained, "saving", **saving),
        "saving in background": partial(trained, "background", save_in_background=True, **saving),
    }
    seconds = timed(runs, args.repeats)
    return {
        "student": name,
        "seconds a step": {run: statistics.median(values) for run, values in seconds.items()},
        LIMITED: ratio(seconds["engine"], seconds["bare loop"]),
        "saving / engine": ratio(seconds["saving"], seconds["engine"]),
        "saving in background / engine": ratio(seconds["saving in background"], seconds["engine"]),
    }


def main() -> int:
    """Measure, print, write JSON; exit 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batches", type=int, default=6, help="timed steps a round")
    parser.add_argument("--every", type=int, default=3, help="steps from one checkpoint to the next")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/engine.json"))
    args = parser.parse_args()
    print(f"torch {torch.__version__}, textbrewer {textbrewer.__version__}, {torch.get_num_threads()} threads")
    print(f"batch {args.batch_size} x {args.length} tokens, median of {args.repeats} rounds of {args.batches} steps")
    results = []
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(name, args, Path(folder))
        results.append(result)
        parts = ", ".join(f"{run} {1000 * value:.0f} ms" for run, value in result["seconds a step"].items())
        print(f"\nthe student of {name}, a checkpoint every {args.every} steps: {parts}")
        for which, value in result.items():
            if isinstance(value, float):
                print(f"    {which:32} {value:.3f}", flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"torch": torch.__version__, "results": results}, indent=2) + "\n")
    worst = max(result[LIMITED] for result in results)
    print(f"\nworst {LIMITED}: {worst:.3f}, target <= {TARGET}")
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
