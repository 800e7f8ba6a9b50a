"""Saved models, whoever's they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError, StudentError
from .bigru import BiGRUStudent
from .multi_task import MultiTaskStudent
from .saving import CONFIG_FILE

_OWN: dict[str, Any] = {student.__name__: student for student in (BiGRUStudent, MultiTaskStudent)}


def model_class_in(folder: str | Path) -> Any:
    """The class of the model in a folder that ``save_pretrained`` wrote: a student of this library or of Transformers.

    Raises:
        StudentError: the folder has no config, or one that names no known class.
        MissingDependencyError: it is of Transformers, which is not installed.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise StudentError(f"{folder}: expected a model written by save_pretrained, found no {CONFIG_FILE}")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudentError(f"{path}: expected JSON, {error}") from None
    name = described.get("architecture") or next(iter(described.get("architectures") or []), None)
    if name in _OWN:
        return _OWN[name]
    try:
        found = transformers_class(name)
    except ImportError:
        raise MissingDependencyError("transformers", "hf", f"loading {folder}") from None
    if found is None:
        raise StudentError(f"{folder}: {CONFIG_FILE} names the model class {name!r}, which Transformers does not have")
    return found


def transformers_class(name: Any) -> Any:
    """The model class of Transformers that a config names; None where there is none.

    A config is data: it names a model class, not whatever else Transformers has.
    """
    import transformers

    found = getattr(transformers, str(name), None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def load_model(folder: str | Path) -> Any:
    """The model in a folder, in eval mode; see :func:`model_class_in`."""
    return model_class_in(folder).from_pretrained(folder).eval()
