"""Losses between logits that are means over rows, against loops over rows and classes written from the docstrings."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textbrewer import KD_LOSS_MAP
from textbrewer.errors import MatchError
from textbrewer.losses import COUNT_UNITS, StandardisedLoss, needs_labels, unit_of

INF = math.inf
# All are computed in float32 at least; there, and with τ², some units in the last place get lost.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}
ORIGINAL = {"ce", "mse", "kl"}
NAMES = [name for name, loss in KD_LOSS_MAP.items() if loss in COUNT_UNITS and name not in ORIGINAL]


def log_softmax(row, tau=1):
    largest = max(row)
    total = log_sum([(value - largest) / tau for value in row])
    return [(value - largest) / tau - total for value in row]


def log_sum(values):
    largest = max(values, default=-INF)
    return largest if largest == -INF else largest + math.log(math.fsum(math.exp(v - largest) for v in values))


def log_sigmoid(value):
    return -math.log1p(math.exp(-value)) if value >= 0 else value - math.log1p(math.exp(value))


def expected(log_p, values):
    return math.fsum(math.exp(lp) * value for lp, value in zip(log_p, values, strict=True) if lp > -INF)


def divergence(log_p, log_q):
    return expected(log_p, [lp - lq if lp > -INF else 0 for lp, lq in zip(log_p, log_q, strict=True)])


def kl(S, T, tau, label):
    return tau**2 * divergence(log_softmax(T, tau), log_softmax(S, tau))


def reverse_kl(S, T, tau, label):
    return kl(T, S, tau, label)


def jsd(S, T, tau, label, beta=0.5):
    if beta in (0, 1):
        return (kl, reverse_kl)[beta](S, T, tau, label)
    log_p, log_q = log_softmax(T, tau), log_softmax(S, tau)
    weights = math.log(beta), math.log1p(-beta)
    log_m = [log_sum([lp + weights[0], lq + weights[1]]) for lp, lq in zip(log_p, log_q, strict=True)]
    return tau**2 * (beta * divergence(log_p, log_m) + (1 - beta) * divergence(log_q, log_m))


def focal_kl(S, T, tau, label, gamma=1.0, beta=1.0):
    log_p = log_softmax(T, tau)
    apart = divergence(log_p, log_softmax(S, tau))
    hardness = apart - beta * expected(log_p, log_p)
    return tau**2 * (1 - math.exp(-hardness)) ** gamma * apart


def standardised(row):
    kept = [value for value in row if value > -1e4]
    mean = math.fsum(kept) / len(kept)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / len(kept))
    return [(value - mean) / max(deviation, 1e-3) if value > -1e4 else value for value in row]


def standardised_kl(S, T, tau, label):
    return kl(standardised(S), standardised(T), tau, label)


def dkd(S, T, tau, label, alpha=1.0, beta=8.0):
    if label < 0:
        return 0.0

    def parts(row):
        logs = log_softmax(row, tau)
        others = [lp for c, lp in enumerate(logs) if c != label]
        left = [value for c, value in enumerate(row) if c != label]
        return [logs[label], log_sum(others)], log_softmax(left, tau) if max(left) > -INF else []

    (binary_S, others_S), (binary_T, others_T) = parts(S), parts(T)
    return tau**2 * (alpha * divergence(binary_T, binary_S) + beta * divergence(others_T, others_S))


def tf_kd(S, T, tau, label, correct=0.99):
    others = math.log((1 - correct) / (len(S) - 1))
    written = [math.log(correct) if c == label else others for c in range(len(S))]
    return kl(S, written, tau, label) if label >= 0 else 0.0


def yes_or_no(value):
    return [log_sigmoid(value), log_sigmoid(-value)]


def bce(S, T, tau, label):
    each = [-expected(yes_or_no(t / tau), yes_or_no(s / tau)) for s, t in zip(S, T, strict=True)]
    return tau**2 * math.fsum(each) / len(S)


def binary_kl(S, T, tau, label):
    each = [divergence(yes_or_no(t / tau), yes_or_no(s / tau)) for s, t in zip(S, T, strict=True)]
    return tau**2 * math.fsum(each) / len(S)


def logit_mse(S, T, tau, label):
    return math.fsum((s - t) ** 2 for s, t in zip(S, T, strict=True)) / len(S)


def huber(S, T, tau, label, delta=1.0):
    apart = [abs(s - t) for s, t in zip(S, T, strict=True)]
    return math.fsum(d**2 / 2 if d <= delta else delta * (d - delta / 2) for d in apart) / len(S)


def candidates(S, T):
    return [i for i in range(len(S)) if S[i] > -INF and T[i] > -INF]


def mean(values):
    values = list(values)
    return math.fsum(values) / max(len(values), 1)


def ranknet(S, T, tau, label):
    kept = candidates(S, T)
    pairs = [(i, j) for i in kept for j in kept if i != j]
    odds = [((S[i] - S[j]) / tau, (T[i] - T[j]) / tau) for i, j in pairs]
    return tau**2 * mean(-expected(yes_or_no(t), yes_or_no(s)) for s, t in odds)


def listnet(S, T, tau, label):
    kept = candidates(S, T)
    if not kept:
        return 0.0
    return -(tau**2) * expected(log_softmax([T[i] for i in kept], tau), log_softmax([S[i] for i in kept], tau))


def margin_mse(S, T, tau, label):
    kept = candidates(S, T)
    return mean(((S[0] - S[j]) - (T[0] - T[j])) ** 2 for j in kept if j and 0 in kept)


ORACLES = {name: globals()[name] for name in NAMES}
OPTIONS = [
    ("jsd", {"beta": 0}),
    ("jsd", {"beta": 1}),
    ("jsd", {"beta": 0.1}),
    ("jsd", {"beta": 1 - 1e-9}),
    ("focal_kl", {"gamma": 0}),
    ("focal_kl", {"gamma": 2.5, "beta": 0.0}),
    ("dkd", {"alpha": 0.5, "beta": 2.0}),
    ("tf_kd", {"correct": 0.6}),
    ("huber", {"delta": 0.25}),
]
CASES = [*((name, {}) for name in NAMES), *OPTIONS]
# At equality the loss is the teacher's entropy, and still the least there is.
WITH_ENTROPY = {"bce", "ranknet", "listnet"}
ZERO_AT_EQUALITY = [name for name in NAMES if name not in {*WITH_ENTROPY, "tf_kd"}]
OF_CLASSES = [name for name in NAMES if name not in {"logit_mse", "huber"}]


def labels_of(shape):
    """A label for each row, one of them negative where there are some."""
    labels = torch.arange(math.prod(shape[:-1])) % shape[-1]
    return torch.where(torch.arange(len(labels)) == 1, -100, labels).reshape(shape[:-1])


def loss_of(name, shape, **options):
    """The loss, with labels if it needs them."""
    given = {"labels": labels_of(shape), **options} if needs_labels(KD_LOSS_MAP[name]) else options
    return partial(KD_LOSS_MAP[name], **given)


def naive(name, student, teacher, temperature=1, mask=None, labels=None, **options):
    """The mean over (valid) rows of the row's formula."""
    flat_S, flat_T = (side.detach().double().reshape(-1, side.shape[-1]).tolist() for side in (student, teacher))
    taus = torch.as_tensor(temperature).double().expand(student.shape[:-1]).flatten().tolist()
    labels = (labels_of(student.shape) if labels is None else labels).flatten().tolist()
    valid = [True] * len(flat_S) if mask is None else mask.flatten().bool().tolist()
    rows = zip(flat_S, flat_T, taus, labels, valid, strict=True)
    return mean(ORACLES[name](s, t, tau, label, **options) for s, t, tau, label, ok in rows if ok)


