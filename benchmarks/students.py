"""What a smaller student starts from, and which student to deploy.

    starts   students that are narrower than all-MiniLM-L6-v2, or whose embeddings are factorised, from first weights of
             each kind; what distillation makes of them in the same steps, and the difference to a random start with a
             95 % interval
    front    students of several sizes, each in PyTorch and ONNX, in floats and in eight bits: accuracy against the
             latency of one text of the task's median length, the models taking turns; and the same students without
             their teacher

Rows, teacher, cache and intervals are those of ``quality.py``: SST-2 with all labels, or BBC News with 500. Students
learn from soft and hard labels and from the hidden states before the first layer and after the last, with seeds 0 to 2.
Every run is written to ``--output`` when it ends, and is not made again; with ``--steps``, which shows only that it
works, to a folder of its own. Results are a table and JSON. Needs the extras ``demo``, ``cache``, ``export`` and
``report``.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import LogLocator, NullLocator
from quality import (
    DEEP,
    SOFT,
    WIDTH,
    Bench,
    Method,
    bbc_few,
    difference,
    interval,
    line,
    parser_of,
    recorded,
    sst2,
    table,
)
from transformers import set_seed

from textbrewer import StudentConfig, build_student, matches, prune_vocabulary
from textbrewer.export import OnnxModel, quantise, write_onnx
from textbrewer.files import replaced, replaced_folder
from textbrewer.precision import quantised
from textbrewer.report.plots import COLOURS, LIGHT, is_on_front, svg_of
from textbrewer.report.profile import machine, parameters_of, seconds, speed_of, weights_on_disk
from textbrewer.report.table import spread


@dataclass(frozen=True)
class Student:
    """One student.

    Attributes:
        config: its size and its first weights.
        rows: what is important is read from 64 labelled rows, not from the weights.
        random_embeddings: it starts without the teacher's embeddings.
        pruned: its vocabulary is that of the rows to train on; so is its teacher's.
    """

    config: StudentConfig
    rows: bool = False
    random_embeddings: bool = False
    pruned: bool = False


NARROW = StudentConfig(3, hidden_size=192)
HALF = StudentConfig(3, intermediate_size=768)
FACTORISED = StudentConfig(3, family="electra", embedding_size=128, init="svd")
STARTS = {
    "3 layers of width 192": {
        "random": Student(replace(NARROW, init="random")),
        "importance": Student(replace(NARROW, init="importance")),
        "importance, rows": Student(replace(NARROW, init="importance"), rows=True),
        "svd, rows": Student(replace(NARROW, init="svd"), rows=True),
    },
    "3 layers, half of the feed-forward neurons": {
        "random": Student(replace(HALF, init="random")),
        "teacher, where it fits": Student(HALF),
        "importance, rows": Student(replace(HALF, init="importance"), rows=True),
    },
    "3 layers of the teacher, embeddings of width 128": {
        "random": Student(FACTORISED, random_embeddings=True),
        "factorised": Student(FACTORISED),
        "factorised, rows": Student(FACTORISED, rows=True),
    },
}
FRONT = {
    "4 x 384": Student(StudentConfig(4)),
    "3 x 384": Student(StudentConfig(3)),
    "2 x 384": Student(StudentConfig(2)),
    "1 x 384": Student(StudentConfig(1)),
    "6 x 192": Student(StudentConfig(6, hidden_size=192, init="importance"), rows=True),
    "3 x 192": Student(replace(NARROW, init="importance"), rows=True),
    "2 x 192": Student(StudentConfig(2, hidden_size=192, init="importance"), rows=True),
    "3 x 384, embeddings 128": Student(FACTORISED, rows=True),
    "2 x 384, own vocabulary": Student(StudentConfig(2), pruned=True),
}
DATA = {"sst2": sst2, "bbc": bbc_few}
STEPS = {("starts", "sst2"): 180, ("front", "sst2"): 220, ("starts", "bbc"): 80, ("front", "bbc"): 80}
TEACHER = "6 x 384, the teacher"
ONNX, INT8 = "model.onnx", "model.int8.onnx"
REPEATS = 60
"""Runs by which a latency is measured."""


class School:
    """A teacher, the rows, and students that it has taught."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.task = bench, bench.experiment.task
        self.teacher = bench.teacher()

    @cached_property
    def pruned(self) -> tuple[Bench, Any]:
        """Bench and teacher with the tokens of the rows to train on."""
        bench, folder = self.bench, self.bench.folder / "pruned-teacher"
        if not folder.exists():
            found = prune_vocabulary(self.teacher, bench.tokenizer, (row["text"] for row in bench.experiment.text))
            print(found, flush=True)
            with replaced_folder(folder) as beside:
                found.save_pretrained(beside)
        experiment = replace(bench.experiment, pretrained=lambda *_: folder)
        return Bench(experiment, bench.folder / "pruned"), self.task.load(folder).eval()

    def of(self, student: Student) -> tuple[Bench, Any]:
        """Bench and teacher of a student."""
        return self.pruned if student.pruned else (self.bench, self.teacher)

    def taught(self, wanted: Student, seed: int, alone: bool = False) -> Any:
        """A student after its distillation; or ``alone``, after as many steps on the labels without its teacher."""
        set_seed(seed)
        bench, teacher = self.of(wanted)
        labelled = self.task.encode(bench.experiment.labelled[:64], bench.tokenizer)
        student = build_student(teacher, wanted.config, rows=labelled.loader(32) if wanted.rows else None)
        if wanted.random_embeddings:
            other = build_student(teacher, replace(wanted.config, init="random")).state_dict()
            student.load_state_dict({n: t for n, t in other.items() if "embeddings" in n}, strict=False)
        layers, width = student.config.num_hidden_layers, student.config.hidden_size
        hidden = matches.uniform(DEEP, layers, "hidden", teacher_width=WIDTH, student_width=width)
        terms = {**SOFT, "hard_label_weight": 0.5, "intermediate_matches": [hidden[0], hidden[-1]]}
        train, how = (bench.alone, Method()) if alone else (bench.distilled, Method(terms))
        train(teacher, student, how, seed)
        return student.eval()

    def close(self) -> None:
        """Give the caches back."""
        self.bench.cache.close()
        if "pruned" in vars(self):
            self.pruned[0].cache.close()


