"""A run that is killed at random instants, and gone on from each time, ends with the bits of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from textbrewer.report.plots import scalars

pytestmark = pytest.mark.xdist_group("processes")
HERE = Path(__file__).parent
JOBS = ["general", "cached", "teachers", "tasks"]
# Accumulation times the steps between two checkpoints: what a kill can cost.
BATCHES_AT_RISK = 4
STEPS = {"general": 32, "cached": 32, "teachers": 30, "tasks": 30}


def started(job, folder, processes=1):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(together if processes > 1 else []), str(HERE / "resumable.py"), job, str(folder)]
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def batches_seen(folder):
    file = folder / "batches.txt"
    return file.stat().st_size if file.exists() else 0


def wait_for_batches(process, folder, number):
    while process.poll() is None and batches_seen(folder) < number:
        time.sleep(0.002)


def finished(job, folder):
    process = started(job, folder)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors.decode()[-3000:]


def interrupted(job, folder, kills, sent=signal.SIGKILL, seed=0):
    """Kill so many times, after a random number of batches and a moment, then let it run to its end."""
    draw = random.Random(f"{job} {seed}")
    number = 0
    while number < kills and not (folder / "end.pt").exists():
        process = started(job, folder)
        wait_for_batches(process, folder, batches_seen(folder) + draw.randint(1, 12))
        time.sleep(draw.uniform(0, 0.02))
        if process.poll() is None:
            process.send_signal(sent)
            number += 1
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL, 128 + signal.SIGTERM), errors.decode()[-3000:]
    finished(job, folder)
    return number


def curves(folder):
    terms = ["total_loss", "unweighted_kd_loss", "unweighted_hidden_hidden_mse_1_2"]
    return {term: scalars(folder / "log", f"scalar/{term}") for term in terms}


def require_same(undisturbed, folder, job):
    expected, found = (torch.load(each / "end.pt", weights_only=True) for each in (undisturbed, folder))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert curves(undisturbed) == curves(folder)
    steps = [int(line) for line in (folder / "steps.txt").read_text().split()]
    assert set(steps) == {int(line) for line in (undisturbed / "steps.txt").read_text().split()}
    assert steps == sorted(steps)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What each job ends with if it is left alone, made when it is first asked for."""
    ready = {}

    def folder_of(job):
        if job not in ready:
            ready[job] = tmp_path_factory.mktemp("undisturbed") / job
            finished(job, ready[job])
        return ready[job]

    return folder_of


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_ends_as_one_that_is_not(undisturbed, tmp_path):
    folder = tmp_path / "killed"
    kills = interrupted("cached", folder, kills=3)
    assert kills == 3
    require_same(undisturbed("cached"), folder, "cached")
    assert batches_seen(folder) <= 2 * STEPS["cached"] + (kills + 1) * 2 * BATCHES_AT_RISK


@pytest.mark.timeout(200)
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(undisturbed, tmp_path):
    folder = tmp_path / "stopped"
    assert interrupted("cached", folder, kills=1, sent=signal.SIGTERM) == 1
    require_same(undisturbed("cached"), folder, "cached")
    # No batch was trained on twice: it stopped after a step, with a checkpoint.
    assert batches_seen(folder) == 2 * STEPS["cached"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("job", JOBS)
def test_many_kills(undisturbed, tmp_path, job):
    for seed in range(2):
        folder = tmp_path / str(seed)
        assert interrupted(job, folder, kills=3, seed=seed) == 3
        require_same(undisturbed(job), folder, job)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_that_are_killed_end_as_two_that_are_not(tmp_path):
    """Every process has random states and a place in the data of its own."""
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    for folder, kills in zip(folders, (0, 2), strict=True):
        for _ in range(kills):
            process = started("general", folder, processes=2)
            wait_for_batches(process, folder, batches_seen(folder) + 20)
            # torchrun gives its workers sessions of their own: they are killed one by one, before it can mend anything.
            for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                each.kill()
            process.communicate(timeout=60)
        process = started("general", folder, processes=2)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()[-3000:]
    require_same(*folders, "general")
