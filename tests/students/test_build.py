"""Students from tiny teachers of every family."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from textbrewer import StudentConfig, build_student  # noqa: E402
from textbrewer.errors import ConfigError, StudentError, UnknownNameError  # noqa: E402
from textbrewer.students import STUDENT_PRESETS, build_student_with_report  # noqa: E402

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "Electra": SIZES | {"embedding_size": 8},
    "DistilBert": {"vocab_size": 60, "dim": 16, "n_layers": 6, "n_heads": 2, "hidden_dim": 32},
    "DebertaV2": SIZES,
    "ModernBert": SIZES
    | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
}
LAYERS = {"DistilBert": "distilbert.transformer.layer", "ModernBert": "model.layers"}


def teacher_of(family="Bert", head="ForSequenceClassification", **changes):
    config = getattr(transformers, f"{family}Config")(**{**FAMILIES[family], "num_labels": 4, **changes})
    return getattr(transformers, f"{family}{head}")(config).eval()


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("layers", "chosen"), [("first", [0, 1, 2]), ("evenly", [1, 3, 5]), ("last", [3, 4, 5]), ([5, 0, 2], [5, 0, 2])]
)
def test_chosen_layers_embeddings_and_head_are_copied(family, layers, chosen):
    teacher = teacher_of(family)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student, report = build_student_with_report(teacher, StudentConfig(3, layers=layers))
    name = LAYERS.get(family, f"{family.lower().removesuffix('v2')}.encoder.layer")
    for index, source in enumerate(chosen):
        pair = [model.get_submodule(f"{name}.{i}") for model, i in ((student, index), (teacher, source))]
        if family != "ModernBert" or 0 not in (index, source) or index == source:
            assert same(*pair)
    assert report.layers == chosen
    assert {"classifier.weight", "classifier.out_proj.weight", "classifier.dense.weight"} & set(report.copied)
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    ids = torch.randint(3, 60, (2, 5))
    assert student(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (2, 4)
    assert not student.training
    assert student.config.num_hidden_layers == 3


def test_a_student_as_deep_as_its_teacher_is_its_equal():
    teacher = teacher_of()
    assert same(build_student(teacher, StudentConfig(6)), teacher)


def test_narrower_students_are_random_and_say_so():
    teacher = teacher_of(hidden_size=32, num_attention_heads=4, intermediate_size=128)
    student, report = build_student_with_report(teacher, StudentConfig(2, hidden_size=16))
    assert report.copied == {} and report.source == "random" and "random" in str(report)
    assert (student.config.num_attention_heads, student.config.intermediate_size) == (2, 64)


def test_labels_and_dtype_are_kept():
    teacher = teacher_of(id2label={0: "a", 1: "b", 2: "c", 3: "d"}).to(torch.bfloat16)
    student = build_student(teacher, StudentConfig(2))
    assert student.config.id2label == teacher.config.id2label
    assert next(student.parameters()).dtype == torch.bfloat16


def test_tied_embeddings_stay_tied():
    student = build_student(teacher_of(head="ForMaskedLM"), StudentConfig(2))
    weight = student.bert.embeddings.word_embeddings.weight
    assert student.cls.predictions.decoder.weight.data_ptr() == weight.data_ptr()


def test_random_weights_follow_the_seed_and_leave_the_global_state():
    teacher = teacher_of()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two, three = (build_student(teacher, StudentConfig(2), init="random", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert same(one, two) and not same(one, three)


def test_from_a_checkpoint_and_back(tmp_path):
    student = build_student(teacher_of(), StudentConfig(2))
    student.save_pretrained(tmp_path)
    again = build_student(teacher_of(), StudentConfig(2, init=str(tmp_path)))
    assert same(student, again)
    with pytest.raises(StudentError, match="2 layers of width 32"):
        build_student(teacher_of(), StudentConfig(2, hidden_size=32, init=str(tmp_path)))
    with pytest.raises(StudentError, match="neither 'teacher' nor 'random'"):
        build_student(teacher_of(), StudentConfig(2, init=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("name", STUDENT_PRESETS)
def test_presets_have_their_published_sizes(name):
    config = STUDENT_PRESETS[name]
    student = build_student(teacher_of(hidden_size=768, num_attention_heads=12, num_hidden_layers=12), name)
    assert student.config.num_hidden_layers == config.num_layers
    assert student.config.hidden_size == config.hidden_size
    assert student.config.intermediate_size == config.intermediate_size


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (StudentConfig(7), "num_layers=7, but the teacher has 6"),
        (StudentConfig(2, layers=[0, 6]), r"among 0\.\.5"),
        (StudentConfig(2, layers=[0]), "2 teacher layers"),
        (StudentConfig(2, hidden_size=15), "not a multiple"),
    ],
)
def test_sizes_that_do_not_fit(config, message):
    with pytest.raises(StudentError, match=message):
        build_student(teacher_of(), config)


def test_other_bad_input():
    with pytest.raises(StudentError, match="expected a Transformers encoder, got Linear"):
        build_student(torch.nn.Linear(2, 2), StudentConfig(1))
    with pytest.raises(UnknownNameError, match="did you mean 'T4-tiny'"):
        build_student(teacher_of(), "T4tiny")
    with pytest.raises(StudentError, match="ALBERT"):
        build_student(teacher_of_albert(), StudentConfig(2))
    with pytest.raises(ConfigError, match=r"(?s)num_layers.*layers"):
        StudentConfig(0, layers="evenley")


def teacher_of_albert():
    return transformers.AlbertModel(transformers.AlbertConfig(**SIZES, embedding_size=8))
