"""Parts: which tensors of a teacher are kept for which terms."""

from __future__ import annotations

import functools

import pytest
import torch

from textbrewer import MATCH_LOSS_MAP
from textbrewer.configs import IntermediateMatch
from textbrewer.errors import AdaptorError, CacheError
from textbrewer.losses import att_mse_sum_loss, needs_index
from textbrewer.presets import PAIRED_MATCH_LOSSES
from textbrewer.teachers.cache.parts import Part, Reads, outputs_of, parts_of, require_rows, without_tensors
from textbrewer.types import ModelOutputs


def match(layer, loss="hidden_mse", feature="hidden"):
    return IntermediateMatch(layer_T=layer, layer_S=[0] * len(layer) if isinstance(layer, list) else 0,
                             feature=feature, loss=loss)  # fmt: skip


def outputs(**more):
    hidden = [torch.full((2, 3, 4), float(i)) for i in range(4)]
    attention = [torch.rand(2, 5, 3, 3) for _ in range(3)]
    given = {"logits": torch.rand(2, 7), "hidden": hidden, "attention": attention, **more}
    return ModelOutputs.from_adaptor(given, adaptor="adaptor_T")


def names(matches, of=None, **others):
    return {part.name for part in parts_of(Reads.of(matches, **others), of or outputs())}


def test_only_what_is_read_is_kept():
    assert names([]) == {"logits:0"}
    assert names([], logits=False) == set()
    assert names([match(1), match([3, 2], "mmd")]) == {"logits:0", "hidden:1", "hidden:2", "hidden:3"}


def test_layers_counted_from_the_end_are_the_same_layers():
    assert names([match(-1), match(3)], logits=False) == {"hidden:3"}


def test_a_layer_out_of_range_is_left_to_the_match():
    assert names([match(9), match(-5)], logits=False) == set()


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        ([(1, "attention_mse_sum")], {"attention-sum:1"}),
        ([(-1, "attention_ce_mean")], {"attention-mean:2"}),
        ([(1, "attention_mse_sum"), (1, "attention_mse")], {"attention:1"}),
        ([(1, "attention_mse_sum"), (1, "attention_ce_mean")], {"attention:1"}),
        ([(-2, "attention_mse_sum"), (1, "attention_ce_mean")], {"attention:1"}),
        ([(-2, "attention_mse_sum"), (1, "attention_mse")], {"attention:1"}),
        ([(-2, "attention_mse_sum"), (1, "attention_mse_sum")], {"attention-sum:1"}),
        ([(1, "attention_mse_sum"), (2, "attention_ce_mean")], {"attention-sum:1", "attention-mean:2"}),
        ([(1, att_mse_sum_loss)], {"attention:1"}),
    ],
)
def test_maps_are_kept_over_heads_only_where_nothing_reads_the_heads(matches, expected):
    asked = [match(layer, loss, "attention") for layer, loss in matches]
    assert names(asked, logits=False) == expected


def test_what_is_kept_over_heads_is_their_sum_or_mean():
    of = outputs()
    torch.testing.assert_close(Part("attention", 1, "sum").of(of), of.attention[1].sum(1))
    torch.testing.assert_close(Part("attention", 1, "mean").of(of), of.attention[1].mean(1))
    flat = outputs(attention=[torch.rand(2, 3, 3)])
    assert Part("attention", 0, "sum").of(flat) is flat.attention[0]


def test_masks_and_labels_are_kept_where_some_term_needs_them():
    mask = torch.ones(2, 3)
    of = outputs(logits_mask=[mask], labels=[torch.zeros(2)], inputs_mask=mask)
    assert names([], of) == {"logits:0", "logits_mask:0"}
    assert names([], of, labels=True, inputs_mask=True) == {"logits:0", "logits_mask:0", "labels:0", "inputs_mask:0"}


def test_modules_are_kept_by_path():
    reads = Reads.of([match("encoder.layer[1]"), match(["a", "b"], "mmd")], logits=False)
    assert reads.modules == ("encoder.layer[1]", "a", "b") and reads.features
    of = ModelOutputs(modules={"encoder.layer": (torch.zeros(2), torch.ones(2)), "a": None})
    assert Part("modules", "encoder.layer[1]").of(of).tolist() == [1, 1]
    with pytest.raises(AdaptorError, match="gave NoneType as modules:a, not a tensor"):
        Part("modules", "a").of(of)


def test_a_mask_of_its_own_may_cover_padding():
    assert Reads.of([IntermediateMatch(0, 0, "hidden", "hidden_mse", mask="answer")]).padding


@pytest.mark.parametrize("name", list(MATCH_LOSS_MAP))
def test_losses_of_the_library_heed_masks(name):
    """So that what the teacher gives for padding need not be kept, but for the columns that a softmax runs over."""
    paired = name in PAIRED_MATCH_LOSSES
    named = ["crd", 9, 12, 12] if name == "crd" else name
    assert not Reads.of([match([0, 1] if paired else 0, named)]).padding
    loss = MATCH_LOSS_MAP[named]
    if isinstance(loss, type):
        loss = loss(12)
    if needs_index(loss):
        loss = functools.partial(loss.eval(), index=torch.arange(3), negatives=torch.tensor([[4, 5], [4, 6], [7, 8]]))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    maps = name.startswith("attention")
    shape = (3, 2, 4, 4) if maps else (3, 4, 12)

    def given(seed):
        values = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        return values.masked_fill(mask[:, None, None, :] == 0, 0) if maps else values

    real = mask[:, None, :, None] if maps else mask[:, :, None]
    student, teacher = ([given(seed), given(seed + 1)] for seed in (1, 3))
    changed = [torch.where(real != 0, layer, given(9 + i)) for i, layer in enumerate(teacher)]
    assert not torch.equal(changed[0], teacher[0])
    sides = (student, teacher, changed) if paired else (student[0], teacher[0], changed[0])
    torch.testing.assert_close(loss(sides[0], sides[2], mask=mask), loss(sides[0], sides[1], mask=mask))


def test_a_loss_of_the_users_own_may_read_padding(monkeypatch):
    monkeypatch.setitem(MATCH_LOSS_MAP, "mine", lambda S, T, mask=None: S.sum())
    assert Reads.of([match(0, "mine")]).padding
    assert Reads.of([match(0), match(0, lambda S, T, mask=None: S.sum())]).padding
    assert not Reads.of([]).padding


def test_kept_parts_become_outputs_as_long_as_the_teachers():
    of = outputs()
    values = {part: part.of(of) for part in (Part("hidden", 2), Part("attention", 1, "sum"), Part("modules", "a.b"))
              if part.kind != "modules"}  # fmt: skip
    values[Part("modules", "a.b")] = torch.ones(1)
    found = outputs_of(values, without_tensors(of))
    assert [layer is not None for layer in found.hidden] == [False, False, True, False]
    assert len(found.attention) == 3 and found.logits == [] and found.given == of.given
    assert found.modules["a.b"].tolist() == [1]


def test_nothing_of_the_sample_is_held():
    like = without_tensors(outputs(labels=torch.zeros(2)))
    held = [*like.logits, *like.hidden, *like.attention, *like.labels, like.inputs_mask]
    assert len(held) == 10 and set(held) == {None}


@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_a_part_without_a_row_for_each_row_is_refused(shape):
    of = outputs(logits=torch.rand(shape))
    with pytest.raises(CacheError, match=r"logits:0 of shape \[.*\] for 2 rows; a teacher cache needs a first axis"):
        require_rows([Part("logits", 0)], of, 2)
