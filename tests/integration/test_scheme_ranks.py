"""Terms with options, and schemes, in two processes: as one does it, or at least alike in both."""

from __future__ import annotations

import pytest
import torch

from tests.integration.test_ranks import alone_and_together

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def became(tmp_path_factory):
    """What one process makes of its students, and each of two."""
    alone, together = alone_and_together(tmp_path_factory, "in_scheme_ranks.py")
    paths = (alone / "became-0.pt", together / "became-0.pt", together / "became-1.pt")
    return [torch.load(path, weights_only=True) for path in paths]


@pytest.mark.parametrize("name", ["uncertainty", "mutual"])
def test_two_processes_do_what_one_does(became, name):
    alone, first, _ = (runs[name] for runs in became)
    assert alone.keys() == first.keys()
    for key, value in alone.items():
        torch.testing.assert_close(first[key], value, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", ["uncertainty", "gradient_norm", "mutual", "theseus", "crd"])
def test_both_processes_have_the_same_student(became, name):
    """And the same norms, and one memory."""
    _, first, second = (runs[name] for runs in became)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_two_processes_remember_what_one_does(became):
    """Of a student that rests, so that what is seen does not depend on when: negatives are drawn by each process."""
    alone, first, _ = (runs["crd at rest"] for runs in became)
    for memory in ("beside.0.memory_S", "beside.0.memory_T"):
        torch.testing.assert_close(first[memory], alone[memory], rtol=0, atol=1e-5)
    assert torch.isfinite(first["beside.0.log_Z"]).all()


def test_memories_are_gone_on_from_with_the_same_bits(became):
    for runs in became:
        assert all(torch.equal(runs["crd resumed"][key], value) for key, value in runs["crd"].items())


def test_a_stage_that_is_finished_is_found_by_both(became):
    for runs in became:
        again = runs["theseus, found finished"]
        assert all(torch.equal(again[key], value) for key, value in runs["theseus"].items())
