"""Sentences from files with a token a line."""

from __future__ import annotations

import pytest

pytest.importorskip("datasets", reason="needs the extra `hf`")

from textbrewer.errors import DataError
from textbrewer.tasks.data.conll import read_conll


def table_of(folder, text, **options):
    path = folder / "a.conll"
    path.write_text(text, encoding="utf-8", newline="")
    return read_conll(path, **options)


def test_conll_2003(tmp_path):
    text = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n\nPeter NNP I-NP B-PER\n"
    table = table_of(tmp_path, text)
    assert list(table) == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"], "lines": [3, 4]},
        {"tokens": ["Peter"], "tags": ["B-PER"], "lines": [7]},
    ]
    assert [table.place(0), table.place(1)] == ["line 3", "line 7"]
    assert table.notes == ("1 -DOCSTART- line left out",)
    assert [row["tags"] for row in table_of(tmp_path, text, tag=2)] == [["I-NP", "I-VP"], ["I-NP"]]
    assert [row["tokens"] for row in table_of(tmp_path, text, token=1, tag=None)] == [["NNP", "VBZ"], ["NNP"]]


def test_windows_line_ends_and_no_last_line_end(tmp_path):
    assert [row["tokens"] for row in table_of(tmp_path, "a\tO\r\n\r\nb\tO")] == [["a"], ["b"]]


def test_tokens_that_are_spaces_or_number_signs(tmp_path):
    table = table_of(tmp_path, "#\tO\n#tag\tB-X\n\u3000\tO\n\xa0\tO\na b\tO\n")
    assert next(iter(table))["tokens"] == ["#", "#tag", "\u3000", "\xa0", "a b"]


def test_comments(tmp_path):
    text = "# newdoc\n# sent_id = 1 of 2\n1\tUn\tDET\n1-2\tDel\t_\n2.1\tx\t_\n# inside\n"
    with pytest.raises(DataError, match=r"line 6: expected 3 columns"):
        table_of(tmp_path, text, token=1)
    table = table_of(tmp_path, text, token=1, comments=True)
    assert list(table) == [{"tokens": ["Un"], "tags": ["DET"], "lines": [3]}]
    with pytest.raises(DataError, match="line 1"):
        table_of(tmp_path, "# a comment here\na\tO\n", comments=False)


def test_spaces_between_columns_and_a_separator_of_ones_own(tmp_path):
    assert next(iter(table_of(tmp_path, "a   B-X \n"))) == {"tokens": ["a"], "tags": ["B-X"], "lines": [1]}
    assert next(iter(table_of(tmp_path, "a|B-X\n", separator="|")))["tags"] == ["B-X"]


def test_tokens_alone(tmp_path):
    table = table_of(tmp_path, "我\n爱\n\n你\n")
    assert next(iter(table)) == {"tokens": ["我", "爱"], "lines": [1, 2]}
    assert "without tags" in table.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tO\nb\nc O\n", r"line 2, 3: expected 2 columns separated by '\\t'.*found 'b'"),
        ("a\tO\n\tO\n", "line 2: expected 2 columns .* and a token in column 0"),
        ("\n\n", "no rows"),
    ],
)
def test_lines_that_do_not_fit(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        table_of(tmp_path, text)


@pytest.mark.parametrize("options", [{"tag": 2}, {"token": -3}])
def test_columns_that_are_not_there(tmp_path, options):
    with pytest.raises(DataError, match="there are 2 columns"):
        table_of(tmp_path, "a\tO\n", **options)


def test_conllu_has_words_behind_their_numbers(tmp_path):
    lines = ["# text = vámonos al mar"]
    for number, word, kind in [
        ("1-2", "vámonos", "_"),
        ("1", "vamos", "VERB"),
        ("2", "nos", "PRON"),
        ("3", "al", "ADP"),
    ]:
        lines.append("\t".join([number, word, word, kind, "x", "_", "0", "root", "_", "SpaceAfter=No"]))
    (tmp_path / "es.conllu").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (row,) = read_conll(tmp_path / "es.conllu")
    assert (row["tokens"], row["tags"]) == (["vamos", "nos", "al"], ["VERB", "PRON", "ADP"])
    (row,) = read_conll(tmp_path / "es.conllu", tag=4)
    assert (row["tokens"], row["tags"]) == (["vamos", "nos", "al"], ["x", "x", "x"])
    (row,) = read_conll(tmp_path / "es.conllu", token=0, tag=-1)
    assert row["tokens"] == ["1-2", "1", "2", "3"]


def test_a_header_that_divides_otherwise_is_a_comment(tmp_path):
    (tmp_path / "a.conll").write_text("# id 52\tdomain=en\nhis _ _ O\nfilm _ _ B-X\n\n# _ _ O\n")
    assert [row["tokens"] for row in read_conll(tmp_path / "a.conll")] == [["his", "film"], ["#"]]
