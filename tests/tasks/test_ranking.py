"""Queries and candidates: triples and lists, both kinds of encoders, from a trained teacher to a student."""

from __future__ import annotations

import copy
import json
import math
import random

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import bert, run, tokenizer_of, training, weights_of
from textbrewer import (
    BasicDistiller,
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
    StudentConfig,
    build_student,
)
from textbrewer.adaptors import AdaptedModel
from textbrewer.errors import AdaptorError, ConfigError, DataError
from textbrewer.tasks import PairwiseRanking, read
from textbrewer.teachers import TeacherCache

WORDS = ["rain", "snow", "sun", "cold", "warm", "wet", "is", "it", "who"]
TOKENIZER = tokenizer_of(WORDS)
BI = PairwiseRanking(max_length=10)
CROSS = PairwiseRanking(encoder="cross", max_length=16)
THINGS = WORDS[:4]


def triple(generator):
    thing, other = generator.sample(THINGS, 2)
    return {"query": f"who is {thing}", "positive": f"it is {thing}", "negative": f"it is {other}"}


def listed(generator, of=None):
    thing, *others = generator.sample(THINGS, of or generator.randint(2, 4))
    words = generator.sample([thing, *others], len(others) + 1)
    return {
        "query": f"who is {thing}",
        "candidates": [f"it is {word}" for word in words],
        "relevance": [float(word == thing) for word in words],
    }


def rows_of(make, number=24, seed=0, **options):
    generator = random.Random(seed)
    return [make(generator, **options) for _ in range(number)]


# Rows.


def test_triples_and_lists_become_the_same_rows():
    rows = BI.rows([{"query": " q ", "positive": "a", "negative": ["b", "c"]}])
    assert list(rows) == [{"query": "q", "candidates": ["a", "b", "c"], "relevance": [1.0, 0.0, 0.0]}]
    given = {"query": "q", "candidates": ["c", "a", "b"], "relevance": [0, 2, 1]}
    (row,) = BI.rows([given])
    assert row == {"query": "q", "candidates": ["a", "b", "c"], "relevance": [2.0, 1.0, 0.0]}
    assert BI.rows([given]).report.labels == {"relevant": 2, "other": 1}
    # Without labels the order is the data's own.
    assert BI.rows([given], labelled=False)[0] == {**given, "relevance": None}
    assert BI.rows([{"query": "q", "positive": "a", "negative": "b"}], labelled=False)[0]["relevance"] is None
    named = BI.rows([{"x": "q", "y": "a", "z": "b"}], {"query": "x", "positive": "y", "negative": "z"})
    assert named[0]["candidates"] == ["a", "b"]
    columns = BI.rows([{"x": "q", "y": "a", "z": "b"}], {"query": "x", "candidates": ["y", "z"]}, labelled=None)
    assert columns[0] == {"query": "q", "candidates": ["a", "b"], "relevance": None}


def test_from_a_file(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows_of(listed, 5)))
    assert [row["query"] for row in BI.rows(read(tmp_path / "a.jsonl"))] == [r["query"] for r in rows_of(listed, 5)]
    (tmp_path / "a.tsv").write_text("query\tpositive\tnegative\nq\ta\tb\n")
    assert BI.rows(read(tmp_path / "a.tsv"))[0]["candidates"] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"positive": "a", "negative": "b"}, "no column is taken for 'query' among 'positive', 'negative'"),
        ({"query": "a", "positive": "b"}, "no column is taken for 'negative'.* or name a column of lists for 'candid"),
        (
            {"query": "a", "candidates": ["b", "c"]},
            "no column is taken for 'relevance'.*labelled=False reads cand",
        ),
        ({"query": "a", "candidates": ["b", "c"], "relevance": [1]}, r"for each of its candidates \(1 for 2\): row 1"),
        ({"query": "a", "candidates": ["b", "c"], "relevance": [1, -1]}, "a number from 0 for each"),
        ({"query": "a", "candidates": ["b", "c"], "relevance": "yes"}, "relevance 'yes', which is no list of numbers"),
        ({"query": "a", "candidates": ["b"], "relevance": [1]}, "without a query or with fewer than two candidates"),
        ({"query": "", "positive": "a", "negative": "b"}, "without a query or"),
    ],
)
def test_rows_that_cannot_be_used(row, message):
    with pytest.raises(DataError, match=message):
        BI.rows([row])