def starts(school: School, folder: Path, seeds: int, only: Sequence[str] | None) -> tuple[str, dict[str, Any]]:
    """The table of each student, and all of it as JSON takes it."""
    wanted = {f"{size}: {start}": student for size, own in STARTS.items() for start, student in own.items()}

    def run(name: str, seed: int) -> dict[str, Any]:
        began = time.perf_counter()
        student = school.taught(wanted[name], seed)
        taken = round(time.perf_counter() - began, 1)
        return {"method": name, "seed": seed, "seconds": taken, **school.bench.judged(student)}

    names = [name for name in wanted if not only or name in only]
    runs = recorded(folder / "starts.jsonl", [(name, seed) for seed in range(seeds) for name in names], run)
    of_teacher = school.bench.judged(school.teacher)
    texts, results = [], {}
    for size, own in STARTS.items():
        found = {start: [r for r in runs if r["method"] == f"{size}: {start}" and r["seed"] < seeds] for start in own}
        found = {start: each for start, each in found.items() if each}
        if found:
            lines = [{**run, "method": start} for start, each in found.items() for run in each]
            steps = "\n".join(f"- {step}" for step in _each_over_the_one_before(found))
            texts.append(f"{size}\n\n{table(lines, of_teacher)}\n\n{steps}".rstrip())
            base = next(iter(found.values()))
            results[size] = {
                start: {
                    "scores": [run["score"] for run in each],
                    "interval": interval(each, base) if len(each) == len(base) else None,
                }
                for start, each in found.items()
            }
    return "\n\n".join(texts), {"teacher": of_teacher["score"], "students": results}


