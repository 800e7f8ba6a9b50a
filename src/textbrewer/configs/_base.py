"""What every config shares: validation with all errors at once, printing, and reading from files."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Self, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ..errors import ConfigError, Problem, did_you_mean, one_of

C = TypeVar("C")

# Validators are built when a config is first made, not when the library is imported.
_RULES = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True, defer_build=True)


@dataclass_transform()
def config_class(cls: type[C]) -> type[C]:
    """Make ``cls`` a validated dataclass whose every failure is one :class:`ConfigError`.

    Arguments may be given by position or keyword; attributes may be changed later and are checked then too.
    """
    built = cast(Any, pydantic_dataclass(config=_RULES)(cls))
    known = [f.name for f in fields(built)]
    ours = {
        "__init__": _with_config_errors(built, "__init__", known),
        "__setattr__": _undone_when_refused(_with_config_errors(built, "__setattr__", known)),
        "__signature__": _signature_of(built),
    }
    built._ours = ours
    _put_back(built)
    return cast(type[C], built)


def _put_back(built: Any) -> None:
    """Building the deferred validator replaces some of these by pydantic's own."""
    for name, value in built._ours.items():
        if vars(built).get(name) is not value:
            setattr(built, name, value)


def _signature_of(built: Any) -> inspect.Signature:
    def default_of(field: Any) -> Any:
        if field.default is not MISSING:
            default = field.default
            return default.get_default(call_default_factory=True) if isinstance(default, FieldInfo) else default
        return inspect.Parameter.empty if field.default_factory is MISSING else field.default_factory()

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(f.name, kind, default=default_of(f), annotation=f.type) for f in fields(built)]
    return inspect.Signature(parameters)


def _undone_when_refused(method: Callable[..., None]) -> Callable[..., None]:
    """Pydantic checks the config as a whole after it has stored the value; a refused one must not stay."""

    @functools.wraps(method)
    def checked(self: Any, name: str, value: Any) -> None:
        before = dict(vars(self))
        try:
            method(self, name, value)
        except ConfigError:
            vars(self).clear()
            vars(self).update(before)
            raise

    return checked


def _with_config_errors(built: Any, name: str, known: list[str]) -> Callable[..., None]:
    method = getattr(built, name)

    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except ValidationError as error:
            raise ConfigError(built.__name__, problems_of(error, known)) from None
        finally:
            _put_back(built)

    return checked


def validated(model_class: type[C], values: Mapping[str, Any], title: str) -> C:
    """Build ``model_class`` from a mapping.

    Raises:
        ConfigError: with every problem in ``values``, under ``title``.
    """
    known = [f.name for f in fields(cast(Any, model_class))]
    if not isinstance(values, Mapping):
        raise ConfigError(title, [Problem("(the whole file)", "a mapping of keys to values", repr(values))])
    try:
        return TypeAdapter(model_class).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError(title, problems_of(error, known)) from None


def reject(expected: str, *, got: object = None, hint: str = "") -> PydanticCustomError:
    """The error a field validator raises: what was expected there, and what to write instead."""
    context = {"expected": expected, "hint": hint}
    if got is not None:
        context["got"] = repr(got)
    return PydanticCustomError("textbrewer", "{expected}", context)


def known_name(value: Any, known: Iterable[str]) -> Any:
    """Pass ``value`` through if it is a known name; otherwise :func:`reject` it with the nearest one."""
    names = list(known)
    if value not in names:
        raise reject(one_of(names), hint=did_you_mean(value, names))
    return value


def problems_of(error: ValidationError, known: list[str]) -> list[Problem]:
    """Pydantic's errors in our words."""
    items = [cast(dict[str, Any], item) for item in error.errors(include_url=False)]
    deepest: dict[str, Problem] = {}
    for item in items:
        plain = tuple(part for part in item["loc"] if not _is_union_branch(part))
        problem = _problem({**item, "loc": plain}, known)
        # A value that fits no branch of a union fails once for each: the branch that went deepest knows best.
        above = [path for path in deepest if plain != item["loc"] and problem.path.startswith(path)]
        if any(path == problem.path for path in above):
            continue
        for path in above:
            del deepest[path]
        if plain == item["loc"] or not any(path.startswith(problem.path) for path in deepest):
            deepest[problem.path] = problem
    return list(deepest.values())


def _wanted(message: str) -> str:
    """What pydantic says that a value should be.

    >>> _wanted("List should have at least 2 items after validation, not 1")
    'at least 2 items'
    """
    return re.sub(r"^\w+ should (?:be|have) | after validation, not .*$", "", message)


def _is_union_branch(part: object) -> bool:
    """Whether a part of an error's location is pydantic's name for a branch of a union rather than a key."""
    return isinstance(part, str) and (part in ("str", "int", "none", "callable") or part.endswith(("]", ")")))


def _problem(item: dict[str, Any], known: list[str]) -> Problem:
    location = item["loc"]
    if location and isinstance(location[0], int) and location[0] < len(known):
        location = (known[location[0]], *location[1:])  # given by position
    path, kind, context = _path(location), item["type"], item.get("ctx", {})
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        names = known if len(item["loc"]) == 1 else item_keys(item["loc"])
        return Problem(
            path, one_of(names), f"the unknown key {item['loc'][-1]!r}", did_you_mean(item["loc"][-1], names)
        )
    if kind == "no_such_attribute":
        return Problem(path, one_of(known), "an unknown attribute", did_you_mean(context["attribute"], known))
    if kind == "unexpected_positional_argument":
        return Problem(path, f"at most {len(known)} positional arguments", repr(item["input"]))
    if kind in ("missing", "missing_argument"):
        return Problem(path, "a value", "nothing")
    expected = context["expected"] if kind == "textbrewer" else _wanted(item["msg"])
    hint = context.get("hint", "") or (
        "give one, or leave the key out for its default" if item["input"] is None else ""
    )
    return Problem(path, expected, context.get("got", repr(item["input"])), hint)


def item_keys(location: tuple[Any, ...]) -> list[str]:
    """The keys known inside a nested config, by where it stands."""
    from .distillation import IntermediateMatch

    return [f.name for f in fields(cast(Any, IntermediateMatch))] if location[0] == "intermediate_matches" else []


def _path(location: tuple[Any, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "(the whole config)"


class Config:
    """Printing and reading, for every config that users name by file."""

    def __str__(self) -> str:
        return "".join(f"{f.name} : {getattr(self, f.name)}\n" for f in fields(cast(Any, self)))

    @classmethod
    def from_dict(cls, dict_object: Mapping[str, Any]) -> Self:
        """Build from a mapping; raises :class:`ConfigError` with every problem in it."""
        return validated(cls, dict_object, cls.__name__)

    @classmethod
    def from_json_file(cls, json_filename: str | Path) -> Self:
        """Build from a JSON file (UTF-8)."""
        text = Path(json_filename).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(str(json_filename), [Problem(f"line {error.lineno}", "JSON", error.msg)]) from None
        return validated(cls, values, f"{cls.__name__} in {json_filename}")

    @classmethod
    def from_yaml_file(cls, yaml_filename: str | Path) -> Self:
        """Build from a YAML file (UTF-8), read with the safe loader."""
        import yaml

        text = Path(yaml_filename).read_text(encoding="utf-8")
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(str(yaml_filename), [Problem("(the whole file)", "YAML", str(error))]) from None
        return validated(cls, {} if values is None else values, f"{cls.__name__} in {yaml_filename}")
