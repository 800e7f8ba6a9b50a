"""The recurrent student: its arithmetic, padding, first weights, files, and a run of distillation."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.students.families import SIZES, teacher_of
from textbrewer import (
    BiGRUConfig,
    BiGRUStudent,
    DistillationConfig,
    GeneralDistiller,
    HeadConfig,
    StudentConfig,
    TrainingConfig,
    build_student,
)
from textbrewer.errors import StudentError
from textbrewer.students import BiGRUEncoder, build_student_with_report
from textbrewer.students.bigru import BiGRULayer

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

SMALL = StudentConfig(1, hidden_size=10, family="bigru")
HEADS = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
}


def student_of(task="text-classification", layers=2, **settings):
    torch.manual_seed(0)
    head = HeadConfig(task, pooling="max", **settings)
    return BiGRUStudent(BiGRUConfig(60, hidden_size=6, num_layers=layers, embedding_size=4, head=head)).eval()


def gru_by_hand(gru, tokens):
    """The states of one row, by the formulas of the paper as PyTorch orders its gates: reset, update, new."""
    weight_in, weight_state, bias_in, bias_state = gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0
    state, states = torch.zeros(gru.hidden_size, dtype=tokens.dtype), []
    for token in tokens:
        from_token, from_state = weight_in @ token + bias_in, weight_state @ state + bias_state
        (r_in, z_in, n_in), (r_state, z_state, n_state) = from_token.chunk(3), from_state.chunk(3)
        reset, update = torch.sigmoid(r_in + r_state), torch.sigmoid(z_in + z_state)
        state = (1 - update) * torch.tanh(n_in + reset * n_state) + update * state
        states.append(state)
    return torch.stack(states)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 99))
def test_a_layer_reads_the_real_tokens_both_ways_wherever_the_padding_is(mask, seed):
    torch.manual_seed(seed)
    layer, states = BiGRULayer(3, 4).double(), torch.randn(len(mask), 5, 3).double()
    result = layer(states, torch.tensor(mask).long())
    for row, real in enumerate(mask):
        if any(real):
            tokens = states[row, real]
            onwards = gru_by_hand(layer.forwards, tokens)
            back = gru_by_hand(layer.backwards, tokens.flip(0)).flip(0)
            expected = torch.cat([onwards, back], -1) @ layer.merge.weight.T + layer.merge.bias
            torch.testing.assert_close(result[row, real], expected)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("left", [0, 2])
def test_padding_changes_neither_outputs_nor_gradients(task, left):
    student = student_of(task).double()
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    labels = {
        "text-classification": {"labels": torch.tensor([0, 1])},
        "token-classification": {"labels": torch.tensor([[0, 1, 0, 1, 1], [1, 1, 0, -100, -100]])},
        "question-answering": {"start_positions": torch.tensor([1, 0]), "end_positions": torch.tensor([4, 2])},
    }[task]

    def padded(value, fill):
        return torch.nn.functional.pad(value, (left, 3), value=fill)

    more = {
        name: value + left if "positions" in name else padded(value, -100) if value.dim() == 2 else value
        for name, value in labels.items()
    }
    runs = []
    for inputs in (
        {"input_ids": ids, "attention_mask": mask, **labels},
        {"input_ids": padded(ids, 33), "attention_mask": padded(mask, 0), **more},
    ):
        student.zero_grad()
        output = student(**inputs)
        output.loss.backward()
        real = inputs["attention_mask"] != 0
        logits = {k: v if task == "text-classification" else v[real] for k, v in output.items() if "logits" in k}
        runs.append((logits, output.loss, [p.grad.clone() for p in student.parameters()]))
    torch.testing.assert_close(runs[0], runs[1])


def test_without_a_mask_every_token_is_real():
    student, ids = student_of(), torch.randint(1, 60, (2, 4))
    assert torch.equal(student(ids).logits, student(ids, torch.ones_like(ids)).logits)
    assert torch.equal(student(ids).logits, student(ids, token_type_ids=torch.ones_like(ids)).logits)


def test_an_empty_row_is_finite_and_leaves_the_others_alone():
    student, ids = student_of(), torch.randint(1, 60, (2, 4))
    output = student(ids, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]), labels=torch.tensor([0, 1]))
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters())
    torch.testing.assert_close(output.logits[:1], student(ids[:1]).logits)


def test_hidden_states_are_the_embeddings_and_each_layer():
    student, ids = student_of("token-classification"), torch.randint(1, 60, (2, 4))
    output = student(ids, output_hidden_states=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, 4, 4), (2, 4, 6), (2, 4, 6)]
    assert torch.equal(output.hidden_states[0], student.get_input_embeddings()(ids))
    torch.testing.assert_close(output.logits, student.head.classifier(output.hidden_states[-1]))
    assert list(output) == ["logits", "hidden_states"]
    assert student(ids).hidden_states is None


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # PyTorch's, about its own GRU
def test_a_tuple_can_be_exported():
    student, ids = student_of(), torch.randint(1, 60, (2, 4))

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.student = student

        def forward(self, ids, mask):
            return self.student(ids, mask, return_dict=False)

    exported = torch.export.export(Logits(), (ids, torch.ones_like(ids))).module()
    others, mask = torch.randint(1, 60, (2, 4)), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    torch.testing.assert_close(exported(others, mask), (student(others, mask).logits,))


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Electra", "ModernBert"])
@pytest.mark.parametrize("task", HEADS)
def test_it_takes_embeddings_task_and_labels_from_the_teacher(family, task):
    classes = 2 if task == "question-answering" else 4
    teacher = teacher_of(family, HEADS[task], num_labels=classes)
    student, report = build_student_with_report(teacher, SMALL)
    theirs = teacher.get_input_embeddings().weight
    assert torch.equal(student.get_input_embeddings().weight, theirs)
    assert not student.training and student.get_input_embeddings().weight.data_ptr() != theirs.data_ptr()
    assert student.config.head.task == task
    if task != "question-answering":
        assert student.config.id2label == teacher.config.id2label
    ids = torch.randint(3, 60, (2, 5))
    ours, of_teacher = student(input_ids=ids), teacher(input_ids=ids)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in of_teacher.items()}
    assert list(report.copied) == ["encoder.embeddings.weight"]
    assert report.source == "teacher" and report.layers == []
    assert "1 tensor copied, 12 random" in str(report)


def test_a_teacher_that_shares_its_layers_will_do():
    config = transformers.AlbertConfig(**SIZES, embedding_size=8)
    student = build_student(transformers.AlbertForSequenceClassification(config), SMALL)
    assert (student.config.embedding_size, student.config.hidden_size) == (8, 10)


def test_of_a_teacher_without_a_head_it_is_the_encoder():
    teacher = teacher_of(head="Model")
    encoder = build_student(teacher, SMALL)
    assert isinstance(encoder, BiGRUEncoder)
    assert torch.equal(encoder.embeddings.weight, teacher.embeddings.word_embeddings.weight)
    assert encoder(torch.ones(2, 3).long()).last_hidden_state.shape == (2, 3, 10)


def test_narrower_embeddings_keep_dot_products_best():
    teacher = teacher_of().double()
    student, report = build_student_with_report(
        teacher, StudentConfig(1, hidden_size=10, family="bigru", embedding_size=5)
    )
    theirs, ours = teacher.get_input_embeddings().weight, student.get_input_embeddings().weight
    assert ours.shape == (60, 5) and ours.dtype == torch.float64
    left, values, _ = torch.linalg.svd(theirs)
    best = left[:, :5] @ torch.diag(values[:5] ** 2) @ left[:, :5].T
    torch.testing.assert_close(ours @ ours.T, best)
    assert list(report.copied.values()) == ["bert.embeddings.word_embeddings.weight, 5 of 16 axes"]


def test_random_weights_precision_and_frozen_embeddings():
    teacher = teacher_of().to(torch.bfloat16)
    one, two = (build_student(teacher, SMALL, init="random", seed=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.get_input_embeddings().weight, teacher.get_input_embeddings().weight)
    frozen = build_student(teacher, StudentConfig(1, hidden_size=10, family="bigru", freeze_embeddings=True))
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}
    assert [n for n, p in frozen.named_parameters() if not p.requires_grad] == ["encoder.embeddings.weight"]
    wider = build_student(teacher, StudentConfig(1, family="bigru", embedding_size=20, init="random"))
    assert (wider.config.embedding_size, wider.config.hidden_size) == (20, 16)


@pytest.mark.parametrize("task", HEADS)
def test_it_is_distilled_with_the_ready_adaptor(tmp_path, task):
    teacher = teacher_of(head=HEADS[task], num_labels=2)
    student = build_student(teacher, SMALL, seed=1)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 60, (8, 6), generator=generator)
    mask = torch.ones_like(ids).tril(3)
    labels = {
        "text-classification": {"labels": torch.arange(8) % 2},
        "token-classification": {"labels": ids % 2},
        "question-answering": {"start_positions": torch.zeros(8).long(), "end_positions": torch.ones(8).long()},
    }[task]
    batch = {"input_ids": ids, "attention_mask": mask, **labels}
    match = {"layer_T": 6, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse_valid", "proj": "auto"}
    distiller = GeneralDistiller(
        TrainingConfig(output_dir=str(tmp_path), progress_bar=False, device="cpu"),
        DistillationConfig(kd_loss_type="kl", hard_label_weight=1, intermediate_matches=[match]),
        teacher,
        student,
    )
    losses = []

    class Adam(torch.optim.AdamW):
        def step(self, closure=None):
            with torch.no_grad():
                losses.append(student(**batch).loss)
            return super().step(closure)

    with distiller:
        distiller.train(Adam(student.parameters(), lr=0.02), [batch], num_steps=20)
    assert losses[-1] < 0.8 * losses[0]
    assert (tmp_path / "gs20.pkl").exists()


@pytest.mark.parametrize("task", HEADS)
def test_it_is_written_and_read(tmp_path, task):
    student = student_of(task).to(torch.float16)
    student.save_pretrained(tmp_path / "new")
    again = BiGRUStudent.from_pretrained(tmp_path / "new")
    assert again.config == student.config and not again.training
    assert {p.dtype for p in again.parameters()} == {torch.float16}
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]


def test_a_written_one_is_read_and_run_without_transformers(tmp_path):
    student = student_of(num_labels=3, labels=["a", "b", "c"])
    student.save_pretrained(tmp_path)
    code = f"""
