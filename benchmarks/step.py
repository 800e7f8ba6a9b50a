"""What a distilling step costs: side by side, in one run, medians of the ratios of interleaved rounds.

    uncached / (in memory + teacher)   the step, over the same step with the teacher's tensors already in memory plus
                                       the teacher's forward pass alone; the library's own overhead (target <= 1.05)
    cached / in memory                 the step with a warm teacher cache on disk, over the same step with the
                                       teacher's tensors already in memory (target <= 1.05)
    cached / supervised                over a step of the same student on its labels alone
    uncached / supervised              what a step costs without the cache

Random weights and random tokens: only time is measured here, never quality.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, set_seed

import textbrewer
from textbrewer import BasicTrainer, DistillationConfig, GeneralDistiller, TeacherCache, TrainingConfig

TARGET = 1.05
MODELS = {
    "MiniLM (6 x 384) -> 3 x 384": ({"num_hidden_layers": 6, "hidden_size": 384}, {"num_hidden_layers": 3}),
    "BERT-base (12 x 768) -> T4-tiny (4 x 312)": (
        {"num_hidden_layers": 12, "hidden_size": 768},
        {"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1200},
    ),
}
LIMITED = ("uncached / (in memory + teacher)", "cached / in memory")


def build(sizes: dict[str, int]) -> BertForSequenceClassification:
    """A BERT of the given sizes with random weights and dropout as published."""
    full = {"hidden_size": 384, "num_attention_heads": 12, "vocab_size": 30522, "num_labels": 5, **sizes}
    full.setdefault("intermediate_size", 4 * full["hidden_size"])
    return BertForSequenceClassification(BertConfig(**full))


def matches(kind: str, teacher: Any, student: Any) -> list[dict[str, Any]]:
    """Hidden matches of the embeddings and each student layer, projected where widths differ; or maps of each layer."""
    deep, shallow = teacher.config, student.config
    widths = {"teacher_width": deep.hidden_size, "student_width": shallow.hidden_size}
    layers = (deep.num_hidden_layers, shallow.num_hidden_layers)
    if kind == "hidden":
        return textbrewer.matches.uniform(*layers, "hidden", **widths)
    return textbrewer.matches.uniform(*layers, "attention") if kind == "attention" else []


class Timed:
    """A loader that starts a clock at its second batch, so that what a run does once is left out."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.started = batches, 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for place, batch in enumerate(self.batches):
            if place == 1:
                self.started = time.perf_counter()
            yield batch

    def seconds_a_step(self) -> float:
        """Until now."""
        return (time.perf_counter() - self.started) / (len(self.batches) - 1)


def timed(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds a step of each run in each round; the runs take turns, so that a slow moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            taken = run()
            if repeat:  # the first round warms up, and fills the cache
                seconds[name].append(taken)
    return seconds


def ratio(over: list[float], *under: list[float]) -> float:
    """Median over the rounds of one time over the sum of others of the same round."""
    return statistics.median(a / sum(b) for a, *b in zip(over, *under, strict=True))


def measure(name: str, kind: str, args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The ratios for one pair of models."""
    set_seed(0)
    of_teacher, of_student = MODELS[name]
    teacher, student = build(of_teacher).eval(), build(of_student)
    rows = torch.randint(5, 30000, (args.batches + 1, args.batch_size, args.length))
    loader = [
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": torch.randint(0, 5, (args.batch_size,)),
        }
        for ids in rows
    ]
    asked = {"hidden": {"output_hidden_states": True}, "attention": {"output_attentions": True}}.get(kind, {})
    if kind == "attention":
        teacher.set_attn_implementation("eager")

    def teach(batches: Any) -> list[Any]:
        with torch.no_grad():
            return [teacher(batch["input_ids"], batch["attention_mask"], **asked) for batch in batches]

    in_memory = [
        {"student": batch, "teacher": batch, "teacher_cache": outputs}
        for batch, outputs in zip(loader, teach(loader), strict=True)
    ]
    train_config = TrainingConfig(output_dir=folder, device="cpu", ckpt_frequency=0, progress_bar=False)
    config = DistillationConfig(intermediate_matches=matches(kind, teacher, student))
    cache = TeacherCache(Path(folder) / "cache")
    trainers = {
        "uncached": (GeneralDistiller(train_config, config, teacher, student), loader),
        "in memory": (GeneralDistiller(train_config, config, teacher, student), in_memory),
        "cached": (GeneralDistiller(train_config, config, teacher, student, teacher_cache=cache), loader),
        "supervised": (BasicTrainer(train_config, student), loader),
    }
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)

    def trained(trainer: Any, batches: list[Any]) -> float:
        clock = Timed(batches)
        trainer.train(optimizer, clock, num_epochs=1)
        return clock.seconds_a_step()

    def taught() -> float:
        clock = Timed(loader)
        teach(clock)
        return clock.seconds_a_step()

    runs: dict[str, Callable[[], float]] = {which: partial(trained, *how) for which, how in trainers.items()}
    seconds = timed({**runs, "teacher": taught}, args.repeats)
    cache.close()
    return {
        "models": name,
        "matches": kind,
        "seconds a step": {run: statistics.median(values) for run, values in seconds.items()},
        "cache bytes a row": cache.size() // (args.batch_size * (args.batches + 1)),
        "uncached / (in memory + teacher)": ratio(seconds["uncached"], seconds["in memory"], seconds["teacher"]),
        "cached / in memory": ratio(seconds["cached"], seconds["in memory"]),
        "cached / supervised": ratio(seconds["cached"], seconds["supervised"]),
        "uncached / supervised": ratio(seconds["uncached"], seconds["supervised"]),
    }


def main() -> int:
    """Measure, print a table, write JSON; exit 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batches", type=int, default=2, help="timed steps a round")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/step.json"))
    args = parser.parse_args()
    print(f"torch {torch.__version__}, textbrewer {textbrewer.__version__}, {torch.get_num_threads()} threads")
    print(f"batch {args.batch_size} x {args.length} tokens, median of {args.repeats} rounds of {args.batches} steps\n")
    results = []
    for name in MODELS:
        for kind in ("logits only", "hidden", "attention"):
            with tempfile.TemporaryDirectory() as folder:
                results.append(measure(name, kind, args, folder))
            show(results[-1])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"torch": torch.__version__, "results": results}, indent=2) + "\n")
    missed = False
    for limited in LIMITED:
        worst = max(result[limited] for result in results)
        missed |= worst > TARGET
        print(f"worst {limited}: {worst:.3f}, target <= {TARGET}")
    print(f"written to {args.output}")
    return int(missed)


def show(result: dict[str, Any]) -> None:
    """One result as lines of text."""
    parts = ", ".join(f"{run} {1000 * value:.0f} ms" for run, value in result["seconds a step"].items())
    print(f"{result['models']}, {result['matches']}: {parts}; {result['cache bytes a row']:,} bytes a row in the cache")
    for ratio in (*LIMITED, "cached / supervised", "uncached / supervised"):
        print(f"    {ratio:36} {result[ratio]:.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
