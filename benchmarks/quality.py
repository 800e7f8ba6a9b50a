"""What distillation is worth: students of half of all-MiniLM-L6-v2's layers with and without their teacher.

Each experiment fine-tunes a teacher once, then trains the same student from the same start for the same steps by
several methods and seeds; a teacher cache serves all of them. Every run is written to ``--output`` when it ends, and is
not made again, so that a stopped experiment goes on. The table has mean ± deviation over the seeds, and for each method
the paired difference to the first one with a 95 % interval: a bootstrap that draws seeds and held-out rows anew, the
same for both.

    bbc-few         500 labelled articles and the rest without labels; accuracy on 800 others
    sst2-few        1,000 labelled sentences and the rest without labels; accuracy on the dev set
    sst2            all labels
    wnut17          all labels; F1 of entities on the dev set
    sst2-families   2,000 sentences with labels, every family of losses

SST-2 and WNUT 17 are read from ``--data``; where they are not, that is said. Needs the extras ``demo`` and ``cache``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import get_linear_schedule_with_warmup, set_seed

from textbrewer import (
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    StudentConfig,
    TeacherCache,
    TrainingConfig,
    build_student,
    demo,
    matches,
    schemes,
)
from textbrewer.report.table import spread
from textbrewer.tasks import Task, TextClassification, TokenClassification, read

LAYERS, DEEP, WIDTH = 3, 6, 384
HIDDEN = matches.uniform(DEEP, LAYERS, "hidden")
METRICS = {"score": "score", "exact_match": "exact"}
SOFT = {"temperature": 4, "kd_loss_type": "kl", "kd_loss_weight": 1}


@dataclass(frozen=True)
class Method:
    """How a student is trained.

    Attributes:
        terms: of its :class:`~textbrewer.DistillationConfig`; none for labels alone.
        share: of the experiment's steps.
        scheme: another way than :class:`~textbrewer.GeneralDistiller`, by the name of a method of :class:`Bench`.
    """

    terms: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1
    scheme: str | None = None


def taught(hidden: Any) -> dict[str, Method]:
    """The methods of most experiments, with these matches of hidden states."""
    return {
        "labels alone": Method(),
        "distilled": Method({**SOFT, "intermediate_matches": hidden, "hard_label_weight": 0.5}),
        "distilled, no labels": Method({**SOFT, "intermediate_matches": hidden}),
    }


TAUGHT = taught(HIDDEN)
ALL = {**TAUGHT, "logits alone, labels in full": Method({**SOFT, "hard_label_weight": 1})}
FEW = {"labels alone": TAUGHT["labels alone"], "labels alone, a quarter of the steps": Method(share=0.25), **TAUGHT}


def _match(loss: Any, layer_T: Any = DEEP, layer_S: Any = LAYERS, feature: str = "hidden", weight: float = 1) -> Any:
    return {"layer_T": layer_T, "layer_S": layer_S, "feature": feature, "loss": loss, "weight": weight}


def _learning(loss: str, **more: Any) -> Method:
    return Method({"temperature": 4, "kd_loss_type": loss, "hard_label_weight": 0.5, **more})


def _with(*terms: Any, **more: Any) -> Method:
    return Method({**SOFT, "hard_label_weight": 0.5, "intermediate_matches": list(terms), **more})


MAPS = matches.uniform(DEEP, LAYERS, "attention")
EXAMPLES = 2000
FAMILIES = {
    "labels alone": Method(),
    "kl": _learning("kl"),
    "ce": _learning("ce"),
    "logit mse": _learning("mse"),
    "reverse_kl": _learning("reverse_kl"),
    "jsd": _learning("jsd"),
    "focal_kl": _learning("focal_kl"),
    "dkd": _learning("dkd"),
    "dist": _learning("dist", temperature=1),
    "standardised_kl": _learning("standardised_kl"),
    "kl + hidden_mse": _with(*HIDDEN),
    "kl + feature_map": _with(*({**each, "loss": "feature_map"} for each in HIDDEN)),
    "kl + cos": _with(*({**each, "loss": "cos_valid"} for each in HIDDEN)),
    "kl + pkd": _with(*({**each, "loss": "pkd"} for each in HIDDEN[1:])),
    "kl + attention_mse": _with(*({**each, "loss": "attention_mse_valid"} for each in MAPS)),
    "kl + tinybert": _with(*matches.tinybert(DEEP, LAYERS)),
    "kl + minilm": _with(*matches.minilm(12)),
    "kl + minilmv2": _with(*matches.minilmv2(12)),
    "kl + many_to_many": _with(*matches.many_to_many(DEEP, LAYERS)),
    "kl + at": _with(*({**each, "loss": "at"} for each in HIDDEN[1:])),
    "kl + nst": _with(*({**each, "loss": "nst_polynomial"} for each in HIDDEN[1:])),
    "kl + fsp": _with(_match("gram_valid", [0, DEEP], [0, LAYERS])),
    "kl + vid": _with(_match("vid", weight=0.1)),
    "kl + cka": _with(_match("cka")),
    "kl + rkd": _with(_match("rkd_distance"), _match("rkd_angle", weight=2)),
    "kl + similarity": _with(_match("similarity_preserving", weight=100)),
    "kl + embedding_mse": _with(_match("embedding_mse")),
    "kl + crd": _with(_match(["crd", EXAMPLES, WIDTH, WIDTH], weight=0.1)),
    "kl, temperature 8 to 1": _learning("kl", temperature_annealing=["linear", 8, 1]),
    "kl + hidden_mse, weights by uncertainty": _with(*HIDDEN, balance="uncertainty"),
    "features, then logits": replace(_with(*HIDDEN), scheme="in_stages"),
    "mutual": Method({"temperature": 1, "kd_loss_type": "kl", "hard_label_weight": 1}, scheme="mutually"),
    "theseus": Method(scheme="replacing"),
}


def _minilm(folder: Path, steps: int) -> Path:
    return demo._pretrained()


@dataclass(frozen=True)
class Experiment:
    """One question.

    Attributes:
        task: of all its models.
        labelled: rows to learn labels from.
        text: rows for the teacher's answers: the labelled ones, and others without a label.
        test: rows to judge by, which chose nothing.
        steps: of each student.
        teacher_steps: of the teacher.
        methods: by name, the first is what the others are compared with.
        learning_rate: of the students.
        teacher_learning_rate: of the teacher.
        batch_size: of all.
        layers: of the student.
        pretrained: finds the model and tokenizer to start from, or makes them in a folder, in so many steps.
        pretraining_steps: those steps, where they are made here.
    """

    task: Task
    labelled: Sequence[Any]
    text: Sequence[Any]
    test: Sequence[Any]
    steps: int
    teacher_steps: int
    methods: Mapping[str, Method] = field(default_factory=lambda: TAUGHT)
    learning_rate: float = 2e-4
    teacher_learning_rate: float = 1e-4
    batch_size: int = 32
    layers: int = LAYERS
    pretrained: Callable[[Path, int], Path] = _minilm
    pretraining_steps: int = 0


def here(path: Path) -> Path:
    """The path, if there is such a file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    return path


