"""Chunk tags: IOB1, IOB2 and IOBES, read, checked, converted and written.

A tag is ``O``, or a prefix and a type: ``B-LOC``. ``B`` begins an entity, ``I`` continues one, ``E`` ends one and ``S``
is a whole one. In IOB2 each entity begins with ``B``. In IOB1 (Ramshaw & Marcus, cmp-lg/9505040) only one that follows
another of its type at once does, and the others begin with ``I``. IOBES marks ends too. BMES and BILOU are IOBES in
other letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from ..errors import DataError, one_of

Scheme: TypeAlias = Literal["iob1", "iob2", "iobes"]

OUTSIDE = "O"
_PREFIXES = {"B": "B", "I": "I", "E": "E", "S": "S", "M": "I", "L": "E", "U": "S"}


class Entity(NamedTuple):
    """A run of tokens of one type; ``end`` is the first token after it."""

    type: str
    start: int
    end: int


class TagError(DataError):
    """A tag that its scheme does not allow where it stands.

    Attributes:
        index: which tag of the sequence.
        reason: what is wrong with it.
    """

    def __init__(self, index: int, reason: str) -> None:
        self.index = index
        self.reason = reason
        super().__init__(f"tag {index + 1}: {reason}")

    def __reduce__(self) -> tuple[type[TagError], tuple[int, str]]:
        return type(self), (self.index, self.reason)


def parts_of(tag: str) -> tuple[str, str]:
    """The prefix, in IOBES letters, and the type of a tag; ``("O", "")`` outside.

    Raises:
        ValueError: it is not of this form.

    >>> parts_of("M-creative-work")
    ('I', 'creative-work')
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, _, kind = tag.partition("-")
    if prefix not in _PREFIXES or not kind:
        raise ValueError(f"{tag!r} is neither 'O' nor a prefix among {', '.join(_PREFIXES)} with '-' and a type")
    return _PREFIXES[prefix], kind


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of any tags, well-formed or not, as CoNLL's scorer and seqeval read them.

    An entity ends before ``O``, ``B``, ``S`` and another type, and after ``E`` and ``S``; any tag but ``O`` begins one
    where none is open. So predictions can be read whatever a model says.

    >>> entities(["B-LOC", "I-LOC", "O", "I-PER", "I-LOC"])
    [Entity(type='LOC', start=0, end=2), Entity(type='PER', start=3, end=4), Entity(type='LOC', start=4, end=5)]
    """
    found: list[Entity] = []
    start, open_type, before = 0, "", OUTSIDE
    for i, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = parts_of(tag)
        if open_type and (prefix in ("O", "B", "S") or kind != open_type or before in ("E", "S")):
            found.append(Entity(open_type, start, i))
            open_type = ""
        if prefix != OUTSIDE and not open_type:
            start, open_type = i, kind
        before = prefix
    return found


def checked(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """The entities of well-formed tags.

    Raises:
        TagError: a tag that ``scheme`` does not allow where it stands.
    """
    open_type = ""
    for i, tag in enumerate(tags):
        try:
            prefix, kind = parts_of(tag)
        except ValueError as error:
            raise TagError(i, str(error)) from None
        if scheme != "iobes" and prefix in ("E", "S"):
            raise TagError(i, f"{tag!r} is no tag of {scheme.upper()}; is the scheme IOBES?")
        continues = prefix in ("I", "E") and kind == open_type
        if scheme != "iob1" and prefix in ("I", "E") and not continues:
            after = "at the start" if i == 0 else f"after {tags[i - 1]!r}"
            raise TagError(i, f"{tag!r} {after} continues no {kind!r}; {scheme.upper()} begins with 'B-{kind}'")
        if scheme == "iobes" and open_type and not continues:
            raise TagError(i, f"{tag!r} after {tags[i - 1]!r}, which needs 'I-{open_type}' or 'E-{open_type}' next")
        open_type = "" if prefix in ("E", "S", OUTSIDE) else kind
    if scheme == "iobes" and open_type:
        raise TagError(len(tags) - 1, f"{tags[-1]!r} at the end, where the entity needs 'E-{open_type}'")
    return entities(tags)


def written(found: Iterable[Entity], length: int, scheme: Scheme) -> list[str]:
    """Tags for entities that do not overlap.

    >>> written([Entity("LOC", 0, 2), Entity("LOC", 2, 3)], 4, "iob1")
    ['I-LOC', 'I-LOC', 'B-LOC', 'O']
    """
    tags = [OUTSIDE] * length
    last = Entity("", -1, -1)
    for entity in sorted(found, key=lambda each: each.start):
        kind, start, end = entity
        adjacent = last.end == start and last.type == kind
        first = "I" if scheme == "iob1" and not adjacent else "B"
        tags[start:end] = [f"{first}-{kind}", *[f"I-{kind}"] * (end - start - 1)]
        if scheme == "iobes":
            tags[end - 1] = f"{'S' if end - start == 1 else 'E'}-{kind}"
        last = entity
    return tags


def converted(tags: Sequence[str], source: Scheme, target: Scheme) -> list[str]:
    """Tags in another scheme.

    Raises:
        TagError: they are not well-formed in ``source``.

    >>> converted(["I-LOC", "I-LOC", "B-LOC", "O"], "iob1", "iobes")
    ['B-LOC', 'E-LOC', 'S-LOC', 'O']
    """
    return written(checked(tags, source), len(tags), target)


def scheme_of(sequences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme that sequences are in: IOBES if any ends are marked, IOB1 if most entities begin with ``I``."""
    begins = {"B": 0, "I": 0}
    for tags in sequences:
        kind_before = ""
        for tag in tags:
            prefix, _, kind = tag.partition("-")
            if prefix in ("E", "S", "M", "L", "U") and kind:
                return "iobes"
            # Only a beginning that does not follow its own type tells the schemes apart.
            if prefix in begins and kind and kind != kind_before:
                begins[prefix] += 1
            kind_before = kind
    return "iob1" if begins["I"] > begins["B"] else "iob2"


def tag_names(types: Iterable[str], scheme: Literal["iob2", "iobes"]) -> list[str]:
    """The classes of a tagger for entity types: ``O``, then every prefix of each type.

    >>> tag_names(["LOC"], "iob2")
    ['O', 'B-LOC', 'I-LOC']
    """
    if scheme not in ("iob2", "iobes"):
        raise DataError(f"a tagger's scheme: expected {one_of(['iob2', 'iobes'])}, got {scheme!r}")
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in ("BI" if scheme == "iob2" else "BIES"))]
