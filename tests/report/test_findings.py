"""What is found of teacher and student, against counts by hand, naive sums and the formula of CKA by Gram matrices."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.export.small import WORDS, rows
from tests.tasks.small import bert, tokenizer_of, weights_of
from textbrewer.report import findings
from textbrewer.tasks import (
    MaskedLM,
    MultiLabelClassification,
    PairwiseRanking,
    QuestionAnswering,
    TextClassification,
    TextRegression,
    TokenClassification,
)

TOKENIZER = tokenizer_of([*WORDS, "bern", "ann"])
TASK = TextClassification(["good", "bad"], max_length=24)
FILMS = rows(40)


class Bag(torch.nn.Module):
    """Logits of a text, and nothing else: the mean of its embeddings."""

    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.Embedding(len(TOKENIZER), 2)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return {"logits": (self.embeddings(input_ids) * mask).sum(1) / mask.sum(1)}


def both(task, **sizes):
    """Two models that know nothing, of other weights, depths and widths."""
    return bert(task, TOKENIZER), bert(task, TOKENIZER, seed=1, num_hidden_layers=1, hidden_size=8, **sizes)


def found_of(task, data, *models):
    return findings.findings_of(task, *models, task.encode(data, TOKENIZER), TOKENIZER)


def test_confusion_counts_rows_of_truth_and_columns_of_answers():
    draw = random.Random(0)
    true, said = ([draw.randrange(4) for _ in range(200)] for _ in range(2))
    expected = [[sum(t == i and s == j for t, s in zip(true, said, strict=True)) for j in range(4)] for i in range(4)]
    assert findings.confusion(true, said, 4) == expected
    assert findings.confusion([], [], 2) == [[0, 0], [0, 0]]


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_the_formula(bins):
    draw = random.Random(bins)
    sure = [draw.random() for _ in range(300)] + [0.0, 1.0, 0.2, 0.6]
    right = [draw.random() < 0.5 for _ in sure]
    error, shares = 0.0, []
    for b in range(bins):
        # Guo et al.: (b / M, (b + 1) / M]; a probability of 0 is in the first.
        own = [i for i, p in enumerate(sure) if b / bins < p <= (b + 1) / bins or (p == 0 and b == 0)]
        if own:
            shares.append(len(own) / len(sure))
            gap = sum(right[i] for i in own) / len(own) - sum(sure[i] for i in own) / len(own)
            error += shares[-1] * abs(gap)
    found = findings.calibration(sure, right, bins)
    assert found["error"] == pytest.approx(error, rel=1e-12)
    assert [each["share"] for each in found["bins"]] == pytest.approx(shares, rel=1e-12)


def test_one_who_is_as_sure_as_right_has_no_error():
    assert findings.calibration([1.0, 1.0], [True, True])["error"] == 0
    assert findings.calibration([0.9] * 10, [True] * 9 + [False])["error"] == pytest.approx(0, abs=1e-12)
    assert findings.calibration([1.0, 1.0], [False, False])["error"] == 1


def gram_cka(X, Y):
    """‖HSIC‖ by Gram matrices, of which the library's formula by features is another form."""
    n = len(X)
    H = np.eye(n) - np.ones((n, n)) / n

    def hsic(A, B):
        return np.trace(A @ A.T @ H @ B @ B.T @ H)

    return hsic(X, Y) / np.sqrt(hsic(X, X) * hsic(Y, Y))


def test_layers_are_compared_by_the_means_of_their_tokens():
    teacher, student = both(TASK)
    encoded = TASK.encode(FILMS, TOKENIZER)
    found = findings.layer_similarity(TASK, teacher, student, encoded)
    layers = []
    for model in (teacher, student):
        with torch.no_grad():
            states = [
                model(**encoded.padding([feature]), output_hidden_states=True).hidden_states
                for feature in encoded.features
            ]
        layers.append([np.stack([s[i][0].double().mean(0).numpy() for s in states]) for i in range(len(states[0]))])
    assert found["rows"] == 40 and np.shape(found["cka"]) == (3, 2)
    for i, mine in enumerate(layers[0]):
        for j, theirs in enumerate(layers[1]):
            assert found["cka"][i][j] == pytest.approx(gram_cka(mine, theirs), rel=1e-4)


