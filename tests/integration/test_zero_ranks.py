"""Two processes train by DeepSpeed's ZeRO as one does without it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from tests.integration.test_ranks import HERE, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs the extra `deepspeed`"),
]

CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config:
  zero_stage: {stage}
  offload_optimizer_device: {offload}
  gradient_accumulation_steps: 2
num_machines: 1
num_processes: 2
machine_rank: 0
mixed_precision: 'no'
use_cpu: false
"""
STAGES = {"ZeRO-1": (1, "none"), "ZeRO-2": (2, "none"), "ZeRO-2, offloaded": (2, "cpu")}


def run(launch, folder, accumulation, **more):
    command = [*launch, str(HERE / "in_zero_ranks.py"), str(folder), str(accumulation)]
    env = {**environment(), **more}
    done = subprocess.run(command, env=env, cwd=HERE.parents[1], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run([sys.executable], folder, 4)
    return torch.load(folder / "became-0.pt", weights_only=True)


@pytest.fixture(scope="module", params=list(STAGES))
def folder(request, tmp_path_factory):
    """Where two processes have run; DeepSpeed compiles what it needs when it is first used."""
    folder = tmp_path_factory.mktemp("together")
    stage, offload = STAGES[request.param]
    config = folder / "deepspeed.yaml"
    config.write_text(CONFIG.format(stage=stage, offload=offload), encoding="utf-8")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file", config]
    run([*map(str, launch)], folder, 2, DS_ACCELERATOR="cpu")
    return folder


@pytest.fixture(scope="module")
def together(folder):
    return [torch.load(folder / f"became-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["projected", "clipped", "bert"])
def test_weights_and_projections_are_those_of_one_process(alone, together, name):
    for became in together:
        assert became[name].keys() == alone[name].keys()
        for key, value in alone[name].items():
            torch.testing.assert_close(
                became[name][key], value, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_both_processes_have_the_same_student_and_memory(together):
    first, second = (became["crd"] for became in together)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_is_gone_on_from_with_the_same_bits(together):
    for became in together:
        assert all(torch.equal(became["resumed"][key], value) for key, value in became["projected"].items())


def test_the_best_student_is_whole_in_its_folder_and_given_back(folder, together):
    from transformers import AutoModelForSequenceClassification

    saved = AutoModelForSequenceClassification.from_pretrained(folder / "bert" / "best").state_dict()
    assert all(torch.equal(value, together[0]["bert"][f"student.{key}"]) for key, value in saved.items())