def some(shape, dtype=torch.float64, seed=0, scale=3.0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values * scale).to(dtype)


def temperature_of(kind, shape, dtype=torch.float64):
    return torch.linspace(0.5, 5, math.prod(shape[:-1]), dtype=dtype).reshape(shape[:-1]) if kind == "by row" else kind


def test_every_loss_over_rows_has_an_oracle():
    assert {"reverse_kl", "jsd", "dkd", "bce", "huber", "ranknet", "listnet", "margin_mse"} <= set(NAMES)
    assert {COUNT_UNITS[KD_LOSS_MAP[name]] for name in NAMES} == {"logit_rows"}


@pytest.mark.parametrize("kind", [torch.tensor(8.0), "by row"], ids=str)
@pytest.mark.parametrize("shape", [(4,), (2, 3, 5), (2, 2), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_it_is_the_naive_formula(name, options, dtype, shape, kind):
    computed_in = torch.promote_types(dtype, torch.float32)
    student, teacher, temperature = some(shape, dtype), some(shape, dtype, 1), temperature_of(kind, shape, computed_in)
    found = loss_of(name, shape, **options)(student.requires_grad_(), teacher, temperature)
    found.backward()
    assert (found.shape, found.dtype) == ((), computed_in)
    assert student.grad.isfinite().all()
    close = TOLERANCE[dtype]
    assert found.item() == pytest.approx(naive(name, student, teacher, temperature, **options), rel=close, abs=close)


MASKS = {
    "ragged": [[1, 1, 1], [1, 1, 0]],
    "an empty row": [[0, 0, 0], [0, 1, 1]],
    "everything masked": [[0, 0, 0], [0, 0, 0]],
}


@pytest.mark.parametrize(
    ("kind", "mask_type"), [(4, torch.long), (0.5, torch.bool), ("by row", torch.float32)], ids=str
)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", NAMES)
def test_with_a_mask_it_is_the_mean_over_valid_rows(name, mask, mask_type, kind):
    shape = (2, 3, 4)
    student, teacher, mask = some(shape).requires_grad_(), some(shape, seed=1), torch.tensor(mask).to(mask_type)
    temperature = temperature_of(kind, shape)
    found = loss_of(name, shape)(student, teacher, temperature, mask)
    found.backward()
    assert found.item() == pytest.approx(naive(name, student, teacher, temperature, mask), rel=1e-11)
    taught = (mask != 0) & (labels_of(shape) >= 0) if needs_labels(KD_LOSS_MAP[name]) else mask != 0
    assert torch.equal(student.grad.abs().sum(-1) != 0, taught)


@pytest.mark.parametrize("mask", [None, MASKS["an empty row"]], ids=["no mask", "an empty row"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_gradcheck(name, options, mask):
    shape = (2, 3, 4)
    teacher, student = some(shape, seed=1), some(shape).requires_grad_()
    loss, mask = loss_of(name, shape, count=5, **options), None if mask is None else torch.tensor(mask)
    assert torch.autograd.gradcheck(lambda logits: loss(logits, teacher, 2, mask), student)


@pytest.mark.parametrize("garbage", [1e4, math.nan, INF, -INF])
@pytest.mark.parametrize("name", NAMES)
def test_masked_rows_reach_neither_the_value_nor_the_gradient(name, garbage):
    student, teacher, mask = some((3, 4)), some((3, 4), seed=1), torch.tensor([1, 0, 1])
    labels, taus = torch.tensor([2, 99, 0]), torch.tensor([2.0, garbage, 3.0], dtype=torch.float64)
    student[1] = teacher[1] = garbage
    student.requires_grad_()
    given = {"labels": labels} if needs_labels(KD_LOSS_MAP[name]) else {}
    found = KD_LOSS_MAP[name](student, teacher, taus, mask, **given)
    found.backward()
    kept = student.detach()[::2].requires_grad_()
    given = {key: value[::2] for key, value in given.items()}
    expected_value = KD_LOSS_MAP[name](kept, teacher[::2], taus[::2], **given)
    expected_value.backward()
    assert found.item() == pytest.approx(expected_value.item(), rel=1e-12)
    torch.testing.assert_close(student.grad[::2], kept.grad, rtol=1e-12, atol=1e-14)
    assert student.grad[1].tolist() == [0] * 4


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(NAMES), st.permutations(range(4)), st.permutations(range(5)))
def test_the_order_of_rows_and_classes_does_not_matter(name, rows, classes):
    if name == "margin_mse":
        classes = [0, *(c for c in classes if c)]
    student, teacher, labels = some((4, 5)), some((4, 5), seed=1), torch.tensor([4, -1, 0, 2])
    moved = torch.tensor([classes.index(label) if label >= 0 else -1 for label in labels.tolist()])
    before, after = ({"labels": x} if needs_labels(KD_LOSS_MAP[name]) else {} for x in (labels, moved[list(rows)]))
    found = KD_LOSS_MAP[name](student[list(rows)][:, classes], teacher[list(rows)][:, classes], 2, **after)
    torch.testing.assert_close(found, KD_LOSS_MAP[name](student, teacher, 2, **before), rtol=1e-11, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NAMES), st.lists(st.booleans(), min_size=2, max_size=8), st.data())
def test_parts_with_the_count_of_the_whole_add_up(name, valid, data):
    shape = (len(valid), 3)
    student, teacher, mask, labels = some(shape), some(shape, seed=1), torch.tensor(valid), labels_of(shape)
    count, cut = mask.sum().clamp(min=1), data.draw(st.integers(0, len(valid)))
    loss, labelled = KD_LOSS_MAP[name], needs_labels(KD_LOSS_MAP[name])
    parts = [
        loss(student[half], teacher[half], 2, mask[half], count=count, **({"labels": labels[half]} if labelled else {}))
        for half in (slice(cut), slice(cut, None))
    ]
    torch.testing.assert_close(sum(parts), loss_of(name, shape)(student, teacher, 2, mask), rtol=1e-11, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 1000), st.floats(0.5, 10))
def test_nothing_is_left_to_learn_at_equality(name, seed, tau):
    if name == "tf_kd":
        return
    student = some((3, 4), seed=seed).requires_grad_()
    found = loss_of(name, (3, 4))(student, student.detach(), tau)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)
    if name in ZERO_AT_EQUALITY:
        assert found.item() == pytest.approx(0, abs=1e-11)
    else:
        further = loss_of(name, (3, 4))(student + some((3, 4), seed=seed + 1), student.detach(), tau)
        assert further > found > 0


