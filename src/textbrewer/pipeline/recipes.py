"""From a file, with what is changed on the command line, to a recipe that can be carried out."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..configs.plain_yaml import read_yaml, yaml_value
from ..configs.recipe import OUTPUT_DIR, SHARED, SOURCES, Recipe, expanded
from ..data_utils import Augmenter
from ..errors import ConfigError, Problem, unknown_name
from ..export import Card
from ..students.build import OWN_SOURCES
from ..students.presets import STUDENT_PRESETS
from ..students.saving import CONFIG_FILE
from ..tasks import FORMATS, TASKS
from ..tasks.data.read import _looks_local, _near

RecipeLike = str | os.PathLike[str] | Mapping[str, Any] | Recipe
"""A YAML file, what one holds, or a recipe."""

_MODELS = (("teacher", "model"), ("teacher", "tokenizer"), ("student", "model"), ("student", "init"))
_DATA = tuple(("data", name, "path") for name in SOURCES)
_FOLDERS = (("output_dir",), ("cache", "path"))
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LONGEST_NAME = 96


def read_recipe(source: RecipeLike, overrides: Sequence[str] = ()) -> Recipe:
    """Read, change and check a recipe. Its paths are absolute then.

    Args:
        source: a YAML file, whose relative paths start at its folder; or what one holds, whose paths start here.
        overrides: ``key.path=value`` each, with the value in YAML; relative paths in it start here.

    Raises:
        ConfigError: with every problem at once.

    >>> recipe = read_recipe({"task": "text_regression", "teacher": "bert-base-cased", "data": "nyu-mll/glue"})
    >>> recipe.distillation.kd_loss_type, recipe.matches.rule, recipe.training.num_epochs
    ('logit_mse', 'uniform', 3)
    """
    title = f"recipe {os.fspath(source)}" if isinstance(source, (str, os.PathLike)) else "recipe"
    values, base = _values_of(source)
    values = copy.deepcopy(expanded(values))
    here = Path.cwd()
    problems: list[Problem] = []
    if isinstance(values, dict):
        values.setdefault("output_dir", OUTPUT_DIR)
        _locate(values, base)
        for override in overrides:
            values = _overridden(values, override, here, problems)
        _fill_in(values)
        problems += [*_unknown_names(values), *_wrong_places(values)]
    try:
        recipe = Recipe.from_dict(values)
    except ConfigError as error:
        problems = [*error.problems, *problems]
    if problems:
        raise ConfigError(title, list({each.path: each for each in reversed(problems)}.values())[::-1])
    # Once more, so that defaults have the types that they have when a stored recipe is read: 0 and 0.0 are two texts.
    return Recipe.from_dict(recipe.to_dict())


def _values_of(source: RecipeLike) -> tuple[Any, Path]:
    """What a recipe says, and where its relative paths start."""
    if isinstance(source, Recipe):
        return source.to_dict(), Path.cwd()
    if isinstance(source, Mapping):
        return source, Path.cwd()
    path = Path(source)
    if not path.is_file():
        raise ConfigError("recipe", [Problem(os.fspath(source), "a recipe in YAML", "no such file" + _near(path))])
    return read_yaml(path), path.absolute().parent


def _overridden(values: dict[str, Any], override: str, here: Path, problems: list[Problem]) -> dict[str, Any]:
    """The recipe with one key changed."""
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        problems.append(Problem(override, "key.path=value, as in training.num_epochs=10", "no such thing"))
        return values
    try:
        value = yaml_value(text, key)
    except ConfigError as error:
        problems += [replace(each, path=key) for each in error.problems]
        return values
    changed = copy.deepcopy(values)
    place: Any = changed
    for depth, name in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
            index: Any = int(name)
        elif isinstance(place, dict):
            index = name
        else:
            where, what = ".".join(keys[:depth]), f"a list of {len(place)}" if isinstance(place, list) else repr(place)
            problems.append(Problem(key, f"a mapping or an item at `{where}`", what))
            return values
        if last:
            place[index] = value
        else:
            if isinstance(place, dict) and place.get(index) is None:
                place[index] = {}
            place = place[index]
    changed = cast(dict[str, Any], expanded(changed))
    if keys[0] == "data" and len(keys) > 1 and keys[1] in SHARED:
        _say_of_all(changed["data"], keys[1:])
    _locate(changed, here, within=key.strip())
    return changed


def _say_of_all(data: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Let a change of what is said of all files with labels count for those, too, that say it themselves."""
    for name in SOURCES:
        holder = _at(data, (name, *keys[:-1]))
        if isinstance(holder, dict) and holder and name != "unlabelled":
            holder[keys[-1]] = copy.deepcopy(_at(data, keys))


def _fill_in(values: dict[str, Any]) -> None:
    """Defaults that depend on the task."""
    task = values.get("task")
    name = task.get("name") if isinstance(task, dict) else None
    if isinstance(task, dict) and name == "ranking":
        # A recipe loads and scores teacher and student alike: both are of one kind.
        task.setdefault("encoder", "cross")
        task.setdefault("teacher", task["encoder"])
    losses = TASKS[name].soft_losses if isinstance(name, str) and name in TASKS else ()
    if values.get("distillation") is None:
        values["distillation"] = {}
    distillation = values["distillation"]
    if losses and isinstance(distillation, dict):
        distillation.setdefault("kd_loss_type", losses[0])


# Names that stand for something.


