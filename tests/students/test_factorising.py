"""Students whose embeddings are two factors of their teacher's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.students.families import SIZES, teacher_of  # noqa: E402
from textbrewer import StudentConfig, build_student  # noqa: E402
from textbrewer.errors import StudentError  # noqa: E402
from textbrewer.students import build_student_with_report  # noqa: E402

WIDE = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 3, "max_position_embeddings": 9}
TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
HOWS = ["importance", "svd"]


def factorised(layers=3, **changes):
    return StudentConfig(layers, **{"family": "electra", "embedding_size": 6, "init": "svd"} | changes)


def trained(family="Bert", head="ForTokenClassification", rank=None, **changes):
    """A teacher whose weights are large enough to tell things apart; of sums of embeddings of a low rank."""
    torch.manual_seed(0)
    teacher = teacher_of(family, head, **WIDE | changes)
    basis = torch.linalg.qr(torch.randn(16, rank or 16))[0]
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            drawn = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1)
            parameter.copy_(1 + drawn if "LayerNorm.weight" in name else drawn)
            if name.split(".")[-2] in TABLES:
                parameter.copy_(drawn @ basis @ basis.T)
    return teacher


def rows():
    """With padding, and with two types where there are two."""
    ids = torch.randint(5, 60, (8, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    return {"input_ids": ids.where(mask == 1, 1), "attention_mask": mask}


def embedded(model, batch):
    with torch.no_grad():
        return model(**batch, output_hidden_states=True).hidden_states[0][batch["attention_mask"] == 1]


def sums_of(model, places):
    """What the LayerNorm is fed for tokens at positions with types."""
    words, spots, kinds = (model.base_model.embeddings.get_submodule(name).weight.detach() for name in TABLES)
    return np.stack([(words[t] + spots[p] + kinds[s]).double().numpy() for t, p, s in places])


def centred(values):
    return values - values.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("given", [None, "rows"])
def test_tables_and_map_are_a_truncated_svd_of_sums(given):
    """Of all there are, and with rows nine parts of ten of those on them. By NumPy."""
    teacher = trained(max_position_embeddings=4)
    batch = {name: value[:, 2:] for name, value in rows().items()} | {"token_type_ids": torch.ones(8, 4).long()}
    # An iterator, so that it is read once.
    student = build_student(teacher, factorised(), rows=iter([batch]) if given else None)
    places = [(token, position, kind) for token in range(60) for position in range(4) for kind in range(2)]
    sums = centred(sums_of(teacher, places))
    real = [(int(batch["input_ids"][i, p]), p, 1) for i, p in batch["attention_mask"].nonzero().tolist()]
    seen = centred(sums_of(teacher, real))
    parts = [np.sqrt(0.1 / len(sums)) * sums, np.sqrt(0.9 / len(seen)) * seen] if given else [sums]
    _, s, v = np.linalg.svd(np.concatenate(parts), full_matrices=False)
    kept = sums @ v[:5].T @ v[:5]
    mine, map_ = sums_of(student, places), student.electra.embeddings_project.weight.detach().double().numpy()
    share = (s[:5] ** 2).sum() / (s**2).sum()
    expected = np.sqrt(share) * kept * teacher.bert.embeddings.LayerNorm.weight.detach().double().numpy()
    np.testing.assert_allclose(mine @ map_.T, expected, atol=1e-6)
    np.testing.assert_allclose(mine.mean(axis=1), 0, atol=1e-7)
    np.testing.assert_allclose((mine**2).mean(axis=1), (kept**2).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("head", ["Model", "ForTokenClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_embeddings_of_no_higher_rank_are_the_teachers_and_so_is_the_answer(family, head):
    more = {"num_labels": 2, "layer_norm_eps": 0.01, "hidden_act": "relu", "pad_token_id": 1}
    teacher = trained(family, head, rank=5, **more)
    student, report = build_student_with_report(teacher, factorised())
    batch = rows()
    torch.testing.assert_close(embedded(student, batch), embedded(teacher, batch), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        outputs = [model(**batch, output_hidden_states=True) for model in (student, teacher)]
    real = batch["attention_mask"] == 1
    for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
        if name in outputs[1]:
            mine, theirs = (output[name][real] for output in outputs)
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert report.fresh == [] and report.layers == [0, 1, 2] and report.source == "svd"


def test_the_scale_is_the_best_there_is_for_the_whole():
    """No other factor before the bias brings the embeddings of all sums nearer, but for the spread of their norms."""
    teacher = trained(max_position_embeddings=4)
    student = build_student(teacher, factorised(embedding_size=12))
    ids = torch.arange(60).repeat(2, 1).T.reshape(-1, 4)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    bias = student.electra.embeddings_project.bias
    mine, theirs = (embedded(model, batch) - bias for model in (student, teacher))
    best = (mine * theirs).sum() / mine.square().sum()
    assert 0.97 < best < 1.03


@pytest.mark.parametrize("size", [6, 10])
def test_the_start_is_nearer_to_the_teacher_than_a_random_one(size):
    teacher, batch = trained(), rows()
    target = embedded(teacher, batch)
    starts = [
        build_student(teacher, factorised(embedding_size=size), init=init, seed=seed)
        for init, seed in (("svd", None), ("random", 0), ("random", 1))
    ]
    cosines = [F.cosine_similarity(embedded(each, batch), target, dim=-1).mean() for each in starts]
    assert cosines[0] > 0.5 + max(cosines[1:])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("given", [None, "rows"])
def test_what_is_narrower_too_has_the_layers_of_a_narrowed_teacher(how, given):
    teacher, sizes = trained(head="ForSequenceClassification"), {"hidden_size": 8, "intermediate_size": 20}
    data = [rows()] if given else None
    student, report = build_student_with_report(teacher, factorised(2, **sizes, init=how), rows=data)
    narrowed = build_student(teacher, StudentConfig(2, **sizes, init=how), rows=data)
    layers, expected = (model.base_model.encoder.state_dict() for model in (student, narrowed))
    assert layers.keys() == expected.keys() and all(torch.equal(layers[name], expected[name]) for name in layers)
    assert report.layers == [0, 2] and report.source == how
    name = "layer.0.intermediate.dense.weight"
    assert report.copied[f"electra.encoder.{name}"] == f"bert.encoder.{name}, [20, 8] of [32, 16]"


def test_the_report_says_what_was_taken():
    _, report = build_student_with_report(trained(head="ForSequenceClassification"), factorised(2))
    # BERT bends what its pooler gives by tanh, ELECTRA by gelu.
    head = ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")
    assert report.fresh == [f"classifier.{name}" for name in head]
    told = {name.removeprefix("electra."): source for name, source in report.copied.items()}
    assert told["embeddings.word_embeddings.weight"] == "bert.embeddings.word_embeddings.weight, 5 of 16 axes"
    assert told["embeddings_project.bias"] == "bert.embeddings.LayerNorm.bias"
    assert told["encoder.layer.1.output.dense.bias"] == "bert.encoder.layer.2.output.dense.bias"
    assert "its layers start from teacher layers [0, 2]; random: classifier.dense.weight" in str(report)


def test_tied_embeddings_stay_tied():
    student, report = build_student_with_report(trained(head="ForMaskedLM"), factorised())
    assert student.generator_lm_head.weight is student.get_input_embeddings().weight
    assert report.copied["generator_lm_head.weight"] == "bert.embeddings.word_embeddings.weight, 5 of 16 axes"
    assert {name.split(".")[0] for name in report.fresh} == {"generator_predictions", "generator_lm_head"}


def test_it_is_saved_and_loaded_like_any_other_and_the_teacher_stays(tmp_path):
    teacher = trained("Roberta", "ForSequenceClassification").to(torch.bfloat16)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = build_student(teacher, factorised(2), seed=0)
    assert next(student.parameters()).dtype == torch.bfloat16
    student.save_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is transformers.ElectraForSequenceClassification
    for other in (again, build_student(teacher, factorised(2), seed=0)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_positions_before_the_first_token_are_left_out():
    teacher = trained("Roberta", pad_token_id=1)
    student = build_student(teacher, factorised())
    assert student.config.max_position_embeddings == 7
    assert len(student.electra.embeddings.position_embeddings.weight) == 7


@pytest.mark.parametrize(
    ("teacher", "config", "message"),
    [
        (
            "Bert",
            factorised(embedding_size=16),
            "from 2 to below hidden_size; electra has embedding_size=16, hidden_size=16",
        ),
        ("Bert", factorised(embedding_size=1), "electra has embedding_size=1"),
        ("Bert", factorised(embedding_size=None), "electra has embedding_size=128, hidden_size=16"),
        ("Electra", factorised(family="bert", embedding_size=None), "bert has no embedding_size"),
        ("Bert", factorised(family="roformer"), r"RoFormerForS.* differs in embeddings.position_embeddings.weight"),
        ("Bert", factorised(family="convbert"), "ConvBertForS.* differs in"),
        ("DistilBert", factorised(), "those of DistilBertFor.* differ in token_type_embeddings.weight"),
        ("DebertaV2", factorised(), "those of DebertaV2For.* differ in"),
        ("ModernBert", factorised(), "those of ModernBertFor.* differ in"),
        ("Bert", factorised(7), "num_layers=7, but the teacher has 6"),
        ("Bert", factorised(hidden_size=32), "hidden_size is 32, the teacher's 16"),
    ],
)
def test_what_cannot_be_factorised(teacher, config, message):
    with pytest.raises(StudentError, match=message):
        build_student(teacher_of(teacher), config)


def test_embeddings_of_another_kind_are_named():
    teacher = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
    teacher.bert.embeddings.more = torch.nn.Embedding(3, 16)
    with pytest.raises(StudentError, match=r"those of BertForSeq.* differ in more.weight"):
        build_student(teacher, factorised())
