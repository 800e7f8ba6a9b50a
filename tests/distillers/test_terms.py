"""Terms with a schedule, a part of the run, a mask, an index and options, through whole runs."""

from __future__ import annotations

import math

import pytest
import torch

from tests.tiny import EncoderAdaptor, batch_of, batches, encoder, weights
from textbrewer import (
    BasicDistiller,
    CustomMatch,
    DistillationConfig,
    GeneralDistiller,
    MultiTaskDistiller,
    TeacherCache,
    TrainingConfig,
    losses,
)
from textbrewer.errors import AdaptorError, MatchError

HIDDEN = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid"}


def distiller_of(folder, matches=(), kind=GeneralDistiller, train=None, **config):
    settings = {"output_dir": folder, "device": "cpu", "progress_bar": False, **(train or {})}
    settings = TrainingConfig(**settings)
    config = DistillationConfig(intermediate_matches=list(matches), **config)
    parts = encoder(1, layers=3), encoder(2), EncoderAdaptor(), EncoderAdaptor()
    return kind(settings, config, *parts)


def trained(distiller, loader, **more):
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.2)
    with distiller:
        distiller.train(optimizer, loader, **{"num_epochs": 1, **more})
    return weights(distiller.model_S)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def calls_of(seen):
    """A loss that notes at which step it was computed, by what it is told of the step."""

    def spying(state_S, state_T, mask=None):
        seen.append(len(seen))
        return losses.hidden_mse_valid_loss(state_S, state_T, mask)

    return spying


def test_features_first_then_logits_in_one_run(tmp_path):
    """The same as two runs, one after the other."""
    loader, late = batches(6), {"kd_loss_active": (0.5, 1), "temperature": 2}
    both = distiller_of(tmp_path / "both", [{**HIDDEN, "active": (0, 0.5)}], **late)
    found = trained(both, loader)

    first = distiller_of(tmp_path / "one", [HIDDEN], kd_loss_weight=0)
    trained(first, loader[:3])
    second = distiller_of(tmp_path / "two", temperature=2)
    second.model_S.load_state_dict(first.model_S.state_dict())
    assert same(found, trained(second, loader[3:]))


def test_a_match_is_computed_in_its_part_of_the_run_alone(tmp_path):
    seen = []
    trained(distiller_of(tmp_path, [{**HIDDEN, "loss": calls_of(seen), "active": (0.25, 0.5)}]), batches(8))
    assert len(seen) == 2


def test_a_match_without_weight_is_neither_computed_nor_can_it_fail(tmp_path):
    seen = []
    broken = [
        {**HIDDEN, "loss": calls_of(seen), "weight": 0},
        {**HIDDEN, "layer_T": 99, "weight": 0},
        {**HIDDEN, "layer_T": 99, "active": (0.99, 1)},
        {**HIDDEN, "mask": "nowhere", "weight": 0},
    ]
    found = trained(distiller_of(tmp_path / "a", broken), batches(4))
    assert seen == [] and same(found, trained(distiller_of(tmp_path / "b"), batches(4)))


def test_the_schedule_of_a_match_replaces_its_weight(tmp_path):
    """As of the other weights: the first step has the configured one."""
    match = {**HIDDEN, "weight": 3, "weight_scheduler": ["linear", 2, 0]}
    found = trained(distiller_of(tmp_path / "a", [match], kd_loss_weight=0), batches(4))
    by_hand = encoder(2)
    optimizer, teacher = torch.optim.SGD(by_hand.parameters(), lr=0.2), encoder(1, layers=3)
    for weight, batch in zip((3, 1.5, 1, 0.5), batches(4), strict=True):
        states = by_hand(**batch)[1][1], teacher(**batch)[1][2].detach()
        (weight * losses.hidden_mse_valid_loss(*states, batch["attention_mask"])).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)


def test_the_temperature_goes_down_over_the_run(tmp_path):
    seen = []

    def kd(logits_S, logits_T, temperature):
        seen.append(temperature)
        return losses.kl_loss(logits_S, logits_T, temperature)

    distiller = distiller_of(tmp_path, kd_loss_type=kd, temperature_annealing=["steps", 3, 1, 3])
    trained(distiller, batches(6))
    assert seen == [3, 3, 2, 2, 1, 1]


class WithColumns(EncoderAdaptor):
    """Gives a mask of its own: the first token of each row."""

    def __call__(self, batch, outputs):
        first = torch.zeros_like(batch["attention_mask"])
        first[:, 0] = 1
        return {**super().__call__(batch, outputs), "first": first}


