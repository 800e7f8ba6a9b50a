"""Chunk tags in three schemes: read, checked, converted, and read when they are wrong."""

from __future__ import annotations

import random

import pytest

from textbrewer.errors import DataError
from textbrewer.tasks.tags import (
    Entity,
    TagError,
    checked,
    converted,
    entities,
    parts_of,
    scheme_of,
    tag_names,
    written,
)

SCHEMES = ["iob1", "iob2", "iobes"]

# One sentence in every scheme: two places side by side, a name of one token, one of three.
SAME = {
    "iob1": ["I-LOC", "I-LOC", "B-LOC", "O", "I-PER", "I-PER", "I-PER", "I-ORG"],
    "iob2": ["B-LOC", "I-LOC", "B-LOC", "O", "B-PER", "I-PER", "I-PER", "B-ORG"],
    "iobes": ["B-LOC", "E-LOC", "S-LOC", "O", "B-PER", "I-PER", "E-PER", "S-ORG"],
}
FOUND = [Entity("LOC", 0, 2), Entity("LOC", 2, 3), Entity("PER", 4, 7), Entity("ORG", 7, 8)]


@pytest.mark.parametrize("source", SCHEMES)
@pytest.mark.parametrize("target", SCHEMES)
def test_every_scheme_to_every_other(source, target):
    assert checked(SAME[source], source) == FOUND
    assert converted(SAME[source], source, target) == SAME[target]


def random_entities(generator):
    length = generator.randint(1, 9)
    found, at = [], 0
    while at < length:
        end = generator.randint(at + 1, length)
        if generator.random() < 0.7:
            found.append(Entity(generator.choice(["A", "B-C"]), at, end))
        at = end
    return found, length


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_is_read_back(seed):
    found, length = random_entities(random.Random(seed))
    for scheme in SCHEMES:
        tags = written(found, length, scheme)
        assert len(tags) == length and checked(tags, scheme) == found == entities(tags)


@pytest.mark.parametrize("seed", range(30))
def test_any_tags_are_read_as_seqeval_reads_them(seed):
    reference = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    generator = random.Random(seed)
    tags = [generator.choice(["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y"]) for _ in range(12)]
    assert [(kind, start, end - 1) for kind, start, end in entities(tags)] == reference(tags)


@pytest.mark.parametrize(
    ("scheme", "tags", "index", "reason"),
    [
        ("iob2", ["O", "I-LOC"], 1, "'I-LOC' after 'O' continues no 'LOC'; IOB2 begins with 'B-LOC'"),
        ("iob2", ["B-PER", "I-LOC"], 1, "'I-LOC' after 'B-PER' continues no 'LOC'"),
        ("iob2", ["I-LOC"], 0, "'I-LOC' at the start"),
        ("iob2", ["S-LOC"], 0, "'S-LOC' is no tag of IOB2; is the scheme IOBES?"),
        ("iob1", ["E-LOC"], 0, "is no tag of IOB1"),
        ("iobes", ["B-LOC", "O"], 1, "'O' after 'B-LOC', which needs 'I-LOC' or 'E-LOC' next"),
        ("iobes", ["B-LOC", "S-LOC"], 1, "'S-LOC' after 'B-LOC'"),
        ("iobes", ["S-LOC", "E-LOC"], 1, "'E-LOC' after 'S-LOC' continues no 'LOC'"),
        ("iobes", ["O", "B-LOC"], 1, "at the end, where the entity needs 'E-LOC'"),
        ("iob2", ["LOC"], 0, "'LOC' is neither 'O' nor a prefix"),
        ("iob2", ["B-"], 0, "'B-' is neither"),
        ("iob2", ["X-LOC"], 0, "'X-LOC' is neither"),
    ],
)
def test_tags_that_a_scheme_does_not_allow(scheme, tags, index, reason):
    with pytest.raises(TagError) as error:
        checked(tags, scheme)
    assert error.value.index == index and reason in error.value.reason
    assert str(error.value) == f"tag {index + 1}: {error.value.reason}"


def test_iob1_begins_with_either():
    assert checked(["B-LOC", "I-LOC", "O", "I-LOC", "I-PER"], "iob1") == [
        Entity("LOC", 0, 2),
        Entity("LOC", 3, 4),
        Entity("PER", 4, 5),
    ]


def test_other_letters_for_iobes():
    bmes = ["B-PER", "M-PER", "E-PER", "S-LOC"]
    bilou = ["B-PER", "I-PER", "L-PER", "U-LOC"]
    assert checked(bmes, "iobes") == checked(bilou, "iobes") == [Entity("PER", 0, 3), Entity("LOC", 3, 4)]
    assert parts_of("U-a-b") == ("S", "a-b")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_scheme_is_found(scheme):
    assert scheme_of([["O"], SAME[scheme]]) == scheme


def test_one_slip_does_not_change_the_scheme():
    assert scheme_of([SAME["iob2"], ["O", "I-LOC"]]) == "iob2"
    assert scheme_of([["O"]]) == "iob2"
    assert scheme_of([["B-PER", "M-PER", "E-PER"]]) == "iobes"
    # A whole entity of one type beside another tells nothing.
    assert scheme_of([["I-A", "B-A", "B-A", "B-A"]]) == "iob1"


def test_the_classes_of_a_tagger():
    assert tag_names(["A", "B"], "iobes") == ["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B", "S-B"]
    with pytest.raises(DataError, match="one of 'iob2', 'iobes', got 'iob1'"):
        tag_names(["A"], "iob1")
