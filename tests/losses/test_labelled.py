"""What losses that look at labels do with them; their formulas are in test_logit_rows.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from textbrewer.errors import MatchError
from textbrewer.losses import NEEDS_LABELS, dkd_loss, kl_loss, tf_kd_loss

LOSSES = {"dkd": dkd_loss, "tf_kd": tf_kd_loss}


def some(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("tau", [1, 4.0])
def test_decoupled_parts_make_the_divergence_again(tau):
    """KL = KL(b_T ‖ b_S) + (1 − p_y) KL(p̂_T ‖ p̂_S), the identity that the paper starts from."""
    student, teacher, labels = some((1, 5)), some((1, 5), 1), torch.tensor([3])
    not_label = 1 - (teacher / tau).softmax(-1)[0, 3].item()
    found = dkd_loss(student, teacher, tau, labels=labels, alpha=1.0, beta=not_label)
    torch.testing.assert_close(found, kl_loss(student, teacher, tau), rtol=1e-12, atol=0)


def test_each_part_sees_only_its_own():
    student, teacher, labels = some((3, 5)), some((3, 5), 1), torch.tensor([0, 2, 4])
    label_moved = student.clone()
    label_moved[range(3), labels] += 2
    of_others = [dkd_loss(s, teacher, labels=labels, alpha=0) for s in (student, label_moved)]
    torch.testing.assert_close(*of_others, rtol=1e-12, atol=0)
    # The others among themselves, with the mass they have together as it was.
    others = torch.ones(3, 5, dtype=torch.bool)
    others[range(3), labels] = False
    turned = student.clone()
    turned[others] = student[others].reshape(3, 4).flip(1).flatten()
    of_label = [dkd_loss(s, teacher, labels=labels, beta=0) for s in (student, turned)]
    torch.testing.assert_close(*of_label, rtol=1e-12, atol=0)


@pytest.mark.parametrize("by", ["T", "ST"])
def test_others_that_are_ruled_out_leave_the_label_alone(by):
    student, teacher, labels = some((2, 4)), some((2, 4), 1), torch.tensor([1, 3])
    for side in [x for key, x in {"S": student, "T": teacher}.items() if key in by]:
        side[torch.arange(4) != labels.unsqueeze(1)] = -math.inf
    found = dkd_loss(student.requires_grad_(), teacher, labels=labels)
    found.backward()
    torch.testing.assert_close(found, cross_entropy(student, labels), rtol=1e-12, atol=0)
    assert student.grad.isfinite().all()


def test_two_classes_have_no_others():
    student, teacher, labels = some((3, 2)), some((3, 2), 1), torch.tensor([0, 1, 1])
    found = dkd_loss(student, teacher, 2, labels=labels, beta=99.0)
    torch.testing.assert_close(found, kl_loss(student, teacher, 2), rtol=1e-12, atol=0)


def test_a_written_teacher_smooths_labels():
    """``a = 1 − ε (C − 1)/C``: PyTorch's label smoothing less the entropy of the smoothed labels."""
    student, labels, smoothing = some((4, 5)).requires_grad_(), torch.tensor([0, 3, 4, 1]), 0.1
    correct, other = 1 - smoothing * 4 / 5, smoothing / 5
    entropy = -(correct * math.log(correct) + 4 * other * math.log(other))
    found = tf_kd_loss(student, None, 1, labels=labels, correct=correct)
    reference = cross_entropy(student, labels, label_smoothing=smoothing)
    torch.testing.assert_close(found, reference - entropy, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, student)[0] for value in (found, reference)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_a_written_teacher_does_not_look_at_the_real_one():
    student, labels = some((2, 3)), torch.tensor([0, 2])
    assert tf_kd_loss(student, some((2, 3), 1), 20, labels=labels) == tf_kd_loss(student, labels=labels)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_without_a_label_add_nothing_and_count(name):
    student, teacher = some((4, 3)).requires_grad_(), some((4, 3), 1)
    found = LOSSES[name](student, teacher, labels=torch.tensor([0, -100, 2, -1]))
    found.backward()
    of_two = LOSSES[name](student.detach()[::2], teacher[::2], labels=torch.tensor([0, 2]))
    assert found.item() == pytest.approx(of_two.item() / 2)
    assert student.grad.abs().sum(-1).tolist()[1::2] == [0, 0]
    none = LOSSES[name](student, teacher, labels=torch.full((4,), -100))
    none.backward()
    assert none.item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_any_integers_and_shapes(name):
    student, teacher, labels = some((2, 3, 4)), some((2, 3, 4), 1), torch.tensor([[0, 1, 2], [3, -100, 0]])
    expected = LOSSES[name](student, teacher, 2, labels=labels)
    assert LOSSES[name](student, teacher, 2, labels=labels.to(torch.int32)) == expected
    assert LOSSES[name](student.flatten(0, 1), teacher.flatten(0, 1), 2, labels=labels.flatten()) == expected


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "labels [2] are needed, one class index a row, and there are none; add 'labels' to what adaptor_S"),
        (torch.tensor([0, 3]), "label 3, but the logits [2, 3] have 3 classes (0..2); mark rows without a label by a"),
        (torch.tensor([0]), "labels [1] (torch.int64) do not fit logits [2, 3]; one class index a row is needed, [2]"),
        (torch.zeros(2, 3, dtype=torch.long), "labels [2, 3] (torch.int64) do not fit logits [2, 3]"),
        (torch.tensor([0.0, 1.0]), "labels [2] (torch.float32) do not fit logits [2, 3]"),
    ],
    ids=["none", "outside", "too few", "one-hot", "not whole"],
)
def test_labels_that_do_not_fit_are_told(name, labels, says):
    with pytest.raises(MatchError) as caught:
        LOSSES[name](torch.zeros(2, 3), torch.zeros(2, 3), labels=labels)
    assert str(caught.value).startswith(f"{name}: {says}")


@pytest.mark.parametrize("name", LOSSES)
def test_labels_that_are_masked_out_may_be_anything(name):
    student, teacher = some((2, 3)), some((2, 3), 1)
    found = LOSSES[name](student, teacher, 1, torch.tensor([1, 0]), labels=torch.tensor([2, 99]))
    torch.testing.assert_close(found, LOSSES[name](student[:1], teacher[:1], 1, labels=torch.tensor([2])))


def test_a_written_teacher_needs_two_classes():
    with pytest.raises(MatchError, match=r"tf_kd: at least two classes are needed, got logits \[2, 1\]"):
        tf_kd_loss(torch.zeros(2, 1), labels=torch.zeros(2, dtype=torch.long))


def test_the_losses_that_need_labels_are_those():
    assert set(LOSSES.values()) == NEEDS_LABELS
