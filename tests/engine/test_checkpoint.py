"""A checkpoint is whole or absent at any instant, and a failing save leaves the earlier one alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from textbrewer import DistillationConfig
from textbrewer.engine.checkpoint import Checkpoints, RunState, described, locked, save_student, weights_of
from textbrewer.errors import CheckpointError
from textbrewer.losses import ManyToManyLoss, hid_mse_loss, kl_loss
from textbrewer.matching.projections import AutoProjection
from textbrewer.ranks import Ranks


def loaded(path):
    return torch.load(path, weights_only=True)


def filled(value):
    model = nn.Linear(2, 2)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def test_it_is_the_state_dict_in_a_folder_made_for_it(tmp_path):
    path = save_student(filled(3).state_dict(), str(tmp_path / "new" / "folder"), 12)
    assert path == tmp_path / "new" / "folder" / "gs12.pkl"
    saved = loaded(path)
    assert list(saved) == ["weight", "bias"]
    assert all(bool((value == 3).all()) for value in saved.values())
    assert os.listdir(path.parent) == ["gs12.pkl"]


def test_the_earlier_file_is_whole_until_the_new_one_is(tmp_path, monkeypatch):
    path = save_student(filled(1).state_dict(), str(tmp_path), 5)
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((loaded(target)["bias"][0].item(), loaded(source)["bias"][0].item(), os.path.dirname(source)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    assert save_student(filled(2).state_dict(), str(tmp_path), 5) == path
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
        before = save_student(filled(1).state_dict(), str(tmp_path), 5).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(module, name, failing)
        with pytest.raises(error):
            save_student(filled(2).state_dict(), str(tmp_path), 5)
    assert os.listdir(tmp_path) == (["gs5.pkl"] if earlier else [])
    if earlier:
        assert (tmp_path / "gs5.pkl").read_bytes() == before


def test_an_output_dir_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError):
        save_student(filled(1).state_dict(), str(tmp_path / "taken"), 1)
    assert (tmp_path / "taken").read_text() == "mine"


def test_weights_are_copied_and_tied_ones_stay_one():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    weights = weights_of(model)
    assert weights["0.weight"] is weights["1.weight"]
    nn.init.zeros_(model[0].weight)
    assert weights["0.weight"].abs().sum() > 0
    assert weights_of(model, keep=False) == {}


class Fixed:
    """A stream that stands where it is told to."""

    def __init__(self):
        self.state = {"at": 0}

    def state_dict(self):
        return dict(self.state)

    def load_state_dict(self, state, *, within=True):
        self.state = {**state, "within": within}


def run_of(folder, job=None, keep_last=2, seed=0):
    torch.manual_seed(seed)
    student, beside = nn.Linear(3, 2), nn.ModuleList([nn.Linear(2, 2)])
    optimizer = torch.optim.AdamW([*student.parameters(), *beside.parameters()], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    state = RunState(student, [beside], optimizer, scheduler, torch.amp.GradScaler("cpu", enabled=False), Fixed())
    return Checkpoints(str(folder), job or {"distiller": "A", "data": "3 batches"}, Ranks(), keep_last), state


def stepped(state, number):
    for _ in range(number):
        state.optimizer.zero_grad()
        state.beside[0][0](state.student(torch.rand(4, 3))).sum().backward()
        state.optimizer.step()
        state.scheduler.step()
        state.step += 1
        state.batches += 1
    return [p.detach().clone() for p in (*state.student.parameters(), *state.beside[0].parameters())]


def test_a_run_goes_on_with_everything_it_had(tmp_path):
    checkpoints, state = run_of(tmp_path)
    stepped(state, 3)
    state.stream.state, state.within = {"at": 5}, True
    checkpoints.save(state)
    expected = stepped(state, 2)
    again, other = run_of(tmp_path, seed=7)
    assert again.resume(other, "auto")
    assert (other.step, other.batches, other.within, other.stream.state) == (3, 3, True, {"at": 5, "within": True})
    found = stepped(other, 2)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert other.scheduler.get_last_lr() == state.scheduler.get_last_lr()


def test_without_a_checkpoint_auto_begins_and_a_path_is_refused(tmp_path):
    checkpoints, state = run_of(tmp_path)
    assert not checkpoints.resume(state, "auto")
    with pytest.raises(CheckpointError, match="there is no checkpoint; give a folder step-N"):
        checkpoints.resume(state, tmp_path / "nowhere")


def test_the_last_ones_are_kept(tmp_path):
    checkpoints, state = run_of(tmp_path, keep_last=2)
    for _ in range(4):
        stepped(state, 1)
        checkpoints.save(state)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-3", "step-4"]


def test_checkpoints_of_another_job_are_neither_used_nor_deleted(tmp_path):
    theirs, their_state = run_of(tmp_path, job={"distiller": "B", "data": "3 batches"})
    stepped(their_state, 9)
    theirs.save(their_state)
    ours, state = run_of(tmp_path, keep_last=1)
    with pytest.raises(CheckpointError, match="of another job") as raised:
        ours.resume(state, "auto")
    assert "distiller: B" in str(raised.value) and "now A" in str(raised.value)
    assert "data" not in str(raised.value).partition("Different")[2]
    for _ in range(2):
        stepped(state, 1)
        ours.save(state)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-2", "step-9"]


DAMAGES = {
    "a bit is flipped": lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])),
    "it is cut short": lambda file: file.write_bytes(file.read_bytes()[:10]),
    "it is gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["student.safetensors", "beside.safetensors", "training.pt", "processes.pt", "state.json", "manifest.json"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, damage, name):
    checkpoints, state = run_of(tmp_path)
    for _ in range(2):
        stepped(state, 1)
        last = checkpoints.save(state)
    DAMAGES[damage](last / name)
    again, other = run_of(tmp_path)
    assert again.resume(other, "auto") and other.step == 1
    assert "step-2 is damaged" in caplog.text
    with pytest.raises(CheckpointError, match=r"damaged|there is no checkpoint"):
        again.resume(other, last)


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self):
        return (open, ("/tmp/never-made-by-a-checkpoint", "w"))


def test_a_checkpoint_cannot_run_code(tmp_path):
    checkpoints, state = run_of(tmp_path)
    stepped(state, 1)
    path = checkpoints.save(state)
    torch.save(Runs(), path / "training.pt")
    digests = json.loads((path / "manifest.json").read_text())
    digests["training.pt"] = hashlib.sha256((path / "training.pt").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(digests))
    with pytest.raises(CheckpointError, match=r"io\.open, and reading that could run code"):
        checkpoints.resume(state, "auto")
    assert not Path("/tmp/never-made-by-a-checkpoint").exists()


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path, monkeypatch):
    checkpoints, state = run_of(tmp_path)
    stepped(state, 1)
    first = checkpoints.save(state)
    before = {file.name: file.read_bytes() for file in first.iterdir()}

    def full(*args, **how):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    stepped(state, 1)
    with pytest.raises(CheckpointError, match=r"step 2 could not be saved .* No space left.*whole: .*step-1"):
        checkpoints.save(state)
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-1"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_folder_has_one_run(tmp_path):
    with locked(str(tmp_path)), pytest.raises(CheckpointError, match="in use by another run"), locked(str(tmp_path)):
        pass
    with locked(str(tmp_path)):
        assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared(tmp_path):
    checkpoints, state = run_of(tmp_path)
    stepped(state, 1)
    checkpoints.save(state)
    (tmp_path / "checkpoints" / ".step-2.123.partial").mkdir()
    (tmp_path / ".best.123.partial").mkdir()
    checkpoints.clear_partial()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-1"]


def test_a_scheduler_without_a_state_is_refused_when_going_on(tmp_path):
    checkpoints, state = run_of(tmp_path)
    state.scheduler = type("Own", (), {"step": lambda self: None})()
    checkpoints.save(state)
    with pytest.raises(CheckpointError, match="Own has no state_dict"):
        checkpoints.resume(state, "auto")


def test_a_scheduler_of_the_user_without_a_state(tmp_path):
    """In a run, where it is wrapped."""
    from tests.tiny import EncoderAdaptor, batches, encoder
    from textbrewer import GeneralDistiller, TrainingConfig

    class Own:
        steps = 0

        def step(self):
            self.steps += 1

    def train(scheduler, **more):
        config = TrainingConfig(output_dir=str(tmp_path), progress_bar=False, device="cpu")
        student = encoder(1)
        distiller = GeneralDistiller(config, DistillationConfig(), encoder(0), student, *[EncoderAdaptor()] * 2)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        with distiller:
            distiller.train(optimizer, batches(3), num_epochs=1, scheduler=scheduler, **more)

    own = Own()
    train(own)
    assert own.steps == 3 and (tmp_path / "checkpoints" / "step-3").is_dir()
    with pytest.raises(CheckpointError, match="Own has no state_dict"):
        train(Own(), resume="auto")


def test_numbers_of_numpy_are_read_back(tmp_path):
    checkpoints, state = run_of(tmp_path)
    for group in state.optimizer.param_groups:
        group["lr"] = np.float64(0.02)
    state.scheduler = torch.optim.lr_scheduler.LambdaLR(state.optimizer, lambda step: np.cos(step))
    state.optimizer.param_groups[0]["betas"] = (np.float32(0.5), np.float64(0.9))
    stepped(state, 2)
    checkpoints.save(state)
    again, other = run_of(tmp_path)
    other.scheduler = torch.optim.lr_scheduler.LambdaLR(other.optimizer, lambda step: np.cos(step))
    assert again.resume(other, "auto")
    assert other.optimizer.param_groups[0]["lr"] == state.optimizer.param_groups[0]["lr"] != 0
    assert other.optimizer.param_groups[0]["betas"] == (0.5, 0.9)


def test_what_cannot_be_read_back_is_told(tmp_path):
    checkpoints, state = run_of(tmp_path)
    state.optimizer.param_groups[0]["note"] = Path("x")
    checkpoints.save(state)
    with pytest.raises(CheckpointError, match="more than tensors, numbers and texts"):
        run_of(tmp_path)[0].resume(run_of(tmp_path)[1], "auto")


def test_auto_does_not_go_on_from_before_a_run_that_began_anew(tmp_path):
    first, state = run_of(tmp_path)
    stepped(state, 3)
    first.save(state)
    # Begun anew, and killed before its first checkpoint.
    second, _ = run_of(tmp_path)
    second.begin()
    third, state = run_of(tmp_path)
    assert not third.resume(state, "auto")
    third.begin()
    stepped(state, 1)
    third.save(state)
    for _ in range(2):
        again, state = run_of(tmp_path)
        assert again.resume(state, "auto") and state.step == 1
        stepped(state, 0)
        again.save(state)
    # By its path an older one may be taken, and other jobs are told as ever.
    again, state = run_of(tmp_path)
    assert again.resume(state, tmp_path / "checkpoints" / "step-3") and state.step == 3
    with pytest.raises(CheckpointError, match="of another job"):
        run_of(tmp_path, job={"distiller": "B"})[0].resume(state, "auto")


def test_what_is_sized_by_the_first_batch_comes_back(tmp_path):
    checkpoints, state = run_of(tmp_path)
    projection, emd = AutoProjection(), ManyToManyLoss(hid_mse_loss, "hidden_mse")
    projection.fit(torch.ones(1, 2, 3), torch.ones(1, 2, 5), "match")
    emd.weights_T, emd.weights_S = torch.tensor([0.25, 0.75]).double(), torch.ones(1).double()
    state.beside = [nn.ModuleList([projection]), nn.ModuleList([emd])]
    checkpoints.save(state)
    fresh = [nn.ModuleList([AutoProjection()]), nn.ModuleList([ManyToManyLoss(hid_mse_loss, "hidden_mse")])]
    again, other = run_of(tmp_path)
    other.beside = fresh
    other.optimizer = state.optimizer
    again.resume(other, "auto")
    assert torch.equal(fresh[0][0].weight, projection.weight)
    assert torch.equal(fresh[1][0].weights_T, emd.weights_T)


class Told(Ranks):
    """Two processes that save one after the other, the first of them last, which writes."""

    values: ClassVar[list] = []

    def gather(self, value):
        self.values.insert(0, value)
        return self.values


def test_what_a_loss_keeps_comes_back_in_each_process(tmp_path):
    def made(process, weights):
        checkpoints, state = run_of(tmp_path)
        checkpoints.ranks = Told(2, process)
        emd = ManyToManyLoss(hid_mse_loss, "hidden_mse")
        emd.weights_T, emd.weights_S = torch.tensor(weights).double(), torch.ones(1).double()
        state.beside = [*state.beside, nn.ModuleList([emd])]
        return checkpoints, state, emd

    own = {0: [0.5, 0.5], 1: [0.25, 0.75]}
    for process in (1, 0):
        checkpoints, state, _ = made(process, own[process])
        checkpoints.save(state)
    for process, weights in own.items():
        checkpoints, state, emd = made(process, [1.0])
        assert checkpoints.resume(state, "auto")
        assert emd.weights_T.tolist() == weights


def test_a_config_is_described_alike_in_every_process():
    config = DistillationConfig(kd_loss_type=kl_loss, kd_loss_weight_scheduler=lambda x: x)
    text = described(config)
    assert "kd_loss_type=kl_loss" in text and "0x" not in text
    assert text == described(DistillationConfig(kd_loss_type=kl_loss, kd_loss_weight_scheduler=lambda x: x))
    assert text != described(DistillationConfig(kd_loss_type=kl_loss, temperature=2))
