"""The HTML page of a report: one file that needs no other, light or dark as its reader's system is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingDependencyError
from ..files import replaced
from .plots import DARK, LIGHT, Drawing, themed

_OPTIONAL: dict[str, Any] = {"headline": (), "tables": (), "examples": None, "code": None, "recipe": None}
_WIDE = 400
"""Plots that are wider, in points, take the whole width of the page."""
_LEAST, _MOST = 0.7, 1.25
"""The shares of their own width that plots are shown in: smaller text is not read, so that a plot is scrolled then."""


def write_page(path: str | Path, **values: Any) -> Path:
    """Fill ``templates/page.html.j2`` and write it to ``path``.

    Args:
        path: the file; an earlier one stays whole until the new one is.
        **values: ``title``, ``summary``, ``table`` (``columns``, ``rows``, the ``chosen`` column), ``plots`` (each
            ``title``, ``svg``, ``text``), ``settings`` (pairs) and ``notes``; and where there are any ``headline``
            (each ``figure``, ``unit``, ``text``), ``tables`` (each ``title``, ``text``, ``columns``, ``rows``),
            ``examples`` (``title``, ``text``, ``cards`` of a ``text`` and ``lines``, pairs), ``code`` and ``recipe``.
            All but the SVG is escaped.
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
    shown = {**_OPTIONAL, **values, "plots": [{**plot, **_fitted(plot["svg"])} for plot in values["plots"]]}
    text = templates.get_template("page.html.j2").render(light=LIGHT, dark=DARK, **shown)
    with replaced(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return Path(path)


def write_images(folder: str | Path, plots: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write each plot as ``NAME.svg`` and ``NAME.png``; other files in the folder stay.

    Args:
        folder: is made where it is not there.
        plots: as in :func:`write_page`, each with a ``name`` and its :class:`~textbrewer.report.plots.Drawing`.

    Raises:
        DataError: ``folder`` is a file.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise DataError(f"images: expected a folder, found the file {folder}")
    files: dict[Path, bytes] = {}
    for plot in plots:
        drawing: Drawing = plot["svg"]
        files[Path(folder) / f"{plot['name']}.svg"] = drawing.encode("utf-8")
        files[Path(folder) / f"{plot['name']}.png"] = drawing.png()
    for file, content in files.items():
        with replaced(file) as beside:
            beside.write_bytes(content)
    return list(files)


def versions_line(versions: Mapping[str, str]) -> str:
    """Versions by package as a page tells them.

    >>> versions_line({"torch": "2.13.0", "python": "3.11"})
    'torch 2.13.0, python 3.11'
    """
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _fitted(svg: str) -> dict[str, Any]:
    """An SVG in the colours of the page, and how much room it takes."""
    width = re.match(r'<svg [^>]*?width="([\d.]+)pt"', svg)
    points = float(width[1]) if width else 0.0
    style = f"min-width: {_LEAST * points:.0f}pt; max-width: {_MOST * points:.0f}pt" if points else ""
    return {"svg": themed(svg), "wide": points > _WIDE, "style": style}