def bbc_few(data: Path) -> Experiment:
    """Few labels and much text, long."""
    settings = demo.Settings(labelled_rows=500, train_rows=1325, test_rows=800, max_length=64)
    rows = demo._read(settings)
    task = rows.task
    train = [dict(row) for row in rows.train.rows]
    for row, labelled in zip(train, rows.labelled.rows, strict=False):
        row["label"] = labelled["label"]
    test = [dict(row) for row in rows.test.rows]
    return Experiment(task, train[: len(rows.labelled)], train, test, steps=200, teacher_steps=120, methods=FEW)


def _sst2(data: Path, labelled: int | None, total: int | None, **more: Any) -> Experiment:
    task = TextClassification({"0": "negative", "1": "positive"}, max_length=64)
    columns = {"text": "0", "label": "1"}

    def rows(file: str) -> list[Any]:
        found = task.rows(read(here(data / "sst2" / file), header=False), columns)
        return [dict(row) for row in found]

    train = rows("train.tsv")
    random.Random(0).shuffle(train)
    train = train[:total]
    known = len(train) if labelled is None else labelled
    text = [row if place < known else {**row, "label": None} for place, row in enumerate(train)]
    return Experiment(task, train[:known], text, rows("dev.tsv"), **more)


def sst2(data: Path) -> Experiment:
    """All labels."""
    return _sst2(data, None, None, steps=430, teacher_steps=430)


