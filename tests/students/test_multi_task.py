"""The student of several tasks: told the task or not, from teachers, in files, and distilled both ways."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.students.families import SIZES, teacher_of
from textbrewer import (
    BiGRUConfig,
    DistillationConfig,
    HeadConfig,
    MultiTaskDistiller,
    MultiTaskStudent,
    StudentConfig,
    TrainingConfig,
)
from textbrewer.errors import ConfigError, StudentError, UnknownNameError
from textbrewer.students import BiGRUEncoder

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

HEADS = {
    "topic": {"num_labels": 3},
    "names": {"task": "token-classification", "num_labels": 5},
    "answer": {"task": "question-answering"},
}
IDS = torch.randint(3, 60, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS).tril(3)
BATCHES = {
    "topic": {"input_ids": IDS, "attention_mask": MASK, "labels": torch.tensor([0, 2, 1, 0])},
    "names": {"input_ids": IDS, "attention_mask": MASK, "labels": (IDS % 5).masked_fill(MASK == 0, -100)},
    "answer": {
        "input_ids": IDS,
        "attention_mask": MASK,
        "start_positions": torch.zeros(4).long(),
        "end_positions": torch.tensor([0, 1, 2, 3]),
    },
}


def encoder_of(pooler=False):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    return transformers.BertModel(config, add_pooling_layer=pooler).eval()


def student_of(encoder=None, heads=HEADS, **settings):
    torch.manual_seed(1)
    heads = {task: {**head, **settings} for task, head in heads.items()}
    return MultiTaskStudent(encoder or encoder_of(), heads).eval()


def teachers():
    torch.manual_seed(2)
    return {
        "topic": teacher_of(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}),
        "names": teacher_of(head="ForTokenClassification", num_labels=5),
        "answer": teacher_of(head="ForQuestionAnswering", num_labels=2),
    }


def distilled(folder, student, steps=9, matches=(), hard=0.0, **how):
    np.random.seed(3)
    torch.manual_seed(3)
    distiller = MultiTaskDistiller(
        TrainingConfig(output_dir=str(folder), progress_bar=False, device="cpu"),
        DistillationConfig(kd_loss_type="kl", hard_label_weight=hard, intermediate_matches=list(matches)),
        teachers(),
        student,
        **how,
    )
    loaders = {task: [batch] for task, batch in BATCHES.items()}
    with distiller:
        distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), loaders, steps)
    return student


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("task", HEADS)
def test_told_the_task_it_gives_what_a_model_of_the_task_gives(task):
    student = student_of()
    output = student(**BATCHES[task], task=task, output_hidden_states=True)
    states = student.encoder(IDS, attention_mask=MASK).last_hidden_state
    expected = student.heads[task](states, MASK)
    assert list(output) == ["loss", *expected, "hidden_states"]
    assert all(torch.equal(output[name], value) for name, value in expected.items())
    assert torch.equal(output.hidden_states[-1], states)
    labels = {key: value for key, value in BATCHES[task].items() if key not in ("input_ids", "attention_mask")}
    assert torch.equal(output.loss, student.heads[task].loss(expected, **labels))
    assert "loss" not in student(IDS, MASK, task=task)
    assert torch.equal(student(IDS, MASK, task=task, return_dict=False)[0], next(iter(expected.values())))


def test_not_told_it_gives_the_logits_of_all():
    student = student_of()
    output = student(IDS, MASK, labels=torch.zeros(4))
    assert list(output) == ["logits"] and list(output.logits) == list(HEADS)
    for task in ("topic", "names"):
        assert torch.equal(output.logits[task], student(IDS, MASK, task=task).logits)
    told = student(IDS, MASK, task="answer")
    assert all(map(torch.equal, output.logits["answer"], [told.start_logits, told.end_logits]))


def test_type_ids_reach_the_encoder():
    student, types = student_of(), torch.ones_like(IDS)
    expected = student.encoder(IDS, attention_mask=MASK, token_type_ids=types).last_hidden_state
    given = student(IDS, MASK, types, task="names")
    assert torch.equal(given.logits, student.heads["names"](expected, MASK)["logits"])
    assert not torch.equal(given.logits, student(IDS, MASK, task="names").logits)


def test_told_and_picked_by_adaptors_it_learns_the_same(tmp_path):
    def picks(task):
        return lambda batch, outputs: {"logits": outputs.logits[task], "logits_mask": batch["attention_mask"]}

    before = weights_of(student_of())
    told = weights_of(distilled(tmp_path, student_of(dropout=0), task_argument="task"))
    adaptors = {task: picks(task) for task in HEADS}
    picked = weights_of(distilled(tmp_path, student_of(dropout=0), adaptor_S=adaptors))
    torch.testing.assert_close(told, picked)
    for task in HEADS:
        assert not torch.equal(before[f"heads.{task}.classifier.weight"], told[f"heads.{task}.classifier.weight"])


@pytest.mark.parametrize("feature", ["hidden", "attention"])
def test_labels_and_layers_are_learned_too(tmp_path, feature):
    student = student_of()
    loss = {"hidden": "hidden_mse_valid", "attention": "attention_mse"}[feature]
    match = {"layer_T": 5, "layer_S": 5, "feature": feature, "loss": loss}
    used = student.encoder.config._attn_implementation
    seen = []
    student.encoder.register_forward_hook(
        lambda module, args, output: seen.append((module.config._attn_implementation, output.attentions is not None))
    )
    losses = [student(**BATCHES["topic"], task="topic").loss.item()]
    distilled(tmp_path, student, 30, [match], hard=1, task_argument="task")
    losses.append(student.eval()(**BATCHES["topic"], task="topic").loss.item())
    assert losses[1] < losses[0]
    assert set(seen[1:-1]) == {("eager", True) if feature == "attention" else (used, False)}
    assert student.encoder.config._attn_implementation == used


def test_labels_in_another_order_belong_to_their_own_task(tmp_path):
    """Two tasks that name their classes alike but in other orders are no reason for a label map."""
    heads = {"one": {"labels": ["no", "yes"]}, "two": {"labels": ["yes", "no"]}}
    student = student_of(heads=heads)
    given = {
        task: teacher_of(num_labels=2, id2label=dict(enumerate(head["labels"])), label2id=None)
        for task, head in heads.items()
    }
    config = TrainingConfig(output_dir=str(tmp_path), progress_bar=False, device="cpu")
    distiller = MultiTaskDistiller(config, DistillationConfig(), given, student, task_argument="task")
    with distiller:
        loaders = {task: [{"input_ids": IDS, "attention_mask": MASK}] for task in heads}
        distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), loaders, 2)


@pytest.mark.parametrize("size", [StudentConfig(3), "BiGRU", StudentConfig(2, hidden_size=8, family="electra")])
def test_from_teachers_it_has_their_tasks_and_labels(tmp_path, size):
    given = teachers()
    student = MultiTaskStudent.from_teachers(given, size, seed=1)
    assert student.config.heads["topic"].labels == ["a", "b", "c"]
    assert {task: head.task for task, head in student.config.heads.items()} == {
        "topic": "text-classification",
        "names": "token-classification",
        "answer": "question-answering",
    }
    assert student.config.heads["topic"].pooling == ("max" if size == "BiGRU" else "first")
    assert not student.training and "pooler" not in " ".join(student.state_dict())
    again = MultiTaskStudent.from_teachers(given, size, seed=1)
    torch.testing.assert_close(weights_of(student), weights_of(again), rtol=0, atol=0)
    before = weights_of(student)
    after = weights_of(distilled(tmp_path, student, task_argument="task", hard=1))
    unused = [name for name, value in before.items() if torch.equal(value, after[name])]
    assert unused == []


def test_the_encoder_comes_from_the_teacher_that_is_named():
    given = teachers()
    for task in given:
        student = MultiTaskStudent.from_teachers(given, StudentConfig(3), encoder_from=task)
        theirs = given[task].bert.encoder.layer[3]
        torch.testing.assert_close(weights_of(student.encoder.encoder.layer[1]), weights_of(theirs), rtol=0, atol=0)
    several = {**given, "topic": [given["topic"], teachers()["topic"]]}
    student = MultiTaskStudent.from_teachers(several, StudentConfig(3))
    assert student.config.heads["topic"].num_labels == 3


def test_precision_is_that_of_the_teachers():
    given = {task: teacher.double() for task, teacher in teachers().items()}
    student = MultiTaskStudent.from_teachers(given, StudentConfig(2))
    assert {p.dtype for p in student.parameters()} == {torch.float64}


class Bag(nn.Module):
    """An encoder of the user's own."""

    def __init__(self, width=4):
        super().__init__()
        self.config = type("Config", (), {"hidden_size": width})()
        self.embeddings = nn.Embedding(60, width)

    def forward(self, input_ids, attention_mask=None):
        output = type("Output", (), {})()
        output.last_hidden_state = self.embeddings(input_ids)
        return output


