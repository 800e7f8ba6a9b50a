"""What a distilling step costs: side by side, in one run, medians of the ratios of interleaved rounds.

    distilling ÷ (in memory + teacher)   the step, over the same step with the teacher's tensors already in memory plus
                                         the teacher's forward pass alone; the library's own overhead (target <= 1.05)
    distilling ÷ supervised              the step, over a step of the same student on its labels alone

Random weights and random tokens: only time is measured here, never quality.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, set_seed

import textbrewer
from textbrewer import BasicTrainer, DistillationConfig, GeneralDistiller, TrainingConfig

TARGET = 1.05
MODELS = {
    "MiniLM (6 x 384) -> 3 x 384": ({"num_hidden_layers": 6, "hidden_size": 384}, {"num_hidden_layers": 3}),
    "BERT-base (12 x 768) -> T4-tiny (4 x 312)": (
        {"num_hidden_layers": 12, "hidden_size": 768},
        {"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1200},
    ),
}
HIDDEN = {"feature": "hidden", "loss": "hidden_mse", "weight": 1}


def build(sizes: dict[str, int]) -> BertForSequenceClassification:
    """A BERT of the given sizes with random weights and dropout as published."""
    full = {"hidden_size": 384, "num_attention_heads": 12, "vocab_size": 30522, "num_labels": 5, **sizes}
    full.setdefault("intermediate_size", 4 * full["hidden_size"])
    return BertForSequenceClassification(BertConfig(**full))


def matches(teacher: Any, student: Any) -> list[dict[str, Any]]:
    """A hidden match for the embeddings and for each layer of the student, projected where the widths differ."""
    deep, shallow = teacher.config, student.config
    projection = ["linear", shallow.hidden_size, deep.hidden_size]
    proj = None if shallow.hidden_size == deep.hidden_size else projection
    ratio = deep.num_hidden_layers // shallow.num_hidden_layers
    return [{**HIDDEN, "layer_S": i, "layer_T": i * ratio, "proj": proj} for i in range(shallow.num_hidden_layers + 1)]


def timed(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run in each round; the runs take turns, so that a slow moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(over: list[float], *under: list[float]) -> float:
    """Median over the rounds of one time over the sum of others of the same round."""
    return statistics.median(a / sum(b) for a, *b in zip(over, *under, strict=True))


def measure(name: str, matched: bool, args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The two ratios for one pair of models."""
    set_seed(0)
    of_teacher, of_student = MODELS[name]
    teacher, student = build(of_teacher).eval(), build(of_student)
    rows = torch.randint(5, 30000, (args.batches, args.batch_size, args.length))
    loader = [
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": torch.randint(0, 5, (args.batch_size,)),
        }
        for ids in rows
    ]
    asked = {"output_hidden_states": True} if matched else {}

    def teach() -> list[Any]:
        with torch.no_grad():
            return [teacher(batch["input_ids"], batch["attention_mask"], **asked) for batch in loader]

    in_memory = [
        {"student": batch, "teacher": batch, "teacher_cache": outputs}
        for batch, outputs in zip(loader, teach(), strict=True)
    ]
    train_config = TrainingConfig(output_dir=folder, device="cpu", ckpt_frequency=0, progress_bar=False)
    config = DistillationConfig(intermediate_matches=matches(teacher, student) if matched else None)
    distiller = GeneralDistiller(train_config, config, teacher, student)
    trainer = BasicTrainer(train_config, student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)
    runs = {
        "distilling": lambda: distiller.train(optimizer, loader, num_epochs=1),
        "in memory": lambda: distiller.train(optimizer, in_memory, num_epochs=1),
        "teacher": lambda: teach() and None,
        "supervised": lambda: trainer.train(optimizer, loader, num_epochs=1),
    }
    seconds = timed(runs, args.repeats)
    return {
        "models": name,
        "matched": "hidden" if matched else "logits only",
        "seconds a step": {run: statistics.median(values) / args.batches for run, values in seconds.items()},
        "distilling / (in memory + teacher)": ratio(seconds["distilling"], seconds["in memory"], seconds["teacher"]),
        "distilling / supervised": ratio(seconds["distilling"], seconds["supervised"]),
    }


def main() -> int:
    """Measure, print a table, write JSON; exit 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/step.json"))
    args = parser.parse_args()
    print(f"torch {torch.__version__}, textbrewer {textbrewer.__version__}, {torch.get_num_threads()} threads")
    print(f"batch {args.batch_size} x {args.length} tokens, median of {args.repeats} rounds of {args.batches} steps\n")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            for matched in (False, True):
                results.append(measure(name, matched, args, folder))
                show(results[-1])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"torch": torch.__version__, "results": results}, indent=2) + "\n")
    worst = max(result["distilling / (in memory + teacher)"] for result in results)
    print(f"\nworst distilling / (in memory + teacher): {worst:.3f}, target <= {TARGET}; written to {args.output}")
    return 0 if worst <= TARGET else 1


def show(result: dict[str, Any]) -> None:
    """One result as lines of text."""
    parts = ", ".join(f"{run} {1000 * value:.0f} ms" for run, value in result["seconds a step"].items())
    print(f"{result['models']}, {result['matched']}: {parts}")
    for ratio in ("distilling / (in memory + teacher)", "distilling / supervised"):
        print(f"    {ratio:36} {result[ratio]:.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
