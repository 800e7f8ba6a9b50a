"""The objective: shares of a step, masks of logits, weights over time, and what is said when something is missing."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from textbrewer import DistillationConfig, EnsembleConfig
from textbrewer.errors import AdaptorError, ConfigError, MatchError
from textbrewer.losses import kd_ce_loss, kd_mse_loss, kl_loss
from textbrewer.objective import HardLabels, Objective, Share, SoftLabels, counts_of, shift_probability
from textbrewer.schedules import Weight
from textbrewer.types import ModelOutputs

ROWS, LENGTH, CLASSES = 3, 4, 5
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


def logits(seed, *shape):
    return torch.randn(*(shape or (ROWS, CLASSES)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(**returned):
    return ModelOutputs.from_adaptor(returned, adaptor="adaptor")


def soft(student, teacher, share=None, **config):
    return SoftLabels(DistillationConfig(**config)).value(student, teacher, share or Share())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(0, [3, 1, 2]), (1, [1, 3, 2]), (2, [1, 2, 3]), (-1, [1, 3, 2]), (-100, [1, 3, 2])],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_the_true_label_swaps_with_the_largest_and_negative_ones_are_left_alone(labels, expected, dtype):
    given = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 9.0]])
    shifted = shift_probability(given, torch.tensor([labels, 2], dtype=dtype))
    assert shifted.tolist() == [expected, [0.0, 0.0, 9.0]]
    assert given.tolist() == [[1.0, 3.0, 2.0], [0.0, 0.0, 9.0]]


def test_shifting_is_done_at_every_position():
    given, labels = logits(0, 2, 3, CLASSES), torch.tensor([[0, -100, 4], [1, 2, -1]])
    by_row = torch.stack([shift_probability(given[row], labels[row]) for row in range(2)])
    by_position = torch.stack([shift_probability(given[:, i], labels[:, i]) for i in range(3)], dim=1)
    assert torch.equal(shift_probability(given, labels), by_row)
    assert torch.equal(by_row, by_position)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), r"labels \[2\].*logits \[3, 5\]"),
        (torch.zeros(3, 1, dtype=torch.long), r"labels \[3, 1\]"),
        (torch.tensor([0.0, 1.0, 2.0]), "float32"),
        (torch.tensor([0, 5, 1]), "label 5, but there are 5 classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(MatchError, match=message):
        shift_probability(logits(0), labels)


def test_no_rows_can_be_shifted():
    assert shift_probability(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0, 3)


@pytest.mark.parametrize("of_student", [True, False])
def test_the_teacher_is_shifted_at_the_selected_positions(of_student):
    s, t = logits(1, ROWS, LENGTH, CLASSES), logits(2, ROWS, LENGTH, CLASSES)
    labels = torch.tensor([[0, 1, 2, 3], [-100, 4, 0, 0], [2, 0, 0, 0]])
    student = outputs(logits=s, logits_mask=MASK, labels=labels if of_student else None)
    teacher = outputs(logits=t, logits_mask=MASK, labels=None if of_student else labels)
    found = soft(student, teacher, probability_shift=True, temperature=2)
    expected = kd_ce_loss(s[MASK != 0], shift_probability(t[MASK != 0], labels[MASK != 0]), 2)
    torch.testing.assert_close(found, expected)


def test_several_logits_add_up_and_share_the_last_labels():
    pairs = [(logits(1), logits(2)), (logits(3), logits(4))]
    labels = torch.tensor([0, 1, 2])
    student = outputs(logits=[s for s, _ in pairs], labels=labels)
    teacher = outputs(logits=[t for _, t in pairs])
    expected = sum(kd_mse_loss(s, t, 4) for s, t in pairs)
    torch.testing.assert_close(soft(student, teacher, kd_loss_type="mse"), expected)
    shifted = sum(kd_mse_loss(s, shift_probability(t, labels), 4) for s, t in pairs)
    torch.testing.assert_close(soft(student, teacher, kd_loss_type="mse", probability_shift=True), shifted)


def test_different_numbers_of_logits_are_refused():
    with pytest.raises(AdaptorError, match="adaptor_S gave 2 logits and adaptor_T 1"):
        soft(outputs(logits=[logits(1), logits(2)]), outputs(logits=logits(3)))


@pytest.mark.parametrize(("masks", "used"), [([MASK], [MASK, MASK]), ([MASK, 1 - MASK], [MASK, 1 - MASK])])
def test_one_mask_serves_all_logits_or_each_has_its_own(masks, used):
    pairs = [(logits(i, ROWS, LENGTH, CLASSES), logits(i + 5, ROWS, LENGTH, CLASSES)) for i in range(2)]
    student = outputs(logits=[s for s, _ in pairs], logits_mask=masks)
    teacher = outputs(logits=[t for _, t in pairs], logits_mask=masks)
    expected = sum(kd_ce_loss(s[m != 0], t[m != 0], 4) for (s, t), m in zip(pairs, used, strict=True))
    torch.testing.assert_close(soft(student, teacher), expected)


def test_a_mask_is_ignored_for_two_dimensional_logits():
    s, t = logits(1), logits(2)
    student, teacher = outputs(logits=s, logits_mask=MASK), outputs(logits=t)
    torch.testing.assert_close(soft(student, teacher), kd_ce_loss(s, t, 4))


@pytest.mark.parametrize("loss", ["ce", "mse", "kl"])
def test_a_mask_without_any_position_costs_nothing(loss):
    s = logits(1, ROWS, LENGTH, CLASSES).requires_grad_()
    given = {"logits_mask": torch.zeros_like(MASK)}
    value = soft(outputs(logits=s, **given), outputs(logits=s.detach(), **given), kd_loss_type=loss)
    value.backward()
    assert value.item() == 0
    assert not s.grad.any()


@pytest.mark.parametrize(
    ("masks_S", "masks_T", "message"),
    [
        ([MASK[:, :2]], [MASK], r"logits_mask of adaptor_S: expected \[3, 4\] for logits \[3, 4, 5\], got \[3, 2\]"),
        ([MASK], [MASK[0]], r"logits_mask of adaptor_T: expected \[3, 4\] .* got \[4\]"),
        ([MASK] * 2, [MASK] * 2, "logits_mask of adaptor_S: .* got nothing"),
        ([MASK], [1 - MASK], "select 7 and 5 positions; both adaptors must give the same logits_mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks_S, masks_T, message):
    many = [logits(i, ROWS, LENGTH, CLASSES) for i in range(3)]
    with pytest.raises(MatchError, match=message):
        soft(outputs(logits=many, logits_mask=masks_S), outputs(logits=many, logits_mask=masks_T))


def test_a_mask_of_one_side_only_is_told_with_both_numbers_of_positions():
    both = logits(1, ROWS, LENGTH, CLASSES)
    with pytest.raises(MatchError, match="select 7 and 12 positions"):
        soft(outputs(logits=both, logits_mask=MASK), outputs(logits=both))


def test_a_temperature_schedule_sees_the_logits():
    s, t = logits(1), logits(2)
    hotter = {"temperature": 3, "temperature_scheduler": lambda S, T, base: base + (S - T).abs().amax(dim=-1)}
    found = soft(outputs(logits=s), outputs(logits=t), **hotter)
    torch.testing.assert_close(found, kd_ce_loss(s, t, 3 + (s - t).abs().amax(dim=-1)))


def test_half_precision_logits_are_compared_in_float32():
    s, t = logits(1).bfloat16(), logits(2).bfloat16()
    found = soft(outputs(logits=s), outputs(logits=t))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kd_ce_loss(s.float(), t.float(), 4))


def test_counts_of_the_rows_tokens_and_pairs_of_a_step():
    counts = counts_of([{"rows": 3, "mask": MASK}, {"rows": 1, "mask": torch.tensor([[2, 2, 0]])}])
    units = {"tokens": 7 + 2, "token_pairs": (16 + 4 + 1) + 4, "positions": 12 + 3}
    assert counts == {"rows": 4, "logit_rows": 4, **units}
    grouped = counts_of([{"rows": 6, "logit_rows": 3}, {"rows": 2}])
    assert grouped == {"rows": 8, "logit_rows": 5}


@pytest.mark.parametrize(
    ("masks", "known"),
    [
        ([], set()),
        ([{"rows": 2}, {}], set()),
        ([{"rows": 3, "mask": MASK}, {"rows": 3, "mask": None}], {"rows", "logit_rows"}),
        ([{"rows": 3, "mask": MASK[:, None]}], {"rows", "logit_rows"}),
    ],
)
def test_what_some_micro_batch_cannot_tell_is_not_counted(masks, known):
    assert set(counts_of(masks)) == known


def test_losses_that_know_no_count_are_averaged_over_the_micro_batches():
    s, t = logits(1), logits(2)
    share = Share(4, {"rows": 99.0, "logit_rows": 99.0})
    torch.testing.assert_close(soft(outputs(logits=s), outputs(logits=t), share), kd_ce_loss(s, t, 4) / 4)
    kl = soft(outputs(logits=s), outputs(logits=t), share, kd_loss_type="kl")
    torch.testing.assert_close(kl, kl_loss(s, t, 4) * ROWS / 99)


def test_two_equal_micro_batches_cost_what_one_does_when_a_mask_selects_few_positions():
    s, t = logits(1, ROWS, LENGTH, CLASSES), logits(2, ROWS, LENGTH, CLASSES)
    student, teacher = outputs(logits=s, logits_mask=MASK), outputs(logits=t, logits_mask=MASK)
    counts = counts_of([{"rows": ROWS, "mask": torch.ones_like(MASK)}] * 2)
    half = soft(student, teacher, Share(2, counts), kd_loss_type="kl")
    torch.testing.assert_close(2 * half, soft(student, teacher, kd_loss_type="kl"))


ADDED_UP = EnsembleConfig(combine="losses", teacher_weights=[1, 3])


def added_up(s, teachers, mask, share=None, **config):
    members = tuple(outputs(logits=t, logits_mask=mask) for t in teachers)
    term = SoftLabels(DistillationConfig(**config), ADDED_UP)
    return term.value(outputs(logits=s, logits_mask=mask), ModelOutputs(members=members), share or Share())


@pytest.mark.parametrize("loss", ["ce", "mse", "kl", "bce"])
def test_added_up_losses_of_nothing_cost_nothing(loss):
    s = logits(1, ROWS, LENGTH, CLASSES).requires_grad_()
    value = added_up(s, [s.detach()] * 2, torch.zeros_like(MASK), kd_loss_type=loss)
    value.backward()
    assert value.item() == 0
    assert not s.grad.any()


def test_added_up_losses_do_not_depend_on_how_a_step_is_split():
    s, *teachers = (logits(i, ROWS, LENGTH, CLASSES) for i in range(3))
    whole = added_up(s, teachers, MASK, kd_loss_type="kl")
    counts = counts_of([{"rows": ROWS, "mask": MASK, "logits_mask": MASK}])
    parts = [
        added_up(s[row], [t[row] for t in teachers], MASK[row], Share(2, counts), kd_loss_type="kl")
        for row in (slice(1), slice(1, None))
    ]
    torch.testing.assert_close(sum(parts), whole)
    each = [kl_loss(s[MASK != 0], t[MASK != 0], 4) for t in teachers]
    torch.testing.assert_close(whole, each[0] / 4 + each[1] * 3 / 4)


def test_a_teacher_without_weight_adds_nothing_whatever_it_says():
    s, t = logits(1), logits(2)
    config = EnsembleConfig(combine="losses", teacher_weights=[0, 1])
    wild = t.index_fill(1, torch.tensor([0]), math.inf)
    members = ModelOutputs(members=(outputs(logits=wild), outputs(logits=t)))
    found = SoftLabels(DistillationConfig(kd_loss_type="kl"), config).value(outputs(logits=s), members, Share())
    torch.testing.assert_close(found, kl_loss(s, t, 4))


def test_hard_labels_add_the_means_of_losses_of_any_shape():
    student = outputs(losses=[torch.tensor([1.0, 3.0]), torch.tensor(4.0), torch.tensor([[0.5]])])
    assert HardLabels().value(student, None, Share(2)).item() == pytest.approx((2 + 4 + 0.5) / 2)
    assert HardLabels().value(outputs(losses=[]), None, Share()) is None


def term(name, value, weight=1.0, schedule=None, active=None, shown=False):
    """A term of a fixed value, which may be an error."""
    own = Weight(weight, schedule, active)

    def give(student, teacher, share):
        if isinstance(value, Exception):
            raise value
        return value

    return SimpleNamespace(name=name, weight=own, shown=shown, value=give, advance=own.advance)


def test_the_total_is_weighted_and_the_reported_terms_are_not():
    first, others = torch.tensor(2.0, requires_grad=True), torch.tensor([3.0, 5.0])
    terms = [term("a", first, 0.5), term("b", others[0], 2.0), term("c", others[1], 0.0, shown=True)]
    report = Objective(terms)(outputs(), None, Share(4))
    assert (report.total.item(), report.loss.item()) == (7.0, 28.0)
    assert {name: value.item() for name, value in report.terms.items()} == {"a": 8.0, "b": 12.0, "c": 20.0}
    assert [value.requires_grad for value in (report.total, report.loss, report.terms["a"])] == [True, False, False]


BROKEN = [MatchError("broken"), torch.tensor(float("nan"), requires_grad=True)]


@pytest.mark.parametrize("value", BROKEN, ids=["an error", "nan"])
@pytest.mark.parametrize(("weight", "active", "shown"), [(0, None, False), (0, None, True), (1, (0.5, 1), True)])
def test_a_term_that_weighs_nothing_now_is_left_alone_whatever_is_wrong_with_it(value, weight, active, shown):
    fine = torch.tensor(2.0, requires_grad=True)
    student = outputs(logits=logits(1).requires_grad_())
    report = Objective([term("a", fine), term("b", value, weight, active=active, shown=shown)])(student, None, Share())
    report.total.backward()
    assert (report.total.item(), fine.grad.item()) == (2.0, 1.0)
    assert all(value.isfinite() for value in report.terms.values())


def test_where_no_term_counts_now_the_total_is_a_zero_with_a_gradient():
    s = torch.full((2, 3), float("nan"), requires_grad=True)
    objective = Objective([term("a", torch.tensor(1.0), active=(0.5, 1))])
    report = objective(outputs(logits=s), None, Share())
    report.total.backward()
    assert report.total.item() == 0 and not s.grad.any() and report.terms == {}
    objective.advance(0.5)
    assert objective(outputs(logits=s), None, Share()).total.item() == 1.0


def test_logits_that_count_for_nothing_have_a_gradient_of_zero_as_in_the_original():
    """Weight decay then goes on in the head, which a missing gradient would stop."""
    s, h = logits(1).requires_grad_(), torch.tensor(2.0, requires_grad=True)
    soft_labels = SoftLabels(DistillationConfig(kd_loss_weight=0))
    student = outputs(logits=s)
    Objective([soft_labels, term("a", h)])(student, outputs(logits=logits(2)), Share()).total.backward()
    assert s.grad is not None and not s.grad.any()


def test_a_balance_makes_the_total_of_the_terms_that_count_now():
    seen = []

    def balance(values, weights, parts):
        seen.append((list(values), weights, parts))
        return sum(values.values())

    terms = [term("a", torch.tensor(1.0), 3.0), term("b", torch.tensor(2.0), 0.0), term("c", torch.tensor(4.0), 5.0)]
    report = Objective(terms, balance)(outputs(), None, Share(2))
    assert (report.total.item(), report.loss.item()) == (5.0, 10.0)
    assert seen == [([0, 2], {0: 3.0, 2: 5.0}, 2)]


def test_the_temperature_is_annealed_over_the_run():
    config = DistillationConfig(temperature=99, temperature_annealing=["linear", 8, 2], kd_loss_type="kl")
    s, t = logits(1), logits(2)
    term = SoftLabels(config)
    for progress, tau in ((0.0, 8), (0.5, 5), (1.0, 2)):
        term.advance(progress)
        torch.testing.assert_close(term.value(outputs(logits=s), outputs(logits=t), Share()), kl_loss(s, t, tau))
    assert SoftLabels(config).base_temperature == 8


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_an_annealed_temperature_that_is_none_is_told(tau):
    config = DistillationConfig(temperature_annealing=lambda progress: 1.0 if progress == 0 else tau)
    with pytest.raises(ConfigError, match=r"`temperature_annealing`: expected a temperature above 0, got .* at 0.5"):
        SoftLabels(config).advance(0.5)


def test_counts_of_another_mask_have_its_name():
    other = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    counts = counts_of([{"rows": 3, "mask": MASK, "answer": other}] * 2)
    assert counts["tokens@answer"] == 2 * 3 and counts["token_pairs@answer"] == 2 * (1 + 4)
    assert counts["tokens"] == 2 * 7


def test_terms_of_one_name_are_all_reported():
    report = Objective([term("a", torch.tensor(float(i))) for i in range(3)])(outputs(), None, Share())
    assert [value.item() for value in report.terms.values()] == [0, 1, 2]


def test_the_first_step_uses_the_weight_and_then_its_schedule_replaces_it():
    config = DistillationConfig(kd_loss_weight=7, kd_loss_weight_scheduler="linear_decay", hard_label_weight=5)
    kd, hard = SoftLabels(config), HardLabels(config.hard_label_weight, lambda progress: 10 * progress)
    objective = Objective([kd, hard, constant := term("constant", None, 3.0)])
    weights = [(kd.weight.now, hard.weight.now, constant.weight.now)]
    for progress in (0.25, 1.0):
        objective.advance(progress)
        weights.append((kd.weight.now, hard.weight.now, constant.weight.now))
    assert weights == [(7, 5, 3), (0.75, 2.5, 3), (0, 10, 3)]


def test_an_objective_of_nothing_says_what_was_given():
    objective = Objective([SoftLabels(DistillationConfig(kd_loss_weight=0)), HardLabels(0)])
    student, teacher = outputs(logits=logits(1), labels=torch.tensor([0, 1, 2])), outputs(hidden=[])
    with pytest.raises(AdaptorError) as raised:
        objective(student, teacher, Share())
    assert str(raised.value) == (
        "nothing to learn from: adaptor_S gave ['logits', 'labels'], adaptor_T gave ['hidden']; "
        "give 'logits' on both sides, 'losses' of the student, or a match"
    )


@pytest.mark.parametrize(("weight", "schedule", "said"), [(1, None, 1), (0, None, 0), (0, "linear_growth", 1)])
def test_a_term_that_is_off_is_said_once_unless_it_weighs_nothing(weight, schedule, said):
    objective = Objective([HardLabels(weight, schedule), term("a", torch.tensor(1.0))])
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        for _ in range(2):
            objective(outputs(logits=logits(1)), outputs(), Share())
    texts = [str(warning.message) for warning in record]
    message = "unweighted_hard_label_loss is off in this run: adaptor_S gave ['logits'], adaptor_T gave []"
    assert texts == [message] * said


def test_one_output_under_a_softmax_is_told_once():
    single = outputs(logits=logits(0, ROWS, 1))
    for name in ("ce", "kl", "standardised_kl"):
        term = SoftLabels(DistillationConfig(kd_loss_type=name))
        with pytest.warns(UserWarning, match="logit_mse") as said:
            term.value(single, single, Share())
            term.value(single, single, Share())
        assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        soft(single, single, kd_loss_type="logit_mse")
        soft(single, single, kd_loss_type="binary_kl")