def with_first(batch):
    first = torch.zeros_like(batch["attention_mask"])
    first[:, 0] = 1
    return {**batch, "first": first}


def only_first(state_S, state_T, mask=None):
    return ((state_S - state_T)[:, 0] ** 2).mean()


@pytest.mark.parametrize("through", ["the adaptor", "the batch"])
def test_a_match_may_have_a_mask_of_its_own(tmp_path, through):
    distiller = distiller_of(tmp_path / "a", [{**HIDDEN, "mask": "first"}], kd_loss_weight=0)
    loader = batches(3)
    if through == "the adaptor":
        distiller.lesson.adaptor_S = WithColumns()
    else:
        loader = [with_first(batch) for batch in loader]  # which the models, that do not know it, are not fed
    expected = distiller_of(tmp_path / "b", [{**HIDDEN, "loss": only_first}], kd_loss_weight=0)
    found, expected = trained(distiller, loader), trained(expected, batches(3))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_the_mean_over_another_mask_is_of_the_whole_step(tmp_path):
    """Two accumulated batches are one twice as large."""

    def answers(batch, rows):
        answer = torch.zeros_like(batch["attention_mask"])
        answer[:rows, :2] = 1
        return {**batch, "answer": answer}

    one, other = answers(batch_of(seed=1), 3), answers(batch_of(seed=2), 1)
    whole = {name: torch.cat([one[name], other[name]]) for name in one}
    match = {**HIDDEN, "mask": "answer"}
    parts = distiller_of(tmp_path / "a", [match], train={"gradient_accumulation_steps": 2}, kd_loss_weight=0)
    at_once = distiller_of(tmp_path / "b", [match], kd_loss_weight=0)
    found, expected = trained(parts, [one, other]), trained(at_once, [whole])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_mask_that_nobody_gives_is_told(tmp_path):
    message = (
        r"hidden_hidden_mse_valid_1_2: adaptor_S gave \['logits', .*\] and no 'answer', \(batch, length\), non-zero "
        "where the match counts, which this match needs; return it from adaptor_S, or let the batch"
    )
    with pytest.raises(AdaptorError, match=message):
        trained(distiller_of(tmp_path, [{**HIDDEN, "mask": "answer"}]), batches(1))


def test_a_mask_of_another_shape_is_told(tmp_path):
    loader = [{**batch, "answer": torch.ones(4, 5)} for batch in batches(1)]
    with pytest.raises(MatchError, match=r"hidden_hidden_mse_valid_1_2: .*the mask is \[4, 5\]"):
        trained(distiller_of(tmp_path, [{**HIDDEN, "mask": "answer"}]), loader)


def test_embeddings_of_a_translation_are_pooled_each_by_its_own_mask(tmp_path):
    """Against the means over the tokens of each side by hand, of sides that are padded to other lengths."""
    batch = {"teacher": batch_of(4, 7, 1), "student": batch_of(4, 5, 2)}
    student, teacher = encoder(2), encoder(1, layers=3)

    def embeddings(model, side, layer):
        mask = side["attention_mask"].unsqueeze(-1)
        return (model(**side)[1][layer] * mask).sum(1) / mask.sum(1)

    apart = embeddings(student, batch["student"], 1) - embeddings(teacher, batch["teacher"], 2).detach()
    (apart**2).mean().backward()
    distiller = distiller_of(tmp_path, [{**HIDDEN, "loss": "embedding_mse"}], kd_loss_weight=0)
    trained(distiller, [batch])
    for name, parameter in student.named_parameters():
        expected = parameter if parameter.grad is None else parameter - 0.2 * parameter.grad
        torch.testing.assert_close(distiller.model_S.state_dict()[name], expected.detach())


CRD = {**HIDDEN, "loss": {"name": "crd", "examples": 12, "width_S": 8, "width_T": 8, "negatives": 5, "width": 4}}


def indexed(number=3):
    return [{**batch, "index": torch.arange(4) + 4 * place} for place, batch in enumerate(batches(number))]


def test_crd_learns_which_example_is_which_and_keeps_its_memory(tmp_path):
    torch.manual_seed(0)
    distiller = distiller_of(tmp_path, [CRD], kd_loss_weight=0)
    (loss,) = distiller.lesson.losses
    before, memory = weights(distiller.model_S), loss.memory_S.clone()
    trained(distiller, indexed(2))
    assert not same(before, weights(distiller.model_S))
    moved = (loss.memory_S != memory).any(dim=1)
    assert moved.tolist() == [True] * 8 + [False] * 4


