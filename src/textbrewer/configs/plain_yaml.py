"""YAML of plain values, as recipes are written in."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml

from ..errors import ConfigError, Problem


class _Loader(yaml.SafeLoader):
    """Plain values alone. A key that stands twice is an error, and so is an alias, by which a small file grows huge."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = cast(Any, self).peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read in a recipe", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(cast(Any, node), deep)


class _Dumper(yaml.SafeDumper):
    """Writes what the loader reads as it was: no aliases, and quotes around a text that it would take for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.1 takes 1e-4 for a text, and every learning rate is written so.
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def yaml_text(value: Any, width: int = 100, *, on_one_line: bool = False) -> str:
    """Plain values as :func:`yaml_value` reads them.

    >>> yaml_text({"labels": ["1e5", "no"]}, on_one_line=True)
    "{labels: ['1e5', 'no']}\\n"
    """
    how: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": width}
    return str(yaml.dump(value, Dumper=_Dumper, default_flow_style=on_one_line, **how))


def yaml_value(text: str, title: str) -> Any:
    """What a text says in YAML, read with the safe loader.

    Raises:
        ConfigError: it is no YAML, or asks for more than plain values.

    >>> yaml_value("1e-4", "learning rate")
    0.0001
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "(the whole file)" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        said = getattr(error, "problem", None) or str(error)
        raise ConfigError(title, [Problem(where, "YAML of plain values", said)]) from None
    except (ValueError, RecursionError) as error:  # of a date that is none, or of lists in lists in lists
        raise ConfigError(title, [Problem("(the whole file)", "YAML of plain values", str(error))]) from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says.

    Raises:
        ConfigError: it cannot be read as such.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = Problem(
            "(the whole file)", "text in UTF-8", f"byte {error.object[error.start]:#04x} at {error.start}"
        )
        raise ConfigError(str(path), [problem]) from None
    except OSError as error:
        raise ConfigError(str(path), [Problem("(the whole file)", "a file", str(error.strerror))]) from None
    return yaml_value(text, str(path))
