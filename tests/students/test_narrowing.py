"""Narrower students that start from their teacher's weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.students.families import SIZES, teacher_of  # noqa: E402
from textbrewer import StudentConfig, build_student  # noqa: E402
from textbrewer.errors import StudentError  # noqa: E402
from textbrewer.students import build_student_with_report  # noqa: E402
from textbrewer.students.narrowing import _factors  # noqa: E402

HOWS = ["importance", "svd"]
WIDE = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 3}


WRITERS = ("LayerNorm", "output.dense", "project", "transform.dense", "pooler.dense", "classifier.dense")


def rows(number=8, length=6, vocabulary=60):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (number, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def trained(family="Bert", head="ForSequenceClassification", **changes):
    """A teacher whose weights are large enough to tell things apart, with biases and LayerNorms of its own."""
    torch.manual_seed(0)
    teacher = teacher_of(family, head, **WIDE | changes)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            drawn = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1)
            parameter.copy_(1 + drawn if "LayerNorm.weight" in name else drawn)
    return teacher


def redundant(family, head):
    """A teacher of whose dimensions, heads and neurons the last quarter hardly counts."""
    teacher = trained(family, head)
    faint = 0.03
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            place, kind = name.rsplit(".", 1)
            if place.endswith("_embeddings") and parameter.shape[1] == 16:
                parameter[:, 12:] *= faint
            elif len(parameter) == 16 and place.endswith(WRITERS):
                parameter[12:] *= faint
            if kind == "weight" and place.endswith("output.dense"):
                parameter[:, parameter.shape[1] * 3 // 4 :] *= faint
    return teacher


def answer(model, batch):
    with torch.no_grad():
        return model(**batch)[0]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("given", [None, "rows"])
@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("Bert", "ForSequenceClassification"),
        ("Roberta", "ForSequenceClassification"),
        ("Electra", "ForTokenClassification"),
        ("Bert", "ForMaskedLM"),
        ("Bert", "Model"),
    ],
)
def test_a_student_that_keeps_every_width_is_its_teacher(family, head, how, given):
    teacher = trained(family, head)
    student, report = build_student_with_report(teacher, StudentConfig(3, init=how), rows=[rows()] if given else None)
    theirs = teacher.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in student.state_dict().items())
    assert report.copied == {name: name for name in theirs} and report.fresh == []
    assert torch.equal(answer(student, rows()), answer(teacher, rows()))


@pytest.mark.parametrize("given", [None, "rows"])
def test_what_gives_nothing_is_left_out_and_nothing_changes(given):
    """Of a teacher twice as wide as it need be: half of its dimensions repeat the others, and no one reads them."""
    teacher = trained()
    dead_heads, dead_neurons = {0: [0, 2], 1: [1, 3], 2: [0, 1]}, list(range(1, 32, 2))
    order = torch.tensor([3, 0, 9, 6, 12, 15, 5, 10])  # those that are read; each has its double elsewhere
    double = torch.tensor([i for i in range(16) if i not in order.tolist()])
    with torch.no_grad():
        for name, parameter in teacher.bert.named_parameters():
            if "pooler" in name:
                continue
            writes = "embeddings" in name or "LayerNorm" in name or "output.dense" in name
            if writes and "embeddings" in name and parameter.ndim == 2:
                parameter[:, double] = parameter[:, order]
            elif writes:
                parameter[double] = parameter[order]
            elif parameter.ndim == 2:
                parameter[:, double] = 0
        teacher.bert.pooler.dense.weight[:, double] = 0
        teacher.classifier.weight[:, double] = 0
        for place, layer in enumerate(teacher.bert.encoder.layer):
            for head in dead_heads[place]:
                layer.attention.output.dense.weight[:, 4 * head : 4 * head + 4] = 0
            layer.output.dense.weight[:, dead_neurons] = 0
    wanted = StudentConfig(3, hidden_size=8, intermediate_size=16, init="importance")
    student, report = build_student_with_report(teacher, wanted, rows=[rows()] if given else None)
    assert student.config.num_attention_heads == 2
    torch.testing.assert_close(answer(student, rows()), answer(teacher, rows()), rtol=1e-4, atol=1e-5)
    assert report.fresh == [] and report.layers == [0, 1, 2] and report.source == "importance"
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    assert report.copied[name] == f"{name}, [16, 8] of [32, 16]"
    assert "narrowed by importance" in str(report)


@pytest.mark.parametrize("given", [None, "rows"])
def test_hidden_states_in_a_subspace_are_kept_by_their_principal_axes(given):
    """Readers see the same, up to the one scale that a LayerNorm of the student's width sets."""
    torch.manual_seed(0)
    teacher = trained(num_hidden_layers=1)
    basis = torch.linalg.qr(torch.randn(16, 8))[0]
    with torch.no_grad():
        for embedding in (teacher.bert.embeddings.word_embeddings, teacher.bert.embeddings.position_embeddings):
            embedding.weight.copy_(embedding.weight @ basis @ basis.T)
    student = build_student(teacher, StudentConfig(1, hidden_size=8, init="svd"), rows=[rows()] if given else None)
    mine = student.bert.embeddings.word_embeddings.weight
    theirs = teacher.bert.embeddings.word_embeddings.weight
    if given:
        assert torch.linalg.matrix_norm(mine) <= torch.linalg.matrix_norm(theirs)
    else:
        torch.testing.assert_close(mine @ mine.T, theirs @ theirs.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("given", [None, "rows"])
@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("Bert", "ForSequenceClassification"),
        ("Roberta", "ForTokenClassification"),
        ("Electra", "ForSequenceClassification"),
        ("Bert", "ForMaskedLM"),
    ],
)
def test_a_narrowed_student_is_nearer_to_its_teacher_than_a_random_one(family, head, how, given):
    if (head, how) == ("ForMaskedLM", "svd"):
        pytest.skip("what bends there is projected, and the docstring promises nothing")
    teacher = redundant(family, head)
    wanted = StudentConfig(3, hidden_size=12, num_attention_heads=3, intermediate_size=24)
    batch = rows()
    narrowed, report = build_student_with_report(teacher, wanted, init=how, rows=[batch] if given else None)
    assert report.fresh == [] and len(report.copied) == len(narrowed.state_dict())
    target = answer(teacher, batch)
    distances = [
        F.mse_loss(answer(build_student(teacher, wanted, init="random", seed=s), batch), target) for s in (0, 1)
    ]
    assert F.mse_loss(answer(narrowed, batch), target) < 0.9 * min(distances)


