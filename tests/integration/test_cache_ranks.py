"""Two processes with one teacher cache train as one process without."""

from __future__ import annotations

import pytest
import torch

from tests.integration.test_ranks import alone_and_together
from textbrewer import TeacherCache

pytest.importorskip("lmdb", reason="needs the extra `cache`")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return alone_and_together(tmp_path_factory, "in_cache_ranks.py")


@pytest.mark.parametrize("name", ["live", "filling", "filled", "built"])
def test_weights_are_those_of_one_process_without_a_cache(folders, name):
    alone, together = folders
    expected = torch.load(alone / "live-0.pt", weights_only=True)
    for folder, rank in ((alone, 0), (together, 0), (together, 1)):
        found = torch.load(folder / f"{name}-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["cache", "built"])
def test_each_process_writes_a_shard_and_all_rows_are_in_them(folders, name):
    for folder, shards in zip(folders, (1, 2), strict=True):
        with TeacherCache(folder / name, read_only=True, dtype="float32") as cache:
            ((namespace, found),) = cache.verify().items()
        made = sorted(path.name for path in (folder / name / namespace).glob("shard-*"))
        assert made == [f"shard-{i:03d}" for i in range(shards)]
        # Of a row that two processes compute at the same time, each keeps its own.
        assert found[0] >= 48 and found[1] == 0