def test_a_model_is_like_itself_and_some_rows_do():
    teacher, _ = both(TASK)
    found = findings.layer_similarity(TASK, teacher, teacher, TASK.encode(rows(90), TOKENIZER), rows=30)
    assert found["rows"] == 30
    assert [found["cka"][i][i] for i in range(3)] == pytest.approx([1] * 3, abs=1e-9)
    assert found["cka"][0][2] == pytest.approx(found["cka"][2][0], abs=1e-12)


def test_few_rows_and_models_without_layers_are_left_out():
    teacher, _ = both(TASK)
    few = TASK.encode(FILMS[:9], TOKENIZER)
    assert findings.layer_similarity(TASK, teacher, teacher, few) is None
    assert set(found_of(TASK, FILMS, teacher, Bag())) == {"rows", "confusion", "calibration", "disagreements"}


def test_what_is_found_of_texts():
    teacher, student = both(TASK)
    encoded = TASK.encode(FILMS, TOKENIZER)
    found = findings.findings_of(TASK, teacher, student, encoded, TOKENIZER)
    assert set(found) == {"rows", "confusion", "calibration", "disagreements", "similarity"} and found["rows"] == 40
    counts = found["confusion"]["counts"]
    assert found["confusion"]["labels"] == ["good", "bad"] and [sum(row) for row in counts] == [20, 20]
    accuracy = (counts[0][0] + counts[1][1]) / 40
    assert accuracy == TASK.evaluate(student, encoded)["accuracy"]
    for name, model in (("teacher", teacher), ("student", student)):
        bins = found["calibration"][name]["bins"]
        right = sum(each["share"] * each["right"] for each in bins)
        assert right == pytest.approx(TASK.evaluate(model, encoded)["accuracy"])
    assert json.loads(json.dumps(found)) == found


def test_examples_are_rows_on_which_they_differ_the_surest_first():
    texts = [{"text": f"film {i}", "label": "good"} for i in range(50)]
    said = {"good": {"label": "good"}, "bad": {"label": "bad"}}
    teacher = [{**said["good"], "scores": {"good": 0.5 + i / 100, "bad": 0.5 - i / 100}} for i in range(50)]
    student = [{**said["bad" if i % 2 else "good"], "scores": {"good": 0.4, "bad": 0.6}} for i in range(50)]
    found = findings.disagreements(TASK, texts, teacher, student)
    assert found["number"] == 25 and len(found["examples"]) == 20
    assert [each["text"] for each in found["examples"]] == [f"film {i}" for i in range(49, 9, -2)]
    assert found["examples"][0] == {
        "text": "film 49",
        "truth": "good",
        "teacher": {"answer": "good", "probability": 0.99},
        "student": {"answer": "bad", "probability": 0.6},
    }


def test_texts_are_one_line_of_a_sane_length_that_any_file_can_hold():
    row = {"text": "a\n\tb \ud800 " + "x" * 10_000, "text_pair": "c", "label": "good"}
    said = [{"label": name, "scores": {name: 0.9}} for name in ("good", "bad")]
    (example,) = findings.disagreements(TASK, [row], said[:1], said[1:])["examples"]
    assert example["text"].startswith("a b ? xx") and len(example["text"]) == 280 and example["text"].endswith("…")
    example["text"].encode("utf-8")


def test_sets_of_classes_are_calibrated_class_by_class():
    task = MultiLabelClassification(["x", "y"], max_length=24)
    data = [{"text": row["text"], "label": ["x"] if i % 3 else ["x", "y"]} for i, row in enumerate(FILMS)]
    teacher, student = both(task)
    found = found_of(task, data, teacher, student)
    assert "confusion" not in found
    said = task.predict(student, [row["text"] for row in data], TOKENIZER)
    mean = sum(each["scores"][name] for each in said for name in "xy") / 80
    bins = found["calibration"]["student"]["bins"]
    assert sum(each["share"] * each["confidence"] for each in bins) == pytest.approx(mean)
    assert sum(each["share"] * each["right"] for each in bins) == pytest.approx((40 + 14) / 80)