def test_embeddings_have_a_width_of_their_own():
    teacher = trained("Electra")
    wanted = StudentConfig(2, hidden_size=8, embedding_size=4, init="svd")
    student, report = build_student_with_report(teacher, wanted)
    assert student.electra.embeddings.word_embeddings.weight.shape == (60, 4) and report.fresh == []
    name = "electra.embeddings_project.weight"
    assert report.copied[name] == f"{name}, [8, 4] of [16, 8]"
    assert report.layers == [0, 2]
    assert torch.isfinite(answer(student, rows())).all()


@pytest.mark.parametrize("how", HOWS)
def test_embeddings_that_stay_wide_are_mapped_to_a_narrower_student(how):
    """ELECTRA-base has no map between embeddings and layers; its students do."""
    teacher = trained("Electra", embedding_size=16)
    student, report = build_student_with_report(teacher, StudentConfig(3, hidden_size=8, init=how))
    ids = rows()["input_ids"]
    embedded = teacher.electra.embeddings(ids) @ student.electra.embeddings_project.weight.T
    assert torch.equal(student.electra.embeddings.word_embeddings.weight, teacher.get_input_embeddings().weight)
    with torch.no_grad():
        first = student.electra(ids, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(first, embedded)
    assert report.fresh == []
    assert report.copied["electra.embeddings_project.weight"] == "the map of the teacher's width to the student's"


def test_rows_tell_what_matters_and_weights_do_not():
    """A neuron with large weights that never fires on the rows is left out only when there are rows."""
    teacher = trained(num_hidden_layers=1, hidden_act="relu")
    layer = teacher.bert.encoder.layer[0]
    with torch.no_grad():
        layer.intermediate.dense.bias[:16] = -1e4
        layer.output.dense.weight[:, :16] *= 100
    up = layer.intermediate.dense.bias
    for given, silent in ((None, 12), ([rows()], 0)):
        student = build_student(teacher, StudentConfig(1, intermediate_size=12, init="importance"), rows=given)
        kept = student.bert.encoder.layer[0].intermediate.dense.bias
        assert int((kept == -1e4).sum()) == silent and set(kept.tolist()) <= set(up.tolist())


@pytest.mark.parametrize("labelled", [True, False])
def test_neurons_are_chosen_by_activation_times_gradient(labelled):
    """Against the change of the loss that a factor on each neuron brings, one example at a time."""
    teacher = trained(num_hidden_layers=1).double()
    batch = rows() | ({"labels": torch.arange(8) % 4} if labelled else {})
    layer, effects = teacher.bert.encoder.layer[0], torch.zeros(32, dtype=torch.float64)
    for i in range(8):
        factor = torch.ones(32, dtype=torch.float64, requires_grad=True)
        hook = layer.output.dense.register_forward_pre_hook(lambda _, args, f=factor: (args[0] * f,))
        output = teacher(**{name: value[i : i + 1] for name, value in batch.items()})
        (output.loss if labelled else output.logits.square().sum() / 2).backward()
        hook.remove()
        effects += factor.grad.abs()
    expected = effects.topk(10).indices.sort().values
    # Two batches of unlike sizes, and frozen weights: neither changes what is chosen.
    parts = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 3), slice(3, 8))]
    teacher.zero_grad()
    teacher.requires_grad_(False).train()
    student = build_student(teacher, StudentConfig(1, intermediate_size=10, init="importance"), rows=parts)
    kept, bias = student.bert.encoder.layer[0].intermediate.dense.bias, layer.intermediate.dense.bias
    assert torch.equal(kept, bias[expected])
    assert teacher.training and all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_narrower_heads_are_the_best_of_their_rank():
    torch.manual_seed(0)
    a, b = torch.randn(3, 6, 10, dtype=torch.float64), torch.randn(3, 6, 7, dtype=torch.float64)
    left, right = _factors(a, b, 2)
    assert left.shape == (3, 2, 10) and right.shape == (3, 2, 7)
    for i in range(3):
        u, s, v = torch.linalg.svd(a[i].T @ b[i])
        torch.testing.assert_close(left[i].T @ right[i], u[:, :2] * s[:2] @ v[:2])