def test_some_rows_may_lack_their_relevance():
    rows = BI.rows([listed(random.Random(0)), {"query": "a", "candidates": ["b", "c"]}])
    assert rows.labelled == 1
    with pytest.raises(DataError, match="1 row of 2 without a label"):
        BI.evaluate(bert(BI, TOKENIZER), BI.encode(rows, TOKENIZER))


# Batches, and what models make of them.


def words_in(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def test_each_side_reads_what_its_kind_reads():
    batch = next(iter(BI.encode([{"query": "rain", "positive": "sun", "negative": "snow it"}], TOKENIZER).loader(1)))
    teacher, student = batch["teacher"], batch["student"]
    assert teacher["input_ids"].shape == (1, 2, 10) and student["input_ids"].shape == (1, 3, 10)
    assert [words_in(ids) for ids in student["input_ids"][0]] == ["rain", "sun", "snow it"]
    pair = TOKENIZER("rain", "snow it")
    assert teacher["input_ids"][0, 1, :6].tolist() == pair["input_ids"]
    assert teacher["token_type_ids"][0, 1, :6].tolist() == pair["token_type_ids"]
    assert student["labels"].tolist() == [[1.0, 0.0]] and "labels" not in teacher
    assert set(next(iter(CROSS.encode(rows_of(triple, 2), TOKENIZER).loader(2)))) >= {"input_ids", "present", "columns"}


def vector_of(model, text):
    with torch.no_grad():
        return copy.deepcopy(model).double()(**TOKENIZER(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_scores_of_a_bi_encoder(similarity):
    task, model = PairwiseRanking(max_length=10, similarity=similarity, scale=3.0), bert(BI, TOKENIZER)
    rows = rows_of(listed, 6)
    found = task.predict(model, rows, TOKENIZER, batch_size=4)
    for row, each in zip(rows, found, strict=True):
        query = vector_of(model, row["query"])
        expected = []
        for text in row["candidates"]:
            other = vector_of(model, text)
            product = float(sum(a * b for a, b in zip(query.tolist(), other.tolist(), strict=True)))
            expected.append(3 * (product / float(query.norm() * other.norm()) if similarity == "cosine" else product))
        assert each["scores"] == pytest.approx(expected, abs=1e-4)
        assert each["order"] == sorted(range(len(expected)), key=lambda i, e=expected: -e[i])


def test_scores_of_a_cross_encoder():
    model, rows = bert(CROSS, TOKENIZER), rows_of(listed, 6)
    assert type(model).__name__ == "BertForSequenceClassification" and model.config.num_labels == 1
    found = CROSS.predict(model, [(row["query"], row["candidates"]) for row in rows], TOKENIZER, batch_size=4)
    for row, each in zip(rows, found, strict=True):
        with torch.no_grad():
            expected = [
                float(model(**TOKENIZER(row["query"], text, return_tensors="pt")).logits[0, 0])
                for text in row["candidates"]
            ]
        assert each["scores"] == pytest.approx(expected, abs=1e-5)


def adapted(model, task, **options):
    return AdaptedModel(model, task.adaptor(model, **options), name="adaptor_S")


@pytest.mark.parametrize("task", [BI, CROSS], ids=["bi", "cross"])
def test_the_loss_is_the_cross_entropy_with_the_relevance(task):
    model = bert(task, TOKENIZER)
    rows = [
        {"query": "rain", "candidates": ["sun", "it", "who is"], "relevance": [1.0, 3.0, 0.0]},
        {"query": "snow", "candidates": ["wet", "cold"], "relevance": [0.0, 1.0]},
        {"query": "sun", "candidates": ["wet", "cold"], "relevance": [0.0, 0.0]},
        {"query": "sun", "candidates": ["wet", "cold"]},
    ]
    data = task.encode(rows, TOKENIZER)
    batch = next(iter(data.loader(4)))
    outputs = adapted(model, task)(batch.get("student", batch), {})
    losses = []
    for row, said in zip(data.rows[:2], task.predict(model, data.rows, TOKENIZER), strict=False):
        whole = math.log(sum(math.exp(s) for s in said["scores"]))
        total = sum(row["relevance"])
        losses.append(-sum(r / total * (s - whole) for r, s in zip(row["relevance"], said["scores"], strict=True)))
    assert outputs.losses[0].item() == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert outputs.logits[0].isneginf().tolist() == [[False] * 3] + 3 * [[False, False, True]]
    outputs.losses[0].backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_batch_for_the_other_kind_is_refused():
    bi, cross = bert(BI, TOKENIZER), bert(CROSS, TOKENIZER)
    with pytest.raises(AdaptorError, match="the model is a cross-encoder, and the batch is for a bi-encoder; see"):
        BI.evaluate(cross, BI.encode(rows_of(triple), TOKENIZER))
    with pytest.raises(AdaptorError, match="the model is a bi-encoder, and the batch is for a cross-encoder"):
        CROSS.evaluate(bi, CROSS.encode(rows_of(triple), TOKENIZER))
    two = bert(CROSS, TOKENIZER, num_labels=2)
    with pytest.raises(AdaptorError, match=r"one score a pair, num_labels=1, and this one gave logits \[48, 2\]"):
        CROSS.evaluate(two, CROSS.encode(rows_of(triple), TOKENIZER))
    with pytest.raises(AdaptorError, match="expected batches of encode"):
        adapted(bi, BI)({"input_ids": torch.ones(2, 3, dtype=torch.long)}, {})


def test_other_things_that_are_refused():
    model = bert(BI, TOKENIZER)
    with pytest.raises(DataError, match="a query with a list of candidates, got str"):
        BI.predict(model, ["rain"], TOKENIZER)
    with pytest.raises(DataError, match="row 1 has no candidates"):
        BI.predict(model, [("rain", [])], TOKENIZER)
    with pytest.raises(ConfigError, match="one of 'margin_mse', 'listnet', 'ranknet', got 'ce'"):
        BI.adaptors(bert(CROSS, TOKENIZER), model, DistillationConfig())
    with pytest.raises(DataError, match="takes 4; encode with max_length=4 or less"):
        CROSS.evaluate(bert(CROSS, TOKENIZER, max_position_embeddings=4), CROSS.encode(rows_of(triple), TOKENIZER))
    cut = PairwiseRanking(encoder="cross", teacher="cross", max_length=6).encode(rows_of(triple), TOKENIZER)
    assert cut.report.lengths.longer == 48 and cut.report.lengths.longest == 9


def test_models_are_loaded_by_their_kind(tmp_path):
    bert(BI, TOKENIZER).save_pretrained(tmp_path)
    assert type(BI.load(tmp_path)).__name__ == "BertModel"
    crossing = CROSS.load(tmp_path)
    assert type(crossing).__name__ == "BertForSequenceClassification" and crossing.config.num_labels == 1


# Runs.


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    # With smaller first weights it is the processor's last digits that decide how much it learns.
    sizes = {"hidden_size": 32, "initializer_range": 0.1}
    model = bert(CROSS, TOKENIZER, 2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
    trainer = BasicTrainer(training(tmp_path_factory.mktemp("teacher")), model, CROSS.adaptor(model))
    data = CROSS.encode(rows_of(listed, 240, of=4), TOKENIZER)
    return run(trainer, model, data.loader(16, shuffle_seed=0), 400, rate=2e-3).eval()


def student_of(seed=1):
    return bert(BI, TOKENIZER, seed, num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def test_a_bi_encoder_is_trained_by_itself(tmp_path):
    model = student_of()
    test = BI.encode(rows_of(listed, 40, seed=5, of=4), TOKENIZER)
    trainer = BasicTrainer(training(tmp_path), model, BI.adaptor(model))
    run(trainer, model, BI.encode(rows_of(triple, 200), TOKENIZER).loader(16, shuffle_seed=0), 100)
    assert BI.evaluate(model, test)["mrr@10"] > 0.8


@pytest.mark.parametrize(("loss", "make"), [("margin_mse", triple), ("listnet", listed), ("ranknet", listed)])
def test_a_bi_encoder_learns_from_a_cross_encoder_without_labels(tmp_path, teacher, loss, make):
    every = rows_of(listed, 40, seed=5, of=4)
    assert CROSS.evaluate(teacher, CROSS.encode(every, TOKENIZER))["mrr@10"] > 0.9
    student, test = student_of(), BI.encode(every, TOKENIZER)
    before = BI.evaluate(student, test)
    config = DistillationConfig(kd_loss_type=loss, temperature=1)
    distiller = BasicDistiller(training(tmp_path), config, teacher, student, *BI.adaptors(teacher, student, config))
    data = PairwiseRanking(max_length=16).encode(rows_of(make, 240), TOKENIZER).without_labels()
    run(distiller, student, data.loader(16, shuffle_seed=0), 100)
    after = BI.evaluate(student, test)
    assert after["mrr@10"] > max(before["mrr@10"], 0.75) and after["pair_accuracy"] > before["pair_accuracy"]


def margins_apart(teacher, student):
    """Mean squared difference of the margins of two cross-encoders, over new triples."""
    rows = rows_of(triple, 40, seed=5)
    sides = [[each["scores"] for each in CROSS.predict(model, rows, TOKENIZER)] for model in (teacher, student)]
    return sum(((a - b) - (c - d)) ** 2 for (a, b), (c, d) in zip(*sides, strict=True)) / len(rows)


def test_a_cross_encoder_learns_from_a_larger_one(tmp_path, teacher):
    student = build_student(teacher, StudentConfig(num_layers=1), seed=0)
    config = DistillationConfig(
        kd_loss_type="margin_mse",
        intermediate_matches=[{"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 0.1}],
    )
    distiller = GeneralDistiller(
        training(tmp_path), config, teacher, student, *CROSS.adaptors(teacher, student, config)
    )
    before = margins_apart(teacher, student)
    loader = CROSS.encode(rows_of(listed, 120), TOKENIZER).without_labels().loader(16, shuffle_seed=0)
    run(distiller, student, loader, 200, rate=2e-3)
    assert margins_apart(teacher, student) < before / 2


def test_a_bi_encoder_learns_from_another(tmp_path):
    task = PairwiseRanking(teacher="bi", max_length=10)
    config = DistillationConfig(kd_loss_type="listnet")
    teacher, student = bert(task, TOKENIZER, seed=7).eval(), student_of()
    distiller = BasicDistiller(training(tmp_path), config, teacher, student, *task.adaptors(teacher, student, config))
    data = task.encode(rows_of(triple), TOKENIZER)
    assert "student" not in next(iter(data.loader(2)))
    before = weights_of(student)
    run(distiller, student, data.loader(8), 2)
    assert not torch.equal(weights_of(student), before)


OTHER = tokenizer_of(["ra", "##in", "sun", "cold"])


@pytest.mark.parametrize("tokenizer", [None, OTHER], ids=["one tokenizer", "two tokenizers"])
def test_a_teacher_cache_gives_what_the_teacher_gives_and_finds_it_again(tmp_path, teacher, tokenizer):
    config = DistillationConfig(kd_loss_type="margin_mse")
    task, rows = PairwiseRanking(max_length=16), rows_of(listed)
    distinct = len({json.dumps(row) for row in rows})
    found, calls = [], []
    handle = teacher.register_forward_hook(lambda module, inputs, output: calls.append(len(output.logits)))
    cache = TeacherCache.in_memory()
    for source, seed in ((None, 0), (cache, 0), (cache, 1)):
        student = student_of()
        calls.clear()
        distiller = BasicDistiller(
            training(tmp_path), config, teacher, student, *task.adaptors(teacher, student, config), teacher_cache=source
        )
        torch.manual_seed(0)
        with distiller:
            optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
            loader = task.encode(rows, TOKENIZER, teacher_tokenizer=tokenizer).loader(8, shuffle_seed=seed)
            distiller.train(optimizer, loader, num_epochs=3)
        found.append((weights_of(student), sum(calls)))
    handle.remove()
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-4)
    assert found[2][1] < found[0][1] / 2
    assert cache.list()[0].records <= distinct


HIDDEN = {"feature": "hidden", "layer_T": 1, "layer_S": 1}


@pytest.mark.parametrize(
    "matches", [[], [{**HIDDEN, "loss": "hidden_mse_valid", "weight": 1}, {**HIDDEN, "loss": "at", "weight": 1}]]
)
def test_micro_batches_do_not_change_the_step(tmp_path, teacher, matches):
    config = DistillationConfig(kd_loss_type="margin_mse", intermediate_matches=matches)
    task = CROSS if matches else BI
    data, found = task.encode(rows_of(listed), TOKENIZER).without_labels(), []
    for size, steps in ((24, 1), (7, 4)):
        student = bert(task, TOKENIZER, 1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, hidden_size=32)
        several = training(tmp_path, gradient_accumulation_steps=steps, keep_last_accumulation=True)
        distiller = GeneralDistiller(several, config, teacher, student, *task.adaptors(teacher, student, config))
        with distiller:
            distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), data.loader(size), num_epochs=1)
        found.append(weights_of(student))
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=1e-4)


def test_candidates_that_a_row_does_not_have_are_not_read():
    model, rows = bert(CROSS, TOKENIZER), rows_of(listed, 6)
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output.logits)))
    together = CROSS.predict(model, rows, TOKENIZER)
    assert sum(seen) == sum(len(row["candidates"]) for row in rows) < 6 * 4
    for row, found in zip(rows, together, strict=True):
        assert CROSS.predict(model, [row], TOKENIZER)[0]["scores"] == pytest.approx(found["scores"], abs=1e-6)