@pytest.mark.parametrize(
    "encoder",
    [
        encoder_of(),
        encoder_of(pooler=True),
        encoder_of().to(torch.float16),
        BiGRUEncoder(BiGRUConfig(60, hidden_size=6, embedding_size=4)),
        teacher_of("DistilBert", "Model"),
    ],
    ids=["bert", "with pooler", "half", "bigru", "distilbert"],
)
def test_it_is_written_and_read(tmp_path, encoder):
    student = student_of(encoder).to(next(encoder.parameters()).dtype)
    student.save_pretrained(tmp_path)
    again = MultiTaskStudent.from_pretrained(tmp_path)
    assert not again.training and type(again.encoder) is type(encoder)
    assert again.config.heads == student.config.heads
    torch.testing.assert_close(weights_of(again), weights_of(student), rtol=0, atol=0)
    assert torch.equal(again(IDS, MASK, task="topic").logits, student(IDS, MASK, task="topic").logits)


def test_an_encoder_of_the_users_own_is_given_when_read(tmp_path):
    student = student_of(Bag())
    student.save_pretrained(tmp_path)
    again = MultiTaskStudent.from_pretrained(tmp_path, encoder=Bag())
    torch.testing.assert_close(weights_of(again), weights_of(student), rtol=0, atol=0)
    with pytest.raises(StudentError, match="cannot be made from its config; give encoder="):
        MultiTaskStudent.from_pretrained(tmp_path)
    with pytest.raises(StudentError, match="do not fit its config"):
        MultiTaskStudent.from_pretrained(tmp_path, encoder=Bag(5))