def _unknown_names(values: Mapping[str, Any]) -> list[Problem]:
    """What a recipe calls by a name that nothing has, where only what is above the configs knows the names."""
    problems = _of_task(values.get("task"))
    student = values.get("student")
    if isinstance(student, dict) and isinstance(student.get("preset"), str):
        way_out = "a student that is there is `student: {model: folder}`"
        problems += _known(student["preset"], STUDENT_PRESETS, "student.preset", way_out)
    for keys in (("data", "format"), *(("data", name, "format") for name in SOURCES)):
        format = _at(values, keys)
        if isinstance(format, str):
            problems += _known(format, FORMATS, ".".join(keys))
    augmentation = values.get("augmentation")
    if isinstance(augmentation, dict):
        known = {key: augmentation[key] for key in ("n", "operations") if key in augmentation}
        problems += _raised("augmentation", lambda: Augmenter("text", **known))
    card = _at(values, ("export", "card"))
    if isinstance(card, dict):
        problems += _raised("export.card", lambda: Card.from_dict(card))
    return problems


def _of_task(task: Any) -> list[Problem]:
    if not isinstance(task, dict) or not isinstance(task.get("name"), str):
        return []
    if task["name"] not in TASKS:
        return _known(task["name"], TASKS, "task.name")
    kind = TASKS[task["name"]]
    names = [each.name for each in fields(cast(Any, kind))]
    settings = {key: value for key, value in task.items() if key != "name"}
    unknown = [each for key in settings if key not in names for each in _known(str(key), names, f"task.{key}")]
    known = {key: value for key, value in settings.items() if key in names}
    if "labels" in names and "labels" not in known:
        # They are found in the data; some stand in for them, so that the other settings are checked now.
        known = {key: value for key, value in known.items() if key != "threshold"}
        known["labels"] = ["O", "B-X", "I-X"]
    return [*unknown, *_raised("task", lambda: kind.from_dict(known))]


def _known(name: str, known: Any, path: str, way_out: str = "") -> list[Problem]:
    if name in known:
        return []
    return [unknown_name(path, name, known, way_out)]


def _raised(path: str, make: Callable[[], Any]) -> list[Problem]:
    """The problems of a config that is made, below ``path``."""
    try:
        make()
    except ConfigError as error:
        return [
            replace(each, path=path if each.path.startswith("(") else f"{path}.{each.path}") for each in error.problems
        ]
    except TypeError as error:
        return [Problem(path, "values that fit", str(error))]
    return []


# Paths.


class _Place(NamedTuple):
    """A text of a recipe that is a path.

    Attributes:
        keys: that lead to it, or to the list that it is in.
        holder: the mapping or the list.
        key: of the text there.
    """

    keys: tuple[str, ...]
    holder: Any
    key: Any

    @property
    def text(self) -> str:
        """The path itself."""
        return str(self.holder[self.key])

    def is_within(self, dotted: str) -> bool:
        """Whether it stands at a key of an override, or below."""
        own = (*self.keys, str(self.key)) if isinstance(self.key, int) else self.keys
        return f"{'.'.join(own)}.".startswith(f"{dotted}.")

    def __str__(self) -> str:
        return ".".join(self.keys) + (f"[{self.key}]" if isinstance(self.key, int) else "")


def _paths(values: Any) -> Iterator[_Place]:
    """Every text of a recipe that is a path."""
    for keys in (*_MODELS, *_DATA, *_FOLDERS):
        holder, key = _at(values, keys[:-1]), keys[-1]
        found = _at(values, keys)
        if keys == ("student", "init") and found in OWN_SOURCES:
            continue
        if isinstance(found, str):
            yield _Place(keys, holder, key)
        elif isinstance(found, list) and keys in _DATA:
            yield from (_Place(keys, found, place) for place, text in enumerate(found) if isinstance(text, str))


def _locate(values: dict[str, Any], base: Path, within: str = "") -> None:
    """Make local paths absolute; those below the key ``within`` alone. Names of the hub stay names."""
    for path in _paths(values):
        if _is_no_path(path.text) or (within and not path.is_within(within)):
            continue
        place = os.path.abspath(base / os.path.expanduser(path.text))
        is_pattern = path.keys in _DATA and has_magic(path.text)
        if path.keys in _FOLDERS or is_pattern or os.path.exists(place) or _looks_local(path.text):
            path.holder[path.key] = place


def _is_no_path(text: str) -> bool:
    return not text.strip() or any(ord(letter) < 32 for letter in text)


def _wrong_places(values: Mapping[str, Any]) -> list[Problem]:
    """Paths at which nothing is, or something else."""
    problems = []
    for path in _paths(values):
        keys, text, place = path.keys, path.text, Path(path.text)
        if _is_no_path(text):
            problems.append(Problem(str(path), "a path", repr(text)))
        elif keys in _FOLDERS:
            blocked = next((each for each in (place, *place.parents) if each.is_file()), None)
            if blocked is not None:
                problems.append(Problem(str(path), "a folder", f"the file {str(blocked)!r}"))
        elif place.is_absolute():
            problems += _wrong_file(keys, place, str(path))
        elif len(text) > _LONGEST_NAME or not _HUB_NAME.fullmatch(text) or ".." in text:
            problems.append(Problem(str(path), "a path, or a name of the hub", repr(text)))
    return problems


def _wrong_file(keys: tuple[str, ...], place: Path, path: str) -> list[Problem]:
    if keys in _DATA and glob(str(place)):  # a file or folder, or a pattern that some fit
        return []
    if not place.exists():
        what = "a file or folder with data" if keys in _DATA else "a folder with a model"
        near = _near(place).removeprefix("; ")
        return [Problem(path, what, f"{str(place)!r}, where nothing is", near)]
    if keys in _MODELS and keys != ("teacher", "tokenizer") and not (place / CONFIG_FILE).is_file():
        return [Problem(path, f"a folder written by save_pretrained, with {CONFIG_FILE}", repr(str(place)))]
    return []


def _at(values: Any, keys: Sequence[str]) -> Any:
    """What stands below nested keys; None where one of them is not there."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