def test_crd_is_given_the_index_and_the_features_of_the_rows(tmp_path):
    """Against the loss called by hand with the same memory and negatives."""
    torch.manual_seed(0)
    distiller = distiller_of(tmp_path / "a", [CRD], kd_loss_weight=0)
    by_hand = losses.CRDLoss(12, 8, 8, negatives=5, width=4)
    by_hand.load_state_dict(distiller.lesson.losses[0].state_dict())
    student, teacher, (batch,) = encoder(2), encoder(1, layers=3), batches(1)
    torch.manual_seed(7)
    state_T = teacher(**batch)[1][2].detach()
    by_hand(student(**batch)[1][1], state_T, batch["attention_mask"], index=torch.arange(4)).backward()
    torch.manual_seed(7)
    trained(distiller, indexed(1))
    assert torch.equal(by_hand.memory_S, distiller.lesson.losses[0].memory_S)
    for name, parameter in student.named_parameters():
        expected = parameter if parameter.grad is None else parameter - 0.2 * parameter.grad
        torch.testing.assert_close(distiller.model_S.state_dict()[name], expected.detach())


def test_the_memory_goes_on_from_a_checkpoint(tmp_path):
    def distiller():
        torch.manual_seed(0)
        return distiller_of(tmp_path / "run", [CRD], train={"ckpt_frequency": 3})

    whole = distiller()
    trained(whole, indexed())

    class StopError(Exception):
        pass

    def stop(model, step):
        if step == 2:
            raise StopError

    stopped = distiller()
    with pytest.raises(StopError):
        trained(stopped, indexed(), callback=stop)
    torch.manual_seed(99)
    again = distiller_of(tmp_path / "run", [CRD], train={"ckpt_frequency": 3})
    trained(again, indexed(), resume="auto")
    assert same(weights(whole.model_S), weights(again.model_S))
    assert same(weights(whole.lesson.losses), weights(again.lesson.losses))


def test_an_index_that_nobody_gives_is_told(tmp_path):
    message = (
        r"hidden_crd_1_2: adaptor_S gave .* and no 'index', \(batch,\), which example of the data each row is, .* let "
        "the batch have a column 'index'"
    )
    with pytest.raises(AdaptorError, match=message):
        trained(distiller_of(tmp_path, [CRD]), batches(1))


def test_an_index_outside_of_the_data_is_told(tmp_path):
    loader = [{**batch, "index": torch.arange(4) + 9} for batch in batches(1)]
    with pytest.raises(MatchError, match=r"hidden_crd_1_2: crd: index from 9 to 12, but .* 12 examples \(0\.\.11\)"):
        trained(distiller_of(tmp_path, [CRD]), loader)


def test_crd_and_a_cache_of_the_teacher(tmp_path):
    found = []
    for cache in (None, TeacherCache.in_memory()):
        torch.manual_seed(0)
        distiller = distiller_of(tmp_path / str(cache is None), [CRD])
        distiller.teacher_cache = cache
        found.append(trained(distiller, indexed(), num_epochs=2))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)


def test_options_by_name_and_as_an_object_are_the_same_run(tmp_path):
    ways = [["relation_kl", 4], {"name": "relation_kl", "heads": 4}, losses.RelationLoss(4)]
    matches = [{**HIDDEN, "loss": way} for way in ways]
    runs = [trained(distiller_of(tmp_path / str(i), [match]), batches(2)) for i, match in enumerate(matches)]
    assert same(runs[0], runs[1]) and same(runs[1], runs[2])
    other = trained(distiller_of(tmp_path / "other", [{**HIDDEN, "loss": ["relation_kl", 2]}]), batches(2))
    assert not same(runs[0], other)


def test_uncertainties_are_trained_with_the_student_and_leave_the_optimiser(tmp_path):
    config = {"balance": ["uncertainty", 0.5], "kd_loss_type": "kl", "hard_label_weight": 1}
    distiller = distiller_of(tmp_path, [HIDDEN], **config)
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.2)
    rates = []
    (batch,) = batches(1)
    student, teacher = encoder(2), encoder(1, layers=3)
    (s, hs, _, hard), (t, ht, *_) = student(**batch), teacher(**batch)
    kd, match = losses.kl_loss(s, t, 4), losses.hidden_mse_valid_loss(hs[1], ht[2], batch["attention_mask"])

    def note(model, step):
        rates.extend(group["lr"] for group in optimizer.param_groups)

    with distiller:
        distiller.train(optimizer, [batch], num_epochs=1, callback=note)
    assert rates == [0.2, 0.5] and len(optimizer.param_groups) == 1
    # s was 0, so that each loss weighed 1: a step of its gradient 1/2 - loss.
    expected = [0.5 * (value.item() - 0.5) for value in (kd, match, hard)]
    assert distiller.lesson.balance.log_variances.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("balance", ["uncertainty", "gradient_norm", ["gradient_norm", 2, 0.5]])