def sst2_few(data: Path) -> Experiment:
    """Few labels and much text, short."""
    return _sst2(data, 1000, None, steps=430, teacher_steps=160, methods=FEW)


def sst2_families(data: Path) -> Experiment:
    """Every family of losses on the same rows."""
    return _sst2(data, None, EXAMPLES, steps=190, teacher_steps=190, methods=FAMILIES)


def wnut17(data: Path) -> Experiment:
    """Entities in noisy text."""
    table = read(here(data / "wnut17" / "train.conll"))
    task = TokenClassification.from_data(table, max_length=64)
    train = [dict(row) for row in task.rows(table)]
    test = [dict(row) for row in task.rows(read(here(data / "wnut17" / "dev.conll")))]
    # The learning rate was chosen on 800 rows of the training set, where labels alone, too, did better with it.
    return Experiment(task, train, train, test, steps=320, teacher_steps=320, methods=ALL, learning_rate=4e-4)


EXPERIMENTS: dict[str, Callable[[Path], Experiment]] = {
    "bbc-few": bbc_few,
    "sst2-few": sst2_few,
    "sst2": sst2,
    "wnut17": wnut17,
    "sst2-families": sst2_families,
}


class Bench:
    """Trains and judges the models of one experiment in a folder."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.experiment, self.folder = experiment, folder
        self.pretrained = experiment.pretrained(folder.parent, experiment.pretraining_steps)
        self.tokenizer = AutoTokenizer.from_pretrained(self.pretrained)
        encode = experiment.task.encode
        self.labelled, self.text, self.test = (
            _numbered(encode(rows, self.tokenizer)) for rows in (experiment.labelled, experiment.text, experiment.test)
        )
        self.cache = TeacherCache(folder / "cache")

    def teacher(self) -> Any:
        """Fine-tuned on the labelled rows with seed 0, or read from the folder."""
        experiment, folder = self.experiment, self.folder / "teacher"
        if not (folder / "config.json").exists():
            set_seed(0)
            model = experiment.task.load(self.pretrained)
            trainer = BasicTrainer(self._training("teacher"), model, experiment.task.adaptor(model))
            loader = self._loader(self.labelled, 0)
            fit(trainer, model, loader, experiment.teacher_steps, experiment.teacher_learning_rate)
            model.save_pretrained(folder)
        return experiment.task.load(folder).eval()

    def run(self, method: str, seed: int, teacher: Any) -> dict[str, Any]:
        """Train one student; what it got right."""
        how = self.experiment.methods[method]
        set_seed(seed)
        started = time.perf_counter()
        student = build_student(teacher, StudentConfig(num_layers=self.experiment.layers))
        train: Callable[..., None] = getattr(self, how.scheme or ("distilled" if how.terms else "alone"))
        train(teacher, student, how, seed)
        seconds = time.perf_counter() - started
        return {"method": method, "seed": seed, "seconds": round(seconds, 1), **self.judged(student)}

    def alone(self, teacher: Any, student: Any, how: Method, seed: int) -> None:
        """From the labels."""
        trainer = BasicTrainer(self._training("student"), student, self.experiment.task.adaptor(student))
        with trainer:
            trainer.train(self._optimizer(student), **self._arguments(self.labelled, how.share, seed))

    def distilled(self, teacher: Any, student: Any, how: Method, seed: int) -> None:
        """From the teacher."""
        terms = DistillationConfig(**how.terms)
        adaptors = self.experiment.task.adaptors(teacher, student, terms)
        training = self._training("student")
        with GeneralDistiller(training, terms, teacher, student, *adaptors, teacher_cache=self.cache) as distiller:
            distiller.train(self._optimizer(student), **self._arguments(self.text, how.share, seed))

    def in_stages(self, teacher: Any, student: Any, how: Method, seed: int) -> None:
        """Half of the steps for the matches, half for the logits."""
        terms = DistillationConfig(**how.terms)
        stages = schemes.features_then_logits(
            self._training("student"),
            terms,
            teacher,
            student,
            *self.experiment.task.adaptors(teacher, student, terms),
            teacher_cache=self.cache,
        )
        stages.train(self._optimizer, **self._arguments(self.text, how.share / 2, seed))

    def mutually(self, teacher: Any, student: Any, how: Method, seed: int) -> None:
        """With a second student of the same start, and no teacher."""
        pair = [student, build_student(teacher, StudentConfig(num_layers=self.experiment.layers))]
        adaptors = [self.experiment.task.adaptor(each) for each in pair]
        terms = DistillationConfig(**how.terms)
        with schemes.MutualDistiller(self._training("student"), terms, pair, adaptors) as distiller:
            distiller.train(self._optimizer(distiller.model_S), **self._arguments(self.labelled, how.share, seed))

    def replacing(self, teacher: Any, student: Any, how: Method, seed: int) -> None:
        """Half of the steps inside the teacher, half alone."""
        adaptor = self.experiment.task.adaptor(student)
        stages = schemes.theseus(self._training("student"), teacher, student, adaptor)
        stages.train(self._optimizer, **self._arguments(self.labelled, how.share / 2, seed))

    def judged(self, model: Any) -> dict[str, Any]:
        """The main score, and of each held-out row what it is made of; of answers also the share of exact ones."""
        task = self.experiment.task
        predictions = task.predict(model, self.test.rows, self.tokenizer)
        counts = [_counts(task, row, said) for row, said in zip(self.test.rows, predictions, strict=True)]
        found = {"score": _score(np.array(counts)), "counts": counts}
        scores = task.score(predictions, self.test.rows)
        return {**found, **{key: 100 * scores[key] for key in METRICS if key in scores}}

    def _training(self, name: str) -> TrainingConfig:
        return TrainingConfig(output_dir=str(self.folder / "work" / name), ckpt_frequency=0, save_state=False)

    def _optimizer(self, model: Any) -> Any:
        return torch.optim.AdamW(model.parameters(), lr=self.experiment.learning_rate, fused=True)

    def _arguments(self, rows: Any, share: float, seed: int) -> dict[str, Any]:
        """Of ``train``."""
        return {"dataloader": self._loader(rows, seed), **schedule(round(share * self.experiment.steps))}

    def _loader(self, rows: Any, seed: int) -> Any:
        return rows.loader(self.experiment.batch_size, shuffle_seed=seed, group_by_length=True)


def schedule(steps: int) -> dict[str, Any]:
    """Arguments of ``train``: a learning rate that grows in a tenth of the steps and then falls."""
    return {
        "num_steps": steps,
        "scheduler_class": get_linear_schedule_with_warmup,
        "scheduler_args": {"num_warmup_steps": steps // 10, "num_training_steps": steps},
        "max_grad_norm": 1.0,
    }


def fit(trainer: Any, model: Any, loader: Any, steps: int, learning_rate: float) -> None:
    """Train a model by itself."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    with trainer:
        trainer.train(optimizer, loader, **schedule(steps))


