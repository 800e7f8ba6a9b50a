"""Queries, keys and values of real encoders, against what their weights make of the hidden states."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from textbrewer import CustomMatch, DistillationConfig, GeneralDistiller, TrainingConfig, matches
from textbrewer.errors import ConfigError, MatchError
from textbrewer.losses import RelationLoss, query_key_mse_loss, relation_kl_loss
from textbrewer.matching.attention_parts import is_part, paths_of_part
from textbrewer.matching.capture import Capture, item_of, modules_at, split_path
from textbrewer.report.plots import scalars

transformers = pytest.importorskip("transformers")

WIDTH, HEADS, LAYERS = 24, 4, 3
COMMON = {"vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
COMMON |= {"intermediate_size": 32, "max_position_embeddings": 32, "pad_token_id": 0}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", COMMON),
    "roberta": ("roberta", COMMON),
    "electra": ("electra", {**COMMON, "embedding_size": 16}),
    "distilbert": (
        "distilbert",
        {"vocab_size": 40, "dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 32, "pad_token_id": 0},
    ),
    "deberta-v2": ("deberta-v2", {**COMMON, **DEBERTA, "share_att_key": False}),
    "deberta-v3": ("deberta-v2", {**COMMON, **DEBERTA, "share_att_key": True, "norm_rel_ebd": "layer_norm"}),
    "modernbert": ("modernbert", {**COMMON, "global_attn_every_n_layers": 2, "local_attention": 4}),
}
PARTS = ("query", "key", "value")
BATCH = {
    "input_ids": torch.tensor([[2, 5, 7, 9, 3], [2, 8, 3, 0, 0], [2, 4, 6, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]),
}


def model_of(family, seed=0, **changes):
    kind, settings = FAMILIES[family]
    config = transformers.AutoConfig.for_model(kind, **{**settings, **changes}, num_labels=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModelForSequenceClassification.from_config(config).eval()


@cache
def shared(family):
    return model_of(family)


def layers_of(model):
    """The list of layers, found by its type and length alone."""
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == LAYERS)


def by_hand(model, part, layer):
    """The projection's weight and bias, applied to what the layer is given."""
    given = []
    block = layers_of(model)[layer]
    handle = block.register_forward_pre_hook(
        lambda m, args, kwargs: given.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**BATCH)
    handle.remove()
    (state,) = given
    weights = dict(block.named_parameters())
    if "attn.Wqkv.weight" in weights:
        third = slice(PARTS.index(part) * WIDTH, (PARTS.index(part) + 1) * WIDTH)
        return block.attn_norm(state) @ weights["attn.Wqkv.weight"][third].T
    (name,) = [n for n in weights if n.endswith((f".{part}.weight", f".{part}_proj.weight", f".{part[0]}_lin.weight"))]
    return state @ weights[name].T + weights[name.replace("weight", "bias")]


def captured(model, path):
    capture = Capture(model, [path])
    with capture.attached(), capture.recording() as outputs, torch.no_grad():
        model(**BATCH)
    module, item = split_path(path)
    return item_of(outputs[module], item)


@pytest.mark.parametrize("layer", [0, LAYERS - 1])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_is_what_the_weights_make_of_the_hidden_state(family, part, layer):
    model = shared(family)
    (path,) = paths_of_part(model, f"{part}:{layer}", "layer_T")
    found = captured(model, path)
    assert found.shape == (3, 5, WIDTH)
    torch.testing.assert_close(found, by_hand(model, part, layer).detach())


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_queries_and_keys_give_the_attention_of_the_model(family):
    model = shared(family)
    queries, keys = (
        captured(model, paths_of_part(model, f"{part}:1", "layer_T")[0]).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for part in ("query", "key")
    )
    scores = queries @ keys.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    expected = scores.masked_fill(BATCH["attention_mask"][:, None, None] == 0, -torch.inf).softmax(-1)
    eager = model_of(family, attn_implementation="eager")
    with torch.no_grad():
        maps = eager(**BATCH, output_attentions=True).attentions[1]
    valid = BATCH["attention_mask"].bool()[:, None, :, None].expand(maps.shape)
    torch.testing.assert_close(maps[valid], expected[valid])


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_count_from_the_end_and_all_of_them_are_in_order(family):
    model = shared(family)
    every = modules_at(model, "value:*", "layer_T")
    assert every == [paths_of_part(model, f"value:{layer}", "layer_T")[0] for layer in range(LAYERS)]
    assert modules_at(model, "value:-1", "layer_T") == every[-1:]
    assert len(set(every)) == LAYERS