@pytest.mark.parametrize("kind", [BasicDistiller, GeneralDistiller])
def test_a_balanced_run_goes_on_with_the_same_bits(tmp_path, balance, kind):
    matches = [HIDDEN] if kind is GeneralDistiller else []

    def distiller():
        return distiller_of(
            tmp_path, matches, kind, {"ckpt_frequency": 3}, balance=balance, hard_label_weight=1, kd_loss_type="kl"
        )

    whole = distiller()
    trained(whole, batches(3), num_epochs=2)

    def stop(model, step):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(distiller(), batches(3), num_epochs=2, callback=stop)
    again = distiller()
    trained(again, batches(3), num_epochs=2, resume="auto")
    assert same(weights(whole.model_S), weights(again.model_S))
    assert same(weights(whole.lesson.losses), weights(again.lesson.losses))


def test_each_task_has_a_balance_of_its_own(tmp_path):
    config = DistillationConfig(balance="uncertainty", hard_label_weight=1)
    tasks = ("a", "b")
    distiller = MultiTaskDistiller(
        TrainingConfig(output_dir=tmp_path, device="cpu", progress_bar=False),
        config,
        {task: encoder(1) for task in tasks},
        encoder(2),
        dict.fromkeys(tasks, EncoderAdaptor()),
        dict.fromkeys(tasks, EncoderAdaptor()),
    )
    one, other = (distiller.lessons[task].balance for task in tasks)
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.2)
    with distiller:
        distiller.train(optimizer, {task: batches(2) for task in tasks}, num_steps=6)
    assert one is not other
    assert not torch.equal(one.log_variances, other.log_variances)
    assert all(math.isfinite(value) for value in (*one.log_variances.tolist(), *other.log_variances.tolist()))


def test_a_custom_match_may_have_a_part_of_the_run_and_a_schedule(tmp_path):
    """Its options are those of a match of layers."""
    given = {"weight_scheduler": ["linear", 2, 0], "active": (0.25, 0.75)}
    by_hand = distiller_of(tmp_path / "a", [{**HIDDEN, "layer_T": "layers.0", "layer_S": "layers.0", **given}])
    custom = distiller_of(tmp_path / "b")
    loss = HIDDEN["loss"]
    custom.add_match(CustomMatch(custom.model_T.layers[0], custom.model_S.layers[0], 1.0, loss, **given))
    plain = trained(distiller_of(tmp_path / "c"), batches(4))
    found = trained(custom, batches(4))
    assert same(found, trained(by_hand, batches(4))) and not same(found, plain)


@pytest.mark.parametrize("stop_at", [2, 3, 5])
def test_terms_that_come_and_go_go_on_with_the_same_bits(tmp_path, stop_at):
    """A projection that is not made before its term counts, too."""
    matches = [
        {**HIDDEN, "proj": "auto", "active": (0.5, 1), "weight_scheduler": ["linear", 1, 0]},
        {**HIDDEN, "loss": "vid", "proj": ["linear", 8, 12], "active": (0, 0.7)},
    ]

    def run(folder, seed=0, **more):
        torch.manual_seed(seed)
        config = DistillationConfig(
            temperature_annealing=["cosine", 4, 1], kd_loss_active=(0.3, 0.9), intermediate_matches=matches
        )
        settings = TrainingConfig(output_dir=folder, device="cpu", progress_bar=False, ckpt_frequency=3)
        adaptor = EncoderAdaptor()
        teacher, student = encoder(1, width=12), encoder(2)
        distiller = GeneralDistiller(settings, config, teacher, student, adaptor, adaptor)
        optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
        with distiller:
            distiller.train(optimizer, batches(3), num_epochs=2, **more)
        return [weights(part) for part in (student, distiller.projections, distiller.lesson.losses)]

    def stop(model, step):
        if step == stop_at:
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", callback=stop)
    again = run(tmp_path / "stopped", seed=99, resume="auto")
    assert all(same(one, other) for one, other in zip(whole, again, strict=True))
