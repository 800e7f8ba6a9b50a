"""The losses that need more than two tensors, as a config names them: labels, counts, parameters of their own."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.tiny import EncoderAdaptor, batches, encoder, weights
from textbrewer import DistillationConfig, GeneralDistiller, MultiTeacherDistiller, TrainingConfig
from textbrewer.balancing import UncertaintyWeights
from textbrewer.errors import AdaptorError, UnsupportedError
from textbrewer.losses import StandardisedLoss, VariationalLoss, dkd_loss, jsd_loss
from textbrewer.presets import ANY_WIDTH_MATCH_LOSSES, KD_LOSS_MAP, MATCH_LOSS_MAP, PAIRED_MATCH_LOSSES

HIDDEN = {"feature": "hidden", "weight": 1}


def distiller_of(folder, student=None, teachers=1, **config):
    train = TrainingConfig(output_dir=folder, device="cpu", progress_bar=False, ckpt_frequency=0)
    students = student or encoder(1, width=8, layers=1)
    adaptor = EncoderAdaptor()
    if teachers > 1:
        models = [encoder(i + 2, width=12, layers=2) for i in range(teachers)]
        options = {"combine": "losses"}
        return MultiTeacherDistiller(train, DistillationConfig(**config), models, students, adaptor, adaptor, **options)
    teacher = encoder(0, width=12, layers=2)
    return GeneralDistiller(train, DistillationConfig(**config), teacher, students, adaptor, adaptor)


def trained(distiller, number=3, labels=True):
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.05)
    torch.manual_seed(0)
    with distiller:
        distiller.train(optimizer, batches(number, labels=labels), num_epochs=1)
    return weights(distiller.model_S)


def changed(before, after):
    return any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", sorted(KD_LOSS_MAP))
def test_every_loss_between_logits_trains_by_its_name(tmp_path, name):
    distiller = distiller_of(tmp_path, kd_loss_type=name)
    before = weights(distiller.model_S)
    after = trained(distiller)
    assert changed(before, after) and all(value.isfinite().all() for value in after.values())


NEEDS_MORE = {"crd"}  # see test_terms.py


@pytest.mark.parametrize(
    "name", sorted({name for name in MATCH_LOSS_MAP if not name.startswith("attention")} - NEEDS_MORE)
)
def test_every_loss_between_hidden_states_trains_by_its_name(tmp_path, name):
    layers = [0, 1] if name in PAIRED_MATCH_LOSSES else 1
    match = {**HIDDEN, "layer_S": layers, "layer_T": layers, "loss": name}
    if name not in ANY_WIDTH_MATCH_LOSSES:
        match["proj"] = ["linear", 24, 24]
    if name not in ANY_WIDTH_MATCH_LOSSES or "relation" in name or "query" in name:
        teacher, student = encoder(0, width=24, layers=2), encoder(1, width=24, layers=1)
    else:
        teacher, student = encoder(0, width=12, layers=2), encoder(1, width=8, layers=1)
    train = TrainingConfig(output_dir=tmp_path, device="cpu", progress_bar=False, ckpt_frequency=0)
    config = DistillationConfig(kd_loss_weight=0, intermediate_matches=[match])
    distiller = GeneralDistiller(train, config, teacher, student, EncoderAdaptor(), EncoderAdaptor())
    before = weights(student)
    assert changed(before, trained(distiller))


def test_labels_of_the_student_reach_the_loss(tmp_path):
    seen = []

    def spying(logits_S, logits_T, temperature=1, mask=None, *, labels=None):
        seen.append(labels)
        return dkd_loss(logits_S, logits_T, temperature, labels=labels)

    spying.__wrapped__ = dkd_loss
    trained(distiller_of(tmp_path, kd_loss_type=spying), number=2)
    assert all(torch.equal(labels, batch["labels"]) for labels, batch in zip(seen, batches(2), strict=True))


def test_a_loss_that_needs_labels_says_so(tmp_path):
    with pytest.raises(AdaptorError, match="dkd_loss needs labels, and adaptor_S gave"):
        trained(distiller_of(tmp_path, kd_loss_type="dkd"), labels=False)


def test_options_of_a_loss_are_given_by_a_partial(tmp_path):
    one, other = (
        trained(distiller_of(tmp_path, kd_loss_type=functools.partial(jsd_loss, beta=beta))) for beta in (0.1, 0.9)
    )
    assert changed(one, other)
    standardised = StandardisedLoss(functools.partial(dkd_loss, beta=2.0))
    assert changed(one, trained(distiller_of(tmp_path, kd_loss_type=standardised)))


@pytest.mark.parametrize("name", ["dkd", "dist"])
def test_a_loss_that_cannot_go_row_by_row_says_so(tmp_path, name):
    with pytest.raises(UnsupportedError, match="combine='losses' weighs rows one by one"):
        trained(distiller_of(tmp_path, teachers=2, kd_loss_type=name))


def test_the_parameters_of_a_loss_are_trained_and_given_back(tmp_path):
    match = {**HIDDEN, "layer_S": 1, "layer_T": 1, "loss": "vid", "proj": ["linear", 8, 12]}
    distiller = distiller_of(tmp_path, intermediate_matches=[match, {**match, "layer_T": 2}])
    first, second = distiller.lesson.losses
    assert isinstance(first, VariationalLoss) and first is not second
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.05)
    with distiller:
        distiller.train(optimizer, batches(1), num_epochs=1)
        before = weights(first)
        distiller.train(optimizer, batches(2), num_epochs=1)
    assert changed(before, weights(first))
    assert len(optimizer.param_groups) == 1
    held = {id(parameter) for parameter in optimizer.state}
    assert not any(id(parameter) in held for loss in (first, second) for parameter in loss.parameters())


def test_an_object_that_several_matches_share_is_trained_once(tmp_path):
    loss = VariationalLoss(12)
    match = {**HIDDEN, "layer_S": 1, "loss": loss, "proj": ["linear", 8, 12]}
    distiller = distiller_of(tmp_path, intermediate_matches=[{**match, "layer_T": 1}, {**match, "layer_T": 2}])
    (own,) = distiller.lesson.losses
    assert distiller.lesson.losses.for_match == [own, own]
    before = weights(loss)
    trained(distiller)
    assert changed(before, weights(own))
    assert not changed(before, weights(loss))


def test_runs_from_one_config_learn_each_from_the_start(tmp_path):
    matches = [{**HIDDEN, "layer_S": 1, "layer_T": 1, "loss": VariationalLoss(12), "proj": ["linear", 8, 12]}]
    config = {"intermediate_matches": matches, "balance": UncertaintyWeights(lr=0.5)}
    found = []
    for folder in ("one", "other"):
        torch.manual_seed(1)
        distiller = distiller_of(tmp_path / folder, **config)
        found.append({**trained(distiller), **weights(distiller.lesson.losses)})
    assert found[0].keys() == found[1].keys()
    assert not changed(*found)
    assert found[0]["0.alpha"].unique().numel() > 1 and found[0]["1.log_variances"][:2].all()