def test_a_model_inside_another_is_found():
    outer = nn.ModuleDict({"body": shared("bert"), "head": nn.Linear(3, 3)})
    assert paths_of_part(outer, "key:2", "layer_S") == ["body.bert.encoder.layer.2.attention.self.key"]


def test_what_a_decoder_attends_to_in_another_model_is_not_its_own_attention():
    settings = {**FAMILIES["bert"][1], "is_decoder": True, "add_cross_attention": True}
    decoder = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("bert", **settings))
    assert paths_of_part(decoder, "query:*", "layer_T") == [
        f"encoder.layer.{layer}.attention.self.query" for layer in range(LAYERS)
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("query:0", True), ("key:-1", True), ("value:*", True), ("query:", False), ("queries:1", False)],
)
def test_the_form_of_a_part(path, expected):
    assert is_part(path) is expected


@pytest.mark.parametrize(
    ("model", "path", "message"),
    [
        (
            lambda: shared("bert"),
            "query:3",
            r"layer_S='query:3', but BertForSequenceClassification has 3 attention layers",
        ),
        (lambda: shared("bert"), "query:-4", r"3 attention layers \(0\.\.2\)"),
        (
            lambda: shared("bert"),
            "query",
            "is no part of an attention layer; write 'query:11', 'key:-1' or 'value:\\*'",
        ),
        (
            lambda: nn.ModuleDict({"one": shared("bert"), "two": shared("distilbert")}),
            "value:0",
            r"may be of 'one.bert.encoder.layer' or of 'two.distilbert.transformer.layer' in ModuleDict; "
            r"give the path of the module, as in 'one.bert.encoder.layer.0.attention.self.value'",
        ),
        (
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2, enable_nested_tensor=False),
            "value:0",
            r"where TransformerEncoder computes its attention is not known, as it is for BERT.*ModernBERT; "
            r"give the path of the module.*c_attn\[0:768\]'; its layers are \['layers\.\*\.self_attn\.out_proj',",
        ),
    ],
)
def test_what_is_not_there_is_told(model, path, message):
    with pytest.raises(MatchError, match=message):
        paths_of_part(model(), path, "layer_S")


def test_columns_of_an_output():
    state = torch.arange(12.0).reshape(1, 2, 6)
    assert split_path("h.0.attn.c_attn[2:4]") == ("h.0.attn.c_attn", slice(2, 4))
    assert torch.equal(item_of(state, slice(2, 4)), state[..., 2:4])
    assert torch.equal(item_of((state, None), slice(0, 3)), state[..., :3])
    assert item_of(state, slice(4, 7)) is None


def test_runs_of_a_module_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Identity()

        def forward(self, x):
            return self.shared(x) + self.shared(10 * x)

    model, capture = Twice(), None
    for _ in range(2):
        capture = capture or Capture(model, ["shared", "shared@0", "shared@1", "shared@2"])
        with capture.attached(), capture.recording() as outputs:
            model(torch.ones(1))
        assert {key: value.item() for key, value in outputs.items()} == {"shared": 10, "shared@0": 1, "shared@1": 10}
    assert modules_at(model, "shared@1", "layer_T") == ["shared@1"]


def trained(tmp_path, teacher, student, written, **options):
    """The distiller after two steps, with each term's value logged at each of them."""
    config = TrainingConfig(
        output_dir=str(tmp_path), log_dir=str(tmp_path / "log"), ckpt_frequency=0, progress_bar=False, device="cpu"
    )
    distill = DistillationConfig(kd_loss_weight=0, intermediate_matches=written)
    distiller = GeneralDistiller(config, distill, teacher, student, **options)
    distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), [BATCH] * 2, num_epochs=1)
    return distiller


def narrow(family, seed=7):
    """A student of half the width, with two layers and other heads."""
    if family == "distilbert":
        return model_of(family, seed, dim=12, n_layers=2, n_heads=2)
    return model_of(family, seed, hidden_size=12, num_hidden_layers=2, num_attention_heads=2)


