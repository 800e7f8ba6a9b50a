"""Models by folder or name, with the tokenizer and the task that go with them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..configs.recipe import TeacherSettings
from ..errors import ConfigError, DataError, Problem, StudentError, TextBrewerError, first_line
from ..export import export_settings, served_in
from ..export.inferred import task_for
from ..files import replaced
from ..students.loading import load_model, transformers_class
from ..students.saving import CONFIG_FILE
from ..tasks import Task
from ..tasks._needed import needed
from ..tasks.named import task_from

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
RECORD = "record.json"
"""The file beside a model that says how a run made it."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to be used.

    Attributes:
        name: the folder, or the name of the hub.
        model: in eval mode.
        tokenizer: that goes with it.
        task: what it does.
    """

    name: str
    model: Any
    tokenizer: Any
    task: Task


def load(name: str | os.PathLike[str], task: Task | None = None) -> Loaded:
    """A model with its tokenizer and its task: as its run recorded it, else as its head tells.

    Of an exported folder it is the ONNX file that the folder serves, a :class:`~textbrewer.export.OnnxModel`.

    Raises:
        ConfigError: there is no such model.
        DataError: it has no tokenizer.
        UnsupportedError: its head is of no task.
        MissingDependencyError: onnxruntime, which an exported folder needs, is not installed.
    """
    settings = export_settings(name)
    if settings is not None:
        model, told = served_in(name, settings), task_from(settings.get("settings"))
    else:
        model, told = any_model(name), task_from((record_in(name) or {}).get("task"))
    tokenizer = tokenizer_of(name)
    return Loaded(os.fspath(name), model, tokenizer, task or told or task_for(model, tokenizer))


def any_model(name: str | os.PathLike[str], *, revision: str | None = None) -> Any:
    """The model in a folder or of the hub, with the head it was saved with, in eval mode. Code beside it is not run.

    Raises:
        ConfigError: there is no such model, or an exported one.
    """
    if export_settings(name) is not None:
        way_out = "give the model that it was exported from; evaluate and predict take this one too"
        raise ConfigError("model", [Problem(os.fspath(name), "a PyTorch model", "an exported one", way_out)])
    if Path(name).is_dir():
        with _named(name):
            return load_model(Path(name))
    config = config_of(name, revision=revision)
    found = transformers_class(next(iter(config.architectures or []), None))
    if found is None:
        raise StudentError(f"{name}: its config names no model class that Transformers has: {config.architectures}")
    with _named(name):
        return found.from_pretrained(name, revision=revision, trust_remote_code=False).eval()


def hub_options(teacher: TeacherSettings) -> dict[str, Any]:
    """What is said beside the name of a teacher wherever something of it is loaded."""
    return {"revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}


def config_of(name: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The Transformers config of a folder or a name of the hub; None of a student that is this library's own.

    Raises:
        ConfigError: there is no such model.
    """
    path = Path(name)
    if path.exists():
        if not (path / CONFIG_FILE).is_file():
            raise ConfigError("model", [Problem(os.fspath(name), f"a folder with {CONFIG_FILE}", "none in it")])
        if _is_own(path):
            return None
    transformers = needed("transformers", "transformers", "loading a model")
    with _named(name):
        return transformers.AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


def tokenizer_of(name: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a folder or of the hub.

    Raises:
        DataError: there is none.
    """
    transformers = needed("transformers", "transformers", "reading a tokenizer")
    try:
        return transformers.AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises Exception itself
        reason = first_line(error)
        raise DataError(f"{name}: no tokenizer can be read from it: {reason}") from None


def has_tokenizer(name: str | os.PathLike[str]) -> bool:
    """Whether a tokenizer lies beside a model; of the hub's it is taken to."""
    return not Path(name).is_dir() or any((Path(name) / file).is_file() for file in _TOKENIZER_FILES)


def is_trained_for(name: str | os.PathLike[str], model_class: str, **options: Any) -> bool:
    """Whether a model has the head that a task's class of models has, so that it need not be fine-tuned first.

    Args:
        name: a folder or a name of the hub.
        model_class: the task's.
        **options: of :func:`config_of`.
    """
    config = config_of(name, **options)
    head = model_class.rpartition("For")[2]
    if config is None or head == model_class:
        return True  # it is one of this library, or needs no head
    return any(each.rpartition("For")[2] == head for each in config.architectures or [])


def teacher_of(name: str, task: Task, **options: Any) -> Any:
    """A teacher with this task's head, in eval mode; a head that it lacks is random.

    Args:
        name: a folder or a name of the hub.
        task: whose head it has.
        **options: of :func:`config_of`.

    Raises:
        ConfigError: there is no such model, it has no such head, or its labels are others.
    """
    own = config_of(name, **options) is None
    with _named(name):
        if own:
            return load_model(name)
        return task.load(name, **{"trust_remote_code": False, **options}).eval()


def _is_own(folder: Path) -> bool:
    """Whether a folder holds a student of this library, whose config says ``architecture``; Transformers' does not."""
    try:
        return "architecture" in json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        raise ConfigError(
            "model", [Problem(str(folder / CONFIG_FILE), "a model's config in JSON", "no JSON")]
        ) from None


@contextmanager
def _named(name: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one line that a name leads nowhere."""
    try:
        yield
    except TextBrewerError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = first_line(error)
        # Transformers' own words for what it refuses to run.
        hint = "teacher.trust_remote_code: true runs it" if "custom code" in reason else ""
        problem = Problem(os.fspath(name), "a folder with a model, or a name that the hub gives", reason, hint)
        raise ConfigError("model", [problem]) from None


# What a run writes beside a model.


def record_in(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The record of a model; None where there is none that can be read."""
    try:
        record = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a record; it is whole at any instant."""
    with replaced(folder / RECORD) as beside:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
