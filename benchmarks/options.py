"""What the options of a run are worth on this machine, each against the same without it, the two taking turns.

    teacher bf16, int8     the teacher's forward pass, over the one in float32
    compiled student       a supervised step through torch.compile, over the plain one (compiling is left out)
    trimmed                a step on batches padded to twice their length with the ready adaptor, over one on batches
                           without padding
    grouped by length      padding in batches of rows of about the same length, over that in shuffled ones

Random weights and random tokens: only time is measured here; what int8 and bf16 do to a teacher's answers is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from step import MODELS, Timed, build, ratio
from transformers import set_seed

import textbrewer
from textbrewer import BasicTrainer, LengthGroupedBatches, TrainingConfig
from textbrewer.engine.devices import Placement


def teachers(args: argparse.Namespace) -> dict[str, float]:
    """Forward passes in less precision."""
    found = {}
    for name, (sizes, _) in MODELS.items():
        model = build(sizes).eval()
        ids = torch.randint(5, 30000, (args.batch_size, args.length))
        mask = torch.ones_like(ids)
        placed = {
            p: Placement(TrainingConfig(device="cpu", teacher_precision=p), model) for p in ("fp32", "bf16", "int8")
        }
        own = {precision: placement.teacher(model) for precision, placement in placed.items()}
        seconds: dict[str, list[float]] = {precision: [] for precision in placed}
        for repeat in range(args.repeats + 1):
            for precision, placement in placed.items():
                started = time.perf_counter()
                with torch.no_grad(), placement.teacher_autocast():
                    own[precision](ids, mask)
                if repeat:
                    seconds[precision].append(time.perf_counter() - started)
        for precision in ("bf16", "int8"):
            found[f"teacher {precision} / fp32, {name}"] = ratio(seconds[precision], seconds["fp32"])
    return found


def students(args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Steps compiled, and steps on padded batches."""
    set_seed(0)
    student = build(next(iter(MODELS.values()))[1])
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(5, 30000, (args.batches + 1, args.batch_size, args.length))
    labels = torch.randint(0, 5, (args.batch_size,))
    plain = [{"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": labels} for rows in ids]
    padded = [
        {key: torch.cat([v, torch.zeros_like(v)], dim=1) if v.dim() > 1 else v for key, v in batch.items()}
        for batch in plain
    ]
    settings = {"output_dir": folder, "device": "cpu", "ckpt_frequency": 0, "progress_bar": False}
    trainers = {
        "plain": (BasicTrainer(TrainingConfig(**settings), student), plain),
        "trimmed": (BasicTrainer(TrainingConfig(**settings), student), padded),
        "compiled": (BasicTrainer(TrainingConfig(**settings, compile_models=True), student), plain),
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for repeat in range(args.repeats + 1):
        for name, (trainer, batches) in trainers.items():
            clock = Timed(batches)
            trainer.train(optimizer, clock, num_epochs=1)
            if repeat:
                seconds[name].append(clock.seconds_a_step())
    return {
        "compiled student / plain": ratio(seconds["compiled"], seconds["plain"]),
        "trimmed / without padding": ratio(seconds["trimmed"], seconds["plain"]),
    }


def padding() -> dict[str, float]:
    """Share of padding in batches of 32 rows of 5 to 128 tokens, short ones more often."""
    draw = torch.Generator().manual_seed(0)
    lengths = (5 + 123 * torch.rand(10_000, generator=draw) ** 2).int().tolist()

    def wasted(batches: Any) -> float:
        each = [
            (max(lengths[row] for row in batch) * len(batch), sum(lengths[row] for row in batch)) for batch in batches
        ]
        return 1 - sum(real for _, real in each) / sum(whole for whole, _ in each)

    shuffled = torch.randperm(len(lengths), generator=draw).split(32)
    return {
        "padding, shuffled": wasted([batch.tolist() for batch in shuffled]),
        "padding, grouped by length": wasted(LengthGroupedBatches(lengths, 32)),
    }


def main() -> int:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/options.json"))
    args = parser.parse_args()
    print(f"torch {torch.__version__}, textbrewer {textbrewer.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        found = {**teachers(args), **students(args, folder), **padding()}
    for name, value in found.items():
        print(f"    {name:60} {value:.3f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"torch": torch.__version__, **found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
