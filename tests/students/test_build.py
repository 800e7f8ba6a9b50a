"""Students from tiny teachers of every family."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.students.families import FAMILIES, SIZES, teacher_of  # noqa: E402
from textbrewer import StudentConfig, build_student  # noqa: E402
from textbrewer.errors import ConfigError, StudentError, UnknownNameError  # noqa: E402
from textbrewer.matching.layers import positions_of  # noqa: E402
from textbrewer.students import STUDENT_PRESETS, build_student_with_report  # noqa: E402

LAYERS = {"DistilBert": "distilbert.transformer.layer", "ModernBert": "model.layers"}


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


@pytest.mark.parametrize("family", FAMILIES)
def test_narrower_students_of_every_family_run(family):
    student = build_student(teacher_of(family), StudentConfig(2, hidden_size=8))
    assert student(input_ids=torch.randint(3, 60, (2, 5)), output_hidden_states=True).hidden_states[-1].shape[2] == 8


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


# Layers, width, heads, width of the feed-forward layers, of the embeddings; None where there is no such thing.
PUBLISHED = {
    "T6": (6, 768, 12, 3072, None),
    "T3": (3, 768, 12, 3072, None),
    "T3-small": (3, 384, 6, 1536, None),
    "T4-tiny": (4, 312, 12, 1200, None),
    "T12-nano": (12, 256, 4, 1024, None),
    "ELECTRA-small": (12, 256, 4, 1024, 128),
    "BiGRU": (1, 768, None, None, 768),
}
TOKENS, CLASSES = 28996, 3


def parameters_of(name):
    """Parameters of a classifier with the sizes of a preset, by hand."""
    layers, width, _, between, embedding = PUBLISHED[name]
    answer = width * CLASSES + CLASSES
    if name == "BiGRU":
        direction = 3 * (width * embedding + width * width + 2 * width)
        return TOKENS * embedding + 2 * direction + (2 * width * width + width) + answer
    embedded = embedding or width
    layer = 4 * (width * width + width) + 2 * width * between + between + width + 4 * width
    widened = 0 if embedding is None else embedding * width + width
    return (TOKENS + 512 + 2 + 2) * embedded + widened + layers * layer + width * width + width + answer


@pytest.mark.parametrize("name", STUDENT_PRESETS)
def test_presets_have_their_published_sizes(name):
    with torch.device("meta"):
        config = transformers.BertConfig(vocab_size=TOKENS, num_labels=CLASSES)
        student, report = build_student_with_report(transformers.BertForSequenceClassification(config), name)
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "embedding_size")
    if name == "BiGRU":
        names = ("num_layers", *names[1:])
    assert tuple(getattr(student.config, attribute, None) for attribute in names) == PUBLISHED[name]
    assert report.student_parameters == parameters_of(name)


@pytest.mark.parametrize("name", ["T3", "T4-tiny", "ELECTRA-small", "BiGRU"])
@pytest.mark.parametrize("family", ["Electra", "DistilBert"])
def test_presets_are_for_every_family(family, name):
    student = build_student(teacher_of(family, "ForTokenClassification"), name)
    assert student.config.hidden_size == PUBLISHED[name][1]
    assert student(input_ids=torch.ones(2, 3).long()).logits.shape == (2, 3, 4)


ELECTRA = StudentConfig(2, hidden_size=8, family="electra", embedding_size=4)


@pytest.mark.parametrize(
    "head",
    ["Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM"],
)
def test_another_family_has_the_teachers_head_vocabulary_and_labels(head):
    classes = 2 if head == "ForQuestionAnswering" else 4
    names = {i: f"name {i}" for i in range(classes)}
    changes = {"id2label": names, "label2id": {v: k for k, v in names.items()}, "num_labels": classes}
    teacher = teacher_of("Bert", head, **changes, max_position_embeddings=20, problem_type="regression")
    student, report = build_student_with_report(teacher, ELECTRA)
    assert type(student) is getattr(transformers, f"Electra{head}")
    given, config = teacher.config, student.config
    assert (config.num_hidden_layers, config.hidden_size, config.embedding_size) == (2, 8, 4)
    for name in ("vocab_size", "id2label", "label2id", "problem_type", "max_position_embeddings", "pad_token_id"):
        assert getattr(config, name) == getattr(given, name)
    assert report.copied == {} and report.source == "random" and report.layers == []
    _, as_wide = build_student_with_report(teacher, StudentConfig(2, family="electra"))
    assert as_wide.copied == {} and as_wide.source == "random"
    ids = torch.randint(3, 60, (2, 5))
    ours, theirs = student(input_ids=ids, token_type_ids=torch.ones_like(ids)), teacher(input_ids=ids)
    shared = [name for name in ours if "logits" in name]
    assert {name: ours[name].shape for name in shared} == {name: theirs[name].shape for name in shared}


@pytest.mark.parametrize("family", ["distilbert", "roberta", "deberta-v2", "modernbert"])
def test_other_families_get_the_sizes_too(family):
    wanted = StudentConfig(3, hidden_size=8, intermediate_size=24, family=family)
    student = build_student(teacher_of(), wanted)
    config = student.config
    assert config.model_type == family
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 8, 1)
    assert getattr(config, "hidden_dim" if family == "distilbert" else "intermediate_size") == 24
    assert student(input_ids=torch.randint(3, 60, (2, 5))).logits.shape == (2, 4)


@pytest.mark.parametrize("family", ["bert", "electra", "roberta"])
def test_a_teacher_without_types_of_tokens_has_students_with_them(family):
    teacher = teacher_of("DebertaV2", type_vocab_size=0)
    student = build_student(teacher, StudentConfig(1, family=family))
    ids = torch.randint(3, 60, (2, 5))
    assert student(input_ids=ids, token_type_ids=torch.ones_like(ids)).logits.shape == (2, 4)


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("families", [("Bert", "roberta"), ("Roberta", "bert"), ("ModernBert", "roberta")])
def test_students_of_another_family_take_as_many_tokens(families, pad):
    teacher = teacher_of(families[0], max_position_embeddings=20, pad_token_id=pad)
    student = build_student(teacher, StudentConfig(1, family=families[1]))
    longest = positions_of(teacher) or 20
    assert positions_of(student) == longest == (19 - pad if families[0] == "Roberta" else 20)
    ids = torch.randint(4, 60, (1, longest))
    assert teacher(input_ids=ids).logits.shape == student(input_ids=ids).logits.shape


def test_heads_that_cut_the_teachers_weights_elsewhere():
    teacher = teacher_of()
    heads = teacher.config.num_attention_heads * 2
    with pytest.raises(StudentError, match=f"num_attention_heads={heads} would cut.*init='random'"):
        build_student(teacher, StudentConfig(2, num_attention_heads=heads))
    random = StudentConfig(2, num_attention_heads=heads, init="random")
    assert build_student(teacher, random).config.num_attention_heads == heads


def test_a_width_of_heads_that_the_config_names():
    teacher = teacher_of("DebertaV2", attention_head_size=4)
    student = build_student(teacher, StudentConfig(1, hidden_size=12, num_attention_heads=2))
    assert student(input_ids=torch.randint(3, 60, (2, 5))).logits.shape == (2, 4)


def test_a_teacher_without_a_pooler_has_students_without_one():
    teacher = transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=False)
    student, report = build_student_with_report(teacher, StudentConfig(2))
    assert student.pooler is None and report.fresh == []
    # As far as the teacher's class goes: a head that has none keeps none.
    assert build_student(teacher_of(head="ForTokenClassification"), StudentConfig(2)).bert.pooler is None


def test_a_subclass_of_the_user_has_a_counterpart_too():
    class Mine(transformers.BertForSequenceClassification):
        pass

    student = build_student(Mine(transformers.BertConfig(**SIZES)), ELECTRA)
    assert type(student) is transformers.ElectraForSequenceClassification


def test_in_its_own_family_the_teachers_layers_are_copied():
    teacher = teacher_of("Electra")
    student, report = build_student_with_report(teacher, StudentConfig(2, family="electra"))
    assert student.config.embedding_size == 8 and report.fresh == [] and report.layers == [2, 5]
    student, report = build_student_with_report(teacher, StudentConfig(2, family="electra", embedding_size=4))
    assert student.config.embedding_size == 4
    assert {name.split(".")[1] for name in report.fresh} == {"embeddings", "embeddings_project"}
    assert report.layers == [2, 5]


def test_another_family_from_a_checkpoint(tmp_path):
    teacher = teacher_of()
    student = build_student(teacher, ELECTRA)
    student.save_pretrained(tmp_path)
    assert same(student, build_student(teacher, ELECTRA, init=str(tmp_path)))


def test_embeddings_can_be_frozen():
    student = build_student(teacher_of(), StudentConfig(2, freeze_embeddings=True))
    frozen = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert frozen == ["bert.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (StudentConfig(7), "num_layers=7, but the teacher has 6"),
        (StudentConfig(2, layers=[0, 6]), r"among 0\.\.5"),
        (StudentConfig(2, layers=[0]), "2 teacher layers"),
        (StudentConfig(2, hidden_size=15), "not a multiple"),
        (StudentConfig(2, embedding_size=4), "the embeddings of bert are as wide as its hidden states"),
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
    with pytest.raises(UnknownNameError, match=r"neither 'bigru' nor a model type.*; did you mean 'electra'"):
        build_student(teacher_of(), StudentConfig(2, family="elektra"))
    with pytest.raises(StudentError, match="Electra has no head like that of BertForPreTraining"):
        build_student(teacher_of(head="ForPreTraining"), ELECTRA)  # that of ELECTRA finds replaced tokens


def teacher_of_albert():
    return transformers.AlbertModel(transformers.AlbertConfig(**SIZES, embedding_size=8))
