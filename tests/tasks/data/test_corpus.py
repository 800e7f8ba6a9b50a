"""Documents of files, from any of them on."""

from __future__ import annotations

import json

import pytest

from textbrewer.errors import DataError
from textbrewer.tasks import Corpus
from textbrewer.tasks.data.corpus import Place

TEXT = "\ufeffone two\r\n\n  three  \nfour\n\n\n\nfünf 六\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    (tmp_path / "b.txt").write_bytes(b"last, without an end")
    rows = [{"text": "x\ny"}, {"text": " "}, {"text": "z", "title": "t"}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return tmp_path


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("lines", ["one two", "three", "four", "fünf 六"]),
        ("paragraphs", ["one two", "three\nfour", "fünf 六"]),
        ("files", ["one two\nthree\nfour\nfünf 六"]),
    ],
)
def test_what_a_document_is(files, documents, expected):
    assert list(Corpus(files / "a.txt", documents)) == expected
    assert list(Corpus([files / "a.txt", str(files / "b.txt")], documents)) == [*expected, "last, without an end"]
    # A line of JSON is one, whatever is said of text.
    assert list(Corpus(files / "c.jsonl", documents)) == ["x\ny", "z"]


def test_patterns_are_read_in_the_order_of_names(files):
    assert list(Corpus(f"{files}/*.txt", "files"))[1] == "last, without an end"
    assert [path.name for path in Corpus(f"{files}/*").paths] == ["a.txt", "b.txt", "c.jsonl"]


@pytest.mark.parametrize("documents", ["lines", "paragraphs", "files"])
def test_from_every_place_come_the_documents_that_follow(files, documents):
    corpus = Corpus(f"{files}/*", documents)
    every = list(corpus.beginning_at(Place()))
    for i, (place, _) in enumerate(every):
        assert list(corpus.beginning_at(place)) == every[i:]
    for place, text in every:  # the bytes at a place are those of the document
        raw = corpus.paths[place.file].read_bytes()[place.offset :].decode().lstrip("\ufeff")
        assert place.file == 2 or raw.lstrip().startswith(text.split("\n")[0])


def test_another_encoding_and_bad_bytes(tmp_path):
    (tmp_path / "g.txt").write_bytes("北京\n天安门\n".encode("gb18030"))
    assert list(Corpus(tmp_path / "g.txt", encoding="gb18030")) == ["北京", "天安门"]
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xffd\n")
    with pytest.raises(DataError, match=r"bad.txt, line 2: not utf-8 \(b'b\\xffd\\n'\); .*bad_bytes='replace'"):
        list(Corpus(tmp_path / "bad.txt"))
    assert list(Corpus(tmp_path / "bad.txt", bad_bytes="replace")) == ["good", "b\ufffdd"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: Corpus(f / "d.txt"), "there is no file '.*d.txt'"),
        (lambda f: Corpus(f), "there is no file"),
        (lambda f: Corpus(f"{f}/*.md"), "no file fits"),
        (lambda f: Corpus([]), "expected files, got an empty list"),
        (lambda f: Corpus(f / "a.txt", "line"), r"expected one of 'lines', .*, got 'line'; did you mean 'lines'\?"),
        (lambda f: Corpus(f / "a.txt", encoding="utf-16"), "line by line, which utf-16 does not allow"),
        (lambda f: Corpus(f / "a.txt", encoding="utf-99"), "there is no encoding 'utf-99'"),
        (
            lambda f: list(Corpus(f / "c.jsonl", column="body")),
            "line 1: expected an object with a text under 'body'",
        ),
    ],
)
def test_what_cannot_be_read(files, make, message):
    with pytest.raises(DataError, match=message):
        make(files)


def test_lines_that_are_no_text(files):
    (files / "e.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"e\.jsonl, line 2: expected an object with a text under 'text', found 'text'"):
        list(Corpus(files / "e.jsonl"))
    (files / "f.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"f\.jsonl, line 2, character .*: not JSON"):
        list(Corpus(files / "f.jsonl"))
    (files / "g.txt").write_bytes(b"a\nb\0c\n")
    with pytest.raises(DataError, match=r"g\.txt, line 2: this is a binary file"):
        list(Corpus(files / "g.txt"))


def test_json_and_tables(tmp_path):
    (tmp_path / "a.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert list(Corpus(tmp_path / "a.json")) == ["one", "two"]
    (tmp_path / "a.csv").write_text("text\none\n")
    with pytest.raises(DataError, match="a corpus is text or JSON lines"):
        Corpus(tmp_path / "a.csv")