import sys
sys.modules["transformers"] = None
import torch
from textbrewer import BiGRUStudent
student = BiGRUStudent.from_pretrained({str(tmp_path)!r})
print(student.config.id2label[1], student(torch.tensor([[3, 4, 5]])).logits.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    label, logits = done.stdout.split(" ", 1)
    assert label == "b"
    torch.testing.assert_close(torch.tensor(json.loads(logits)), student(torch.tensor([[3, 4, 5]])).logits)


def test_a_checkpoint_is_a_start(tmp_path):
    teacher = teacher_of()
    student = build_student(teacher, SMALL)
    student.save_pretrained(tmp_path)
    again, report = build_student_with_report(teacher, SMALL, init=str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True))
    assert report.source == str(tmp_path)
    with pytest.raises(StudentError, match=r"(?s)another shape or task; .*hidden_size : 10"):
        build_student(teacher, StudentConfig(1, hidden_size=12, family="bigru", init=str(tmp_path)))
    with pytest.raises(StudentError, match="found no"):
        build_student(teacher, SMALL, init=str(tmp_path / "nowhere"))


def test_folders_that_hold_something_else(tmp_path):
    teacher_of().save_pretrained(tmp_path / "bert")
    with pytest.raises(StudentError, match=r"another kind: \['BertForSequenceClassification'\]"):
        BiGRUStudent.from_pretrained(tmp_path / "bert")
    student_of(layers=2).save_pretrained(tmp_path / "mixed")
    weights = (tmp_path / "mixed" / "model.safetensors").read_bytes()
    student_of(layers=1).save_pretrained(tmp_path / "mixed")
    (tmp_path / "mixed" / "model.safetensors").write_bytes(weights)
    with pytest.raises(StudentError, match="do not fit its config"):
        BiGRUStudent.from_pretrained(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("config", "head", "message"),
    [
        (
            StudentConfig(1, family="bigru", num_attention_heads=2),
            "ForSequenceClassification",
            "no num_attention_heads",
        ),
        (
            StudentConfig(1, family="bigru", embedding_size=17),
            "ForSequenceClassification",
            "have width 16; use at most",
        ),
        (SMALL, "ForMaskedLM", "no head like that of BertForMaskedLM, only like ForSequenceClassification"),
    ],
)
def test_what_it_cannot_be(config, head, message):
    with pytest.raises(StudentError, match=message):
        build_student(teacher_of(head=head), config)


def test_other_bad_input():
    with pytest.raises(StudentError, match="no head; give head="):
        BiGRUStudent(BiGRUConfig(60))
    bare = teacher_of()
    bare.get_input_embeddings = lambda: None
    with pytest.raises(StudentError, match=r"no get_input_embeddings\(\)"):
        build_student(bare, SMALL)