def test_folders_that_hold_something_else(tmp_path):
    with pytest.raises(StudentError, match=r"expected a folder written by save_pretrained, found no .*config\.json"):
        MultiTaskStudent.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "BiGRUStudent"}))
    with pytest.raises(StudentError, match="holds a model of another kind: BiGRUStudent"):
        MultiTaskStudent.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["", "en.ner", "keys", "training"])
def test_names_that_cannot_be_heads(name):
    with pytest.raises(StudentError, match="cannot name a head"):
        student_of(heads={name: {}})


def test_other_bad_input():
    with pytest.raises(StudentError, match="whose config has hidden_size, got Linear"):
        MultiTaskStudent(nn.Linear(2, 2), HEADS)
    with pytest.raises(StudentError, match="a head for each task, got none"):
        MultiTaskStudent(encoder_of(), {})
    with pytest.raises(ConfigError, match="did you mean 'num_labels'"):
        MultiTaskStudent(encoder_of(), {"topic": {"num_label": 3}})
    with pytest.raises(
        UnknownNameError, match="expected one of 'topic', 'names', 'answer', got 'topics'; did you mean"
    ):
        student_of()(IDS, task="topics")
    with pytest.raises(StudentError, match="a teacher for each task, got none"):
        MultiTaskStudent.from_teachers({}, "T3")
    with pytest.raises(UnknownNameError, match=r"encoder_from: expected one of .*'topic'.*did you mean 'topic'"):
        MultiTaskStudent.from_teachers(teachers(), "T3", encoder_from="topc")
    with pytest.raises(StudentError, match=r"the teacher of 'words' is a BertForMaskedLM; .*'ForTokenClassification'"):
        MultiTaskStudent.from_teachers({"words": teacher_of(head="ForMaskedLM")}, "T3")
    assert MultiTaskStudent(encoder_of(), {"topic": HeadConfig()}).config.heads == {"topic": HeadConfig()}
