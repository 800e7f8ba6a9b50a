"""What was found in data, counted and named, in one report that prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...errors import count_of

SHOWN = 5
"""How many places a finding names."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong or odd.

    Attributes:
        what: in words, for one row, e.g. ``row without text``.
        number: how many there are.
        places: where the first of them stand.
        action: what was done about them, e.g. ``left out``.

    >>> print(Finding("row without text", 7, ("line 3", "line 9"), "left out"))
    7 rows without text, left out: line 3, line 9 and 5 more
    """

    what: str
    number: int
    places: tuple[str, ...] = ()
    action: str = ""

    def __str__(self) -> str:
        noun, space, rest = self.what.partition(" ")
        text = count_of(self.number, noun).replace(str(self.number), f"{self.number:,}", 1) + space + rest
        if self.action:
            text += f", {self.action}"
        if self.places:
            more = self.number - len(self.places)
            text += f": {', '.join(self.places)}" + (f" and {more:,} more" if more > 0 else "")
        return text


class Tally:
    """Counts things by kind, and remembers where the first of each kind stand."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._places: dict[tuple[str, str], list[str]] = {}

    def add(self, what: str, place: str, action: str = "") -> None:
        """One more ``what`` at ``place``; see :class:`Finding`."""
        key = (what, action)
        self._numbers[key] = self._numbers.get(key, 0) + 1
        places = self._places.setdefault(key, [])
        if len(places) < SHOWN:
            places.append(place)

    def findings(self) -> tuple[Finding, ...]:
        """All of it, in the order of first sight."""
        return tuple(
            Finding(what, number, tuple(self._places[what, action]), action)
            for (what, action), number in self._numbers.items()
        )


@dataclass(frozen=True)
class Lengths:
    """How long the encoded rows are, in tokens, special tokens included.

    Attributes:
        longest: of the rows as they are, before anything is cut.
        limit: the longest sequence a model is fed.
        longer: how many rows are longer than ``limit``.
        action: what was done with those.
    """

    longest: int
    limit: int
    longer: int
    action: str

    def __str__(self) -> str:
        text = f"longest row: {self.longest:,} tokens, limit {self.limit:,}"
        return f"{text}; {count_of(self.longer, 'row')} longer, {self.action}" if self.longer else text


@dataclass(frozen=True)
class DataReport:
    """What became of one source of data.

    Attributes:
        source: the file, folder or name it was read from.
        rows: how many it has.
        used: how many of them are used.
        labelled: how many of those have a label.
        columns: what the task needs, and the column it is taken from.
        guessed: the keys of ``columns`` that were guessed.
        labels: the number of rows (or entities) of each label.
        findings: what is wrong or odd, with places.
        notes: decisions that were taken while reading.
        lengths: known once the rows are encoded.
    """

    source: str
    rows: int
    used: int
    labelled: int
    columns: Mapping[str, str] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    lengths: Lengths | None = None

    def count(self, what: str) -> int:
        """How many findings of a kind there are; 0 for a kind that was not found. ``what`` may be its beginning."""
        return sum(finding.number for finding in self.findings if finding.what.startswith(what))

    def with_lengths(self, lengths: Lengths, findings: tuple[Finding, ...] = ()) -> DataReport:
        """The report, once the rows are encoded."""
        return replace(self, lengths=lengths, findings=(*self.findings, *findings))

    def __str__(self) -> str:
        labelled = "none" if not self.labelled else "all" if self.labelled == self.used else f"{self.labelled:,}"
        lines = [f"{self.source}: {self.rows:,} rows, {self.used:,} used, {labelled} with labels"]
        if self.columns:
            taken = [
                f"{key} from {column}{' (guessed)' if key in self.guessed else ''}"
                for key, column in self.columns.items()
            ]
            lines.append(f"columns: {', '.join(taken)}")
        if self.labels:
            lines.append("labels: " + ", ".join(f"{name} {number:,}" for name, number in self.labels.items()))
        lines += [*self.notes, *map(str, self.findings)]
        if self.lengths is not None:
            lines.append(str(self.lengths))
        return "\n  ".join(lines)
