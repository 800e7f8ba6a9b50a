"""A recipe, carried out: its teacher, its student and its baseline, each made once and found again."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from .. import __version__
from ..configs import DistillationConfig, IntermediateMatch, TrainingConfig
from ..configs.plain_yaml import yaml_text
from ..configs.recipe import CacheSettings, Recipe, StudentSettings, TrainingSettings
from ..distillers import BasicTrainer, GeneralDistiller
from ..doctor import Examination, examine, teacher_calibration
from ..engine import Schedule
from ..engine.checkpoint import described, locked
from ..errors import ConfigError, DataError, Problem, UnsupportedError, count_of, unknown_name
from ..export import require_exportable
from ..feeding import sides
from ..files import replaced, replaced_folder
from ..matching.layers import positions_of
from ..students import build_student, prune_vocabulary
from ..students.narrowing import NARROWING
from ..tasks import Encoded, Rows, Task
from ..tasks._needed import needed
from ..tasks.named import task_settings
from ..tasks.scores import told
from ..teachers import CacheFilling, TeacherCache
from ..teachers.cache.fingerprint import digest_of_config, digest_of_weights
from .data import Data, data_of, digest_of, table_of, task_of
from .models import (
    any_model,
    has_tokenizer,
    hub_options,
    is_trained_for,
    record_in,
    teacher_of,
    tokenizer_of,
    write_record,
)
from .planning import Planned, is_planned, limits_of, plan_in, planned, remove_plan
from .settled import lasting, matches_of, scheduler, sizes_of, student_config
from .together import alike, once, processes

logger = logging.getLogger("textbrewer.pipeline")

RECIPE, WORK = "recipe.yaml", "work"
TEACHER, STUDENT, BASELINE = "teacher", "student", "baseline"
EXPORT = "export"
_SECONDS = "seconds.json"
_TELLING, _MOST_AT_ONCE = 64, 32
"""Rows by which a teacher's weights are narrowed, and sequences of a batch of them."""
_WRITTEN = "# Written by textbrewer "
"""How the recipe begins that a run writes."""


