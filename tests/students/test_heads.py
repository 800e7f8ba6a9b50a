"""Heads: what they read, and losses that are those of Transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from textbrewer import HeadConfig
from textbrewer.students import Head, StudentOutput
from textbrewer.students.heads import head_of

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

SIZES = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def bert(end, **changes):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, **changes)
    return getattr(transformers, f"BertFor{end}")(config).eval()


def head(task="text-classification", **settings):
    torch.manual_seed(0)
    return Head(HeadConfig(task, **settings), 8).eval()


@pytest.mark.parametrize(
    ("problem", "classes", "labels"),
    [
        (None, 3, torch.tensor([2, 0])),
        (None, 3, torch.tensor([2, -100])),
        ("single_label_classification", 3, torch.tensor([2, 0], dtype=torch.int32)),
        (None, 1, torch.tensor([0.5, -1.0])),
        (None, 1, torch.tensor([3, 1])),
        ("regression", 2, torch.tensor([[0.5, 1.0], [2.0, -1.0]])),
        (None, 2, torch.tensor([[0.0, 1.0], [1.0, 1.0]])),
        ("multi_label_classification", 2, torch.tensor([[0.0, 1.0], [1.0, 1.0]])),
    ],
)
def test_the_loss_of_a_text_is_that_of_transformers(problem, classes, labels):
    model = bert("SequenceClassification", num_labels=classes, problem_type=problem)
    of_theirs = (
        labels.float() if classes == 1 else labels.long() if problem == "single_label_classification" else labels
    )
    theirs = model(input_ids=IDS, labels=of_theirs)
    ours = head(num_labels=classes, problem_type=problem).loss({"logits": theirs.logits}, labels)
    torch.testing.assert_close(ours, theirs.loss)


def test_the_loss_of_tokens_is_that_of_transformers():
    labels = torch.tensor([[0, 4, -100, 2], [1, 1, -100, -100]])
    theirs = bert("TokenClassification", num_labels=5)(input_ids=IDS, labels=labels)
    ours = head("token-classification", num_labels=5).loss({"logits": theirs.logits}, labels)
    torch.testing.assert_close(ours, theirs.loss)


@pytest.mark.parametrize(("start", "end"), [([1, 0], [2, 3]), ([9, 0], [2, 4]), ([[1], [-1]], [[2], [1]])])
def test_the_loss_of_answers_is_that_of_transformers(start, end):
    positions = {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}
    theirs = bert("QuestionAnswering")(input_ids=IDS, **positions)
    ours = head("question-answering").loss(
        {"start_logits": theirs.start_logits, "end_logits": theirs.end_logits}, **positions
    )
    torch.testing.assert_close(ours, theirs.loss)


def test_without_labels_of_the_task_there_is_no_loss():
    logits = {"logits": torch.zeros(2, 2), "start_logits": torch.zeros(2, 4), "end_logits": torch.zeros(2, 4)}
    assert head().loss(logits) is None
    assert head().loss(logits, start_positions=torch.zeros(2), end_positions=torch.zeros(2)) is None
    assert head("question-answering").loss(logits, torch.zeros(2)) is None
    assert head("question-answering").loss(logits, start_positions=torch.zeros(2)) is None


def test_where_no_label_counts_the_loss_is_a_zero_on_the_graph():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    loss = head("token-classification", num_labels=5).loss({"logits": logits}, torch.full((2, 4), -100))
    loss.backward()
    assert loss == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_of_half_precision_is_computed_in_full(dtype):
    logits = (100 * torch.randn(2, 3, generator=torch.Generator().manual_seed(1))).to(dtype)
    labels = torch.tensor([0, 2])
    expected = nn.functional.cross_entropy(logits.double(), labels)
    ours = head(num_labels=3).loss({"logits": logits}, labels)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)


def test_a_text_is_read_from_its_first_token_or_from_the_largest_values():
    states = torch.randn(2, 4, 8)
    first = head(num_labels=3)
    expected = first.classifier(torch.tanh(first.dense(states[:, 0])))
    torch.testing.assert_close(first(states, MASK)["logits"], expected)
    largest = head(num_labels=3, pooling="max")
    pooled = torch.stack([states[0].max(0).values, states[1, :2].max(0).values])
    torch.testing.assert_close(largest(states, MASK)["logits"], largest.classifier(pooled))
    pooled = states.max(1).values
    torch.testing.assert_close(largest(states)["logits"], largest.classifier(pooled))


def test_a_row_without_real_tokens_is_finite():
    states = torch.randn(2, 4, 8, requires_grad=True)
    logits = head(pooling="max")(states, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))["logits"]
    logits.sum().backward()
    assert logits.isfinite().all() and states.grad.isfinite().all()


def test_answers_are_not_at_padding():
    answers = head("question-answering")
    given = answers(torch.randn(2, 4, 8), MASK)
    for logits in given.values():
        assert logits.shape == (2, 4)
        assert torch.equal(logits == -1e4, MASK == 0)
    assert given["start_logits"].argmax(1)[1] < 2


@pytest.mark.parametrize(
    ("end", "changes", "expected"),
    [
        (
            "SequenceClassification",
            {"num_labels": 3, "problem_type": "regression"},
            HeadConfig("text-classification", 3, ["LABEL_0", "LABEL_1", "LABEL_2"], "regression"),
        ),
        (
            "TokenClassification",
            {"id2label": {0: "O", 1: "B", 2: "I"}, "problem_type": "single_label_classification"},
            HeadConfig("token-classification", 3, ["O", "B", "I"]),
        ),
        ("QuestionAnswering", {}, HeadConfig("question-answering")),
        ("MaskedLM", {}, None),
        ("MultipleChoice", {}, None),
    ],
)
def test_the_head_of_a_teacher(end, changes, expected):
    assert head_of(bert(end, **changes)) == expected


def test_the_head_of_a_subclass_and_of_other_modules():
    class Mine(transformers.BertForSequenceClassification):
        pass

    assert head_of(Mine(transformers.BertConfig(**SIZES))).task == "text-classification"
    assert head_of(nn.Linear(1, 1)) is None


def test_outputs_have_items_and_attributes():
    output = StudentOutput(logits=torch.zeros(1))
    assert output["logits"] is output.logits
    assert output.hidden_states is None and "hidden_states" not in output
    with pytest.raises(AttributeError, match="no 'logit', only logits"):
        _ = output.logit
