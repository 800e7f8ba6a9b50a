"""The teacher cache by itself: bytes a row, rows written and read a second, what the first epoch costs more, memory.

    first epoch / live     an epoch of distillation that fills an empty cache on disk, over the same epoch without one
                           (target <= 1.05)

Random weights and random tokens: only time and size are measured here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from step import MODELS, build, matches
from transformers import set_seed

import textbrewer
from textbrewer import DistillationConfig, GeneralDistiller, TeacherCache, TrainingConfig

TARGET = 1.05


def measure(name: str, kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """Everything for one pair of models."""
    set_seed(0)
    teacher, student = (build(sizes) for sizes in MODELS[name])
    ids = torch.randint(5, 30000, (args.batches, args.batch_size, args.length))
    loader = [{"input_ids": rows, "attention_mask": torch.ones_like(rows)} for rows in ids]
    rows = args.batches * args.batch_size
    config = DistillationConfig(intermediate_matches=matches(kind, teacher, student))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    epochs: dict[str, list[float]] = {"live": [], "first": [], "later": []}
    writing, reading, sizes = [], [], []

    def epoch(folder: str, cache: TeacherCache | None) -> float:
        settings = TrainingConfig(output_dir=folder, device="cpu", ckpt_frequency=0, progress_bar=False)
        started = time.perf_counter()
        GeneralDistiller(settings, config, teacher, student, teacher_cache=cache).train(optimizer, loader, num_epochs=1)
        if cache is not None:
            cache.flush()
        return time.perf_counter() - started

    for repeat in range(args.repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            live = epoch(folder, None)
            with TeacherCache(Path(folder) / "cache") as cache:
                first, later = epoch(folder, cache), epoch(folder, cache)
                sizes.append(cache.size() / rows)
            if repeat:  # the first round warms up
                epochs["live"].append(live)
                epochs["first"].append(first)
                epochs["later"].append(later)
            with TeacherCache(Path(folder) / "other") as cache:
                store = cache._store("0" * 32, "raw", {})  # the store alone, with records of the size of a row's
                record = bytes(int(sizes[-1]))
                records = {i.to_bytes(4, "little"): record for i in range(rows)}
                started = time.perf_counter()
                store.put(records)
                store.flush()
                writing.append(rows / (time.perf_counter() - started))
                started = time.perf_counter()
                with store.reading() as get:
                    found = [get(key) for key in records]
                reading.append(rows / (time.perf_counter() - started))
                assert all(item is not None for item in found)
                del found
                store.close()
    ratios = [first / live for first, live in zip(epochs["first"], epochs["live"], strict=True)]
    return {
        "models": name,
        "matches": kind,
        "bytes a row": round(statistics.median(sizes)),
        "rows written a second": round(statistics.median(writing)),
        "rows read a second": round(statistics.median(reading)),
        "seconds an epoch": {which: statistics.median(values) for which, values in epochs.items()},
        "first epoch / live": statistics.median(ratios),
        "resident MB": round(psutil.Process().memory_info().rss / 1e6),
    }


def main() -> int:
    """Measure, print and write JSON; exit 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/cache.json"))
    args = parser.parse_args()
    print(f"torch {torch.__version__}, textbrewer {textbrewer.__version__}, {torch.get_num_threads()} threads")
    results = []
    for name in MODELS:
        for kind in ("logits only", "hidden"):
            results.append(measure(name, kind, args))
            found = results[-1]
            print(f"{name}, {kind}: {', '.join(f'{key} {value}' for key, value in list(found.items())[2:5])}")
            print(
                f"    first epoch / live {found['first epoch / live']:.3f}; {found['resident MB']} MB resident",
                flush=True,
            )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"torch": torch.__version__, "results": results}, indent=2) + "\n")
    worst = max(result["first epoch / live"] for result in results)
    print(f"worst first epoch / live: {worst:.3f}, target <= {TARGET}; written to {args.output}")
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
