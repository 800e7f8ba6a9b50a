"""Names of classes: what a user writes, what data says, and which is which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from ..configs._base import reject
from ..errors import did_you_mean
from .data.report import Tally


def label_text(value: Any) -> str:
    """A label as it is compared: numbers without a fraction as whole ones, no spaces around.

    >>> label_text(1.0), label_text(" good ")
    ('1', 'good')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _label(value: Any) -> str:
    if isinstance(value, bool):
        raise reject("a name", hint="put it in quotes, since YAML reads yes and no as true and false")
    if not isinstance(value, (str, int, float)) or value == "":
        raise reject("a name")
    return label_text(value)


def label_names(value: Any) -> list[str]:
    """A list of names, as a config takes it."""
    if not isinstance(value, (list, tuple)):
        raise reject("a list of names")
    names = [_label(name) for name in value]
    if len(set(names)) < len(names):
        raise reject("each name once")
    return names


def _labels(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_label(key): _label(name) for key, name in value.items()}
    if not isinstance(value, (list, tuple)):
        raise reject("a list of names, or a mapping of what the data says to a name")
    return label_names(value)


Labels: TypeAlias = Annotated[list[str] | dict[str, str], BeforeValidator(_labels)]
"""The classes in the order of the model's, or what the data says mapped to them, in whose order they come."""


def names_of(labels: list[str] | dict[str, str]) -> list[str]:
    """The names of the classes.

    >>> names_of({"0": "negative", "1": "positive", "good": "positive"})
    ['negative', 'positive']
    """
    return list(dict.fromkeys(labels.values())) if isinstance(labels, dict) else list(labels)


def named(text: str, labels: list[str] | dict[str, str], faults: Tally, place: str) -> str | None:
    """The class that data means by ``text``; None, with a note in ``faults``, where there is none."""
    known = {name: name for name in names_of(labels)} | (labels if isinstance(labels, dict) else {})
    if text not in known:
        hint = did_you_mean(text, known)
        faults.add(f"label {text!r}" + (f" ({hint})" if hint else ""), place)
    return known.get(text)


def in_order(texts: Iterable[str]) -> list[str]:
    """Different labels in an order that depends on them alone: whole numbers by size, then others by the alphabet.

    >>> in_order(["10", "9", "a", "9"])
    ['9', '10', 'a']
    """
    return sorted(set(texts), key=lambda text: (0, int(text), "") if text.isdecimal() else (1, 0, text))


def number_in(value: Any, faults: Tally, place: str) -> float | None:
    """The number in a cell; None, with a note in ``faults``, where there is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    faults.add(f"label {value!r}, which is no number", place)
    return None
