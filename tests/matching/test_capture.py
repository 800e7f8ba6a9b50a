"""Matches of submodules by path: found, taken by hooks, and the hooks gone afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tiny import EncoderAdaptor, batch_of, batches, encoder
from textbrewer import CustomMatch, DistillationConfig, GeneralDistiller, TrainingConfig
from textbrewer.errors import ConfigError, MatchError
from textbrewer.losses import hid_mse_loss
from textbrewer.matching.capture import Capture, item_of, modules_at, split_path
from textbrewer.report.plots import scalars

ADAPTOR = EncoderAdaptor()


class Outputs(nn.Module):
    """A block with a tuple as output, inside a tower."""

    def __init__(self):
        super().__init__()
        self.tower = nn.ModuleList([encoder(1), encoder(2)])
        self.head = nn.Linear(3, 3)

    def forward(self, input_ids, attention_mask, labels=None):
        logits = self.tower[1](input_ids, attention_mask)[0] + self.tower[0](input_ids, attention_mask)[0]
        return self.head(logits), (), (), None


def distiller_of(tmp_path, *matches, teacher=None, student=None):
    config = TrainingConfig(output_dir=str(tmp_path), ckpt_frequency=0, progress_bar=False, device="cpu")
    distill = DistillationConfig(intermediate_matches=list(matches))
    return GeneralDistiller(
        config, distill, teacher or encoder(1, layers=4), student or encoder(2, layers=2), ADAPTOR, ADAPTOR
    )


def train(distiller):
    distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), batches(2), num_epochs=1)


def hooks_of(*models):
    return [hook for model in models for module in model.modules() for hook in module._forward_hooks.values()]


def by_path(layer_T, layer_S, **more):
    return {"layer_T": layer_T, "layer_S": layer_S, "feature": "hidden", "loss": "hidden_mse", **more}


@pytest.mark.parametrize(
    ("path", "expected"), [("a.b", ("a.b", None)), ("a.0[2]", ("a.0", 2)), ("*", ("*", None)), ("", ("", None))]
)
def test_paths_are_split(path, expected):
    assert split_path(path) == expected


@pytest.mark.parametrize("path", ["a[b]", "a[1].b", "a[1", "a[-1]"])
def test_paths_that_are_none(path):
    with pytest.raises(MatchError, match="is no module path"):
        split_path(path)


def test_wildcards_stand_for_one_part():
    model = encoder(1, layers=3)
    assert modules_at(model, "layers.*", "layer_T") == ["layers.0", "layers.1", "layers.2"]
    assert modules_at(model, "*", "layer_T") == ["embedding", "layers", "head"]
    assert modules_at(model, "layers.1[0]", "layer_T") == ["layers.1[0]"]
    assert modules_at(Outputs(), "tower.*.layers.*", "layer_T")[-1] == "tower.1.layers.1"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("layer.0", r"'Encoder' has \['embedding', 'layers', 'head'\], not 'layer'; did you mean 'layers'"),
        ("layers.7", r"'layers' has \['0', '1'\], not '7'"),
        ("head.weight", r"'head' has no submodules, not 'weight'"),
        ("layers.*.dense", r"'layers.\*' has no submodules, not 'dense'"),
    ],
)
def test_a_path_to_nothing_lists_what_is_there(path, message):
    with pytest.raises(MatchError, match=message):
        modules_at(encoder(1), path, "layer_S")


def test_outputs_are_kept_only_while_recording():
    model = encoder(1)
    capture = Capture(model, ["layers.0", "head"])
    with capture.attached():
        model(**batch_of())
        with capture.recording() as first:
            logits = model(**batch_of())[0]
        model(**batch_of(seed=3))
    assert first.keys() == {"layers.0", "head"} and first["head"] is logits
    assert not hooks_of(model)


def test_items_of_outputs():
    a, b = torch.zeros(1), torch.ones(1)
    assert item_of((a, b), None) is a and item_of((a, b), 1) is b and item_of({"x": a, "y": b}, 1) is b
    assert item_of(a, None) is a and item_of(a, 1) is None and item_of((a,), 5) is None


def test_the_outputs_of_the_named_modules_are_compared(tmp_path):
    distiller = distiller_of(tmp_path, by_path("layers.3", "layers.1"))
    distiller.t_config.log_dir = str(tmp_path / "log")
    seen = {}
    for name, model in (("T", distiller.model_T), ("S", distiller.model_S)):
        model.layers[-1].register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, o.detach()))
    train(distiller)
    logged = scalars(tmp_path / "log", "scalar/unweighted_hidden_hidden_mse_layers.1_layers.3")
    expected = hid_mse_loss(seen["S"], seen["T"], batch_of(seed=0)["attention_mask"])
    assert logged[0][1] == pytest.approx(expected.item(), rel=1e-6)
    assert len(hooks_of(distiller.model_T, distiller.model_S)) == 2  # the two of this test


def test_wildcards_on_both_sides_make_a_match_a_pair(tmp_path):
    distiller = distiller_of(tmp_path, by_path("layers.*", "layers.*"), teacher=encoder(1, layers=2))
    pairs = [(match.layer_T, match.layer_S) for match in distiller.lesson.matches]
    assert pairs == [("layers.0", "layers.0"), ("layers.1", "layers.1")]
    train(distiller)
    assert not hooks_of(distiller.model_T, distiller.model_S)


def test_sides_with_other_numbers_of_modules(tmp_path):
    with pytest.raises(MatchError, match=r"names 4 and layer_S='layers.\*' 2 modules"):
        distiller_of(tmp_path, by_path("layers.*", "layers.*"))


def test_hooks_are_gone_when_training_fails(tmp_path):
    distiller = distiller_of(tmp_path, by_path("layers.1", "layers.1"))
    with pytest.raises(ZeroDivisionError):
        distiller.train(
            torch.optim.SGD(distiller.model_S.parameters(), lr=0.1),
            [1],
            num_epochs=1,
            batch_postprocessor=lambda batch: 1 / 0,
        )
    assert not hooks_of(distiller.model_T, distiller.model_S)


def test_tuple_outputs_by_index(tmp_path):
    match = by_path("tower.1[0]", "tower.0[0]", loss=lambda S, T, mask=None: ((S - T) ** 2).mean())
    train(distiller_of(tmp_path, match, teacher=Outputs(), student=Outputs()))
    broken = by_path("tower.1[1]", "tower.0")
    with pytest.raises(MatchError, match=r"the output of 'tower.1\[1\]' is tuple without a tensor there"):
        train(distiller_of(tmp_path, broken, teacher=Outputs(), student=Outputs()))


def test_two_layers_a_side_by_path(tmp_path):
    train(distiller_of(tmp_path, by_path(["layers.0", "layers.3"], ["layers.0", "layers.1"], loss="mmd")))


def test_projections_put_in_by_themselves_are_said_and_trained(tmp_path, caplog):
    caplog.set_level("INFO", logger="textbrewer")
    distiller = distiller_of(
        tmp_path, by_path(1, 1, proj="auto"), by_path(0, 0, proj="auto"), teacher=encoder(1, width=12)
    )
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.5)
    distiller.train(optimizer, [batch_of()], num_epochs=1)
    first = distiller.projections[0].weight.detach().clone()
    assert first.shape == (12, 8)
    assert sum("linear projection from width 8 to 12" in text for text in caplog.messages) == 2
    distiller.train(optimizer, [batch_of()], num_epochs=1)
    assert not torch.equal(first, distiller.projections[0].weight)
    assert len(optimizer.param_groups) == 1


def test_no_projection_where_widths_are_equal(tmp_path):
    distiller = distiller_of(tmp_path, by_path(1, 1, proj="auto"))
    train(distiller)
    assert not distiller.projections[0].needed


def test_custom_matches_see_both_masks(tmp_path):
    distiller, seen = distiller_of(tmp_path), []

    def loss(S, T, mask_S, mask_T):
        seen.append((S.shape, T.shape, mask_S.shape, mask_T.shape))
        return ((S - T) ** 2).mean()

    teacher, student = distiller.model_T, distiller.model_S
    distiller.add_match(CustomMatch(teacher.layers[2], student.layers[0], weight=2.0, loss=loss))
    distiller.add_match_by_module(teacher.layers[3], "layers.1", match_loss="cos")
    train(distiller)
    assert seen == [((4, 6, 8), (4, 6, 8), (4, 6), (4, 6))] * 2
    assert not hooks_of(teacher, student)


def test_custom_projections(tmp_path):
    distiller = distiller_of(tmp_path, teacher=encoder(1, width=12))
    trained, doubled = nn.Linear(8, 12), []

    def widened(state):
        doubled.append(state.shape)
        return torch.nn.functional.pad(state, (0, 4))

    before = trained.weight.detach().clone()
    distiller.add_match_by_module("layers.0", "layers.0", trained, {"lr": 0.7}, 1.0, "hidden_mse")
    distiller.add_match_by_module("layers.1", "layers.1", widened)
    distiller.add_match_by_module("layers.1", "layers.1", ["linear", 8, 12])
    rates = []
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.1)
    distiller.t_config.ckpt_frequency = 1
    distiller.train(
        optimizer,
        [batch_of()],
        num_epochs=1,
        callback=lambda model, step: rates.extend(g["lr"] for g in optimizer.param_groups),
    )
    assert rates == [0.1, 0.7, 0.1] and doubled == [(4, 6, 8)]
    assert not torch.equal(before, trained.weight)


def test_custom_matches_that_cannot_be_made(tmp_path):
    distiller = distiller_of(tmp_path)
    with pytest.raises(MatchError, match="module_T: the given Linear is no submodule of Encoder"):
        distiller.add_match(CustomMatch(nn.Linear(2, 2), distiller.model_S.head, 1.0, "cos"))
    with pytest.raises(ConfigError, match="did you mean 'cos'"):
        distiller.add_match_by_module("head", "head", match_loss="coss")


def test_a_custom_match_takes_one_module_a_side(tmp_path):
    distiller = distiller_of(tmp_path)
    with pytest.raises(MatchError, match=r"module_T: 'layers\.\*' names \d modules; here it is one"):
        distiller.add_match(CustomMatch("layers.*", distiller.model_S.head, 1.0, "cos"))
