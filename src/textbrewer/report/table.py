"""Tables as plain text, and printed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines: the first column to the left, the others to the right, and trailing spaces cut.

    >>> print(aligned([["", "MB"], ["teacher", "90.9"], ["student", "9.1"]]))
               MB
    teacher  90.9
    student   9.1
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """The mean, and behind it the standard deviation where there are several values.

    >>> spread([80.0, 81.0, 82.0]), spread([93.4])
    ('81.0 ± 1.0', '93.4')
    """
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def print_table(table: Mapping[str, Any]) -> None:
    """Print ``columns`` and ``rows`` to stdout, the column that is ``chosen`` in bold."""
    from rich.console import Console
    from rich.table import Table

    printed = Table(header_style="bold")
    for i, column in enumerate(table["columns"]):
        printed.add_column(column, justify="right" if i else "left", style="bold" if i == table["chosen"] else "")
    for row in table["rows"]:
        printed.add_row(*row)
    Console().print(printed)
