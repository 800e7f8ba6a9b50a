"""What a task is: from rows to batches, from a model's outputs to what is learned, to scores and to plain answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..adaptors import are_unnamed, label_names
from ..configs import DistillationConfig
from ..configs._base import Config
from ..errors import ConfigError, DataError, Problem, count_of, first_line, one_of
from ..feeding import call, sides, to_device
from ..modes import modes_kept
from ..presets import asked
from ._needed import needed
from .adaptor import TaskAdaptor
from .data import DataReport, Finding, Row, Rows, Table
from .data.columns import Chosen, Column
from .data.report import Tally
from .data.rows import held_out
from .encoded import Encoded, two_sided

BadLabels = Literal["refuse", "unlabelled"]
"""What becomes of rows whose label cannot be used: an error that lists them, or rows without a label, counted."""


_OF_THE_HUB = (
    "revision",
    "trust_remote_code",
    "token",
    "subfolder",
    "cache_dir",
    "local_files_only",
    "force_download",
    "proxies",
)
"""Options of ``from_pretrained`` that say where a model is and who may read it: its config is there too."""
_NEW_HEAD = "load(…, ignore_mismatched_sizes=True) puts a new head in place of this one, which must be trained"
_BARE = (
    "for a new head, which must be trained, save the model without its own, by "
    "AutoModel.from_pretrained(name).save_pretrained(folder), and load that"
)


@dataclass
class Reading:
    """The notebook of one pass over a table.

    Attributes:
        source: what is read.
        tally: what was found.
        faults: labels that cannot be used.
        notes: decisions that were taken.
        place: where the row at hand stands.
        context: what a task found out before the first row.
    """

    source: str
    tally: Tally = field(default_factory=Tally)
    faults: Tally = field(default_factory=Tally)
    notes: list[str] = field(default_factory=list)
    place: str = ""
    context: Any = None


class Task(Config, ABC):
    """One kind of problem. Its settings are its attributes; it holds neither data nor a model.

    A run goes: :meth:`rows` checks what :func:`~textbrewer.tasks.read` read, :meth:`encode` makes what a model takes,
    :meth:`load` gives a model its head, :meth:`adaptors` say to a distiller what the outputs mean, :meth:`evaluate` and
    :meth:`predict` use the result.
    """

    name: ClassVar[str]
    """What recipes call it."""
    head: ClassVar[str]
    """The class of Transformers that has the head."""
    target: ClassVar[str]
    """The key of a row under which its label stands."""
    soft_losses: ClassVar[tuple[str, ...]] = ()
    """The names of the soft-label losses that can teach it, the most fitting first; empty for any."""
    by_row: ClassVar[bool] = False
    """Whether an output is of a whole row, so that teacher and student may each have a tokenizer."""

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of the model's; empty where there are none to name."""
        return []

    @property
    def model_class(self) -> str:
        """The class of Transformers that :meth:`load` loads."""
        return self.head

    @property
    def cache_key(self) -> str:
        """Tells a teacher cache what this task makes of a model's outputs."""
        return f"task {self.name}"

    @property
    @abstractmethod
    def main_metric(self) -> str:
        """The score to choose a model by."""

    # What a task decides.

    @abstractmethod
    def choose(self, table: Table, columns: Mapping[str, Column] | None, labelled: bool | None) -> Chosen:
        """The columns to read; see :meth:`rows`."""

    def begin(self, table: Table, chosen: Chosen, reading: Reading) -> None:
        """Look over a table before its first row."""

    @abstractmethod
    def row(self, record: Mapping[str, Any], chosen: Chosen, reading: Reading) -> Row:
        """One record of a table as a row, what is odd about it noted in ``reading``."""

    def finish(self, rows: Sequence[Row], reading: Reading) -> None:
        """Refuse what the rows as a whole show."""

    @abstractmethod
    def is_empty(self, row: Row) -> str:
        """What a row lacks, as in ``row without text``; empty for a whole one."""

    @abstractmethod
    def counted(self, rows: Sequence[Row]) -> dict[str, int]:
        """How often each label occurs."""

    @abstractmethod
    def group(self, row: Row) -> Hashable:
        """Rows of the same group stay on one side of a split, since one tells the answer of the other."""

    @abstractmethod
    def record(self, given: Any) -> Mapping[str, Any]:
        """What :meth:`predict` is given for one row, as a record."""

    @abstractmethod
    def encoded(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Checked rows, as a model takes them."""

    def asked(self, rows: Rows, tokenizer: Any) -> Encoded:
        """Checked rows, as a model takes them to :meth:`predict`."""
        return self.encoded(rows, tokenizer)

    def logits_of(self, logits: Any, outputs: Any, batch: Mapping[str, Any]) -> Any:
        """What :meth:`learned` and :meth:`decoded` take for logits; None where a model gives none.

        Args:
            logits: those that :class:`~textbrewer.TransformersAdaptor` finds, or None.
            outputs: of the model, as they are.
            batch: that it was run on.
        """
        return logits

    @abstractmethod
    def learned(self, logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Of an adaptor's keys: ``logits``, ``logits_mask``, ``losses`` and ``labels``."""

    def masks(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`learned` masks, told without running the model."""
        return {}

    def by_feature(self, logits: Any, batch: Mapping[str, Any]) -> list[Any]:
        """What :meth:`decoded` needs of a batch's logits, feature by feature, off the device."""
        return unpadded(logits, batch["attention_mask"])

    @abstractmethod
    def decoded(self, logits: Sequence[Any], encoded: Encoded) -> list[dict[str, Any]]:
        """A prediction for each row, from what :meth:`by_feature` kept of each feature."""

    @abstractmethod
    def score(self, predictions: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, float]:
        """Scores of what :meth:`predict` gave for rows with labels."""

    # What all tasks do alike.

    def rows(
        self,
        data: Any,
        columns: Mapping[str, Column] | None = None,
        *,
        labelled: bool | None = True,
        bad_labels: BadLabels = "refuse",
    ) -> Rows:
        """Check data, and report what was found.

        Args:
            data: a table of :func:`~textbrewer.tasks.read`, a ``datasets.Dataset`` or a list of dicts. Rows that this
                gave before stay as they are, but that ``labelled=False`` drops their labels.
            columns: the column of each thing the task reads; what is left out is guessed, and the report says so.
            labelled: True needs labels, though single rows may lack theirs; False reads none, None those there are.
            bad_labels: see :data:`BadLabels`.

        Raises:
            DataError: a column is missing, labels cannot be used, no row is left, or checked rows are given columns.
        """
        if isinstance(data, Rows):
            if columns:
                raise DataError(
                    f"{data.report.source}: columns={dict(columns)} for rows that were read from their columns before; "
                    "leave it out, or give the table they came from"
                )
            return self.unlabelled(data) if labelled is False else data
        return self._rows(Table.of(data), columns, labelled, bad_labels)

    def _rows(
        self,
        table: Table,
        columns: Mapping[str, Column] | None,
        labelled: bool | None,
        bad_labels: BadLabels,
        keep_all: bool = False,
    ) -> Rows:
        chosen = self.choose(table, columns, labelled)
        reading, rows, read = Reading(table.source), [], 0
        self.begin(table, chosen, reading)
        for index, record in enumerate(table):
            read = index + 1
            reading.place = table.place(index)
            row = self.row(record, chosen, reading)
            lack = self.is_empty(row)
            if lack:
                reading.tally.add(lack, reading.place, "" if keep_all else "left out")
            if keep_all or not lack:
                rows.append(row)
        faults = reading.faults.findings()
        if faults and bad_labels == "refuse":
            raise DataError(_refusal(table.source, faults))
        if not rows:
            raise DataError("\n  ".join([f"{table.source}: no row can be used", *map(str, reading.tally.findings())]))
        self.finish(rows, reading)
        report = DataReport(
            source=table.source,
            rows=read,
            used=len(rows),
            labelled=sum(row[self.target] is not None for row in rows),
            columns=chosen.written(),
            guessed=chosen.guessed,
            labels=self.counted(rows),
            findings=(*table.findings, *reading.tally.findings(), *(replace(f, action="unlabelled") for f in faults)),
            notes=(*table.notes, *reading.notes),
        )
        return Rows(rows, report, self.target)

    def unlabelled(self, rows: Rows) -> Rows:
        """The same rows, their labels not known."""
        return rows.without_labels()

    def split(self, rows: Rows, share: float = 0.1, seed: int = 0) -> tuple[Rows, Rows]:
        """Rows to train on, and a share of them to validate on, the same for the same rows and seed.

        Rows that tell of each other (the same text, the same paragraph) stay together.

        Raises:
            DataError: the rows cannot be parted so.
        """
        kept, held = held_out(rows, share, seed, self.group)
        parts = []
        for indices, name in ((kept, "{source}, to train on"), (held, f"{{source}}, held out (seed {seed})")):
            part = rows.part(indices, name)
            parts.append(replace(part, report=replace(part.report, labels=self.counted(part))))
        return parts[0], parts[1]

    def encode(self, data: Any, tokenizer: Any, teacher_tokenizer: Any = None) -> Encoded:
        """Encode rows.

        Args:
            data: from :meth:`rows`, or what it takes; then labels are read where there are any.
            tokenizer: of Transformers.
            teacher_tokenizer: of a teacher that has another one; then batches are ``{"teacher": …, "student": …}``, and
                :meth:`evaluate` is for the student.

        Raises:
            DataError: a tokenizer does not fit, or what :meth:`rows` raises.
        """
        if teacher_tokenizer is not None and not self.by_row:
            raise DataError(
                f"{self.name} learns from the teacher token by token, so teacher and student must have one tokenizer; "
                "leave teacher_tokenizer out"
            )
        rows = self.rows(data, labelled=None)
        encoded = self.encoded(rows, tokenizer)
        return encoded if teacher_tokenizer is None else two_sided(self.encoded(rows, teacher_tokenizer), encoded)

    def tokens_of(self, encoded: Encoded) -> Iterator[Any]:
        """The tokens of encoded rows, sequence by sequence, as :func:`~textbrewer.prune_vocabulary` takes them."""
        return (ids.tolist() for own in encoded.ids for ids in own)

    def load(self, name: str | Path, **options: Any) -> Any:
        """A pretrained model with this task's head, its labels saved in the config.

        A checkpoint that already has such a head keeps it.

        Args:
            name: a folder or a name of the hub.
            **options: of ``from_pretrained``; ``ignore_mismatched_sizes=True`` puts a new head in place of one with
                another number of labels.

        Raises:
            ConfigError: there is no such model, or its head has other labels, or another number of outputs.
        """
        transformers = needed("transformers", "transformers", "loading a model")
        try:
            told = {key: options[key] for key in _OF_THE_HUB if key in options}
            config = transformers.AutoConfig.from_pretrained(name, **told)
        except OSError as error:
            what = "a folder that save_pretrained wrote, or a name of the hub, which must be reached"
            reason = first_line(error)
            raise ConfigError(f"a model for {self.name}", [Problem("name", what, repr(str(name)), reason)]) from error
        head = self.model_class.rpartition("For")[2]
        heads = [architecture.rpartition("For")[2] for architecture in config.architectures or []]
        if head in heads:
            self._require_head(config, renewed=bool(options.get("ignore_mismatched_sizes")))
        return getattr(transformers, self.model_class).from_pretrained(name, **{**self.model_settings(), **options})

    def model_settings(self) -> dict[str, Any]:
        """What the config of a model of this task says, for ``from_pretrained`` or a config's own constructor."""
        names = self.class_names
        if not names:
            return {}
        return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}

    def adaptor(
        self, model: nn.Module, features: frozenset[str] = frozenset(), *, teacher: bool = False
    ) -> TaskAdaptor:
        """What a model's outputs mean for this task.

        Args:
            model: the model.
            features: the intermediate features that matches read of it; see :meth:`adaptors`.
            teacher: whether it is a teacher.

        Raises:
            ConfigError: the model has other labels.
        """
        self._require_labels(getattr(model, "config", None), "labels of the teacher" if teacher else "labels", teacher)
        return TaskAdaptor(self, model, features, teacher=teacher)

    def adaptors(
        self, teacher: nn.Module, student: nn.Module, distill_config: DistillationConfig
    ) -> tuple[TaskAdaptor, TaskAdaptor]:
        """``(adaptor_T, adaptor_S)`` for a distiller of these models by this config.

        Raises:
            ConfigError: a model has other labels, or the config's soft-label loss does not fit the task.
        """
        loss, fitting = distill_config.kd_loss_type, self.soft_losses
        name = None if callable(loss) else asked(loss)[0]
        if fitting and name is not None and name not in fitting and distill_config.kd_loss_weight:
            hint = "a softmax over its outputs says nothing that is true"
            problem = Problem("kd_loss_type", one_of(fitting), repr(loss), hint)
            raise ConfigError(f"DistillationConfig for {self.name}", [problem])
        features = frozenset(match.feature for match in distill_config.intermediate_matches)
        return self.adaptor(teacher, features, teacher=True), self.adaptor(student, features)

    def evaluate(
        self, model: nn.Module, data: Encoded | DataLoader[Any], batch_size: int = 64, **args: Any
    ) -> dict[str, float]:
        """Scores of a model; its modes are left as they were.

        Args:
            model: any module that gives this task's logits.
            data: encoded rows with labels, or a loader of them; the order of a loader does not matter.
            batch_size: sequences of a batch, where ``data`` is no loader.
            **args: extra keywords of every forward pass.

        Raises:
            DataError: rows without labels, or a loader of something else.
        """
        if isinstance(data, DataLoader):
            if not isinstance(data.dataset, Encoded):
                raise DataError(f"evaluate: expected a loader of encode(…), got one of {type(data.dataset).__name__}")
            given, data = data.batch_size, data.dataset
            batch_size = given * data.sequences if given else batch_size
        if not isinstance(data, Encoded):
            raise DataError(f"evaluate: expected what encode(…) gives, or a loader of it, got {type(data).__name__}")
        missing = [i + 1 for i, row in enumerate(data.rows) if row[self.target] is None]
        if missing or not data.rows:
            raise DataError(
                f"evaluate: {count_of(len(missing), 'row')} of {len(data.rows)} without a label "
                f"(the first is row {missing[0]})"
                if missing
                else "evaluate: there are no rows"
            )
        return self.score(self.decoded(self._logits(model, data, batch_size, args), data), data.rows)

    def predict(
        self,
        model: nn.Module,
        inputs: Any,
        tokenizer: Any,
        batch_size: int = 64,
        *,
        columns: Mapping[str, Column] | None = None,
        **args: Any,
    ) -> list[dict[str, Any]]:
        """What a model says of each input, in plain Python values, in the order of the inputs.

        Args:
            model: any module that gives this task's logits.
            inputs: a list with a text or a dict for each row, or what :meth:`rows` takes.
            tokenizer: of Transformers.
            batch_size: sequences of a batch.
            columns: the column of each thing the task reads; what is left out is guessed.
            **args: extra keywords of every forward pass.

        Raises:
            DataError: ``inputs`` is no list, or an input is not of this task.
        """
        if isinstance(inputs, (str, bytes, Mapping)):
            raise DataError(f"predict: expected a list of inputs, got one {type(inputs).__name__}; write [input]")
        if isinstance(inputs, Rows):
            rows = inputs
        else:
            table = Table.of([self.record(given) for given in inputs] if isinstance(inputs, Sequence) else inputs)
            if not len(table):
                return []
            rows = self._rows(table, columns, False, "refuse", keep_all=True)
        encoded = self.asked(rows, tokenizer)
        return self.decoded(self._logits(model, encoded, batch_size, args), encoded)

    @torch.no_grad()
    def _logits(self, model: nn.Module, encoded: Encoded, batch_size: int, args: Mapping[str, Any]) -> list[Any]:
        """What :meth:`by_feature` keeps of a model's logits, of every feature."""
        adaptor = self.adaptor(model)
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        # Rows of like lengths together, so that little is padded.
        order = sorted(range(len(encoded)), key=encoded.lengths.__getitem__, reverse=True)
        found: list[Any] = [None] * len(encoded)
        size = max(1, batch_size // encoded.sequences)
        with modes_kept(model), adaptor.ready():
            model.eval()
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                batch = to_device(sides(encoded.padding([encoded[i] for i in chosen])).student, device)
                logits = adaptor.logits(batch, call(model, adaptor.feed(batch), {**adaptor.request(), **args}))
                for i, row in zip(chosen, self.by_feature(logits, batch), strict=True):
                    found[i] = row
        return found

    def _require_head(self, config: Any, renewed: bool) -> None:
        """Refuse a checkpoint whose head is for something else, and say how to get a new head.

        Transformers puts a new one only where the number of outputs differs. With as many of them the old one would
        stay and its classes be called something else, so that is refused even where a new one is asked for.
        """
        found, wanted = config.num_labels, len(self.class_names) or self.model_settings().get("num_labels")
        differs = wanted is not None and wanted != found
        if differs and renewed:
            return
        way_out = _NEW_HEAD if differs else _BARE
        self._require_labels(config, "labels", way_out=way_out)
        if differs:
            raise ConfigError(f"{self.name} and its model", [Problem("num_labels", str(wanted), str(found), way_out)])

    def _require_labels(self, config: Any, where: str, teacher: bool = False, way_out: str = "") -> None:
        """Refuse a model whose labels are not the task's.

        A teacher may name the same labels in another order: distillers map those by name, or refuse them.
        ``way_out`` says what else can be done.
        """
        found, wanted = label_names(config), self.class_names
        if not wanted or found is None:
            return
        if found == wanted or (are_unnamed(found) and len(found) == len(wanted)):
            return
        if teacher and sorted(found) == sorted(wanted):
            return
        hint = "make the task with the model's labels, and map what the data calls them"
        hint += f"; {way_out}" if way_out else ""
        raise ConfigError(f"{self.name} and its model", [Problem(where, str(wanted), str(found), hint)])


def _refusal(source: str, faults: Sequence[Finding]) -> str:
    shown = [str(finding) for finding in faults[:10]]
    if len(faults) > len(shown):
        shown.append(f"and {count_of(len(faults) - len(shown), 'kind')} more")
    number = sum(finding.number for finding in faults)
    return "\n  ".join(
        [
            f"{source}: {count_of(number, 'label')} that cannot be used",
            *shown,
            "correct the data, map its names in the task, or bad_labels='unlabelled' keeps such rows without a label",
        ]
    )


def unpadded(logits: Any, mask: Tensor) -> list[Any]:
    """Logits row by row as NumPy arrays; those of tokens, 3-d or in a list, without what stands on padding."""
    real = mask.cpu().numpy() != 0
    if isinstance(logits, list):
        rows = [_numpy(each) for each in logits]
        return [[each[i][real[i]] for each in rows] for i in range(len(real))]
    values = _numpy(logits)
    return [row[own] for row, own in zip(values, real, strict=True)] if values.ndim == 3 else list(values)


def _numpy(tensor: Tensor) -> Any:
    return tensor.float().cpu().numpy()


def softmax(logits: Any) -> Any:
    """Probabilities over the last axis, in float64."""
    shifted = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
