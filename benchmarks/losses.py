"""What each loss costs beside the student's step: time of its two passes, and what it keeps from one to the other.

    time      forward and backward pass of the loss alone, over a supervised step of the student
    memory    bytes that the loss keeps for its backward pass, over those that the student's forward pass keeps

Random tensors of the shapes of a student of 3 x 384 and a teacher of the same width, a batch of 32 x 64 tokens, 12
heads. Each loss takes turns with the student's step; medians of the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from step import build
from torch import Tensor
from transformers import set_seed

import textbrewer
from textbrewer import KD_LOSS_MAP, MATCH_LOSS_MAP, DistillationConfig, IntermediateMatch
from textbrewer.matching import MatchLosses
from textbrewer.objective import FeatureMatch, Share, SoftLabels
from textbrewer.presets import PAIRED_MATCH_LOSSES
from textbrewer.types import ModelOutputs

WIDTH, HEADS, CLASSES = 384, 12, 5
OPTIONS: dict[str, Any] = {"crd": ["crd", 10_000, WIDTH, WIDTH]}


def outputs(args: argparse.Namespace, trained: bool) -> ModelOutputs:
    """What a model gives, as leaves of the graph."""
    batch, length = args.batch_size, args.length

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape).requires_grad_(trained)

    maps = [torch.randn(batch, HEADS, length, length).softmax(-1).requires_grad_(trained) for _ in range(2)]
    given = {
        "logits": leaf(batch, CLASSES),
        "hidden": [leaf(batch, length, WIDTH) for _ in range(2)],
        "attention": maps,
        "inputs_mask": torch.ones(batch, length, dtype=torch.long),
        "labels": torch.randint(0, CLASSES, (batch,)),
        "index": torch.arange(batch),
    }
    return ModelOutputs.from_adaptor(given, adaptor="benchmark", extra=("index",))


def term_of(table: str, name: str) -> Any:
    """The term of the objective with this loss."""
    if table == "kd":
        return SoftLabels(DistillationConfig(kd_loss_type=name, temperature=4))
    layers: Any = [0, 1] if name in PAIRED_MATCH_LOSSES else 1
    feature = "attention" if name.startswith("attention") else "hidden"
    loss = OPTIONS.get(name, name)
    match = IntermediateMatch(layer_T=layers, layer_S=layers, feature=feature, loss=loss, proj=None)
    return FeatureMatch(match, None, loss=MatchLosses([match]).for_match[0])


def measured(run: Callable[[], Tensor]) -> tuple[float, int]:
    """Seconds of a forward and backward pass, and bytes kept between them, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    started = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = run()
    total.backward()
    return time.perf_counter() - started, sum(kept.values())


def main() -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/losses.json"))
    args = parser.parse_args()
    set_seed(0)
    print(f"torch {torch.__version__}, textbrewer {textbrewer.__version__}, {torch.get_num_threads()} threads")
    print(f"batch {args.batch_size} x {args.length} tokens, median of {args.repeats} rounds\n")
    student = build({"num_hidden_layers": 3, "hidden_size": WIDTH, "num_attention_heads": HEADS})
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(5, 30000, (args.batch_size, args.length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % CLASSES}

    def step() -> tuple[float, int]:
        started = time.perf_counter()
        _, kept = measured(lambda: student(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started, kept

    step()
    results = []
    for table, names in (("kd", KD_LOSS_MAP), ("match", MATCH_LOSS_MAP)):
        for name in names:
            term, teacher = term_of(table, name), outputs(args, trained=False)
            times, memories = [], []
            for repeat in range(args.repeats + 1):
                own = outputs(args, trained=True)
                seconds, kept = measured(partial(term.value, own, teacher, Share(1)))
                of_step, kept_of_step = step()
                if repeat:
                    times.append(seconds / of_step)
                    memories.append(kept / kept_of_step)
            results.append(
                {"table": table, "loss": name, "time": statistics.median(times), "memory": statistics.median(memories)}
            )
            print(
                f"{table:6} {name:24} time {results[-1]['time']:7.2%}   memory {results[-1]['memory']:7.2%}", flush=True
            )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"torch": torch.__version__, "results": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
