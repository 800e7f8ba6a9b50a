"""What all tasks do alike: load models, check labels, evaluate."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from transformers import AutoModel

from tests.tasks.small import bert, tokenizer_of
from textbrewer import BasicDistiller, DistillationConfig, StudentConfig, TrainingConfig, build_student
from textbrewer.errors import ConfigError, DataError
from textbrewer.tasks import (
    TASKS,
    MaskedLM,
    PairwiseRanking,
    QuestionAnswering,
    Task,
    TextClassification,
    TextRegression,
    TokenClassification,
)
from textbrewer.tasks.task import softmax, unpadded
from textbrewer.teachers import TeacherCache

TOKENIZER = tokenizer_of()
TASK = TextClassification(["x", "y", "z"], max_length=16)
ROWS = [{"text": text, "label": label} for text, label in [("abcdefg", "x"), ("b", "y"), ("cd", "z"), ("e", "x")]]


def test_every_task_has_its_name():
    for name, task in TASKS.items():
        assert issubclass(task, Task) and task.name == name and task.head.startswith("AutoModel") and task.__doc__


def test_checked_rows_lose_their_labels_as_a_table_does():
    asked = {"question": "q", "context": "a b", "answers": [{"text": "b", "answer_start": 2}]}
    tables = [
        (TASK, ROWS),
        (QuestionAnswering(), [asked]),
        (TokenClassification(["O", "B-A", "I-A"]), [{"tokens": ["a"], "tags": ["B-A"]}]),
        (PairwiseRanking(), [{"query": "q", "positive": "a", "negative": "b"}]),
        (MaskedLM(), [{"text": "a"}]),
    ]
    for task, table in tables:
        rows = task.rows(table)
        assert task.rows(rows) is rows and task.rows(rows, labelled=None) is rows
        bare, expected = task.rows(rows, labelled=False), task.rows(table, labelled=False)
        assert list(bare) == list(expected) and bare.report.labelled == bare.labelled == expected.labelled
        assert bare.report.labels == {} and rows.report.labelled == rows.labelled == len(table)
    data = TASK.encode(TASK.rows(TASK.rows(ROWS), labelled=False), TOKENIZER)
    assert "labels" not in data.features[0]


def test_checked_rows_take_no_columns():
    with pytest.raises(DataError, match=r"^rows: columns={'label': 'stars'} for rows .* or give the table they came"):
        TASK.rows(TASK.rows(ROWS), {"label": "stars"})


def test_a_model_is_loaded_with_its_labels_saved(tmp_path):
    base = bert(QuestionAnswering(), TOKENIZER)
    base.save_pretrained(tmp_path / "base")
    model = TASK.load(tmp_path / "base")
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"} and model.config.label2id["z"] == 2
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, base.bert.embeddings.word_embeddings.weight)
    model.save_pretrained(tmp_path / "tuned")
    again = TASK.load(str(tmp_path / "tuned"), dtype=torch.float64)
    assert torch.equal(again.classifier.weight, model.classifier.weight.double())
    assert build_student(again, StudentConfig(num_layers=1)).config.id2label == model.config.id2label


@pytest.mark.parametrize("labels", [["y", "x", "z"], ["x", "y"], ["x", "y", "w"]])
def test_a_checkpoint_with_other_labels_is_refused(tmp_path, labels):
    bert(TASK, TOKENIZER).save_pretrained(tmp_path)
    other = TextClassification(labels)
    with pytest.raises(
        ConfigError, match=r"`labels`: expected \[.*\], got \['x', 'y', 'z'\]; make the task with the mod"
    ):
        other.load(tmp_path)
    model = TASK.load(tmp_path)
    for use in (
        other.adaptor,
        lambda model: other.evaluate(model, other.encode([{"text": "a", "label": "x"}], TOKENIZER)),
    ):
        with pytest.raises(ConfigError, match="text_classification and its model"):
            use(model)


def test_a_new_head_may_take_the_place_of_one_with_more_or_fewer_labels(tmp_path):
    tuned = bert(TASK, TOKENIZER)
    tuned.save_pretrained(tmp_path)
    other = TextClassification(["good", "bad"])
    with pytest.raises(
        ConfigError, match=r"map what the data calls them; load\(…, ignore_mismatched_sizes=True\) puts"
    ):
        other.load(tmp_path)
    model = other.load(tmp_path, ignore_mismatched_sizes=True)
    assert other.adaptor(model) and model.config.id2label == {0: "good", 1: "bad"}
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, tuned.bert.embeddings.word_embeddings.weight)


def test_a_head_with_as_many_labels_is_not_given_other_names(tmp_path):
    tuned = bert(TASK, TOKENIZER)
    tuned.save_pretrained(tmp_path / "tuned")
    other = TextClassification(["y", "x", "z"])
    with pytest.raises(ConfigError, match=r"without its own, by AutoModel.from_pretrained\(name\).save_pretrained"):
        other.load(tmp_path / "tuned", ignore_mismatched_sizes=True)
    AutoModel.from_pretrained(tmp_path / "tuned").save_pretrained(tmp_path / "bare")
    model = other.load(tmp_path / "bare")
    assert model.config.id2label[0] == "y" and not torch.equal(model.classifier.weight, tuned.classifier.weight)


@pytest.mark.parametrize("task", [TextRegression(), PairwiseRanking(encoder="cross")])
def test_a_checkpoint_with_another_number_of_outputs_is_refused(tmp_path, task):
    bert(TASK, TOKENIZER).save_pretrained(tmp_path / "classes")
    with pytest.raises(ConfigError, match=r"`num_labels`: expected 1, got 3; load\(…, ignore_mismatched_sizes=True\)"):
        task.load(tmp_path / "classes")
    model = task.load(tmp_path / "classes", ignore_mismatched_sizes=True)
    assert model.config.num_labels == 1
    model.save_pretrained(tmp_path / "number")
    assert torch.equal(task.load(tmp_path / "number").classifier.weight, model.classifier.weight)


def test_a_teacher_may_name_the_same_labels_in_another_order_but_no_others():
    other = bert(TextClassification(["y", "z", "x"]), TOKENIZER)
    assert TASK.adaptor(other, teacher=True).teacher
    with pytest.raises(ConfigError, match="labels of the teacher"):
        TASK.adaptor(bert(TextClassification(["x", "y", "w"]), TOKENIZER), teacher=True)


def test_labels_without_names_are_counted():
    unnamed = bert(TASK, TOKENIZER, id2label={i: f"LABEL_{i}" for i in range(3)}, label2id=None)
    assert TASK.adaptor(unnamed).task is TASK
    with pytest.raises(ConfigError, match="LABEL_1"):
        TextClassification(["x", "y"]).adaptor(unnamed)


def test_evaluation_depends_neither_on_order_nor_on_batches():
    model = bert(TASK, TOKENIZER, seed=5).train()
    data = TASK.encode(ROWS, TOKENIZER)
    scores = TASK.evaluate(model, data)
    said = [found["label"] for found in TASK.predict(model, [row["text"] for row in ROWS], TOKENIZER)]
    assert scores["accuracy"] == sum(a == row["label"] for a, row in zip(said, ROWS, strict=True)) / 4
    assert TASK.evaluate(model, data.loader(1, shuffle_seed=0)) == TASK.evaluate(model, data, batch_size=3) == scores
    assert model.training


def test_extra_arguments_reach_the_model():
    model = bert(TASK, TOKENIZER)
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs.get("use_cache")), with_kwargs=True)
    TASK.evaluate(model, TASK.encode(ROWS, TOKENIZER), use_cache=False)
    TASK.predict(model, ["a"], TOKENIZER, use_cache=False)
    assert seen == [False, False]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"text": "f"}, {"text": "g"}], r"2 rows of 6 without a label \(the first is row 5\)"),
        ([{"text": "a"}], "1 row of 1 without a label"),
    ],
)
def test_evaluation_needs_labels(rows, message):
    with pytest.raises(DataError, match=message):
        TASK.evaluate(bert(TASK, TOKENIZER), TASK.encode(rows, TOKENIZER))


def test_a_loader_of_something_else():
    with pytest.raises(DataError, match=r"a loader of encode\(…\), got one of list"):
        TASK.evaluate(bert(TASK, TOKENIZER), torch.utils.data.DataLoader([1, 2]))


def test_logits_row_by_row():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    tokens = torch.arange(18.0).reshape(2, 3, 3)
    rows = unpadded(tokens, mask)
    assert [row.tolist() for row in rows] == [tokens[0, :2].tolist(), tokens[1, 1:].tolist()]
    # Three classes are not three tokens.
    assert [row.tolist() for row in unpadded(tokens[:, 0], mask)] == tokens[:, 0].tolist()
    both = unpadded([tokens[:, 0], tokens[:, 1]], mask)
    assert [[part.tolist() for part in row] for row in both] == [[[0, 1], [3, 4]], [[10, 11], [13, 14]]]
    assert softmax([1e4, 0.0]).tolist() == [1.0, 0.0]


OTHER = tokenizer_of(["abcdefg"])


def test_teacher_and_student_may_have_tokenizers_of_their_own():
    data = TASK.encode(ROWS, TOKENIZER, teacher_tokenizer=OTHER)
    batch = next(iter(data.loader(4)))
    texts = [row["text"] for row in ROWS]
    for side, tokenizer in (("teacher", OTHER), ("student", TOKENIZER)):
        expected = tokenizer(texts, padding=True, return_tensors="pt")
        assert torch.equal(batch[side]["input_ids"], expected["input_ids"])
        assert torch.equal(batch[side]["attention_mask"], expected["attention_mask"])
    assert batch["teacher"]["input_ids"].shape != batch["student"]["input_ids"].shape
    assert batch["student"]["labels"].tolist() == [0, 1, 2, 0] and "labels" not in batch["teacher"]
    assert "labels" not in next(iter(data.without_labels().loader(4)))["student"]
    model = bert(TASK, TOKENIZER, seed=5)
    assert TASK.evaluate(model, data) == TASK.evaluate(model, TASK.encode(ROWS, TOKENIZER))
    assert data.lengths == TASK.encode(ROWS, TOKENIZER).lengths
    with pytest.raises(DataError, match="max_length=16, but the model of this BertTokenizer takes 8"):
        TASK.encode(ROWS, TOKENIZER, teacher_tokenizer=tokenizer_of(model_max_length=8))


@pytest.mark.parametrize("with_cache", [False, True])
def test_a_teacher_with_another_tokenizer_teaches(tmp_path, with_cache):
    config = DistillationConfig(kd_loss_type="kl")
    found = []
    for _ in range(2):
        teacher, student = bert(TASK, OTHER, seed=7), bert(TASK, TOKENIZER, seed=1)
        cache = TeacherCache.in_memory() if with_cache else None
        train = TrainingConfig(output_dir=str(tmp_path), ckpt_frequency=0, progress_bar=False, device="cpu")
        adaptors = TASK.adaptors(teacher, student, config)
        distiller = BasicDistiller(train, config, teacher, student, *adaptors, teacher_cache=cache)
        data = TASK.encode(ROWS * 8, TOKENIZER, teacher_tokenizer=OTHER)
        with distiller:
            optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
            distiller.train(optimizer, data.loader(8, shuffle_seed=0), num_steps=60)
        of_teacher, of_student = (
            [each["scores"]["x"] for each in TASK.predict(model, [row["text"] for row in ROWS], tokenizer)]
            for model, tokenizer in ((teacher, OTHER), (student, TOKENIZER))
        )
        found.append(max(abs(a - b) for a, b in zip(of_teacher, of_student, strict=True)))
    assert max(found) < 0.1


@pytest.mark.parametrize("task", [QuestionAnswering(), TokenClassification(["O", "B-A", "I-A"])])
def test_tasks_by_token_need_one_tokenizer(task):
    with pytest.raises(DataError, match="learns from the teacher token by token, so teacher and student must have one"):
        task.encode([], TOKENIZER, teacher_tokenizer=OTHER)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"`name`: expected a folder that save_pretrained wrote.*nowhere"):
        TextClassification(["a", "b"]).load(tmp_path / "nowhere")
