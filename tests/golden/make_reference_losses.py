"""Writes reference_losses.json with public implementations of losses that TextBrewer 0.2.1 does not have.

Run it in an environment of its own, from the root of the checkout:

    pip install --no-deps torchdistill==1.1.5 trl==1.16.0
    pip install torch torchvision transformers accelerate datasets
    python tests/golden/make_reference_losses.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from loss_inputs import wave
from torchdistill.losses.mid_level import DISTLoss, LogitStdKDLoss, RKDLoss
from trl.experimental.gkd.gkd_trainer import GKDTrainer

LOGITS = wave(3, 4, phase=0.1), wave(3, 4, phase=0.2)
VECTORS = wave(5, 3, phase=0.3), wave(5, 4, phase=0.4)


def found_by(loss: torch.nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> float:
    """A loss of torchdistill, which reads outputs by the path of a module."""
    sides = [{"at": {"output": side}} for side in (student, teacher)]
    return loss(*sides, torch.zeros(len(student), dtype=torch.long)).item()


if __name__ == "__main__":
    out = {"student_module_path": "at", "student_module_io": "output"}
    out |= {"teacher_module_path": "at", "teacher_module_io": "output"}
    found = {
        "rkd_distance": found_by(RKDLoss("at", "at", 1.0, 0.0, "mean"), *VECTORS),
        "rkd_angle": found_by(RKDLoss("at", "at", 0.0, 1.0, "mean"), *VECTORS),
    }
    for tau in (1.0, 4.0):
        found[f"dist, temperature {tau}"] = found_by(DISTLoss(**out, tau=tau), *LOGITS)
        standardised = LogitStdKDLoss(**out, temperature=tau, alpha=0.0, beta=1.0)
        found[f"standardised_kl, temperature {tau}"] = found_by(standardised, *LOGITS)
        for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
            jsd = GKDTrainer.generalized_jsd_loss(*LOGITS, beta=beta, temperature=tau)
            found[f"jsd, beta {beta}, temperature {tau}"] = jsd.item()
    Path(__file__).with_name("reference_losses.json").write_text(json.dumps(found, indent=1) + "\n")
