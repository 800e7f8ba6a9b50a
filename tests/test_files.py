"""Files and folders are whole or absent."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from textbrewer.files import replaced, replaced_folder


def test_a_file_appears_only_when_it_is_finished(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replaced(path) as beside:
        beside.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("earlier")
    with pytest.raises(RuntimeError), replaced(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_earlier_one_whole(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with replaced_folder(path) as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "new.txt").write_text("new")
        assert (path / "old.txt").exists()
    assert [file.name for file in path.rglob("*.txt")] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_earlier_folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), replaced_folder(path) as beside:
        (beside / "new.txt").write_text("new")
        raise KeyboardInterrupt
    assert [file.name for file in path.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("between", [False, True])
def test_what_a_killed_process_left_is_no_hindrance(tmp_path, between):
    path = tmp_path / "model"
    left = tmp_path / f".model.{os.getpid()}.partial"
    earlier = tmp_path / f".model.{os.getpid()}.old" if between else path
    for folder in (left, earlier):
        folder.mkdir()
        (folder / "old.txt").write_text("old")
    with pytest.raises(RuntimeError), replaced_folder(path) as beside:
        assert not list(beside.iterdir())
        raise RuntimeError
    assert [file.name for file in path.iterdir()] == ["old.txt"]  # of between two renames, too
    with replaced_folder(path) as beside:
        (beside / "new.txt").write_text("new")
    assert [file.name for file in path.iterdir()] == ["new.txt"] and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_take_its_place_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.txt").write_text("old")
    replace = os.replace

    def refusing(source, target):
        if str(source).endswith(".partial"):
            raise OSError("busy")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(OSError, match="busy"), replaced_folder(path) as beside:
        (beside / "new.txt").write_text("new")
    assert [file.name for file in path.iterdir()] == ["old.txt"] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "save", [lambda t, f: save_file(t, f), lambda t, f: torch.save(t, f)], ids=["safetensors", "torch"]
)
def test_a_full_disk_is_an_os_error_whoever_writes(tmp_path, save):
    resource = pytest.importorskip("resource")
    path, (_, hard) = tmp_path / "weights", resource.getrlimit(resource.RLIMIT_FSIZE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("earlier")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OSError, match="weights could not be written"), replaced(path) as beside:
            save({"a": torch.zeros(5000)}, beside)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_other_runtime_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="another fault"), replaced_folder(tmp_path / "folder"):
        raise RuntimeError("another fault")