@pytest.mark.parametrize("gamma", [0, 0.5, 2.5])
def test_any_power_of_what_rounding_leaves_at_equality_is_finite(gamma):
    student = some((200, 30), torch.float32).requires_grad_()
    found = loss_of("focal_kl", (200, 30), gamma=gamma, beta=0.0)(student, student.detach() + 1e-3)
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("tau", [0.5, 1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_stay_finite(name, dtype, tau):
    # Short of the -1e4 by which adaptors say that a class is none.
    student = torch.tensor([[9e3, -9e3, 0], [-9e3, 9e3, 9e3], [3, 3, 3]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-9e3, 9e3, 0], [-9e3, 9e3, -9e3], [9e3, 0, -9e3]], dtype=dtype)
    found = loss_of(name, (3, 3))(student, teacher, tau)
    found.backward()
    assert found.item() == pytest.approx(naive(name, student, teacher, tau), rel=1e-6)
    assert student.grad.isfinite().all()


RULED_OUT = {"by the teacher": "T", "by the student": "S", "by both": "ST"}


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("by", RULED_OUT.values(), ids=RULED_OUT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0] in OF_CLASSES], ids=str)
def test_classes_ruled_out_give_what_the_formula_says_and_never_nan(name, options, dtype, by, number):
    """Some value may be infinite, as a divergence is from a side that rules out what the other does not."""
    student, teacher = some((3, 4), dtype), some((3, 4), dtype, 1)
    for side in [x for key, x in {"S": student, "T": teacher}.items() if key in by]:
        side[:, :number] = -INF
    found = loss_of(name, (3, 4), **options)(student.requires_grad_(), teacher, 2)
    found.backward()
    assert found.item() == pytest.approx(naive(name, student, teacher, 2, **options), rel=1e-5, abs=1e-6)
    assert not found.isfinite() or student.grad.isfinite().all()


