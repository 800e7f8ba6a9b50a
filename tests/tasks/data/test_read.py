"""One door: the format by ending or content, options checked, wrong paths answered."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("datasets", reason="needs the extra `hf`")

import datasets

from textbrewer.errors import DataError, UnknownNameError
from textbrewer.tasks import FORMATS, read

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "a.tsv").write_text("text\tlabel\na\tx\nb\ty\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "list.json").write_text(json.dumps(ROWS))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "data.json").write_text(json.dumps({"data": ROWS}))
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    for row in ROWS:
        (tmp_path / "folder" / row["label"]).mkdir(parents=True)
        (tmp_path / "folder" / row["label"] / "1.txt").write_text(row["text"] + "\n")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "list.json", "lines.json", "data.json", "a.parquet", "saved", "folder"]
)
def test_every_format_gives_the_same_rows(files, name):
    table = read(files / name)
    assert list(table) == ROWS and len(table) == 2
    assert isinstance(table.data, datasets.Dataset)


def test_text_conll_and_squad_by_ending_and_content(files):
    (files / "a.txt").write_text("one\ntwo\n")
    assert [row["text"] for row in read(files / "a.txt")] == ["one", "two"]
    (files / "b.txt").write_text("a O\n")
    assert next(iter(read(files / "b.txt", "conll")))["tags"] == ["O"]
    asked = {"id": "1", "question": "q", "answers": [{"text": "c", "answer_start": 0}]}
    (files / "squad.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": [asked]}]}]}))
    assert next(iter(read(files / "squad.json")))["context"] == "c"


def test_a_string_and_a_home_folder(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    assert list(read("~/a.csv")) == ROWS


def test_options_reach_the_reader_and_unknown_ones_are_named(files):
    assert read(files / "a.csv", header=False).columns == ["0", "1"]
    with pytest.raises(
        DataError, match=r"expected one of 'separator', .*, got 'seperator'; did you mean 'separator'\?"
    ):
        read(files / "a.csv", seperator=";")
    with pytest.raises(DataError, match="format='parquet': expected no options, got 'header'"):
        read(files / "a.parquet", header=True)
    with pytest.raises(UnknownNameError, match="did you mean 'jsonl'"):
        read(files / "a.jsonl", "jsonll")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("b.csv", {}, r"no file or folder '.*b\.csv'; did you mean '.*a\.csv'\?"),
        ("a.xyz", {}, r"no file or folder"),
        ("folder", {"format": "csv"}, r"is a folder; format='csv' does not read that"),
        ("a.csv", {"format": "folder"}, r"is a file; format='folder'"),
        ("a.csv", {"format": "parquet"}, "cannot be read as Parquet"),
        ("a.csv", {"format": "json"}, "line 1, column 1: not JSON"),
    ],
)
def test_wrong_paths_and_formats(files, name, options, message):
    with pytest.raises(DataError, match=message):
        read(files / name, **options)


def test_an_ending_that_says_nothing(files):
    (files / "a.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(DataError, match=r"what is in a \.pkl\? Write format=one of"):
        read(files / "a.pkl")


def test_json_of_another_form(files):
    (files / "b.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="expected a list of objects"):
        read(files / "b.json")


def test_a_folder_is_read_only_from_inside(files):
    outside = files / "secret.txt"
    outside.write_text("secret")
    os.symlink(outside, files / "folder" / "x" / "2.txt")
    (files / "folder" / "x" / ".hidden.txt").write_text("hidden")
    table = read(files / "folder")
    assert list(table) == ROWS
    assert [str(finding) for finding in table.findings] == ["1 link out of the folder, left out: x/2.txt"]
    assert table.place(1) == "y/1.txt" and table.notes == ("2 folders taken as labels",)


def test_a_file_of_a_folder_in_another_encoding(files):
    (files / "folder" / "y" / "2.txt").write_bytes("né".encode("cp1252"))
    with pytest.raises(DataError, match=r"2\.txt: 1 line not utf-8"):
        read(files / "folder")
    table = read(files / "folder", bad_bytes="replace")
    assert len(table) == 3 and table.findings[0].places == ("y/2.txt",)


def test_a_folder_without_texts(files):
    (files / "empty").mkdir()
    with pytest.raises(DataError, match="expected a folder for each label"):
        read(files / "empty")


def test_what_is_no_plain_file(files):
    os.mkfifo(files / "pipe.csv")
    with pytest.raises(DataError, match="neither a plain file nor a folder"):
        read(files / "pipe.csv")


def test_names_of_the_hub(monkeypatch):
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        if names[0] == "no/where":
            raise ValueError("Dataset 'no/where' doesn't exist\nand more")
        features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["x", "y"]))
        return datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read("nyu-mll/glue", config="sst2", split="validation")
    assert asked == [(("nyu-mll/glue", "sst2"), {"split": "validation", "revision": None})]
    assert list(table) == [*ROWS, {"text": "c", "label": None}]
    assert table.source == "nyu-mll/glue (sst2), validation"
    with pytest.raises(
        DataError, match=r"'no/where' is no file or folder here, and the hub does not give it: Dataset 'no"
    ):
        read("no/where")
    assert read("a.b", "hub").source == "a.b, train"


def test_every_format_is_documented():
    assert all(reader.__doc__ for reader in FORMATS.values())


def test_several_files_follow_each_other(files):
    (files / "b.csv").write_text("label,text\nx,c\n")
    table = read([files / "a.csv", files / "b.csv"])
    assert list(table) == [*ROWS, {"text": "c", "label": "x"}] and len(table) == 3
    assert list(read(f"{files}/?.csv")) == list(table) and list(read([f"{files}/*.csv"])) == list(table)
    assert [table.place(i) for i in range(3)] == [
        f"{files}/a.csv, line 2",
        f"{files}/a.csv, line 3",
        f"{files}/b.csv, line 2",
    ]
    assert table.source == f"2 sources ({files}/a.csv, {files}/b.csv)"
    assert list(read([files / "a.jsonl", files / "a.parquet"])) == 2 * ROWS
    assert next(iter(read([files / "a.csv"], header=False))) == {"0": "text", "1": "label"}


def test_what_was_found_in_several_files_is_added_up(files):
    (files / "x.csv").write_bytes(b"text,label\na\xff,x\n")
    (files / "y.csv").write_bytes(b"text,label\nb,x\nc\xff,y\nd\xff,y\n")
    (finding,) = read([files / "x.csv", files / "y.csv"], bad_bytes="replace").findings
    assert finding.number == 3 and finding.places == (
        f"{files}/x.csv, line 2",
        f"{files}/y.csv, line 3",
        f"{files}/y.csv, line 4",
    )


def test_several_files_that_do_not_go_together(files):
    (files / "b.csv").write_text("text,kind\nc,x\n")
    with pytest.raises(
        DataError, match=r"b\.csv has the columns 'text', 'kind', and .*a\.csv 'text', 'label'; files th"
    ):
        read([files / "a.csv", files / "b.csv"])
    (files / "n.jsonl").write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(DataError, match="a column holds values of different kinds"):
        read([files / "a.jsonl", files / "n.jsonl"])
    with pytest.raises(DataError, match=r"no file fits '.*\*\.xml'"):
        read(f"{files}/*.xml")
    with pytest.raises(DataError, match="got an empty list"):
        read([])


def test_values_of_options_are_checked(files):
    (files / "bars.csv").write_text("text|label\na|x\n")
    assert list(read(files / "bars.csv", separator="|")) == [{"text": "a", "label": "x"}]
    assert list(read(files / "bars.csv", separator="|", encoding=1252)) == [{"text": "a", "label": "x"}]
    assert list(read(files / "a.tsv", format="csv", separator=r"\t")) == ROWS
    for name, value in {"header": 0, "bad_bytes": "ignore", "quotes": "no", "encoding": True}.items():
        with pytest.raises(DataError, match=f"option {name}: expected .*, got {value!r}"):
            read(files / "a.csv", **{name: value})
    for separator in ("||", "", "\n"):
        with pytest.raises(DataError, match="option separator: expected one character"):
            read(files / "a.csv", separator=separator)


def test_splits_that_were_saved_together_are_read_one_by_one(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"holds the splits test, train; read one of them, as in '.*test'"):
        read(tmp_path / "both")
    assert list(read(tmp_path / "both" / "train")) == ROWS


def test_json_lines_of_one_row(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(ROWS[0]) + "\n")
    assert list(read(tmp_path / "one.json")) == ROWS[:1]
    (tmp_path / "map.json").write_text(json.dumps({"a": ROWS[0]}, indent=1))
    with pytest.raises(DataError, match="expected a list of objects"):
        read(tmp_path / "map.json")
