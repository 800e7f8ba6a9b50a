"""Losses that others have published code for give its numbers, but for factors that are told here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.golden.loss_inputs import wave
from textbrewer import losses

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "reference_losses.json").read_text())
LOGITS = wave(3, 4, phase=0.1), wave(3, 4, phase=0.2)
VECTORS = wave(5, 3, phase=0.3), wave(5, 4, phase=0.4)
TEMPERATURES = (1.0, 4.0)
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def standardised(tau):
    """There the deviation is that of a sample, over C − 1, and there is no factor τ²."""
    wider = tau * math.sqrt(4 / 3)
    return losses.standardised_kl_loss(*LOGITS, wider).item() / wider**2


FOUND = {
    # There the mean is over all pairs and triples, those of an example with itself among them, which are zero.
    "rkd_distance": losses.rkd_distance_loss(*VECTORS).item() * (5 * 4) / 5**2,
    "rkd_angle": losses.rkd_angle_loss(*VECTORS).item() * (5 * 4 * 3) / 5**3,
    **{f"dist, temperature {tau}": losses.dist_loss(*LOGITS, tau).item() for tau in TEMPERATURES},
    **{f"standardised_kl, temperature {tau}": standardised(tau) for tau in TEMPERATURES},
    # There is no factor τ² there.
    **{
        f"jsd, beta {beta}, temperature {tau}": losses.jsd_loss(*LOGITS, tau, beta=beta).item() / tau**2
        for tau in TEMPERATURES
        for beta in BETAS
    },
}


def test_every_golden_number_is_compared():
    assert FOUND.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_number_is_the_published_one(name):
    # Its authors add 1e-7 to the deviation and 1e-8 to the product of lengths.
    assert FOUND[name] == pytest.approx(GOLDEN[name], rel=1e-6)