def _each_over_the_one_before(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """What each start but the first is better by than the one before it, with its 95 % interval."""
    for (before, base), (start, runs) in pairwise(found.items()):
        if len(runs) == len(base) > 1:
            yield f"{start} over {before}: {difference(runs, base)}"


def front(school: School, folder: Path, seeds: int, only: Sequence[str] | None) -> tuple[str, dict[str, Any]]:
    """The table, and all of it as JSON takes it."""
    served = folder / "served"
    served.mkdir(exist_ok=True)

    def run(name: str, seed: int) -> dict[str, Any]:
        began = time.perf_counter()
        own = None if name == TEACHER else FRONT[name]
        bench = school.bench if own is None else school.of(own)[0]
        student = school.teacher if own is None else school.taught(own, seed)
        taken = round(time.perf_counter() - began, 1)
        with ExitStack() as stack:
            # The first seed's files stay, to be measured beside the others'.
            kept = replaced_folder(served / name) if seed == 0 else tempfile.TemporaryDirectory()
            beside = Path(stack.enter_context(kept))
            student.save_pretrained(beside)
            write_onnx(student, beside / ONNX)
            quantise(beside / ONNX, beside / INT8)
            served_as = forms(school.task, beside)
            judged = {form: bench.judged(model) for form, model in served_as.items()}
            sizes = bytes_of_forms(served_as, beside)
        return {
            "method": name,
            "seed": seed,
            "seconds": taken,
            "score": judged["PyTorch"]["score"],
            "scores": {form: each["score"] for form, each in judged.items()},
            "bytes": sizes,
            "parameters": parameters_of(student),
        }

    def run_alone(name: str, seed: int) -> dict[str, Any]:
        began = time.perf_counter()
        student = school.taught(FRONT[name], seed, alone=True)
        taken = round(time.perf_counter() - began, 1)
        score = school.of(FRONT[name])[0].judged(student)["score"]
        return {"method": name, "seed": seed, "seconds": taken, "score": score}

    names = [name for name in FRONT if not only or name in only]
    each = [(name, seed) for seed in range(seeds) for name in names]
    wanted = [(TEACHER, 0), *each]
    runs = [
        found for found in recorded(folder / "front.jsonl", wanted, run) if (found["method"], found["seed"]) in wanted
    ]
    alone: dict[str, list[float]] = {}
    for found in recorded(folder / "front-alone.jsonl", each, run_alone):
        if (found["method"], found["seed"]) in each:
            alone.setdefault(found["method"], []).append(found["score"])
    length = int(statistics.median(school.bench.test.lengths))
    points = measured(school.task, served, runs, length)
    return table_of(points, alone), {
        "length": length,
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "onnxruntime")},
        "points": [{**asdict(point), "front": is_on_front(point, points)} for point in points],
        "labels_alone": alone,
    }


def forms(task: Any, folder: Path) -> dict[str, Any]:
    """A saved student in every form it is served in."""
    model = task.load(folder).eval()
    small = quantised(model, torch.device("cpu"), "int8")
    return {
        "PyTorch": model,
        "PyTorch int8": small,
        "ONNX": OnnxModel(folder / ONNX),
        "ONNX int8": OnnxModel(folder / INT8),
    }


