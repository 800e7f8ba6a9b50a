"""Doctests of docstrings as blocks of code: read as text, ``[(0, 0), …][…]`` would be a link."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts a fence around each block that begins with ``>>>``, up to the next empty line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with everything that is loaded."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = _DOCTEST.sub(lambda block: f"```pycon\n{block[0]}\n```", obj.docstring.value)