@dataclass(frozen=True)
class Made:
    """A model of a run.

    Attributes:
        model: in eval mode.
        folder: where it is, or where it was given.
        record: how it was made, and its scores.
    """

    model: Any
    folder: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        evaluations: scores along the way.
        seconds: that it took, with what a run took that was stopped and gone on from.
    """

    evaluations: Sequence[Mapping[str, float]]
    seconds: float


class Run:
    """One recipe in its folder.

    A model is trained in ``output_dir/work``, where it can be gone on from, and moved into a folder of its own once it
    is done. What lies there is used again if it was made by the same settings, from the same data and the same teacher.

    Several processes all read the data and all train; the first one alone measures, scores and writes, while the others
    wait.

    Args:
        recipe: from :func:`~textbrewer.pipeline.read_recipe`.
        resume: go on from what a stopped run left; otherwise an unfinished model is begun anew.
        fresh: make everything again.

    Raises:
        ConfigError: the teacher and the task do not fit each other.
        DataError: the rows cannot be used, the folder holds something else, or the processes read other rows.
        ElsewhereError: another process could not begin.
    """

    def __init__(self, recipe: Recipe, *, resume: bool = True, fresh: bool = False) -> None:
        self.resume, self.fresh = resume, fresh
        self.folder = Path(recipe.output_dir)
        self._planned: Planned | None = None
        self._options = hub_options(recipe.teacher)
        self.ranks = processes(recipe.training)
        alike(self.ranks, lambda: self._begin(recipe))
        if len(set(self.ranks.gather(self.data.key))) > 1:
            raise DataError("the processes read other rows than each other; give all of them the same files")

    def _begin(self, recipe: Recipe) -> None:
        """Read everything, and see whether it fits."""
        self._require_free()
        teacher, source = recipe.teacher, recipe.data.train
        if teacher.trust_remote_code:
            logger.warning("the code of %s is run (teacher.trust_remote_code)", teacher.model)
        table = table_of(source)
        self.task: Task = task_of(recipe.task, teacher, table, source.columns)
        self.recipe = replace(recipe, task=task_settings(self.task))
        self._given = self._teacher_as_given()
        self._require_short()
        self.tokenizer = tokenizer_of(teacher.tokenizer or teacher.model, **self._options)
        if recipe.export is not None:
            require_exportable(self.tokenizer, self.folder / EXPORT, self.task)
        self.data: Data = data_of(recipe.data, self.task, self.tokenizer, recipe.seed, recipe.augmentation, table)
        if teacher.prune_vocabulary:
            self._prune()
        if recipe.student.plan is None:
            self._rehearse()
        self._require_same_tokens()
        self._require_metrics()
        if recipe.cache is not None:
            with self._cache(recipe.cache):
                pass  # a folder of something else is told now, not once the teacher is trained

    def _prune(self) -> None:
        """Leave out of teacher and tokenizer the tokens that the training rows do not use."""
        pruned = prune_vocabulary(self._given, self.tokenizer, self.task.tokens_of(self.data.train))
        logger.info("teacher: %s", pruned)
        self._given, self.tokenizer = pruned.model.eval(), pruned.tokenizer
        self.data = self.data.divided_by(self.task, self.tokenizer)

    def _require_free(self) -> None:
        """Refuse to write among files of something else."""
        there = {each.name for each in self.folder.iterdir()} if self.folder.is_dir() else set()
        if there and not _is_written_by_a_run(self.folder / RECIPE):
            raise DataError(
                f"output_dir: {self.folder} holds other things than a run ({', '.join(sorted(there)[:3])}); "
                "give a new folder"
            )
        for name in (TEACHER, STUDENT, BASELINE):
            if (self.folder / name).exists() and record_in(self.folder / name) is None:
                raise DataError(
                    f"output_dir: {self.folder / name} is there and was not made by a run; give another output_dir"
                )

    def _teacher_as_given(self) -> Any:
        self._seed()  # of a head that is new
        return teacher_of(self.recipe.teacher.model, self.task, **self._options)

    def _require_short(self) -> None:
        """Refuse rows longer than the teacher takes."""
        length, positions = cast(Any, self.task).max_length, positions_of(self._given)
        if positions is not None and length > positions:
            problem = Problem(
                "task.max_length", f"at most {positions}, as many tokens as the teacher takes", str(length)
            )
            raise ConfigError("recipe", [problem])

    def _require_same_tokens(self) -> None:
        """Refuse a student that reads other numbers for the same tokens.

        Raises:
            ConfigError: it does; it would learn from scrambled texts.
        """
        name = self.recipe.student.model
        if name is None or not has_tokenizer(name):
            return
        own, ours = tokenizer_of(name).get_vocab(), self.tokenizer.get_vocab()
        other = [token for token, number in ours.items() if own.get(token) != number]
        if other:
            which = "after teacher.prune_vocabulary" if self.recipe.teacher.prune_vocabulary else "in the teacher's"
            got = f"another number than {which} for {len(other):,} of {len(ours):,} tokens, as {other[0]!r}"
            hint = "a student is built with the teacher's tokens from sizes, as student: {num_layers: 3}"
            raise ConfigError("recipe", [Problem("student.model", "the teacher's vocabulary", got, hint)])

    def _require_metrics(self) -> None:
        """Refuse a score to choose models by that the task does not give of these labels, before anything is trained.

        Raises:
            ConfigError: there is no such score.
        """
        recipe = self.recipe
        asked = {
            "task.metric": recipe.task.get("metric"),
            "training.metric_for_best_model": recipe.training.metric_for_best_model,
            "teacher.training.metric_for_best_model": recipe.teacher.training.metric_for_best_model,
        }
        wanted = {path: name for path, name in asked.items() if name is not None}
        if wanted:
            rows = self.data.validation.rows
            # Some scores are there only if there are rows of some kind: those that a few have not, all may have.
            for few in (rows[:8], rows):
                part = self.task.encode(Rows(few, self.data.validation.report, self.task.target), self.tokenizer)
                known = self.task.evaluate(self._given, part)
                if all(name in known for name in wanted.values()):
                    return
            raise ConfigError(
                "recipe", [unknown_name(path, name, known) for path, name in wanted.items() if name not in known]
            )

    def _rehearse(self) -> None:
        """Put everything together once, so that what does not fit is told before anything is trained or written."""
        self._distiller(self._given, self._new_student(self._given, rehearsed=True), self.recipe.training)

    def settle(self) -> None:
        """Choose the student's size, where the recipe has limits for it: before anything is trained or written.

        Raises:
            StudentError: nothing keeps to the limits; the message names what comes closest.
        """
        settings = self.recipe.student
        if settings.plan is not None:
            limits = limits_of(settings.plan, self.data.longest)
            self._planned = once(self.ranks, lambda: planned(self._given, limits, self.folder, anew=self.fresh))
            sizes = {**sizes_of(self._planned.plan.chosen.config), **settings.sizes}
            self.recipe = replace(self.recipe, student=StudentSettings(sizes=sizes))
            alike(self.ranks, self._rehearse)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder to oneself, with the recipe and the plan in it."""
        with ExitStack() as holding:

            def hold() -> None:
                holding.enter_context(locked(str(self.folder)))
                self._write_recipe()
                self._write_plan()

            once(self.ranks, hold)
            yield

    def _write_plan(self) -> None:
        """The plan; one that an earlier run left of another student goes."""
        if self._planned is not None:
            self._planned.write(self.folder)
            return
        left, student = plan_in(self.folder), self.recipe.student
        if student.plan is None and not (left and is_planned(student.sizes, left)):
            remove_plan(self.folder)

    def _write_recipe(self) -> None:
        """The recipe with all that was found out, which repeats this run."""
        text = yaml_text(self.recipe.to_dict())
        with replaced(self.folder / RECIPE) as beside:
            beside.write_text(f"{_WRITTEN}{__version__}; it repeats this run.\n{text}", encoding="utf-8")

    # The three models.

    @cached_property
    def teacher(self) -> Made:
        """The teacher: as it was given, or fine-tuned."""
        made = self._fine_tuned() if self._is_to_be_trained() else self._taken_as_it_is()
        once(self.ranks, lambda: self._tell_of_unsure(made.model))
        return made

    def _taken_as_it_is(self) -> Made:
        settings = self.recipe.teacher
        scores = once(self.ranks, lambda: self._scores(self._given, settings.training))
        logger.info("teacher: %s as it is, %s", settings.model, told(scores))
        return Made(self._given, settings.model, {"scores": scores, "seconds": 0.0})

    def _fine_tuned(self) -> Made:
        settings, model = self.recipe.teacher, self._given

        def train(work: Path) -> Trained:
            config = self._training(settings.training, work)
            trainer = BasicTrainer(config, model, self.task.adaptor(model))
            return self._fit(trainer, model, self.data.labelled, config)

        logger.info("teacher: fine-tuning %s on %s", settings.model, count_of(len(self.data.labelled.rows), "row"))
        return self._made(TEACHER, model, settings.training, train, self._parts_of_teacher())

    def _parts_of_teacher(self) -> dict[str, Any]:
        return {"model": _digest_of(self._given), "data": self.data.labelled_key}

    def _teacher_as_it_stands(self) -> Any:
        """The teacher without training it now; None if it is yet to be trained."""
        if not self._is_to_be_trained():
            return self._given
        folder, key = self.folder / TEACHER, self._key(self.recipe.teacher.training, self._parts_of_teacher())
        return None if self._record_of(folder, key) is None else self._loaded(folder)

    def _tell_of_unsure(self, teacher: Any) -> None:
        """Warn of a teacher of whom there is little to learn."""
        found = teacher_calibration(self.task, teacher, self.data.validation)
        if found is not None and found.verdict == "bad":
            logger.warning("teacher: %s; %s", found.found, found.way_out)

    @cached_property
    def _teachers_digest(self) -> str:
        """Of the weights that are learned from."""
        return digest_of_weights(self.teacher.model)

    def _is_to_be_trained(self) -> bool:
        settings = self.recipe.teacher
        if settings.train != "auto":
            return bool(settings.train)
        return not is_trained_for(settings.model, self.task.model_class, **self._options)

    @cached_property
    def student(self) -> Made:
        """The distilled student."""
        student = self._new_student(self.teacher.model)
        settings = self.recipe.training

        def train(work: Path) -> Trained:
            kept = self.recipe.cache
            with nullcontext() if kept is None else self._cache(kept) as cache:
                config = self._training(settings, work)
                distiller = self._distiller(self.teacher.model, student, config, cache)
                return self._fit(distiller, student, self.data.train, config)

        kept = self.recipe.cache
        parts = {
            "teacher": self._teachers_digest,
            "distillation": described(self.recipe.distillation),
            "matches": described(self.recipe.matches),
            "cache": None if kept is None else [kept.dtype, kept.top_k],
            "data": self.data.key,
        }
        logger.info("student: learning from the teacher on %s", count_of(len(self.data.train.rows), "row"))
        return self._made(STUDENT, student, settings, train, {"model": self._origin(student), **parts})

    @cached_property
    def baseline(self) -> Made:
        """The same student trained on the labels alone, for the same steps."""
        student = self._new_student(self.teacher.model)
        schedule, own = self._schedule(self.data.train, self.recipe.training), self.recipe.training
        steps, every = schedule.total_steps, own.ckpt_steps
        if own.num_steps is None:
            # As many evaluations as the student has: the best of more would be the better for it.
            number = sum(schedule.evaluates_after(step, own) for step in range(1, steps + 1))
            every = -(-steps // number)
        settings = replace(own, num_steps=steps, ckpt_steps=every)

        def train(work: Path) -> Trained:
            config = self._training(settings, work)
            trainer = BasicTrainer(config, student, self.task.adaptor(student))
            return self._fit(trainer, student, self.data.labelled, config)

        logger.info("baseline: the same student, %s on the labels alone", count_of(steps, "step"))
        parts = {"model": self._origin(student), "data": self.data.labelled_key}
        return self._made(BASELINE, student, settings, train, parts)

    def _new_student(self, teacher: Any, *, rehearsed: bool = False) -> Any:
        """The student before it learns anything, always the same; its size goes into the recipe.

        Where this is a rehearsal there are no rows yet, and weights alone tell what of the teacher is important.
        """
        self.settle()
        settings = self.recipe.student
        if settings.model is not None:
            self._seed()  # of a head that is new
            return teacher_of(settings.model, self.task)
        config = student_config(settings.preset, settings.sizes, teacher)
        self.recipe = replace(self.recipe, student=StudentSettings(sizes=sizes_of(config)))
        rows = None
        if config.init in NARROWING and not rehearsed:
            # A teacher that was just trained may be on an accelerator, one that was found is not: sums must be alike.
            rows = self._telling_rows(teacher.cpu())
        return build_student(teacher, config, seed=self.recipe.seed, rows=rows)

    def _telling_rows(self, teacher: Any) -> Iterator[Any]:
        """Batches by which the teacher's weights are narrowed, no larger than those of the training."""
        adaptor = self.task.adaptor(teacher, teacher=True)
        size = max(1, min(_MOST_AT_ONCE, self.recipe.training.batch_size) // self.data.train.sequences)
        loader = self.data.train.loader(size, shuffle_seed=self.recipe.seed)
        return (adaptor.feed(sides(batch).teacher) for batch in islice(loader, -(-_TELLING // size)))

    def _origin(self, student: Any) -> str:
        """What stands for a student before it learns anything.

        The first weights of a narrowed one come of sums, whose last digits depend on the number of threads.
        """
        sizes = self.recipe.student.sizes
        if sizes.get("init") in NARROWING:
            return digest_of({"teacher": self._teachers_digest, **sizes})
        return _digest_of(student)

    def _distillation(self, teacher: Any, student: Any) -> DistillationConfig:
        """The objective, its matches written out for these models."""
        config, rule = self.recipe.distillation, self.recipe.matches
        if rule is None:
            return config
        written = [IntermediateMatch.from_dict(each) for each in matches_of(rule, teacher, student)]
        return replace(config, intermediate_matches=[*config.intermediate_matches, *written])

    def _distiller(
        self, teacher: Any, student: Any, training: TrainingConfig, cache: TeacherCache | None = None
    ) -> GeneralDistiller:
        config = self._distillation(teacher, student)
        adaptors = self.task.adaptors(teacher, student, config)
        return GeneralDistiller(training, config, teacher, student, *adaptors, teacher_cache=cache)

    @contextmanager
    def _cache(self, settings: CacheSettings) -> Iterator[TeacherCache]:
        if settings.memory:
            yield TeacherCache.in_memory(settings.dtype, settings.max_bytes, top_k=settings.top_k)
        else:
            path = settings.path or self.folder / "cache"
            with TeacherCache(path, settings.dtype, settings.max_bytes, top_k=settings.top_k) as cache:
                yield cache

    def fill_cache(self) -> CacheFilling:
        """Fill the cache with what the student will ask of the teacher; see :meth:`TeacherCache.build`."""
        if self.recipe.cache is None:
            logger.warning("distill reads this cache only where the recipe says so: cache: true")
        student = self._new_student(self.teacher.model)
        settings = self.recipe.training
        with self._cache(self.recipe.cache or CacheSettings()) as cache:
            config = self._training(settings, self.folder / WORK / "cache")
            distiller = self._distiller(self.teacher.model, student, config, cache)
            loader = self._loader(self.data.train, settings)
            filled = cache.build(distiller, loader, progress_bar=settings.progress_bar)
            every = self.ranks.gather((filled.rows, filled.computed))
            rows, computed = map(sum, zip(*every, strict=True))
            return replace(filled, rows=rows, computed=computed, size_bytes=cache.size())

    def examine(self) -> Examination:
        """Look over all of it without training anything; see :func:`textbrewer.doctor.examine`.

        Raises:
            UnsupportedError: there are several processes.
        """
        if self.ranks.number > 1:
            raise UnsupportedError("a recipe is looked over in one process; start it without torchrun")
        settings, trained = self.recipe.training, self._teacher_as_it_stands()
        teacher = self._given if trained is None else trained
        student = self._new_student(teacher)
        parts = {"train": self.data.labelled, "validation": self.data.validation, "test": self.data.test}
        return examine(
            self.task,
            {name: part for name, part in parts.items() if part is not None},
            self.tokenizer,
            teacher,
            student,
            lambda config: self._distiller(teacher, student, replace(config, **_computing(settings))),
            next(iter(self._loader(self.data.train, settings))),
            trained=trained is not None,
            steps=self._schedule(self.data.train, settings).total_steps,
            accumulated=settings.gradient_accumulation_steps,
        )

    # How a model is made.

    def _made(
        self,
        name: str,
        model: Any,
        settings: TrainingSettings,
        train: Callable[[Path], Trained],
        parts: Mapping[str, Any],
    ) -> Made:
        """The model called ``name``: as an earlier run made it of the same parts, or trained now."""
        key = self._key(settings, parts)
        folder, work = self.folder / name, self.folder / WORK / f"{name}-{key}"
        record = once(self.ranks, lambda: self._record_of(folder, key))
        if record is not None:
            return self._found(name, folder, record, settings)
        gone_on = once(self.ranks, lambda: self._goes_on(work))
        self._seed(self.ranks.index)
        trained = train(work)
        # Until all have read the best weights.
        self.ranks.wait()

        def kept() -> dict[str, Any]:
            record = {
                "key": key,
                "task": task_settings(self.task),
                "scores": self._scores(model, settings),
                "scored": self.data.scored_key,
                "evaluations": trained.evaluations,
                "seconds": round(trained.seconds, 2),
                "resumed": gone_on,
                "textbrewer": __version__,
            }
            self._keep(model, folder, work, record)
            return record

        record = once(self.ranks, kept)
        logger.info("%s: %s (%.0f s)", name, told(record["scores"]), trained.seconds)
        return Made(model.eval(), str(folder), record)

    def _key(self, settings: TrainingSettings, parts: Mapping[str, Any]) -> str:
        """What a model is found again by: all that it is made of."""
        made_of = {
            **parts,
            "task": task_settings(self.task),
            "training": lasting(settings),
            "seed": self.recipe.seed,
            "version": __version__,
            "processes": self.ranks.number,
        }
        # The first one's, since the last digits of what several have trained may differ.
        return self.ranks.agree(digest_of(made_of))

    def _record_of(self, folder: Path, key: str) -> dict[str, Any] | None:
        """The record of a model that is there already and made of the same."""
        record = record_in(folder)
        return record if record is not None and record.get("key") == key and not self.fresh else None

    def _goes_on(self, work: Path) -> bool:
        """Whether a stopped run left something to go on from, once what is not gone on from is deleted."""
        if self.fresh or not self.resume:
            shutil.rmtree(work, ignore_errors=True)
        return (work / "checkpoints").is_dir()

    def _keep(self, model: Any, folder: Path, work: Path, record: Mapping[str, Any]) -> None:
        """Put a model that is done into its folder, and delete what it was made in."""
        if folder.name == STUDENT and (self.folder / EXPORT).exists() and self.recipe.export is None:
            logger.warning("%s is of the student before this one; export=true makes it anew", self.folder / EXPORT)
        with replaced_folder(folder) as beside:
            model.save_pretrained(beside)
            self.tokenizer.save_pretrained(beside)
            if (work / "log").is_dir():
                shutil.copytree(work / "log", beside / "log")
            write_record(beside, record)
        for left in work.parent.glob(f"{folder.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        if not any(work.parent.iterdir()):
            work.parent.rmdir()

    def _found(self, name: str, folder: Path, record: dict[str, Any], settings: TrainingSettings) -> Made:
        """A model that is there already, scored anew if the rows to score it on are others."""
        model = self._loaded(folder)

        def scored() -> dict[str, Any]:
            if record.get("scored") == self.data.scored_key:
                return record
            anew = {**record, "scores": self._scores(model, settings), "scored": self.data.scored_key}
            write_record(folder, anew)
            return anew

        record = once(self.ranks, scored)
        logger.info("%s: already there, %s", name, told(record["scores"]))
        return Made(model, str(folder), record)

    def _loaded(self, folder: Path) -> Any:
        """A model that a run made."""
        trusted = self.recipe.teacher.trust_remote_code
        return teacher_of(str(folder), self.task, trust_remote_code=True) if trusted else any_model(folder)

    def _scores(self, model: nn.Module, settings: TrainingSettings) -> dict[str, float]:
        return self.task.evaluate(model, self.data.scored, settings.eval_batch_size)

    def _fit(self, distiller: Any, model: nn.Module, rows: Encoded, config: TrainingSettings) -> Trained:
        """Train a model, and keep its best weights."""
        started, file = time.perf_counter(), Path(config.output_dir) / _SECONDS
        before = _seconds_in(file)

        def evaluate(each: nn.Module) -> dict[str, float]:
            scores = self.task.evaluate(each, self.data.validation, config.eval_batch_size)
            if self.ranks.index == 0:  # for a run that goes on from the checkpoint that now follows
                with replaced(file) as beside:
                    beside.write_text(json.dumps(before + time.perf_counter() - started), encoding="utf-8")
            return scores

        loader = self._loader(rows, config)
        total = self._schedule(rows, config).total_steps
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            # Biases and norms.
            {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule, arguments = scheduler(config, total)
        with distiller:
            distiller.train(
                optimizer,
                loader,
                num_epochs=config.num_epochs,
                num_steps=config.num_steps,
                scheduler_class=schedule,
                scheduler_args=arguments,
                max_grad_norm=config.max_grad_norm or -1.0,
                resume="auto",
                evaluate=evaluate,
            )
        return Trained(list(distiller.evaluations), before + time.perf_counter() - started)

    def _loader(self, rows: Encoded, settings: TrainingSettings) -> DataLoader[Any]:
        """Batches in an order that depends on the seed alone."""
        return rows.loader(settings.batch_size, shuffle_seed=self.recipe.seed, group_by_length=settings.group_by_length)

    def _schedule(self, rows: Encoded, settings: TrainingSettings) -> Schedule:
        loader = self._loader(rows, settings)
        return Schedule.of(settings, loader, settings.num_epochs, settings.num_steps, self.ranks.number)

    def _training(self, settings: TrainingSettings, work: Path) -> TrainingSettings:
        """The settings of one training in its folder, with checkpoints along the way and the best one kept."""
        every = settings.ckpt_steps
        if every is None and settings.num_steps is not None:
            every = max(1, settings.num_steps // 5)
        return replace(
            settings,
            output_dir=str(work),
            log_dir=str(work / "log"),
            ckpt_steps=every,
            metric_for_best_model=settings.metric_for_best_model or self.task.main_metric,
            load_best_model_at_end=True,
        )

    def _seed(self, process: int = 0) -> None:
        """Everything random from here on, by the recipe's seed; each process of a training draws its own dropout."""
        needed("transformers", "transformers", "a recipe").set_seed((self.recipe.seed + process) % 2**32)


def _digest_of(model: Any) -> str:
    """Of a model's weights, of its config, and of which weights are trained."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return digest_of([digest_of_weights(model), digest_of_config(model), frozen])


def _seconds_in(file: Path) -> float:
    """What a stopped run had taken at its last checkpoint; 0 where there was none."""
    try:
        return float(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return 0.0


def _computing(settings: TrainingSettings) -> dict[str, Any]:
    """Where and how a training computes, for another one that shall do so."""
    names = ("device", "precision", "teacher_precision", "compile_models")
    return {name: getattr(settings, name) for name in names}


def _is_written_by_a_run(recipe: Path) -> bool:
    """Whether a recipe is one that a run left, not one of the user's."""
    try:
        return recipe.read_text(encoding="utf-8").startswith(_WRITTEN)
    except (OSError, UnicodeDecodeError):
        return False
