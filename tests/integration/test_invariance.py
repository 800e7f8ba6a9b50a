"""The result does not depend on padding, on the order of rows, or on the split into micro-batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

PER_ELEMENT = [
    {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid"},
    {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "cos_valid"},
    {"layer_T": 1, "layer_S": 0, "feature": "attention", "loss": "attention_mse_valid"},
    {"layer_T": 1, "layer_S": 0, "feature": "attention", "loss": "attention_kl"},
    {"layer_T": [0, 1], "layer_S": [0, 1], "feature": "hidden", "loss": "gram_valid"},
    {"layer_T": [0, 1], "layer_S": [0, 1], "feature": "hidden", "loss": "mmd_valid"},
]


def trained(tmp_path, loader: list[dict[str, torch.Tensor]], accumulation: int, matches: list[dict[str, Any]]):
    """The student's weights after one epoch of plain gradient descent in float64."""
    config = TrainingConfig(accumulation, ckpt_frequency=0, output_dir=str(tmp_path), progress_bar=False, device="cpu")
    student = encoder(2, torch.float64)
    distill = DistillationConfig(kd_loss_type="kl", intermediate_matches=matches)
    adaptor = EncoderAdaptor()
    distiller = GeneralDistiller(config, distill, encoder(1, torch.float64, layers=3), student, adaptor, adaptor)
    distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), loader, num_epochs=1)
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])


def split(batch: dict[str, torch.Tensor], sizes: list[int]) -> list[dict[str, torch.Tensor]]:
    parts = {key: value.split(sizes) for key, value in batch.items()}
    return [{key: part[i] for key, part in parts.items()} for i in range(len(sizes))]


def padded(batch: dict[str, torch.Tensor], extra: int) -> dict[str, torch.Tensor]:
    return {key: torch.nn.functional.pad(value, (0, extra)) for key, value in batch.items()}


@pytest.mark.parametrize("match", PER_ELEMENT, ids=lambda match: match["loss"])
def test_micro_batches_of_uneven_size_add_up_to_the_whole(tmp_path, match):
    whole = batch_of(rows=7, labels=False)
    expected = trained(tmp_path, [whole], 1, [match])
    untouched = torch.cat([p.detach().flatten() for p in encoder(2, torch.float64).parameters()])
    assert not torch.allclose(expected, untouched)
    torch.testing.assert_close(trained(tmp_path, split(whole, [4, 1, 2]), 3, [match]), expected)


@pytest.mark.parametrize("match", PER_ELEMENT, ids=lambda match: match["loss"])
def test_padding_changes_nothing(tmp_path, match):
    batch = batch_of(rows=5, labels=False)
    expected = trained(tmp_path, [batch], 1, [match])
    torch.testing.assert_close(trained(tmp_path, [padded(batch, 3)], 1, [match]), expected)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4), extra=st.integers(0, 4))
def test_any_split_and_any_padding(tmp_path_factory, seed, cuts, extra):
    folder = tmp_path_factory.mktemp("run")
    whole = batch_of(rows=sum(cuts), length=5, seed=seed, labels=False)
    expected = trained(folder, [whole], 1, PER_ELEMENT)
    loader = [padded(part, extra + i) for i, part in enumerate(split(whole, cuts))]
    torch.testing.assert_close(trained(folder, loader, len(cuts), PER_ELEMENT), expected)


def test_accumulating_equal_batches_is_one_large_batch_for_plain_means(tmp_path):
    whole = batch_of(rows=6, labels=False)
    whole["attention_mask"] = torch.ones_like(whole["attention_mask"])
    match = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse"}
    expected = trained(tmp_path, [whole], 1, [match])
    torch.testing.assert_close(trained(tmp_path, split(whole, [2, 2, 2]), 3, [match]), expected)


def test_an_adaptor_without_masks_is_said_and_averaged(tmp_path):
    config = TrainingConfig(2, ckpt_frequency=0, output_dir=str(tmp_path), progress_bar=False, device="cpu")
    student = encoder(2)
    adaptor = EncoderAdaptor()

    def plain(batch, outputs):
        return adaptor(batch, outputs)

    distiller = GeneralDistiller(
        config,
        DistillationConfig(kd_loss_type="kl"),
        encoder(1),
        student,
        lambda b, o: plain(b, o),
        lambda b, o: plain(b, o),
    )
    with pytest.warns(UserWarning, match="no `masks"):
        distiller.train(
            torch.optim.SGD(student.parameters(), lr=0.1), split(batch_of(labels=False), [2, 2]), num_epochs=1
        )
