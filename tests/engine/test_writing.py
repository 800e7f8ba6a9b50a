"""Writing in the background changes what is waited for, and nothing of what is written."""

from __future__ import annotations

import hashlib
import logging
import threading

import pytest
import torch

from tests.engine.test_evaluation import fitted
from textbrewer.engine import checkpoint
from textbrewer.engine.writing import Writer
from textbrewer.errors import CheckpointError


def test_in_the_foreground_it_is_done_at_once():
    done = []
    with Writer(False) as write:
        write(lambda: done.append(threading.current_thread()))
        assert done == [threading.main_thread()]


def test_in_the_background_writes_follow_one_another_and_the_end_waits():
    gate, done = threading.Event(), []
    with Writer(True) as write:
        write(lambda: (gate.wait(10), done.append(1)))
        assert done == []
        gate.set()
        write(lambda: done.append(2))
        assert done[0] == 1
    assert done == [1, 2]


def failing():
    raise CheckpointError("no room")


def test_an_error_is_raised_by_the_next_write_or_at_the_end():
    with pytest.raises(CheckpointError, match="no room"), Writer(True) as write:
        write(failing)
        write(lambda: pytest.fail("written after an error"))
    with pytest.raises(CheckpointError, match="no room"), Writer(True) as write:
        write(failing)


def test_an_error_beside_another_is_logged(caplog):
    caplog.set_level(logging.ERROR, "textbrewer")
    with pytest.raises(KeyError), Writer(True) as write:
        write(failing)
        raise KeyError("first")
    assert "no room" in caplog.text


def test_checkpoints_are_the_same_bytes_though_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.time, "time", lambda: 1.0)
    monkeypatch.setattr(checkpoint.uuid, "uuid4", lambda: type("Fixed", (), {"hex": "0"}))
    digests = {}
    for name, background in (("front", False), ("back", True)):
        fitted(tmp_path / name, [0.1, 0.2, 0.3, 0.4], keep_last=9, save_in_background=background)
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        digests[name] = {
            str(path.relative_to(tmp_path / name)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        }
    assert digests["front"] == digests["back"]
    assert len(digests["front"]) == 4 * (1 + 6) + 1


def test_what_is_trained_meanwhile_is_not_in_it(tmp_path, monkeypatch):
    """The write of the first checkpoint is held up until the last step was taken."""
    gate, write = threading.Event(), checkpoint._write

    def held(folder, *parts):
        gate.wait(20)
        write(folder, *parts)

    def callback(model, step):
        if step == 16:
            gate.set()

    fitted(tmp_path / "front", keep_last=9)
    monkeypatch.setattr(checkpoint, "_write", held)
    # One checkpoint at the end of all and one before: a third would wait for the first.
    fitted(tmp_path / "back", epochs=4, ckpt_epoch_frequency=3, keep_last=9, save_in_background=True, callback=callback)
    for step in (12, 16):
        front, back = (
            torch.load(tmp_path / side / "checkpoints" / f"step-{step}" / "training.pt", weights_only=True)
            for side in ("front", "back")
        )
        for index, own in front["optimizer"]["state"].items():
            assert all(torch.equal(value, back["optimizer"]["state"][index][key]) for key, value in own.items())


def test_a_full_disk_in_the_background_ends_the_run(tmp_path, monkeypatch):
    def full(*parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(CheckpointError, match=r"step 4 could not be saved.*No space left"):
        fitted(tmp_path, save_in_background=True)
