"""Whole runs beside TextBrewer 0.2.1: the same data, models, terms, seeds and optimiser, wall time and accuracy.

The original is installed into a folder of its own; where it cannot be, that is said and nothing is compared. Each run
is a process of its own, and the packages take turns. Ours has a teacher cache on disk, empty at the start of every run.

    bert     a teacher of BERT-base's size, a T4-tiny student, logits and five projected hidden states; random weights
             and tokens: time alone
    minilm   all-MiniLM-L6-v2 fine-tuned on BBC News, a student of three of its layers, logits and four hidden states;
             time, and accuracy on held-out articles (needs the extra `demo`)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

ORIGINAL = "textbrewer==0.2.1.post1"
PAIRS = {"bert": (12, 4), "minilm": (6, 3)}
SIDES = ("0.2.1", "ours")


def models(pair: str, folder: Path) -> tuple[Any, Any]:
    """Teacher and student, the same in both packages: weights come from a seed or from the folder."""
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

    if pair == "minilm":
        load = AutoModelForSequenceClassification.from_pretrained
        return load(folder / "teacher", output_hidden_states=True), load(folder / "student", output_hidden_states=True)
    torch.manual_seed(0)
    more = {"num_labels": 5, "output_hidden_states": True}
    small = {"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1200, "num_attention_heads": 12}
    return BertForSequenceClassification(BertConfig(**more)), BertForSequenceClassification(BertConfig(**small, **more))


def run(pair: str, epochs: int, seed: int, batch_size: int, folder: Path, cache: Path | None) -> dict[str, Any]:
    """One run of whichever package is imported, with nothing that 0.2.1 does not have but the cache."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    teacher, student = models(pair, folder)
    train, test = (torch.load(folder / f"{part}.pt", weights_only=True) for part in ("train", "test"))
    deep, shallow = PAIRS[pair]
    widths = [student.config.hidden_size, teacher.config.hidden_size]
    projected = {"proj": ["linear", *widths]} if widths[0] != widths[1] else {}
    match = {"feature": "hidden", "loss": "hidden_mse", "weight": 1, **projected}
    config = DistillationConfig(
        temperature=4,
        intermediate_matches=[{**match, "layer_S": i, "layer_T": i * deep // shallow} for i in range(shallow + 1)],
    )

    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": outputs.logits, "hidden": outputs.hidden_states, "inputs_mask": batch["attention_mask"]}

    def collated(rows: list[Any]) -> dict[str, torch.Tensor]:
        ids, mask = (torch.stack(column) for column in zip(*rows, strict=True))
        return {"input_ids": ids, "attention_mask": mask}

    torch.manual_seed(seed)
    dataset = TensorDataset(train["input_ids"], train["attention_mask"])
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True, collate_fn=collated)
    settings = TrainingConfig(output_dir=str(folder / "out"), device="cpu", ckpt_epoch_frequency=epochs)
    kept = {} if cache is None else {"teacher_cache": __import__("textbrewer").TeacherCache(cache)}
    distiller = GeneralDistiller(settings, config, teacher, student, adaptor, adaptor, **kept)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-4)
    started = time.perf_counter()
    with distiller:
        distiller.train(optimizer, loader, num_epochs=epochs, callback=None)
    seconds = time.perf_counter() - started
    student.eval()
    with torch.no_grad():
        guesses = torch.cat([student(i, m).logits.argmax(-1) for i, m in zip(*_split(test), strict=True)])
    return {"seconds": seconds, "accuracy": (guesses == test["labels"]).float().mean().item()}


def _split(rows: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    return rows["input_ids"].split(64), rows["attention_mask"].split(64)


def prepare(pair: str, rows: int, length: int, folder: Path) -> None:
    """Write the data, and for real models the teacher and the untrained student."""
    if pair == "bert":
        for part, number in (("train", rows), ("test", 1)):
            ids = torch.randint(5, 30000, (number, length), generator=torch.Generator().manual_seed(number))
            mask = torch.ones_like(ids)
            torch.save({"input_ids": ids, "attention_mask": mask, "labels": ids[:, 0] % 5}, folder / f"{part}.pt")
        return
    from textbrewer import StudentConfig, build_student, demo

    settings = demo.Settings(train_rows=rows, max_length=length, seeds=1)
    data = demo._read(settings)
    teacher, _ = demo.Workshop(folder, settings, data, fresh=False).teacher()
    torch.manual_seed(0)
    build_student(teacher, StudentConfig(num_layers=3)).save_pretrained(folder / "student")
    for part, encoded in (("train", data.train), ("test", data.test)):
        padded = data.tokenizer.pad(list(encoded), padding="max_length", max_length=length, return_tensors="pt")
        kept = [key for key in ("input_ids", "attention_mask", "labels") if key in padded]
        torch.save({key: padded[key] for key in kept}, folder / f"{part}.pt")


def installed(folder: Path) -> bool:
    """Put the original where only its own runs see it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), ORIGINAL]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{ORIGINAL} cannot be installed here, so nothing is compared: {done.stderr.strip()[-300:]}")
    return done.returncode == 0


def in_a_process(side: str, args: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--pair", args.pair, "--epochs", str(args.epochs), "--run", str(folder)]
        command += ["--seed", str(seed), "--batch-size", str(args.batch_size)]
        environment = dict(os.environ)
        if side == "ours":
            command += ["--cache", f"{cache}/teacher"]
        else:
            environment["PYTHONPATH"] = str(folder / "original")
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Compare, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=list(PAIRS), default="bert")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path)
    for hidden in ("--run", "--cache"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args.pair, args.epochs, args.seed, args.batch_size, args.run, args.cache)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not installed(folder / "original"):
            return 0
        prepare(args.pair, args.rows, args.length, folder)
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for seed in range(args.seeds):
            for side in SIDES:
                found[side].append(in_a_process(side, args, seed, folder))
                print(f"seed {seed}, {side}: {found[side][-1]['seconds']:.1f} s", flush=True)
    ratios = [old["seconds"] / new["seconds"] for old, new in zip(*found.values(), strict=True)]
    print(f"{args.pair}, {args.epochs} epochs of {args.rows} x {args.length} tokens, batches of {args.batch_size}:")
    print(f"    0.2.1's time over ours   {statistics.median(ratios):.2f}")
    if args.pair == "minilm":
        for side in SIDES:
            scores = [100 * each["accuracy"] for each in found[side]]
            spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            print(f"    accuracy, {side:6}         {statistics.mean(scores):.1f}{spread}")
    output = args.output or Path(f"runs/bench/epochs-{args.pair}-{args.epochs}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"torch": torch.__version__, "ratios": ratios, **found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
