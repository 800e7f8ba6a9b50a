"""A process that fills a teacher cache may be killed at any instant, and others may read meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from tests.integration import in_cache_kill
from tests.integration.in_cache_kill import BATCHES, ROWS, behind, fill, is_right, loader, read
from textbrewer import TeacherCache

pytest.importorskip("lmdb", reason="needs the extra `cache`")

RECORDS = BATCHES * ROWS * 2


@pytest.fixture(scope="module")
def processes():
    """Processes of their own that have everything imported, so that they begin at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([in_cache_kill.__name__])
    return context


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def started(processes, target, *args):
    process = processes.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def committed(told):
    lines = told.read_text().split("\n")[:-1] if told.exists() else []
    return int(lines[-1]) if lines else 0


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_committed_and_leaves_nothing_wrong(tmp_path, processes):
    folder, told, chance = tmp_path / "cache", tmp_path / "told", random.Random(0)
    seen = kills = 0
    for attempt in range(12):
        told.unlink(missing_ok=True)
        process = started(processes, fill, folder, told)
        if attempt < 4:
            wait_for(folder.exists)
            time.sleep(chance.random() * 0.02)  # while the files are made
        else:
            goal = min(seen // (ROWS * 2) + chance.randrange(1, 15), BATCHES)
            wait_for(lambda process=process, goal=goal: committed(told) >= goal or not process.is_alive())
            time.sleep(chance.random() * 0.01)
        kills += process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with TeacherCache(folder) as cache:
            records = sum(entry.records for entry in cache.list())
            assert records >= max(seen, committed(told) * ROWS * 2)
            assert records % (ROWS * 2) == 0  # a batch is there, or not
            assert all(found == (records, 0) for found in cache.verify().values())
            source, live = behind(cache)
            for batch, _ in zip(loader(), range(records // (ROWS * 2)), strict=False):
                assert is_right(source, live, batch)
            assert source.misses == 0
        seen = max(seen, records)
    assert kills >= 6 and 0 < seen < RECORDS
    process = started(processes, fill, folder, told)
    process.join()
    assert process.exitcode == 0
    with TeacherCache(folder, read_only=True) as cache:
        assert cache.list()[0].records == RECORDS
        source, live = behind(cache)
        assert all(is_right(source, live, batch) for batch in loader())


@pytest.mark.slow
def test_two_processes_read_while_one_writes(tmp_path, processes):
    readers = [started(processes, read, tmp_path / "cache") for _ in range(2)]
    writer = started(processes, fill, tmp_path / "cache", tmp_path / "told")
    for process in (writer, *readers):
        process.join(timeout=90)
        assert process.exitcode == 0


@pytest.mark.slow
def test_two_processes_fill_one_cache_by_chance_at_the_same_time(tmp_path, processes):
    writers = [started(processes, fill, tmp_path / "cache", tmp_path / f"told {i}") for i in range(2)]
    for process in writers:
        process.join(timeout=90)
        assert process.exitcode == 0
    with TeacherCache(tmp_path / "cache") as cache:
        ((_, found),) = cache.verify().items()
        assert found == (RECORDS, 0)
