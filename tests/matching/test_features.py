"""Which tensors a match reads, what it makes of them, and what is said when they are not there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from textbrewer import IntermediateMatch
from textbrewer.errors import AdaptorError, MatchError
from textbrewer.losses import COUNT_UNITS, fsp_loss, hid_mse_loss, hidden_mse_valid_loss
from textbrewer.matching import features_of
from textbrewer.objective import FeatureMatch, Share
from textbrewer.types import ModelOutputs

ROWS, LENGTH = 2, 3
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def states(number, width=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(number, ROWS, LENGTH, width, generator=generator, dtype=torch.float64).to(dtype))


def outputs(**returned):
    return ModelOutputs.from_adaptor(returned, adaptor="adaptor")


def match(layer_T=0, layer_S=0, feature="hidden", loss="hidden_mse", **rest):
    return IntermediateMatch(layer_T, layer_S, feature, loss, **rest)


@pytest.mark.parametrize(("side", "index"), [("S", 2), ("T", 1)])
def test_each_side_reads_its_own_layer(side, index):
    hidden = states(3)
    assert features_of(outputs(hidden=hidden), match(1, 2), side) is hidden[index]


def test_layers_count_from_the_end_too():
    hidden = states(3)
    assert features_of(outputs(hidden=hidden), match(-3, -1), "S") is hidden[2]
    assert features_of(outputs(hidden=tuple(hidden)), match(-3, -1), "T") is hidden[0]


def test_two_layers_a_side_are_a_list_in_the_order_asked():
    hidden = states(3)
    found = features_of(outputs(hidden=hidden), match([2, 0], [0, 1], loss="gram"), "T")
    assert [id(state) for state in found] == [id(hidden[2]), id(hidden[0])]


def test_layers_may_be_stacked_in_one_tensor():
    hidden = torch.stack(states(3))
    assert torch.equal(features_of(outputs(hidden=hidden), match(0, 1), "S"), hidden[1])


def test_attention_is_read_from_attention():
    maps, hidden = torch.rand(ROWS, 2, LENGTH, LENGTH), states(1)
    given = outputs(hidden=hidden, attention=[maps])
    assert features_of(given, match(feature="attention", loss="attention_mse"), "S") is maps


@pytest.mark.parametrize(
    ("feature", "loss", "flag"),
    [("hidden", "cos", "output_hidden_states"), ("attention", "attention_mse", "output_attentions")],
)
@pytest.mark.parametrize("side", ["S", "T"])
def test_a_feature_that_no_adaptor_gave(feature, loss, flag, side):
    with pytest.raises(AdaptorError) as raised:
        features_of(outputs(logits=torch.ones(1, 2)), match(feature=feature, loss=loss), side)
    assert str(raised.value) == (
        f"{feature}_{loss}_0_0: adaptor_{side} gave ['logits'] and no '{feature}', which this match needs; "
        f"return '{feature}' from it, and make the model give them ({flag}=True)"
    )


@pytest.mark.parametrize(
    ("layer_S", "loss", "asked"), [(3, "cos", "3"), (-4, "cos", "-4"), ([0, 3], "gram", r"\[0, 3\]")]
)
def test_layers_out_of_range(layer_S, loss, asked):
    layer_T = [0, 0] if isinstance(layer_S, list) else 0
    with pytest.raises(MatchError, match=rf"layer_S={asked}, but adaptor_S gave 3 hidden layers \(0\.\.2\)"):
        features_of(outputs(hidden=states(3)), match(layer_T, layer_S, loss=loss), "S")


def test_maps_that_fused_attention_did_not_give():
    with pytest.raises(MatchError, match=r"adaptor_T gave NoneType as attention\[1\].*attn_implementation='eager'"):
        features_of(outputs(attention=[torch.ones(1), None]), match(1, 0, "attention", "attention_mse"), "T")


def test_a_term_is_its_loss_on_the_layers_it_names_under_the_mask_of_the_student():
    student, teacher = states(2, seed=1), states(3, seed=2)
    term = FeatureMatch(match(2, 1, weight=3))
    found = term.value(
        outputs(hidden=student, inputs_mask=MASK), outputs(hidden=teacher, inputs_mask=1 - MASK), Share(2)
    )
    torch.testing.assert_close(found, hid_mse_loss(student[1], teacher[2], MASK) / 2)
    assert (term.name, term.weight.now, term.weight.schedule) == ("unweighted_hidden_hidden_mse_1_2", 3, None)


def test_a_term_of_pairs():
    student, teacher = states(2, seed=1), states(2, seed=2)
    term = FeatureMatch(match([0, 1], [0, 1], loss="fsp"))
    found = term.value(outputs(hidden=student), outputs(hidden=teacher), Share())
    torch.testing.assert_close(found, fsp_loss(student, teacher))


def test_a_mean_over_valid_elements_is_divided_by_the_count_of_the_step():
    student, teacher = states(1, seed=1), states(1, seed=2)
    assert COUNT_UNITS[hidden_mse_valid_loss] == "tokens"
    given = outputs(hidden=student, inputs_mask=MASK), outputs(hidden=teacher)
    term = FeatureMatch(match(loss="hidden_mse_valid"))
    counted = term.value(*given, Share(2, {"rows": 9.0, "tokens": 8.0}))
    torch.testing.assert_close(counted, hidden_mse_valid_loss(student[0], teacher[0], MASK) * 4 / 8)
    uncounted = term.value(*given, Share(2, {"rows": 9.0}))
    torch.testing.assert_close(uncounted, hidden_mse_valid_loss(student[0], teacher[0], MASK) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_compared_in_float32(dtype):
    student, teacher = (outputs(hidden=states(2, seed=seed, dtype=dtype)) for seed in (1, 2))
    seen = []

    def mine(S, T, mask=None):
        seen.extend(state.dtype for side in (S, T) for state in side)
        return S[0].sum()

    FeatureMatch(match([0, 1], [0, 1], loss=mine)).value(student, teacher, Share())
    assert seen == [torch.float32] * 4


def test_a_loss_of_the_user_gets_student_teacher_and_mask():
    student, teacher = states(1, seed=1), states(1, seed=2)
    seen = []

    def mine(S, T, mask=None):
        seen.append((S, T, mask))
        return S.sum()

    term = FeatureMatch(match(loss=mine))
    term.value(outputs(hidden=student, inputs_mask=MASK), outputs(hidden=teacher), Share())
    assert term.name == "unweighted_hidden_mine_0_0"
    assert [id(value) for value in seen[0]] == [id(student[0]), id(teacher[0]), id(MASK)]


def test_the_projection_maps_the_student_in_its_own_precision():
    projection = nn.Linear(4, 6)
    student, teacher = states(1, seed=1), states(1, width=6, seed=2)
    term = FeatureMatch(match(proj=["linear", 4, 6]), projection)
    found = term.value(outputs(hidden=student), outputs(hidden=teacher), Share())
    torch.testing.assert_close(found, hid_mse_loss(projection(student[0].float()), teacher[0]))


def test_the_projection_maps_both_layers_of_a_pair():
    projection = nn.Linear(4, 6)
    student, teacher = states(2, seed=1, dtype=torch.float32), states(2, width=6, seed=2, dtype=torch.float32)
    term = FeatureMatch(match([0, 1], [0, 1], loss="gram", proj=["linear", 4, 6]), projection)
    found = term.value(outputs(hidden=student), outputs(hidden=teacher), Share())
    torch.testing.assert_close(found, fsp_loss([projection(state) for state in student], teacher))


def test_a_student_of_another_width_than_the_projection_takes():
    term = FeatureMatch(match(proj=["linear", 8, 6]), nn.Linear(8, 6))
    with pytest.raises(MatchError) as raised:
        term.value(outputs(hidden=states(1)), outputs(hidden=states(1, width=6)), Share())
    assert str(raised.value) == (
        "hidden_hidden_mse_0_0: proj=['linear', 8, 6] takes width 8, but the student's feature is "
        "[2, 3, 4]; write proj=['linear', 4, 6]"
    )


def test_a_projection_may_have_no_parameters():
    term = FeatureMatch(match(proj=[lambda dim_in, dim_out: nn.Identity(), 4, 4]), nn.Identity())
    assert term.value(outputs(hidden=states(1)), outputs(hidden=states(1)), Share()) == 0


def test_a_match_without_a_teacher_is_refused():
    with pytest.raises(AdaptorError, match="a match needs a teacher"):
        FeatureMatch(match()).value(outputs(hidden=states(1)), None, Share())