def test_several_teachers_and_several_tasks(tmp_path, teacher):
    config, student = DistillationConfig(kd_loss_type="margin_mse"), student_of()
    of_teacher, of_student = BI.adaptors(teacher, student, config)
    twin = copy.deepcopy(teacher)
    both = [of_teacher, BI.adaptor(twin, teacher=True)]
    loader = BI.encode(rows_of(triple), TOKENIZER).loader(8, shuffle_seed=0)
    before = weights_of(student)
    run(
        MultiTeacherDistiller(training(tmp_path), config, [teacher, twin], student, both, of_student),
        student,
        loader,
        2,
    )
    assert not torch.equal(weights_of(student), before)
    tasks = MultiTaskDistiller(
        training(tmp_path), config, {"r": teacher}, student, {"r": of_teacher}, {"r": of_student}
    )
    before = weights_of(student)
    with tasks:
        tasks.train(torch.optim.AdamW(student.parameters(), lr=1e-3), {"r": loader}, num_steps=2)
    assert not torch.equal(weights_of(student), before)


class Pair(nn.Module):
    """A cross-encoder of any make: one score from ids and their mask."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(TOKENIZER), 1)

    def forward(self, input_ids, attention_mask):
        return (self.embedding(input_ids).squeeze(-1) * attention_mask).sum(dim=1, keepdim=True)


def test_modules_of_any_make_and_padding_on_the_left():
    model, rows = Pair(), rows_of(listed, 5)
    right = CROSS.predict(model, rows, TOKENIZER)
    left = CROSS.predict(model, rows, tokenizer_of(WORDS, padding_side="left"))
    for one, other in zip(right, left, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)


def test_long_lists_are_read_few_at_a_time():
    model, data = bert(BI, TOKENIZER), BI.encode(rows_of(listed, 10, of=4), TOKENIZER)
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output.last_hidden_state)))
    scores = BI.evaluate(model, data, batch_size=12)
    assert data.sequences == 5 and seen == [10] * 5
    seen.clear()
    assert BI.evaluate(model, data.loader(4)) == pytest.approx(scores) and seen == [20, 20, 10]
    seen.clear()
    assert BI.evaluate(model, data, batch_size=1) == pytest.approx(scores) and seen == [5] * 10
