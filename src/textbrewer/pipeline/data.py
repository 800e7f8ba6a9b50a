"""The rows of a recipe, read, checked, parted and encoded."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

from ..adaptors import are_unnamed, label_names
from ..configs.recipe import AugmentationSettings, DataSettings, SourceSettings, TeacherSettings
from ..data_utils import Augmenter
from ..errors import DataError, count_of
from ..tasks import TASKS, Encoded, QuestionAnswering, Rows, Table, Task, TokenClassification, read
from .models import config_of, hub_options, is_trained_for

logger = logging.getLogger("textbrewer.pipeline")

TARGETS = ("label", "tags", "answers", "is_impossible")
"""What of ``columns`` says what is to be learned."""


@dataclass(frozen=True)
class Data:
    """The rows of a run.

    Attributes:
        labelled: rows to train on with their labels.
        train: all rows that the student sees: those, rows without labels, and variants.
        validation: rows by which the best model is chosen.
        test: rows that are scored once; None where there are none.
        reports: what was found in each source.
        tokenizer: a digest of what divides them.
    """

    labelled: Encoded
    train: Encoded
    validation: Encoded
    test: Encoded | None
    reports: Sequence[str]
    tokenizer: str

    @cached_property
    def key(self) -> str:
        """A digest of all that a student reads."""
        return digest_of([self.labelled_key, list(self.train.rows)])

    @cached_property
    def labelled_key(self) -> str:
        """A digest of what a model reads that learns from labels alone."""
        return digest_of([self.tokenizer, *(list(part.rows) for part in (self.labelled, self.validation))])

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row that the student sees."""
        return max(self.train.lengths)

    @property
    def scored(self) -> Encoded:
        """The rows that scores are of."""
        return self.validation if self.test is None else self.test

    @cached_property
    def scored_key(self) -> str:
        """A digest of them."""
        return digest_of([self.tokenizer, list(self.scored.rows)])

    def divided_by(self, task: Task, tokenizer: Any) -> Data:
        """The same rows, encoded by another tokenizer."""
        parts: dict[str, Encoded | None] = {
            "labelled": self.labelled,
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        rows = {
            name: None if part is None else Rows(part.rows, part.report, task.target) for name, part in parts.items()
        }
        return replace(self, **_encoded(rows, task, tokenizer), tokenizer=digest_of_tokenizer(tokenizer))


def digest_of(value: Any) -> str:
    """16 hexadecimal digits for plain values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def digest_of_tokenizer(tokenizer: Any) -> str:
    """A digest of how a tokenizer divides texts; the lengths it was last called with are none of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return digest_of([type(tokenizer).__name__, tokenizer.get_vocab()])
    described = json.loads(backend.to_str())
    return digest_of({key: value for key, value in described.items() if key not in ("padding", "truncation")})


def table_of(source: SourceSettings) -> Table:
    """Read a source.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    paths = [source.path] if isinstance(source.path, str) else source.path
    found = [Path(path) if Path(path).exists() else path for path in paths]
    return read(found if len(found) > 1 else found[0], source.format, **source.options)


def task_of(settings: Mapping[str, Any], teacher: TeacherSettings, train: Table, columns: Any) -> Task:
    """The task of a recipe, with the labels and the longest row that the teacher and the data have.

    Args:
        settings: ``name`` and keys of the task.
        teacher: the model to learn from.
        train: the rows to train on, which say what labels there are.
        columns: of them.

    Raises:
        ConfigError: a setting cannot be used.
        DataError: there is no column of labels.
    """
    kind = TASKS[settings["name"]]
    given = {key: value for key, value in settings.items() if key != "name"}
    options = hub_options(teacher)
    config = config_of(teacher.model, **options)
    for key, longest in lengths_for(kind, config).items():
        if key not in given:
            given[key] = longest
            logger.info("task.%s: %d, for a teacher that takes few tokens", key, longest)
    if "labels" in given or "labels" not in [each.name for each in fields(cast(Any, kind))]:
        return kind.from_dict(given)
    task: Task = cast(Any, kind).from_data(train, columns, **given)
    if config is None or not is_trained_for(teacher.model, kind.head, **options):
        return task
    return _with_labels_of_teacher(task, kind, given, label_names(config) or [])


def _with_labels_of_teacher(task: Task, kind: type[Task], given: Mapping[str, Any], known: list[str]) -> Task:
    """The task with the labels of a fine-tuned teacher, in its order, where they are those of the data."""
    found = task.class_names
    if len(found) == len(known) and are_unnamed(known):
        logger.info("the teacher's classes have no names; they are taken to be %s, in this order", ", ".join(found))
        return task
    if set(found) <= set(known):
        return kind.from_dict({**given, "labels": known})
    if found == [str(i) for i in range(len(known))] and not issubclass(kind, TokenClassification):
        named = dict(zip(found, known, strict=True))
        logger.info("labels are numbers: %s", ", ".join(f"{i} is {name}" for i, name in named.items()))
        return kind.from_dict({**given, "labels": named})
    return task  # which the teacher then refuses, naming both


def lengths_for(kind: type[Task], config: Any) -> dict[str, int]:
    """Settings of lengths for a teacher that takes fewer tokens than the task's defaults, by its config."""
    positions = getattr(config, "max_position_embeddings", None)
    default: Any = next(each.default for each in fields(cast(Any, kind)) if each.name == "max_length")
    if not isinstance(positions, int) or not 0 < positions < default:
        return {}
    return kind.lengths(positions) if issubclass(kind, QuestionAnswering) else {"max_length": positions}


def data_of(
    settings: DataSettings,
    task: Task,
    tokenizer: Any,
    seed: int,
    augmentation: AugmentationSettings | None = None,
    train: Table | None = None,
) -> Data:
    """Read, check, part and encode the rows of a recipe.

    Args:
        settings: where they are.
        task: what is read of them.
        tokenizer: encodes them.
        seed: of the split and the variants.
        augmentation: makes variants.
        train: the training rows, if they were read already.

    Raises:
        DataError: rows cannot be read or used.
    """
    source = settings.train
    rows = task.rows(table_of(source) if train is None else train, source.columns, bad_labels=settings.bad_labels)
    labelled, bare = _parted(rows)
    reports = [str(rows.report)]
    if settings.validation is None:
        labelled, validation = task.split(labelled, settings.validation_share, seed)
        reports.append(f"no validation file: {len(validation):,} rows with labels held out (seed {seed})")
    else:
        validation = _labelled_rows(settings.validation, task, settings.bad_labels)
        reports.append(str(validation.report))
    # A part of rows has no findings of its own.
    labelled = replace(labelled, report=replace(labelled.report, findings=rows.report.findings))
    test = None
    if settings.test is not None:
        test = _labelled_rows(settings.test, task, settings.bad_labels)
        reports.append(str(test.report))
    more: list[Any] = list(bare)
    if settings.unlabelled is not None:
        columns = {role: name for role, name in settings.unlabelled.columns.items() if role not in TARGETS}
        unlabelled = task.rows(table_of(settings.unlabelled), columns, labelled=False)
        reports.append(str(unlabelled.report))
        more += unlabelled
    if augmentation is not None:
        variants = _variants([*labelled, *more], task, tokenizer, augmentation, seed)
        reports.append(f"augmentation: {count_of(len(variants), 'variant')} without labels")
        more += variants
    every = replace(labelled, rows=[*labelled, *more])
    parts = _encoded({"labelled": labelled, "train": every, "validation": validation, "test": test}, task, tokenizer)
    lengths = parts["train"].report.lengths
    if lengths is not None:
        reports.append(str(lengths))
    for report in reports:
        logger.info("%s", report)
    return Data(**parts, reports=reports, tokenizer=digest_of_tokenizer(tokenizer))


def _encoded(parts: Mapping[str, Rows | None], task: Task, tokenizer: Any) -> dict[str, Any]:
    """The parts of a run's rows, as :class:`Data` has them."""
    return {name: None if rows is None else task.encode(rows, tokenizer) for name, rows in parts.items()}


def _parted(rows: Rows) -> tuple[Rows, Rows]:
    """Rows with labels, and those without.

    Raises:
        DataError: there are none with labels.
    """
    known = [i for i, row in enumerate(rows) if row[rows.target] is not None]
    if not known:
        raise DataError(f"{rows.report.source}: no row has a label; give rows without labels as data.unlabelled")
    missing = sorted(set(range(len(rows))) - set(known))
    return rows.part(known, "{source}"), rows.part(missing, "{source}, without labels")


def _labelled_rows(source: SourceSettings, task: Task, bad_labels: Any) -> Rows:
    """The rows of a source that have labels, since only those can be scored."""
    rows = task.rows(table_of(source), source.columns, bad_labels=bad_labels)
    known, missing = _parted(rows)
    if len(missing):
        logger.warning("%s: %s without a label cannot be scored", rows.report.source, count_of(len(missing), "row"))
    return replace(known, report=replace(rows.report, used=len(known), labelled=len(known)))


def _variants(
    rows: Iterable[Mapping[str, Any]], task: Task, tokenizer: Any, settings: AugmentationSettings, seed: int
) -> list[dict[str, Any]]:
    """Variants of rows, without labels: what the new text is, the teacher says."""
    answers = isinstance(task, QuestionAnswering)
    by_letter = getattr(task, "units", "words") == "characters" or getattr(task, "rules", "") == "cmrc"
    ways: dict[str, Any] = {"tokenize": list, "join": "".join} if by_letter else {}
    # An n-gram of a context leaves little to search.
    operations = settings.operations or ({"masking": 0.1} if answers else None)
    mask = tokenizer.mask_token or tokenizer.unk_token or "[MASK]"

    @cache
    def augmenter(names: tuple[str, ...], spans: bool) -> Augmenter:
        kept = "answers" if spans else None
        return Augmenter(names, settings.n, operations, answers=kept, mask=mask, seed=seed, **ways)

    found: list[dict[str, Any]] = []
    for row in rows:
        names = tuple(name for name in ("tokens", "context", "text", "text_pair") if name in row)
        spans = answers and any(answer["start"] >= 0 for answer in row["answers"] or ())
        found += [{**variant, task.target: None} for variant in augmenter(names, spans)(row)]
    return found