def _numbered(rows: Any) -> Any:
    """With the number of each row among them, by which a memory of examples knows it."""
    return replace(rows, features=[{**feature, "index": place} for place, feature in enumerate(rows.features)])


def _counts(task: Task, row: Mapping[str, Any], said: Mapping[str, Any]) -> list[float]:
    """Right and all of a row with a class, F1 and one of a question; right, said and true entities of tags."""
    if "answers" in row:
        return [task.score([said], [row])["f1"], 1]
    if "tags" not in row:
        return [int(row["label"] == said["label"]), 1]
    true, found = (_entities(tags) for tags in (row["tags"], said["tags"]))
    return [len(true & found), len(found), len(true)]


def _entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities(list(tags)))


def _score(counts: Any) -> float:
    total = counts.sum(axis=0)
    if counts.shape[1] == 2:
        return 100 * float(total[0] / total[1])
    return 200 * float(total[0] / max(total[1] + total[2], 1))


def interval(runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], draws: int = 2000) -> list[float]:
    """The 95 % interval of the difference of two methods' mean scores, over seeds and rows drawn anew."""
    random_ = np.random.default_rng(0)
    ours, theirs = (np.array([run["counts"] for run in each]) for each in (runs, base))
    seeds, rows = ours.shape[:2]
    found = []
    for _ in range(draws):
        of_seeds, of_rows = random_.integers(seeds, size=seeds), random_.integers(rows, size=rows)
        pairs = [(ours[seed][of_rows], theirs[seed][of_rows]) for seed in of_seeds]
        found.append(statistics.mean(_score(a) - _score(b) for a, b in pairs))
    return [float(bound) for bound in np.quantile(found, [0.025, 0.975])]


