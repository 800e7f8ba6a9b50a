"""Plots are SVG with the numbers they were given."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="needs the extra `report`")

from textbrewer import BasicTrainer, TrainingConfig
from textbrewer.errors import DataError
from textbrewer.report import plots


def words(svg: str) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_quality_shows_mean_and_deviation():
    text = words(plots.quality({"teacher": [95.0], "student": [90.0, 92.0]}, "accuracy, %"))
    assert "91.0 ± 1.4" in text and "95.0" in text and "accuracy, %" in text


def test_relative_shows_shares_of_the_reference():
    text = words(plots.relative({"size": {"teacher": 200.0, "student": 50.0}}, "teacher"))
    assert "25 %" in text and "100 %" in text and "% of the teacher" in text


def test_curves_name_their_series():
    text = words(plots.curves({"a": [[(0, 1.0), (1, 0.5)], [(0, 2.0), (1, 1.5)]], "b": [[(0, 1.0)]]}, "loss"))
    assert "a" in text.split() and "b" in text.split() and "loss" in text


def test_the_same_numbers_give_the_same_file():
    assert plots.quality({"m": [1.0]}, "x") == plots.quality({"m": [1.0]}, "x")


def test_scalars_are_read_from_a_run(tmp_path):
    import torch

    from tests.tiny import EncoderAdaptor, batches, encoder

    model = encoder()
    config = TrainingConfig(log_dir=str(tmp_path / "log"), output_dir=str(tmp_path), progress_bar=False, device="cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    BasicTrainer(config, model, EncoderAdaptor()).train(optimizer, batches(3), num_epochs=1)
    read = plots.scalars(tmp_path / "log")
    assert [step for step, _ in read] == [0, 1, 2]
    assert all(value > 0 for _, value in read)
    with pytest.raises(DataError, match="scalar/total_loss"):
        plots.scalars(tmp_path / "log", "scalar/none")