def test_sets_that_differ_are_listed():
    task = MultiLabelClassification(["x", "y"], max_length=24)
    said = [[{"labels": []}, {"labels": ["x"]}], [{"labels": ["x", "y"]}, {"labels": ["x"]}]]
    rows_ = [{"text": "one", "label": ["y"]}, {"text": "two", "label": []}]
    found = findings.disagreements(task, rows_, *said)
    assert found["number"] == 1
    assert found["examples"][0]["truth"] == "y" and found["examples"][0]["teacher"]["answer"] == "none"
    assert found["examples"][0]["student"] == {"answer": "x, y", "probability": None}


def test_tags_are_confused_token_by_token_and_only_those_that_differ_are_shown():
    task = TokenClassification(["O", "B-LOC", "B-PER", "I-LOC", "I-PER"], max_length=24)
    data = [{"tokens": ["ann", "was", "bern"], "tags": ["B-PER", "O", "B-LOC"]} for _ in range(12)]
    found = found_of(task, data, *both(task))
    assert set(found) <= {"rows", "confusion", "disagreements", "similarity"} and "similarity" in found
    counts = dict(zip(found["confusion"]["labels"], map(sum, found["confusion"]["counts"]), strict=True))
    assert counts == {"O": 12, "B-LOC": 12, "B-PER": 12, "I-LOC": 0, "I-PER": 0}
    said = [[{"tags": ["B-PER", "O", "B-LOC"]}], [{"tags": ["B-PER", "O", "O"]}]]
    (example,) = findings.disagreements(task, data[:1], *said)["examples"]
    assert (example["text"], example["truth"]) == ("ann was bern", "bern: B-LOC")
    assert (example["teacher"]["answer"], example["student"]["answer"]) == ("bern: B-LOC", "bern: O")


def test_answers_are_shown_with_the_part_of_the_context_where_they_stand():
    task = QuestionAnswering(max_length=24, doc_stride=4, max_question_length=6)
    context = "the film " * 300 + "was in bern"
    row = {"question": "where", "context": context, "answers": [{"text": "bern", "start": 2707}, {"text": "bern"}]}
    said = [
        {"answer": "bern", "start": 2707, "score": 0.9},
        {"answer": "", "start": None, "score": 0.4},
    ]
    (example,) = findings.disagreements(task, [row], said[:1], said[1:])["examples"]
    assert example["text"].startswith("where — …") and example["text"].endswith("was in bern")
    assert example["truth"] == "bern" and example["student"] == {"answer": "no answer", "probability": 0.4}


@pytest.mark.parametrize(
    ("task", "data"),
    [
        (TextRegression(max_length=24), [{"text": row["text"], "label": i / 2} for i, row in enumerate(FILMS)]),
        (MaskedLM(max_length=16), [{"text": row["text"]} for row in rows(200)]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_of_other_tasks_the_layers_are_compared(task, data):
    found = found_of(task, data, *both(task))
    assert set(found) == {"rows", "similarity"}
    assert all(0 <= value <= 1 + 1e-9 for row in found["similarity"]["cka"] for value in row)


def test_rows_of_several_sequences_have_no_layers_to_compare():
    task = PairwiseRanking(encoder="cross", teacher="cross", max_length=16)
    data = [{"query": "good", "positive": row["text"], "negative": [FILMS[0]["text"]]} for row in FILMS]
    assert set(found_of(task, data, *both(task))) == {"rows"}


def test_models_are_left_as_they_were():
    teacher, student = both(TASK)
    teacher.train()
    before = [weights_of(model) for model in (teacher, student)]
    found_of(TASK, FILMS, teacher, student)
    assert teacher.training and not student.training
    for model, weights in zip((teacher, student), before, strict=True):
        assert torch.equal(weights_of(model), weights)
        assert not model.config.output_hidden_states