def test_a_student_learns_the_relations_of_a_wider_teacher(tmp_path):
    teacher, student = model_of("bert"), narrow("bert")
    expected = {}
    for part in PARTS:
        (of_T,), (of_S,) = (paths_of_part(model, f"{part}:-1", "") for model in (teacher, student))
        sides = captured(student, of_S), captured(teacher, of_T)
        expected[of_S, of_T] = relation_kl_loss(*sides, BATCH["attention_mask"], heads=6).item()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    used = []
    attention = teacher.bert.encoder.layer[0].attention.self
    attention.register_forward_hook(lambda module, inputs, outputs: used.append(outputs[1]))
    student.train = lambda mode=True: student  # without dropout, so that the first step can be foretold
    distiller = trained(tmp_path, teacher, student, matches.minilmv2(heads=6))
    assert len(distiller.lesson.matches) == 3
    for (of_S, of_T), value in expected.items():
        tag = f"scalar/unweighted_attention_relation_kl_6_{of_S}_{of_T}"
        logged = [number for _, number in scalars(tmp_path / "log", tag)]
        assert logged[0] == pytest.approx(value, rel=1e-5) and logged[1] < logged[0]
    changed = {name for name, value in student.state_dict().items() if not torch.equal(before[name], value)}
    assert "bert.encoder.layer.1.attention.self.value.weight" in changed
    # Fused attention has no maps to give.
    assert used == [None, None] and teacher.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("of_teacher", "of_student"),
    [("roberta", "distilbert"), ("deberta-v3", "electra"), ("modernbert", "bert"), ("distilbert", "deberta-v3")],
)
def test_any_family_teaches_any_other(tmp_path, of_teacher, of_student):
    written = [*matches.minilmv2(heads=4), *matches.minilm(heads=2, teacher_layer=0, student_layer=0)]
    student = narrow(of_student)
    distiller = trained(tmp_path, model_of(of_teacher), student, written)
    assert len(distiller.lesson.matches) == 5
    assert all(parameter.isfinite().all() for parameter in student.parameters())


def test_tinybert_matches_embeddings_hidden_states_and_scores(tmp_path):
    teacher, student = model_of("bert"), narrow("bert")
    written = matches.tinybert(LAYERS, 2, heads=2, teacher_width=WIDTH, student_width=12)
    assert [match["loss"] for match in written[:3]] == ["hidden_mse_valid"] * 3
    student.train = lambda mode=True: student
    pairs = [
        [captured(model, paths_of_part(model, f"{part}:{layer}", "")[0]) for part in ("query", "key")]
        for model, layer in ((student, 1), (teacher, 2))
    ]
    expected = query_key_mse_loss(*pairs, BATCH["attention_mask"], heads=2).item()
    distiller = trained(tmp_path, teacher, student, written)
    logged = scalars(tmp_path / "log", f"scalar/unweighted_{distiller.lesson.matches[-1].name}")
    assert logged[0][1] == pytest.approx(expected, rel=1e-5)
    assert len(distiller.projections) == 3


def test_wildcards_match_each_layer_and_custom_matches_take_parts_too(tmp_path):
    match = {"layer_T": "value:*", "layer_S": "value:*", "feature": "attention", "loss": RelationLoss(3)}
    teacher, student = model_of("roberta"), model_of("bert", 5)
    config = TrainingConfig(output_dir=str(tmp_path), ckpt_frequency=0, progress_bar=False, device="cpu")
    distiller = GeneralDistiller(config, DistillationConfig(intermediate_matches=[match]), teacher, student)
    assert [m.layer_S for m in distiller.lesson.matches] == modules_at(student, "value:*", "")
    distiller.add_match(CustomMatch("key:-1", "key:0", 1.0, "hidden_mse"))
    added = distiller.lesson.matches[-1]
    assert (added.layer_T, added.layer_S) == (modules_at(teacher, "key:2", "")[0], modules_at(student, "key:0", "")[0])
    distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), [BATCH], num_epochs=1)


def test_heads_that_do_not_fit_are_told_with_those_that_do(tmp_path):
    message = r"12 relation heads do not divide the widths 12 \(student\) and 10 \(teacher\).*heads one of \[1, 2\]"
    teacher = model_of("bert", hidden_size=10, num_attention_heads=2)
    match = {"layer_T": "query:0", "layer_S": "query:0", "feature": "attention", "loss": "relation_kl"}
    with pytest.raises(MatchError, match=message):
        trained(tmp_path, teacher, narrow("bert"), [match])


def test_a_part_is_a_layer_in_a_config_and_a_word_is_not():
    match = {"layer_T": ["query:-1", "key:-1"], "layer_S": ["query:-1", "key:-1"], "feature": "attention"}
    config = DistillationConfig.from_dict({"intermediate_matches": [{**match, "loss": "query_key_kl"}]})
    assert config.intermediate_matches[0].name == "attention_query_key_kl_query:-1-key:-1_query:-1-key:-1"
    with pytest.raises(ConfigError, match="a part as in 'query:11'"):
        DistillationConfig(intermediate_matches=[{**match, "layer_T": "query 11", "loss": "relation_kl"}])
