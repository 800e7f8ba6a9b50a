"""What a loss gets that it cannot use, through whole runs: it says what it needs, or does no harm."""

from __future__ import annotations

import math

import pytest
import torch

from tests.tiny import EncoderAdaptor, batch_of, batches, encoder, weights
from textbrewer import KD_LOSS_MAP, MATCH_LOSS_MAP, DistillationConfig, GeneralDistiller, TrainingConfig
from textbrewer.errors import AdaptorError, ConfigError, MatchError
from textbrewer.losses import needs_labels
from textbrewer.presets import PAIRED_MATCH_LOSSES

# Losses that are not zero where nothing is masked in; their parameters are not the student's.
OF_HIDDEN = sorted({name for name in MATCH_LOSS_MAP if not name.startswith("attention")})
OF_ATTENTION = sorted({name for name in MATCH_LOSS_MAP if name.startswith("attention")})


class Changed(EncoderAdaptor):
    """Gives some keys changed: ``f(what the adaptor gives, batch) -> dict``."""

    def __init__(self, change):
        self.change = change

    def __call__(self, batch, outputs):
        given = super().__call__(batch, outputs)
        return {**given, **self.change(given, batch)}

    masks = None


def match_of(name):
    hidden = not name.startswith("attention")
    layers = [0, 1] if name in PAIRED_MATCH_LOSSES else 1 if hidden else 0
    loss = {"name": "crd", "examples": 64, "width_S": 24, "width_T": 24} if name == "crd" else name
    return {"layer_T": layers, "layer_S": layers, "feature": "hidden" if hidden else "attention", "loss": loss}


def trained(folder, config, loader, adaptor_S=None, adaptor_T=None, **sizes):
    settings = TrainingConfig(output_dir=folder, device="cpu", progress_bar=False, ckpt_frequency=0)
    teacher, student = (encoder(i + 1, **{"width": 24, **sizes.get(side, {})}) for i, side in enumerate("TS"))
    adaptors = adaptor_T or EncoderAdaptor(), adaptor_S or EncoderAdaptor()
    distiller = GeneralDistiller(settings, DistillationConfig(**config), teacher, student, *adaptors)
    torch.manual_seed(0)
    with distiller:
        distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), loader, num_epochs=1)
    return weights(student)


def indexed(batch):
    return {**batch, "index": torch.arange(len(batch["input_ids"]))}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", [*OF_HIDDEN, *OF_ATTENTION])
def test_features_that_are_all_masked_are_a_zero_with_a_gradient(tmp_path, name):
    if name == "pkd":
        pytest.skip("reads position 0 whatever the mask, as in TextBrewer 0.2.1")
    nothing = Changed(lambda given, batch: {"inputs_mask": torch.zeros_like(batch["attention_mask"])})
    config = {"kd_loss_weight": 0, "intermediate_matches": [match_of(name)]}
    batch = indexed(batch_of()) if name == "crd" else batch_of()
    found = trained(tmp_path, config, [batch], nothing, nothing)
    assert same(found, weights(encoder(2, width=24)))


def of_tokens(given, batch):
    """Logits of every token, and labels of those that are real."""
    logits = given["hidden"][-1][..., :5]
    labels = torch.where(batch["attention_mask"] != 0, batch["input_ids"] % 5, -100)
    return {"logits": logits, "logits_mask": batch["attention_mask"], "labels": labels}


def with_infinities(given, batch):
    found = of_tokens(given, batch)
    padding = (batch["attention_mask"] == 0).unsqueeze(-1)
    signs = torch.tensor([math.inf, -math.inf, math.nan, 0.0, math.inf])
    return {**found, "logits": torch.where(padding, signs, found["logits"])}


@pytest.mark.parametrize("name", sorted(KD_LOSS_MAP))
def test_logits_that_are_not_finite_behind_the_text_do_no_harm(tmp_path, name):
    assert (batch_of()["attention_mask"] == 0).any()
    config = {"kd_loss_type": name, "temperature": 2}
    plain = trained(tmp_path, config, batches(2), Changed(of_tokens), Changed(of_tokens))
    found = trained(tmp_path, config, batches(2), Changed(with_infinities), Changed(with_infinities))
    assert same(plain, found) and not same(plain, weights(encoder(2, width=24)))


