"""Bytes to text to rows, with the number of every line that is wrong."""

from __future__ import annotations

import csv

import pytest

pytest.importorskip("datasets", reason="needs the extra `hf`")

from textbrewer.errors import DataError
from textbrewer.tasks.data.text import read_csv, read_jsonl, read_text, read_tsv, text_of


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def rows(table):
    return list(table)


# Bytes.


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("né\n".encode(), None),
        ("né\n".encode("utf-8-sig"), None),
        ("né\n".encode("utf-8-sig"), "utf-8"),
        ("né\n".encode("utf-16"), None),
        ("né\n".encode("cp1252"), "cp1252"),
    ],
)
def test_text_in_its_encoding(tmp_path, content, encoding):
    assert text_of(written(tmp_path, "a.txt", content), encoding) == ("né\n", ())


def test_other_bytes_are_refused_with_their_lines_and_a_likely_encoding(tmp_path):
    latin = written(tmp_path, "latin.txt", "one\ncafé\nthree\nnaïve\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"2 lines not utf-8 \(line 2, 4; the first is b'caf\\xe9'\).*'cp1252'"):
        text_of(latin)
    chinese = written(tmp_path, "gb.txt", "一\n我爱北京天安门\n".encode("gb18030"))
    with pytest.raises(DataError, match="encoding='gb18030'"):
        text_of(chinese)


def test_a_mixture_of_encodings_is_called_one(tmp_path):
    mixed = written(tmp_path, "mixed.txt", "né\nà\n".encode() + "né\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"1 line not utf-8 \(line 3;.*mixes encodings"):
        text_of(mixed)


def test_other_bytes_may_be_replaced_and_are_counted(tmp_path):
    text, findings = text_of(written(tmp_path, "a.txt", b"a\nb\xe9\nc\xff\n"), bad_bytes="replace")
    assert text == "a\nb\ufffd\nc\ufffd\n"
    assert [str(finding) for finding in findings] == [
        "2 lines with bytes that are not utf-8, replaced by U+FFFD: line 2, line 3"
    ]


def test_characters_lost_before_are_counted(tmp_path):
    _, findings = text_of(written(tmp_path, "a.txt", "a\nb\ufffd\n"))
    assert findings[0].number == 1 and findings[0].places == ("line 2",)


def test_no_text_at_all(tmp_path):
    with pytest.raises(DataError, match="binary file"):
        text_of(written(tmp_path, "a.txt", b"\x00\x01\x02"))
    with pytest.raises(DataError, match="no encoding 'utf-9'"):
        text_of(written(tmp_path, "b.txt", b"a"), "utf-9")


# CSV and TSV.


def test_csv_as_text_with_the_lines_of_its_rows(tmp_path):
    path = written(tmp_path, "a.csv", 'text,label\r\n"a, ""b""\nc",1\r\n\r\nnull,NA\r\n')
    table = read_csv(path)
    assert rows(table) == [{"text": 'a, "b"\nc', "label": "1"}, {"text": "null", "label": "NA"}]
    assert [table.place(0), table.place(1)] == ["line 2", "line 5"]
    assert table.source == str(path)


@pytest.mark.parametrize(
    ("content", "header", "names"),
    [
        ("Sentence,x\na,1\n", None, ["Sentence", "x"]),  # a known name
        ("phrase,polarity\na b,1\nc,0\n", None, ["phrase", "polarity"]),  # like names, and not again below
        ("good,yes\nbad,no\nfine,yes\n", None, ["0", "1"]),  # 'yes' again below
        ("a long sentence of text here,1\nb,0\n", None, ["0", "1"]),  # a number
        ("text,label\na,1\n", False, ["0", "1"]),
        ("1,2\na,1\n", True, ["1", "2"]),
        ("a,1\n", ["t", "l"], ["t", "l"]),
    ],
)
def test_a_header_is_guessed_unless_told(tmp_path, content, header, names):
    table = read_csv(written(tmp_path, "a.csv", content), header=header)
    assert table.columns == names
    assert any("guessed" in note for note in table.notes) == (header is None)
    assert len(table) == content.count("\n") - (names == content.split("\n")[0].split(","))


def test_the_separator_is_guessed_from_the_first_line(tmp_path):
    table = read_csv(written(tmp_path, "a.csv", "text;label\na;1\n"))
    assert rows(table) == [{"text": "a", "label": "1"}]
    assert "separator ';' (guessed)" in table.notes


def test_quotes_in_tsv_are_text(tmp_path):
    path = written(tmp_path, "a.tsv", 'sentence\tlabel\n"no end\t1\nsaid "so"\t0\n')
    assert [row["sentence"] for row in read_tsv(path)] == ['"no end', 'said "so"']
    quoted = written(tmp_path, "b.tsv", 'sentence\tlabel\n"a\tb"\t1\n')
    assert [row["sentence"] for row in read_tsv(quoted, quotes=True)] == ["a\tb"]


def test_ragged_rows_are_refused_with_their_line(tmp_path):
    path = written(tmp_path, "a.csv", "text,label\nfine,1\none, two,1\nalso, two,1\n")
    with pytest.raises(DataError, match=r"2 columns, but line 3 has 3 values \(2 such lines\)"):
        read_csv(path)


def test_a_quote_that_is_not_closed(tmp_path):
    with pytest.raises(DataError, match=r"line 2.*quotation mark not closed"):
        read_csv(written(tmp_path, "a.csv", 'text,label\n"never ends,1\nmore,0\n'))


def test_long_values_and_the_limit_of_the_csv_module(tmp_path):
    before = csv.field_size_limit()
    table = read_csv(written(tmp_path, "a.csv", f"text,label\n{'x' * 200_000},1\n"))
    assert len(rows(table)[0]["text"]) == 200_000
    assert csv.field_size_limit() == before


def test_two_columns_of_one_name(tmp_path):
    with pytest.raises(DataError, match="two columns are called 'text'"):
        read_csv(written(tmp_path, "a.csv", "text,text\na,b\n"))


@pytest.mark.parametrize("content", ["", "text,label\n"])
def test_files_without_rows(tmp_path, content):
    with pytest.raises(DataError, match="no rows"):
        read_csv(written(tmp_path, "a.csv", content), header=True)


# JSON lines and plain text.


def test_json_lines_keep_their_values(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "a", "label": [1, 2]}\n\n{"text": "b", "more": true}\n')
    table = read_jsonl(path)
    assert rows(table) == [{"text": "a", "label": [1, 2], "more": None}, {"text": "b", "label": None, "more": True}]
    assert table.place(1) == "line 3"


def test_labels_of_two_kinds_become_text(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n')
    assert [row["label"] for row in read_jsonl(path)] == ["1", "x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2, character 2: not JSON"), ("[1]", "line 2: expected a JSON object"), ("'a'", "line 2, character 1")],
)
def test_lines_that_are_no_objects(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read_jsonl(written(tmp_path, "a.jsonl", f'{{"text": "a"}}\n{line}\n'))


def test_values_that_no_column_holds(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"label": [1]}\n{"label": "x"}\n')
    with pytest.raises(DataError, match="values of different kinds"):
        read_jsonl(path)


def test_one_text_a_line(tmp_path):
    table = read_text(written(tmp_path, "a.txt", "one\r\n\n two \u2028 three\n"))
    assert [row["text"] for row in table] == ["one", " two \u2028 three"]
    assert table.place(1) == "line 3" and table.notes == ()
    assert "format='tsv'" in read_text(written(tmp_path, "b.txt", "a\tb\n")).notes[0]
