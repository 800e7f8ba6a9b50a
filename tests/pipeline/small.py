"""A tiny base model, files of rows, and recipes for them; nothing is downloaded."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

from tests.export.small import WORDS, rows
from tests.tasks.small import tokenizer_of

PLACES = ("bern", "rome", "ann", "bob", "in", "was", "who", "where")


def base_model(folder: Path, seed: int = 0, **sizes: Any) -> Path:
    """A BERT of four layers without a head, with its tokenizer, as a hub would give it."""
    import transformers

    tokenizer = tokenizer_of([*WORDS, *PLACES])
    shape = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, **sizes}
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **shape)
    transformers.set_seed(seed)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def films(path: Path, number: int, seed: int = 0, labels: bool = True) -> Path:
    """A CSV file of texts that say ``good`` or ``bad`` somewhere."""
    keys = ["text", "label"] if labels else ["text"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows(number, seed))
    return path


def sentences(path: Path, number: int, seed: int = 0) -> Path:
    """A CoNLL file in IOB2: cities and names among other words."""
    draw, lines = random.Random(seed), []
    for _ in range(number):
        for _ in range(draw.randint(2, 5)):
            word = draw.choice(["bern", "rome", "ann", "bob", "in", "was"])
            tag = "B-LOC" if word in ("bern", "rome") else "B-PER" if word in ("ann", "bob") else "O"
            lines.append(f"{word} {tag}")
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def questions(path: Path, number: int, seed: int = 0) -> Path:
    """A file in SQuAD's form: who was where."""
    draw, paragraphs = random.Random(seed), []
    for i in range(number):
        name, place = draw.choice(["ann", "bob"]), draw.choice(["bern", "rome"])
        filler = " ".join(draw.choices(["the", "film", "was", "long"], k=draw.randint(1, 4)))
        context = f"{filler} {name} was in {place} {i}"
        asked = draw.choice(["who", "where"])
        answer = name if asked == "who" else place
        answers = [{"text": answer, "answer_start": context.index(f" {answer}") + 1}]
        qas = [{"id": str(i), "question": asked, "answers": answers}]
        paragraphs.append({"context": context, "qas": qas})
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def recipe_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of seconds for the films of a folder, which :func:`base_model` and :func:`films` fill."""
    fast = {"batch_size": 16, "learning_rate": 5e-3, "progress_bar": False}
    return {
        "task": "text_classification",
        "teacher": {"model": str(folder / "base"), "training": {**fast, "num_epochs": 4}},
        "data": {"train": str(folder / "train.csv"), "validation": str(folder / "validation.csv")},
        "distillation": {"temperature": 2},
        "training": {**fast, "num_epochs": 2},
        "output_dir": str(folder / "run"),
        **changes,
    }
