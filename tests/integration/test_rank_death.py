"""A process of several that dies ends the run with an error, not in a hang."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.test_ranks import HERE, LAUNCH, environment

pytestmark = pytest.mark.xdist_group("processes")
SCRIPT = str(Path(__file__).with_name("in_rank_death.py"))


@pytest.mark.parametrize(("how", "told"), [("raise", "ValueError: this one is broken"), ("kill", "SIGKILL")])
def test_the_others_do_not_wait_for_it(tmp_path, how, told):
    started = time.monotonic()
    done = subprocess.run(
        [*LAUNCH, SCRIPT, str(tmp_path), how],
        env=environment(),
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode != 0
    assert told in done.stderr, done.stderr[-3000:]
    assert time.monotonic() - started < 60
    assert not (tmp_path / "gs8.pkl").exists()
