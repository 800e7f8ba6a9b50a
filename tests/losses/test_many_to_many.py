"""The many-to-many loss against a linear program solved by another library, and what its weights do."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import textbrewer
from tests.tiny import EncoderAdaptor, batches, encoder
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig, matches
from textbrewer.errors import ConfigError, MatchError, MissingDependencyError
from textbrewer.losses import ManyToManyLoss, hid_mse_loss
from textbrewer.losses.many_to_many import transport

pytest.importorskip("ot")


def layers(number: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 5, 4, generator=generator, dtype=torch.float64) for _ in range(number)]


def least_cost(cost: np.ndarray, weights_T: np.ndarray, weights_S: np.ndarray) -> float:
    """The value of the transport problem, by SciPy's linear programming."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    T, S = cost.shape
    sums = np.zeros((T + S, T * S))
    for i in range(T):
        for j in range(S):
            sums[i, i * S + j] = sums[T + j, i * S + j] = 1
    return float(linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([weights_T, weights_S])).fun)


def naive_cost(state_S: list[torch.Tensor], state_T: list[torch.Tensor]) -> np.ndarray:
    return np.array([[((t - s) ** 2).mean().item() for s in state_S] for t in state_T])


def test_the_value_is_the_least_cost_of_moving_all_layers():
    state_S, state_T = layers(2, 1), layers(5, 2)
    weights = np.full(5, 1 / 5), np.full(2, 1 / 2)
    expected = least_cost(naive_cost(state_S, state_T), *weights)
    assert ManyToManyLoss(hid_mse_loss, "hidden_mse")(state_S, state_T).item() == pytest.approx(expected, rel=1e-9)


def test_learned_weights_follow_the_formula_and_are_used_next():
    state_S, state_T = layers(2, 1), layers(3, 2)
    loss = ManyToManyLoss(hid_mse_loss, "hidden_mse", temperature=2.0)
    loss(state_S, state_T)
    cost = naive_cost(state_S, state_T)
    flow = transport(torch.from_numpy(cost), torch.full((3,), 1 / 3).double(), torch.full((2,), 0.5).double()).numpy()
    for axis, number, found in ((1, 3, loss.weights_T), (0, 2, loss.weights_S)):
        each = (flow * cost).sum(axis) * number
        powers = np.exp(each.sum() / each / 2.0)
        np.testing.assert_allclose(found.numpy(), powers / powers.sum(), rtol=1e-9)
    expected = least_cost(cost, loss.weights_T.numpy(), loss.weights_S.numpy())
    assert loss(state_S, state_T).item() == pytest.approx(expected, rel=1e-7)


def test_the_gradient_is_that_of_the_flow_held_fixed():
    state_S, state_T = [s.requires_grad_() for s in layers(2, 1)], layers(3, 2)
    loss = ManyToManyLoss(hid_mse_loss, "hidden_mse", learn_weights=False)
    assert torch.autograd.gradcheck(lambda *states: loss(list(states), state_T), tuple(state_S))


def test_layers_that_agree_cost_nothing_and_keep_finite_weights():
    state = layers(3)
    loss = ManyToManyLoss(hid_mse_loss, "hidden_mse")
    assert loss(state, state).item() == 0
    for weights in (loss.weights_T, loss.weights_S):
        assert weights.isfinite().all() and weights.sum().item() == pytest.approx(1)


def test_padding_does_not_change_it():
    state_S, state_T = layers(2, 1), layers(3, 2)
    mask = torch.ones(3, 5)
    plain = ManyToManyLoss(hid_mse_loss, "hidden_mse")(state_S, state_T, mask)
    wider = [torch.nn.functional.pad(s, (0, 0, 0, 2), value=9.0) for s in state_S]
    wider_T = [torch.nn.functional.pad(t, (0, 0, 0, 2), value=float("nan")) for t in state_T]
    padded = ManyToManyLoss(hid_mse_loss, "hidden_mse")(wider, wider_T, torch.nn.functional.pad(mask, (0, 2)))
    assert padded.item() == pytest.approx(plain.item(), rel=1e-12)


def test_evaluation_leaves_the_weights():
    loss = ManyToManyLoss(hid_mse_loss, "hidden_mse")
    with torch.no_grad():
        loss(layers(2, 1), layers(3, 2))
    assert loss.weights_T.tolist() == pytest.approx([1 / 3] * 3)


def test_weights_are_part_of_the_state_and_keep_their_precision():
    loss = ManyToManyLoss(hid_mse_loss, "hidden_mse")
    loss(layers(2, 1), layers(3, 2))
    assert set(loss.state_dict()) == {"weights_T", "weights_S"}
    assert loss.half().weights_T.dtype is torch.float64


def test_not_finite_states_give_nan_and_leave_the_weights():
    state = layers(2)
    broken = [*layers(2)[:1], torch.full_like(state[0], float("inf"))]
    loss = ManyToManyLoss(hid_mse_loss, "hidden_mse")
    assert loss(state, broken).isnan()
    assert loss.weights_T.tolist() == [0.5, 0.5]


def test_bad_input_is_named(monkeypatch):
    loss = ManyToManyLoss(hid_mse_loss, "hidden_mse")
    with pytest.raises(MatchError, match="many_to_many_hidden_mse: a list of layers is needed"):
        loss(layers(1)[0], layers(2))
    loss(layers(2), layers(3))
    with pytest.raises(MatchError, match="2 and 2 layers of teacher and student, but 3 and 2 before"):
        loss(layers(2), layers(2))
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingDependencyError, match=r"POT.*textbrewer-next\[transport\]"):
        loss(layers(2), layers(3))


@pytest.mark.parametrize("features", ["hidden", "attention", ["hidden", "attention"]])
def test_a_student_is_trained_by_it(features, tmp_path):
    teacher, student = encoder(layers=4, width=16), encoder(1, layers=2, width=8)
    widths = {} if features == "attention" else {"teacher_width": 16, "student_width": 8}
    written = matches.many_to_many(4, 2, features, **widths)
    config = DistillationConfig(intermediate_matches=written)
    adaptor = EncoderAdaptor()
    t_config = TrainingConfig(output_dir=tmp_path, progress_bar=False)
    distiller = GeneralDistiller(t_config, config, teacher, student, adaptor, adaptor)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with distiller:
        distiller.train(torch.optim.AdamW(student.parameters(), lr=1e-2), batches(3), num_epochs=1)
    assert any((before[name] != value).any() for name, value in student.state_dict().items())
    learned = distiller.lesson.losses.for_match[-1]
    assert learned.weights_T.sum().item() == pytest.approx(1) and learned.weights_S.sum().item() == pytest.approx(1)
    assert learned.weights_T.tolist() != pytest.approx([1 / 4] * 4, abs=1e-12)
    assert written[-1]["loss"].weights_T.numel() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "gram"}, "`loss of hidden`: expected one of .*got 'gram'"),
        ({"temperature": 0}, "`temperature`: expected a number above 0, got 0"),
        ({"student_layers": 9}, "`student_layers`: expected at most the teacher's 4, got 9"),
        ({"wieght": 2.0}, "did you mean 'weight'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        matches.many_to_many(**{"teacher_layers": 4, "student_layers": 2, **arguments})


def test_it_is_in_the_public_namespace():
    assert textbrewer.matches.many_to_many is matches.many_to_many


def test_what_the_inner_loss_has_moves_and_the_weights_do_not():
    loss = ManyToManyLoss(textbrewer.losses.VariationalLoss(4), "vid").to(torch.float16)
    assert {parameter.dtype for parameter in loss.parameters()} == {torch.float16}
    assert loss.weights_T.dtype is torch.float64