def test_a_mixture_is_finite_whatever_is_ruled_out():
    one, other = torch.tensor([[0.0, -INF, -INF]]), torch.tensor([[-INF, 0.0, -INF]])
    assert KD_LOSS_MAP["jsd"](one, other).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("beta", [1e-6, 1 - 1e-6])
def test_the_ends_of_beta_are_what_the_mixture_tends_to(beta):
    student, teacher = some((3, 4)), some((3, 4), seed=1)
    near = KD_LOSS_MAP["jsd"](student, teacher, beta=beta) / min(beta, 1 - beta)
    end = KD_LOSS_MAP["jsd"](student, teacher, beta=round(beta))
    torch.testing.assert_close(near, end, rtol=1e-4, atol=0)
    assert end == KD_LOSS_MAP["reverse_kl" if beta > 0.5 else "kl"](student, teacher)


@pytest.mark.parametrize("name", [name for name in NAMES if not needs_labels(KD_LOSS_MAP[name])])
def test_one_row_at_a_time_gives_the_same_mean(name):
    student, teacher, taus = some((3, 4)), some((3, 4), seed=1), temperature_of("by row", (3, 4))
    each = torch.vmap(KD_LOSS_MAP[name])(student, teacher, taus)
    torch.testing.assert_close(each.mean(), KD_LOSS_MAP[name](student, teacher, taus), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_two_precisions_meet_in_the_higher(name):
    student, teacher = some((3, 4)), some((3, 4), torch.bfloat16, seed=1)
    found = loss_of(name, (3, 4))(student, teacher, 2)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(naive(name, student, teacher, 2), rel=1e-11)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tf_kd"])
@pytest.mark.parametrize(
    ("shape_S", "shape_T", "says"),
    [
        ((2, 3), (2, 4), ["the student has 3 classes", "the teacher 4", "build the student with the teacher's labels"]),
        ((2, 5, 3), (2, 3), ["[2, 5, 3]", "[2, 3]"]),
        ((1, 3), (2, 3), ["[1, 3]", "[2, 3]"]),
    ],
)
def test_wrong_shapes_are_told(name, shape_S, shape_T, says):
    with pytest.raises(MatchError) as caught:
        loss_of(name, shape_S)(torch.zeros(shape_S), torch.zeros(shape_T))
    assert str(caught.value).startswith(f"{name}: ")
    assert all(part in str(caught.value) for part in says)


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_mask_of_another_shape_is_not_broadcast(name, shape):
    with pytest.raises(MatchError) as caught:
        loss_of(name, (2, 3))(torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(shape))
    assert str(caught.value) == f"{name}: mask {list(shape)} does not fit logits [2, 3]: needs [2]"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("jsd", {"beta": 1.5}, "jsd: beta=1.5, but a number from 0 to 1 is needed"),
        ("jsd", {"beta": math.nan}, "jsd: beta=nan, but a number from 0 to 1 is needed"),
        ("focal_kl", {"gamma": -1}, "focal_kl: gamma=-1, but a finite number from 0 is needed"),
        ("focal_kl", {"beta": INF}, "focal_kl: beta=inf, but a finite number from 0 is needed"),
        ("huber", {"delta": 0}, "huber: delta=0, but a finite number above 0 is needed"),
        ("tf_kd", {"correct": 1}, "tf_kd: correct=1, but a number between 0 and 1 is needed"),
    ],
)
def test_options_out_of_range_are_told(name, options, says):
    with pytest.raises(MatchError) as caught:
        loss_of(name, (2, 3), **options)(torch.zeros(2, 3), torch.zeros(2, 3))
    assert str(caught.value) == says


def test_a_loss_with_options_or_in_a_wrapper_counts_and_needs_what_it_did():
    for name in NAMES:
        for loss in (partial(KD_LOSS_MAP[name], count=3), StandardisedLoss(partial(KD_LOSS_MAP[name], count=3))):
            assert unit_of(loss) == "logit_rows"
            assert needs_labels(loss) == (name in {"dkd", "tf_kd"})
    assert unit_of(StandardisedLoss(KD_LOSS_MAP["ce"])) == ""