def bytes_of_forms(models: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """The size of each form's file."""
    file = io.BytesIO()
    torch.save(models["PyTorch int8"].state_dict(), file)
    return {
        "PyTorch": weights_on_disk(folder),
        "PyTorch int8": len(file.getvalue()),
        "ONNX": (folder / ONNX).stat().st_size,
        "ONNX int8": (folder / INT8).stat().st_size,
    }


@dataclass(frozen=True)
class Point:
    """A student in one form.

    Attributes:
        student: which.
        form: which.
        parameters: of the student.
        bytes: of the file.
        scores: accuracy, in %, of each seed.
        median_ms: latency of one text.
        p95_ms: its 95th percentile.
    """

    student: str
    form: str
    parameters: int
    bytes: int
    scores: list[float]
    median_ms: float
    p95_ms: float

    @property
    def cost(self) -> float:
        """What the front is of, beside the score."""
        return self.median_ms

    @property
    def score(self) -> float:
        """The mean over the seeds."""
        return statistics.mean(self.scores)


def measured(task: Any, served: Path, runs: Sequence[Mapping[str, Any]], length: int) -> list[Point]:
    """The latency of every student in every form, all in turns, with what is known of them."""
    names = list(dict.fromkeys(run["method"] for run in runs))
    models = {(name, form): model for name in names for form, model in forms(task, served / name).items()}
    # Which tokens does not matter for the time, and these are in every vocabulary.
    ids = torch.arange(1, length + 1)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    taken = seconds({f"{name}, {form}": model for (name, form), model in models.items()}, [inputs] * REPEATS)
    points = []
    for name, form in models:
        own = [run for run in runs if run["method"] == name]
        speed = speed_of(taken[f"{name}, {form}"], 0.0)
        points.append(
            Point(
                student=name,
                form=form,
                parameters=own[0]["parameters"],
                bytes=own[0]["bytes"][form],
                scores=[run["scores"][form] for run in own],
                median_ms=speed.median_ms,
                p95_ms=speed.p95_ms,
            )
        )
    return points


def table_of(points: Sequence[Point], alone: Mapping[str, Sequence[float]]) -> str:
    """Markdown: a line a student, a column a form; what is on the front is bold. The last is without a teacher."""
    by_form = list(dict.fromkeys(point.form for point in points))
    lines = [line(["", "parameters", *by_form, "labels alone"]), line(["---"] * (3 + len(by_form)))]
    for name in dict.fromkeys(point.student for point in points):
        own = [point for point in points if point.student == name]
        cells = [f"{spread(each.scores)}; {each.median_ms:.2f} ms; {each.bytes / 1e6:.1f} MB" for each in own]
        marked = [f"**{c}**" if is_on_front(each, points) else c for c, each in zip(cells, own, strict=True)]
        without = spread(alone[name]) if name in alone else ""
        lines.append(line([name, f"{own[0].parameters / 1e6:.1f} M", *marked, without]))
    return "\n".join(lines)


def figure(points: Sequence[Point], length: int) -> str:
    """Accuracy by latency as an SVG, a colour a form, and the front as a line."""

    def draw(axes: Any) -> None:
        best = sorted((each for each in points if is_on_front(each, points)), key=lambda each: each.median_ms)
        axes.plot([p.median_ms for p in best], [p.score for p in best], color=COLOURS[0], linewidth=1, label="front")
        for form, colour, marker in zip(dict.fromkeys(p.form for p in points), COLOURS[1:], "osD^", strict=False):
            own = [point for point in points if point.form == form]
            places = [p.median_ms for p in own], [p.score for p in own]
            axes.scatter(*places, s=25, color=colour, marker=marker, label=form, zorder=3)
        # A student is named once, at the fastest of its forms; names that would be one upon the other stand apart.
        before: Point | None = None
        for point in sorted({p.student: p for p in reversed(best)}.values(), key=lambda p: p.median_ms):
            is_near = before and point.median_ms < 1.3 * before.median_ms and point.score < before.score + 0.4
            shift, side = ((5, -10), "left") if is_near else ((-5, 4), "right")
            place = (point.median_ms, point.score)
            axes.annotate(point.student, place, shift, textcoords="offset points", ha=side, fontsize=8)
            before = point
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.15, y=0.08)
        axes.set_xlabel(f"median latency of one text of {length} tokens, ms")
        axes.set_ylabel("accuracy, %")
        axes.grid(color=LIGHT["grid"])
        axes.legend(frameon=False, loc="lower right", fontsize=9)

    return svg_of(draw, height=4.2, width=6.6)


def main() -> int:
    """Run what is not there yet, print the table, write JSON and the figure."""
    parser = parser_of(["starts", "front"], __doc__, "runs/students")
    parser.add_argument("--on", choices=list(DATA), default="sst2")
    parser.add_argument("--figure", type=Path, help="of the front; by default in the folder of the results")
    args = parser.parse_args()
    try:
        experiment = DATA[args.on](args.data)
    except FileNotFoundError as error:
        print(f"{args.experiment} on {args.on}: skipped, its data is not here: {error}")
        return 0
    folder = args.output / (f"{args.on}-{args.steps}-steps" if args.steps else args.on)
    folder.mkdir(parents=True, exist_ok=True)
    steps = args.steps or STEPS[args.experiment, args.on]
    experiment = replace(experiment, steps=steps, teacher_steps=args.steps or experiment.teacher_steps)
    school = School(Bench(experiment, folder))
    text, results = {"starts": starts, "front": front}[args.experiment](school, folder, args.seeds, args.only)
    school.close()
    setting = {
        "data": args.on,
        "labelled": len(experiment.labelled),
        "rows": len(experiment.text),
        "held_out": len(experiment.test),
        "steps": steps,
        "batch_size": experiment.batch_size,
        "threads": torch.get_num_threads(),
    }
    (folder / f"{args.experiment}.json").write_text(json.dumps({**setting, **results}, indent=2) + "\n")
    print(f"\n{', '.join(f'{name} {value}' for name, value in setting.items())}\n\n{text}")
    if args.experiment == "front":
        file = args.figure or folder / "front.svg"
        with replaced(file) as beside:
            points = [Point(**{k: v for k, v in each.items() if k != "front"}) for each in results["points"]]
            beside.write_text(figure(points, results["length"]), encoding="utf-8")
        print(f"\n{file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
