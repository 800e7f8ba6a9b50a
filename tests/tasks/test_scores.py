"""Scores against their definitions, written out in plain loops."""

from __future__ import annotations

import math
import random

import pytest

pytest.importorskip("sklearn", reason="needs the extra `hf`")

from textbrewer.errors import DataError
from textbrewer.tasks.scores import class_scores, entity_scores, number_scores, ranking_scores, set_scores


def f1_of(pairs):
    """F1 of yes-or-no ``(true, predicted)`` pairs; 0 where it is not defined."""
    hits = sum(t and p for t, p in pairs)
    return 2 * hits / max(sum(t for t, _ in pairs) + sum(p for _, p in pairs), 1)


def pearson_of(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def ranks_of(values):
    """1 for the least; the mean rank among equals."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_classes(seed, classes):
    generator = random.Random(seed)
    true = [generator.randrange(classes) for _ in range(40)]
    predicted = [t if generator.random() < 0.5 else generator.randrange(classes) for t in true]
    pairs = list(zip(true, predicted, strict=True))
    found = class_scores(true, predicted, classes)
    accuracy = sum(t == p for t, p in pairs) / 40
    occurring = sorted({*true, *predicted})
    assert found["accuracy"] == pytest.approx(accuracy)
    assert found["micro_f1"] == pytest.approx(accuracy)
    macro = sum(f1_of([(t == c, p == c) for t, p in pairs]) for c in occurring) / len(occurring)
    assert found["macro_f1"] == pytest.approx(macro)
    # Matthews' correlation is Pearson's over the indicators of all classes, each centred.
    flat = [
        [(side[i] == c) - side.count(c) / 40 for i in range(40) for c in range(classes)] for side in (true, predicted)
    ]
    top = sum(x * y for x, y in zip(*flat, strict=True))
    assert found["mcc"] == pytest.approx(top / math.sqrt(sum(x * x for x in flat[0]) * sum(y * y for y in flat[1])))
    assert ("f1" in found) == (classes == 2)
    if classes == 2:
        assert found["f1"] == pytest.approx(f1_of(pairs))


def test_a_constant_guess_has_no_correlation():
    assert class_scores([0, 1, 1], [1, 1, 1], 2)["mcc"] == 0.0
    assert class_scores([0, 0], [0, 0], 2)["f1"] == 0.0
    assert number_scores([1, 2, 3], [5, 5, 5]) == {"pearson": 0.0, "spearman": 0.0, "mse": pytest.approx(29 / 3)}
    assert number_scores([1.0], [3.0]) == {"pearson": 0.0, "spearman": 0.0, "mse": 4.0}


@pytest.mark.parametrize("empty", [[], [0]], ids=["all classes occur", "one never does"])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_sets(seed, classes, empty):
    generator = random.Random(seed)
    true, predicted = ([[generator.randrange(2) for _ in range(classes)] + empty for _ in range(20)] for _ in range(2))
    found = set_scores(true, predicted)
    by_class = [[(true[i][c], predicted[i][c]) for i in range(20)] for c in range(len(true[0]))]
    assert found["micro_f1"] == pytest.approx(f1_of([pair for pairs in by_class for pair in pairs]))
    assert found["macro_f1"] == pytest.approx(sum(map(f1_of, by_class)) / len(by_class))
    assert found["accuracy"] == pytest.approx(sum(t == p for t, p in zip(true, predicted, strict=True)) / 20)


def test_a_single_class_that_is_rare_by_hand():
    # One of two is found, and one is given that is none: F1 is 2 · 1 / (2 + 2), however many are rightly not given.
    true, predicted = [[1], [1], [0], *[[0]] * 97], [[1], [0], [1], *[[0]] * 97]
    assert set_scores(true, predicted) == {"micro_f1": 0.5, "macro_f1": 0.5, "accuracy": 0.98}
    assert set_scores([[0]] * 3, [[0]] * 3) == {"micro_f1": 0.0, "macro_f1": 0.0, "accuracy": 1.0}


@pytest.mark.parametrize("seed", range(5))
def test_numbers(seed):
    generator = random.Random(seed)
    true = [round(generator.uniform(0, 5), 0) for _ in range(25)]
    predicted = [t + generator.gauss(0, 1) for t in true]
    found = number_scores(true, predicted)
    assert found["pearson"] == pytest.approx(pearson_of(true, predicted))
    assert found["spearman"] == pytest.approx(pearson_of(ranks_of(true), ranks_of(predicted)))
    assert found["mse"] == pytest.approx(sum((t - p) ** 2 for t, p in zip(true, predicted, strict=True)) / 25)


TAGS = ["O", "B-X", "I-X", "B-Y", "I-Y", "E-X", "S-Y"]


@pytest.mark.parametrize("seed", range(8))
def test_entities_are_those_of_seqeval(seed):
    metrics = pytest.importorskip("seqeval.metrics")
    generator = random.Random(seed)
    true, predicted = ([[generator.choice(TAGS) for _ in range(9)] for _ in range(6)] for _ in range(2))
    found = entity_scores(true, predicted)
    assert found["f1"] == metrics.f1_score(true, predicted)
    assert found["precision"] == metrics.precision_score(true, predicted)
    assert found["recall"] == metrics.recall_score(true, predicted)
    assert found["accuracy"] == metrics.accuracy_score(true, predicted)


def test_entities_by_hand():
    true = [["B-X", "I-X", "O", "B-Y"], ["O", "B-X", "O", "O"]]
    predicted = [["B-X", "I-X", "O", "B-X"], ["O", "B-X", "I-X", "O"]]
    # One of three entities is found whole, among three that are given; six of eight tags are right.
    assert entity_scores(true, predicted) == {
        "f1": pytest.approx(1 / 3),
        "precision": pytest.approx(1 / 3),
        "recall": pytest.approx(1 / 3),
        "accuracy": 0.75,
    }
    assert entity_scores([["O"]], [["O"]])["f1"] == 0.0


@pytest.mark.parametrize("score", [lambda t, p: class_scores(t, p, 2), set_scores, number_scores])
def test_nothing_or_not_as_many(score):
    with pytest.raises(DataError, match="nothing to score"):
        score([], [])
    with pytest.raises(DataError, match="a prediction for each of 2 rows, got 1"):
        score([1, 0], [1])


def test_no_sentences():
    with pytest.raises(DataError, match="nothing to score"):
        entity_scores([], [])


def ranking_of(relevance, scores):
    """MRR and nDCG at ten and the pairs of one query, by their definitions; ties to the less relevant."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], relevance[i]))
    ranked = [relevance[i] for i in order]
    reciprocal = next((1 / (k + 1) for k, r in enumerate(ranked[:10]) if r > 0), 0.0)

    def gain(values):
        return sum(r / math.log2(k + 2) for k, r in enumerate(values[:10]))

    pairs = [(i, j) for i in range(len(scores)) for j in range(len(scores)) if relevance[i] > relevance[j]]
    right = sum(scores[i] > scores[j] for i, j in pairs)
    return reciprocal, gain(ranked) / gain(sorted(relevance, reverse=True)), right, len(pairs)


@pytest.mark.parametrize("seed", range(6))
def test_rankings(seed):
    generator = random.Random(seed)
    relevance, scores = [], []
    for _ in range(12):
        number = generator.randint(2, 15)
        relevance.append([generator.choice([0, 0, 0, 1, 2]) for _ in range(number)])
        scores.append([generator.choice([0.0, 0.5, generator.random()]) for _ in range(number)])
    known = [(r, s) for r, s in zip(relevance, scores, strict=True) if any(r)]
    each = [ranking_of(r, s) for r, s in known]
    found = ranking_scores(relevance, scores)
    assert found["mrr@10"] == pytest.approx(sum(e[0] for e in each) / len(each))
    assert found["ndcg@10"] == pytest.approx(sum(e[1] for e in each) / len(each))
    assert found["pair_accuracy"] == pytest.approx(sum(e[2] for e in each) / sum(e[3] for e in each))


def test_ndcg_is_scikit_learns_where_no_scores_are_equal():
    from sklearn.metrics import ndcg_score

    generator = random.Random(0)
    relevance = [[generator.randint(0, 3) for _ in range(14)] for _ in range(5)]
    scores = [[generator.random() for _ in range(14)] for _ in range(5)]
    assert ranking_scores(relevance, scores)["ndcg@10"] == pytest.approx(ndcg_score(relevance, scores, k=10))


def test_a_model_that_tells_nothing_apart_wins_nothing():
    found = ranking_scores([[1] + [0] * 11], [[0.3] * 12])
    assert found == {"mrr@10": 0.0, "ndcg@10": 0.0, "pair_accuracy": 0.0}


def test_nothing_to_rank():
    with pytest.raises(DataError, match="no query has a relevant candidate"):
        ranking_scores([[0, 0]], [[1.0, 2.0]])
    with pytest.raises(DataError, match="scores for each of 1 queries, got 2"):
        ranking_scores([[1, 0]], [[1.0, 2.0]] * 2)