def test_heads_that_have_no_more_than_their_rank_stay_the_same():
    """Half of the width of every head is unused: narrower heads attend alike."""
    teacher = trained(num_hidden_layers=1)
    attention = teacher.bert.encoder.layer[0].attention
    with torch.no_grad():
        for head in range(4):
            unused = slice(4 * head + 2, 4 * head + 4)
            for part in (attention.self.query, attention.self.key, attention.self.value):
                part.weight[unused] = 0
                part.bias[unused] = 0
    half = copy.deepcopy(teacher)
    dimensions = torch.arange(8)
    with torch.no_grad():
        # The second half of the dimensions repeats the first, and is read by nothing.
        for name, parameter in half.bert.named_parameters():
            if "_embeddings" in name:
                parameter[:, 8:] = parameter[:, :8]
            elif "LayerNorm" in name or "output.dense" in name:
                parameter[8:] = parameter[:8]
            elif parameter.ndim == 2:
                parameter[:, 8:] = 0
        half.classifier.weight[:, dimensions + 8] = 0
    wanted = StudentConfig(1, hidden_size=8, num_attention_heads=4, intermediate_size=32, init="importance")
    student = build_student(half, wanted)
    torch.testing.assert_close(answer(student, rows()), answer(half, rows()), rtol=1e-4, atol=1e-5)


def test_the_teacher_and_its_dtype_stay_and_tied_embeddings_stay_tied():
    teacher = trained(head="ForMaskedLM").to(torch.bfloat16)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = build_student(teacher, StudentConfig(2, hidden_size=8, init="svd"), rows=[rows()])
    assert next(student.parameters()).dtype == torch.bfloat16
    assert student.cls.predictions.decoder.weight is student.get_input_embeddings().weight
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("family", "config", "given", "message"),
    [
        ("DistilBert", StudentConfig(2, hidden_size=8, init="svd"), None, "layers of DistilBertFor.* not like BERT's"),
        ("DebertaV2", StudentConfig(2, hidden_size=8, init="svd"), None, "not like BERT's"),
        ("ModernBert", StudentConfig(2, hidden_size=8, init="importance"), None, "not like BERT's"),
        ("Bert", StudentConfig(2, hidden_size=32, init="svd"), None, "hidden_size is 32, the teacher's 16"),
        ("Bert", StudentConfig(2, intermediate_size=99, init="svd"), None, "intermediate_size is 99, the teacher's 32"),
        (
            "Bert",
            StudentConfig(2, num_attention_heads=1, init="svd"),
            None,
            "the width of a head is 16, the teacher's 8",
        ),
        (
            "Bert",
            StudentConfig(2, num_attention_heads=8, init="svd"),
            None,
            "num_attention_heads is 8, the teacher's 2",
        ),
        ("Bert", StudentConfig(7, init="svd"), None, "num_layers=7, but the teacher has 6"),
        (
            "Electra",
            StudentConfig(2, hidden_size=4, embedding_size=4, init="svd"),
            None,
            "no place for the teacher's map",
        ),
        ("Bert", StudentConfig(2, init="svd", family="bigru"), None, "got family='bigru'; leave family out"),
        ("Bert", StudentConfig(2), [rows()], "rows= are for one of 'importance', 'svd', got init='teacher'"),
        ("Bert", StudentConfig(2, init="svd"), [], "no batch with a real token"),
        ("Bert", StudentConfig(2, init="svd"), [(torch.ones(1, 2),)], "dicts of tensors by name; got a tuple"),
    ],
)
def test_what_cannot_be_narrowed(family, config, given, message):
    with pytest.raises(StudentError, match=message):
        build_student(teacher_of(family), config, rows=given)


def test_a_teacher_of_other_proportions_says_which_tensor():
    teacher = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
    teacher.bert.embeddings.position_embeddings = torch.nn.Embedding(100, 16)
    with pytest.raises(StudentError, match=r"position_embeddings.weight is \[100, 16\] in the teacher"):
        build_student(teacher, StudentConfig(2, hidden_size=8, init="svd"))


def test_of_several_texts_a_row_all_tell_what_is_important():
    teacher = trained(head="ForMultipleChoice")
    told = rows()
    choices = {name: value.view(4, 2, 6) for name, value in told.items()}
    wanted = StudentConfig(2, hidden_size=8, init="importance")
    student = build_student(teacher, wanted, rows=[{**choices, "labels": torch.zeros(4).long()}])
    assert student(**choices).logits.shape == (4, 2)