@pytest.mark.parametrize("name", sorted(KD_LOSS_MAP))
def test_logits_that_are_all_masked_are_a_zero_with_a_gradient(tmp_path, name):
    def none(given, batch):
        return {**of_tokens(given, batch), "logits_mask": torch.zeros_like(batch["attention_mask"])}

    found = trained(tmp_path, {"kd_loss_type": name}, batches(1), Changed(none), Changed(none))
    assert same(found, weights(encoder(2, width=24)))


@pytest.mark.parametrize("name", [name for name in sorted(KD_LOSS_MAP) if needs_labels(KD_LOSS_MAP[name])])
def test_a_loss_without_its_labels_or_with_one_that_is_no_class(tmp_path, name):
    message = r"_loss needs labels, and adaptor_S gave \[.*\]; add 'labels' to what it returns"
    with pytest.raises(AdaptorError, match=message):
        trained(tmp_path, {"kd_loss_type": name}, batches(1, labels=False))
    outside = Changed(lambda given, batch: {"labels": batch["labels"] + 5})
    message = rf"unweighted_kd_loss: {name}: label \d, but the logits \[4, 3\] have 3 classes \(0..2\); mark rows"
    with pytest.raises(MatchError, match=message):
        trained(tmp_path, {"kd_loss_type": name}, batches(1), outside)


def test_a_label_that_is_no_class_cannot_be_shifted(tmp_path):
    outside = Changed(lambda given, batch: {"labels": batch["labels"] + 5})
    with pytest.raises(MatchError, match=r"probability_shift: label \d, but there are 3 classes \(0..2\); mark rows"):
        trained(tmp_path, {"probability_shift": True}, batches(1), outside)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "similarity_preserving"])
def test_one_row_has_no_relations(tmp_path, name):
    number = 3 if name == "rkd_angle" else 2
    message = rf"hidden_{name}_1_1: {name}: relations need at least {number} examples, got a batch of 1 .*drop_last="
    with pytest.raises(MatchError, match=message):
        trained(tmp_path, {"intermediate_matches": [match_of(name)]}, batches(1, rows=1))


def test_one_row_cannot_be_compared_with_others(tmp_path):
    message = r"unweighted_kd_loss: dist: rows are compared with each other.*drop_last=True"
    with pytest.raises(MatchError, match=message):
        trained(tmp_path, {"kd_loss_type": "dist"}, batches(1, rows=1))


@pytest.mark.parametrize("name", sorted(PAIRED_MATCH_LOSSES))
def test_one_layer_where_two_are_needed(name):
    with pytest.raises(ConfigError, match=r"expected two layers a side for the loss .*; write layer_T: "):
        DistillationConfig(intermediate_matches=[{**match_of(name), "layer_T": 1, "layer_S": 1}])


@pytest.mark.parametrize("name", ["attention_mse", "attention_ce", "attention_mse_valid", "attention_kl"])
def test_other_numbers_of_heads(tmp_path, name):
    message = rf"attention_{name}_0_0: {name}: .* differ in the number of heads; use attention_mse_sum"
    with pytest.raises(MatchError, match=message):
        trained(tmp_path, {"intermediate_matches": [match_of(name)]}, batches(1), T={"heads": 4})


def test_relation_heads_that_divide_one_width_alone(tmp_path):
    message = (
        r"hidden_relation_kl_1_1: relation_kl: 12 relation heads do not divide the widths 24 \(student\) and 32 "
        r"\(teacher\); write loss: \['relation_kl', heads\] with heads one of \[1, 2, 4, 8\]"
    )
    with pytest.raises(MatchError, match=message):
        trained(tmp_path, {"intermediate_matches": [match_of("relation_kl")]}, batches(1), T={"width": 32})
    written = [{**match_of("relation_kl"), "loss": ["relation_kl", 8]}]
    before = weights(encoder(2, width=24))
    assert not same(before, trained(tmp_path, {"intermediate_matches": written}, batches(1), T={"width": 32}))
