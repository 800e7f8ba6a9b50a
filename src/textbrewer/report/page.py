"""The HTML page of a report: one file that needs no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..files import replaced


def write_page(path: str | Path, **values: Any) -> Path:
    """Fill ``templates/page.html.j2`` and write it to ``path``.

    Args:
        path: the file; an earlier one stays whole until the new one is.
        **values: ``title``, ``summary``, ``table`` (``columns``, ``rows``), ``plots`` (each ``title``, ``svg``,
            ``text``), ``code``, ``settings`` (pairs) and ``notes``. All but the SVG is escaped.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    except ImportError:
        raise MissingDependencyError("jinja2", "report", "writing the page") from None
    templates = Environment(
        loader=PackageLoader("textbrewer.report"),
        autoescape=select_autoescape(("html.j2",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = templates.get_template("page.html.j2").render(**values)
    with replaced(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return Path(path)
