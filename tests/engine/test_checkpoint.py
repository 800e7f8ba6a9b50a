"""A checkpoint is whole or absent at any instant, and a failing save leaves the earlier one alone."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from textbrewer.engine.checkpoint import save_student


def loaded(path):
    return torch.load(path, weights_only=True)


def filled(value):
    model = nn.Linear(2, 2)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def test_it_is_the_state_dict_in_a_folder_made_for_it(tmp_path):
    path = save_student(filled(3), str(tmp_path / "new" / "folder"), 12)
    assert path == tmp_path / "new" / "folder" / "gs12.pkl"
    saved = loaded(path)
    assert list(saved) == ["weight", "bias"]
    assert all(bool((value == 3).all()) for value in saved.values())
    assert os.listdir(path.parent) == ["gs12.pkl"]


def test_the_earlier_file_is_whole_until_the_new_one_is(tmp_path, monkeypatch):
    path = save_student(filled(1), str(tmp_path), 5)
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((loaded(target)["bias"][0].item(), loaded(source)["bias"][0].item(), os.path.dirname(source)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    assert save_student(filled(2), str(tmp_path), 5) == path
    # A rename is atomic only within one folder.
    assert seen == [(1.0, 2.0, str(tmp_path))]
    assert loaded(path)["bias"][0] == 2


def half_written(state, path):
    with open(path, "wb") as file:
        file.write(b"half")
    raise OSError("No space left on device")


def refused(source, target):
    raise PermissionError("refused")


def interrupted(state, path):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "name", "failing", "error"),
    [
        (torch, "save", half_written, OSError),
        (torch, "save", interrupted, KeyboardInterrupt),
        (os, "fsync", lambda descriptor: refused(descriptor, None), PermissionError),
        (os, "replace", refused, PermissionError),
    ],
    ids=["disk full", "interrupted", "sync fails", "rename fails"],
)
@pytest.mark.parametrize("earlier", [True, False])
def test_a_failing_save_leaves_the_earlier_file_and_no_partial_one(
    tmp_path, monkeypatch, module, name, failing, error, earlier
):
    if earlier:
        before = save_student(filled(1), str(tmp_path), 5).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(module, name, failing)
        with pytest.raises(error):
            save_student(filled(2), str(tmp_path), 5)
    assert os.listdir(tmp_path) == (["gs5.pkl"] if earlier else [])
    if earlier:
        assert (tmp_path / "gs5.pkl").read_bytes() == before


def test_an_output_dir_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError):
        save_student(filled(1), str(tmp_path / "taken"), 1)
    assert (tmp_path / "taken").read_text() == "mine"