def difference(runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> str:
    """By how much one method's mean score is above another's, and the :func:`interval` of it."""
    low, high = interval(runs, base)
    means = [statistics.mean(run["score"] for run in each) for each in (runs, base)]
    return f"{means[0] - means[1]:+.1f}, {low:+.1f} to {high:+.1f}"


def recorded(
    file: Path, wanted: Sequence[tuple[str, int]], run: Callable[[str, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The runs in a file and those of the wanted methods and seeds that it has not: each is added when it ends."""
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(each["method"], each["seed"]) for each in runs}
    for method, seed in wanted:
        if (method, seed) not in done:
            runs.append(run(method, seed))
            with file.open("a") as record:
                record.write(json.dumps(runs[-1]) + "\n")
            print(f"{method}, seed {seed}: {runs[-1]['score']:.1f} ({runs[-1]['seconds']:.0f} s)", flush=True)
    return runs


def table(runs: Sequence[Mapping[str, Any]], teacher: Mapping[str, Any]) -> str:
    """Markdown: a line a method, in the order of their first run."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        by_method.setdefault(run["method"], []).append(run)
    base = next(iter(by_method.values()))
    metrics = [key for key in METRICS if key in teacher]
    columns = ["", *(METRICS[key] for key in metrics), "difference, 95 % interval", "seconds a run"]
    lines = [line(columns), line(["---"] * len(columns))]
    lines.append(line(["teacher (one seed)", *(f"{teacher[key]:.1f}" for key in metrics), "", ""]))
    for method, own in by_method.items():
        scores = [spread([run[key] for run in own]) for key in metrics]
        seconds = statistics.median(run["seconds"] for run in own)
        compared = ""
        if own is not base and len(own) == len(base):
            compared = difference(own, base)
        lines.append(line([method, *scores, compared, f"{seconds:.0f}"]))
    return "\n".join(lines)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def parser_of(experiments: Sequence[str], description: str | None, output: str) -> argparse.ArgumentParser:
    """What the scripts with such experiments take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=experiments)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help='lines of the table, as "labels alone" or "3 x 384"; all by default')
    parser.add_argument("--steps", type=int, help="another number of steps, of the teacher too: to see that it works")
    return parser


def main(
    experiments: Mapping[str, Callable[[Path], Experiment]] = EXPERIMENTS,
    description: str | None = __doc__,
    output: str = "runs/quality",
) -> int:
    """Run what is not there yet, and print the table."""
    parser = parser_of(list(experiments), description, output)
    args = parser.parse_args()
    try:
        experiment = experiments[args.experiment](args.data)
    except FileNotFoundError as error:
        print(f"{args.experiment}: skipped, its data is not here: {error}")
        return 0
    if args.steps:
        kinds = ("steps", "teacher_steps", "pretraining_steps")
        experiment = replace(experiment, **dict.fromkeys(kinds, args.steps))
    folder = args.output / args.experiment
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(experiment, folder)
    teacher = bench.teacher()
    of_teacher = bench.judged(teacher)
    print(f"{args.experiment}: teacher {of_teacher['score']:.1f}", flush=True)
    wanted = [(method, seed) for seed in range(args.seeds) for method in args.only or experiment.methods]
    runs = recorded(folder / "runs.jsonl", wanted, lambda method, seed: bench.run(method, seed, teacher))
    bench.cache.close()
    print(
        f"\n{len(experiment.labelled):,} labelled rows of {len(experiment.text):,}, {len(experiment.test):,} held out, "
    )
    print(f"{experiment.steps} steps of {experiment.batch_size}, {torch.get_num_threads()} threads\n")
    print(table(runs, of_teacher))
    return 0


if __name__ == "__main__":
    sys.exit(main())
