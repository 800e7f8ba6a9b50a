"""Texts as vectors: of texts alone, of pairs with a number, of translations."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra `hf`")
pytest.importorskip("sklearn", reason="needs the extra `hf`")

from tests.tasks.small import SlowTokenizer, bert, run, tokenizer_of, training, weights_of
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
from textbrewer.losses import logit_mse_loss
from textbrewer.students.bigru import BiGRUEncoder
from textbrewer.tasks import SentenceEmbedding, TextClassification
from textbrewer.teachers import TeacherCache

WORDS = ["rain", "snow", "sun", "cold", "warm", "pluie", "neige", "soleil", "froid", "chaud"]
FRENCH = dict(zip(WORDS[:5], WORDS[5:], strict=True))
TOKENIZER = tokenizer_of(WORDS)
TASK = SentenceEmbedding(max_length=16)
TEXTS = ["rain", "snow and sun", "cold cold warm rain", "sun"]


def pairs_of(number=24, seed=0):
    """Two texts of the same length, and in how many places they agree."""
    generator = random.Random(seed)
    rows = []
    for _ in range(number):
        first = generator.choices(WORDS[:5], k=4)
        kept = generator.randint(0, 4)
        second = first[:kept] + [generator.choice([w for w in WORDS[:5] if w != word]) for word in first[kept:]]
        rows.append({"sentence1": " ".join(first), "sentence2": " ".join(second), "score": float(kept)})
    return rows


def texts_of(number=32, seed=0):
    generator = random.Random(seed)
    return [{"text": " ".join(generator.choices(WORDS[:5], k=generator.randint(1, 5)))} for _ in range(number)]


def vector_of(model, text, pooling="mean", normalise=False):
    """Of one text alone, in plain loops over its states in float64."""
    with torch.no_grad():
        states = copy.deepcopy(model).double()(**TOKENIZER(text, return_tensors="pt")).last_hidden_state[0].tolist()
    if pooling == "first":
        vector = states[0]
    else:
        vector = [sum(state[k] for state in states) / len(states) for k in range(len(states[0]))]
    length = math.sqrt(sum(v * v for v in vector)) if normalise else 1.0
    return [v / length for v in vector]


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("normalise", [False, True])
def test_vectors_depend_on_no_padding(pooling, normalise):
    task, model = SentenceEmbedding(max_length=16, pooling=pooling, normalise=normalise), bert(TASK, TOKENIZER)
    assert type(model).__name__ == "BertModel"
    found = task.predict(model, TEXTS, TOKENIZER, batch_size=3)
    for text, each in zip(TEXTS, found, strict=True):
        assert each["vector"] == pytest.approx(vector_of(model, text, pooling, normalise), abs=1e-5)
        assert type(each["vector"][0]) is float


def test_pairs_and_their_likeness():
    model = bert(TASK, TOKENIZER)
    found = TASK.predict(model, [("rain", "snow and sun"), ("sun", "sun")], TOKENIZER)
    first, second = vector_of(model, "rain"), vector_of(model, "snow and sun")
    lengths = math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))
    assert found[0]["vector"] == pytest.approx(first, abs=1e-5)
    assert found[0]["vector_pair"] == pytest.approx(second, abs=1e-5)
    expected = sum(a * b for a, b in zip(first, second, strict=True)) / lengths
    assert found[0]["similarity"] == pytest.approx(expected, abs=1e-5)
    assert found[1]["similarity"] == pytest.approx(1.0)


def ranks_of(values):
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def pearson_of(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def test_scores_are_the_correlation_of_cosines_with_the_numbers():
    model, rows = bert(TASK, TOKENIZER), pairs_of()
    data = TASK.encode(rows, TOKENIZER)
    assert data.report.guessed == ("text", "text_pair", "label") and data.report.labelled == 24
    cosines = [
        p["similarity"] for p in TASK.predict(model, [(r["sentence1"], r["sentence2"]) for r in rows], TOKENIZER)
    ]
    true = [row["score"] for row in rows]
    found = TASK.evaluate(model, data, batch_size=7)
    assert set(found) == {"spearman", "pearson"}
    assert found["pearson"] == pytest.approx(pearson_of(true, cosines), abs=1e-6)
    assert found["spearman"] == pytest.approx(pearson_of(ranks_of(true), ranks_of(cosines)), abs=1e-3)


def adapted(model, task=TASK, **options):
    return AdaptedModel(model, task.adaptor(model, **options), name="adaptor_S")


def test_the_loss_of_pairs_with_a_number():
    task, model = SentenceEmbedding(max_length=16, max_score=4.0), bert(TASK, TOKENIZER)
    rows = [*pairs_of(3), {"sentence1": "rain", "sentence2": "sun"}]
    outputs = adapted(model, task)(next(iter(task.encode(rows, TOKENIZER).loader(4))), {})
    losses = []
    for row in rows[:3]:
        (said,) = task.predict(model, [(row["sentence1"], row["sentence2"])], TOKENIZER)
        losses.append((said["similarity"] - row["score"] / 4) ** 2)
    assert outputs.losses[0].item() == pytest.approx(sum(losses) / 3, abs=1e-5)
    assert outputs.logits[0].shape == (4, 32)


def test_rows_need_no_label_and_that_of_a_single_text_is_not_read():
    assert TASK.rows([{"text": "a"}]).report.labelled == 0
    rows = TASK.rows([{"text": "a", "label": "sports"}, {"text": "", "label": "x"}])
    assert list(rows) == [{"text": "a", "label": None}] and "label" not in rows.report.columns
    with pytest.raises(DataError, match="label 'much', which is no number: row 1"):
        TASK.rows([{"text": "a", "text_pair": "b", "label": "much"}])
    with pytest.raises(DataError, match="1 row of 1 without a label"):
        TASK.evaluate(bert(TASK, TOKENIZER), TASK.encode([{"text": "a"}], TOKENIZER))


def test_translations_are_read_by_the_student_and_their_source_by_the_teacher():
    task = SentenceEmbedding(max_length=16, bilingual=True)
    rows = [{"source": "rain sun", "translation": "pluie soleil"}, {"source": "cold", "translation": "froid"}]
    data = task.encode(rows, TOKENIZER)
    batch = next(iter(data.loader(8)))

    def read(side):
        return [TOKENIZER.decode(ids, skip_special_tokens=True) for ids in batch[side]["input_ids"]]

    assert read("teacher") == ["rain sun", "rain sun", "cold", "cold"]
    assert read("student") == ["rain sun", "pluie soleil", "cold", "froid"]
    assert data.report.guessed == ("text", "text_pair") and data.lengths == [4, 4, 3, 3]
    # Pairs with a number are there to be scored, and a text alone is itself.
    assert task.evaluate(bert(task, TOKENIZER), task.encode(pairs_of(), TOKENIZER))
    assert len(task.predict(bert(task, TOKENIZER), [("rain", "pluie")], TOKENIZER)[0]["vector_pair"]) == 16
    assert "vector_pair" not in task.predict(bert(task, TOKENIZER), ["rain"], TOKENIZER)[0]


OTHER = tokenizer_of(["ra", "##in", "sun", "cold", "snow", "warm"])


def test_each_side_has_a_tokenizer_of_its_own():
    data = TASK.encode(texts_of(4), TOKENIZER, teacher_tokenizer=OTHER)
    batch = next(iter(data.loader(4)))
    texts = [row["text"] for row in texts_of(4)]
    for side, tokenizer in (("teacher", OTHER), ("student", TOKENIZER)):
        expected = tokenizer(texts, padding=True, return_tensors="pt")
        assert torch.equal(batch[side]["input_ids"], expected["input_ids"])
    both = SentenceEmbedding(max_length=16, bilingual=True)
    rows = [{"source": "rain", "translation": "pluie"}]
    batch = next(iter(both.encode(rows, TOKENIZER, teacher_tokenizer=OTHER).loader(2)))
    assert batch["teacher"]["input_ids"].tolist() == 2 * [OTHER("rain")["input_ids"]]
    assert TOKENIZER.decode(batch["student"]["input_ids"][1], skip_special_tokens=True) == "pluie"


class Vectors(nn.Module):
    """Ready vectors, of any width."""

    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(len(TOKENIZER), width)

    def forward(self, input_ids, attention_mask):
        return (self.embedding(input_ids) * attention_mask.unsqueeze(-1)).sum(dim=1)


def test_modules_of_any_make():
    batch = next(iter(TASK.encode(texts_of(3), TOKENIZER).loader(3)))
    model = Vectors(5)
    expected = model(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(adapted(model)(batch, {}).logits[0], expected)
    student = build_student(bert(TASK, TOKENIZER), "BiGRU")
    assert isinstance(student, BiGRUEncoder) and len(TASK.predict(student, ["rain"], TOKENIZER)[0]["vector"]) == 768
    as_tuple = bert(TASK, TOKENIZER)
    as_tuple.config.return_dict = False
    assert len(TASK.predict(as_tuple, ["rain"], TOKENIZER)[0]["vector"]) == 16
    classifier = bert(TextClassification(["a", "b"]), TOKENIZER)
    with pytest.raises(AdaptorError, match="ForSequenceClassification gives no logits; this task's head is AutoModel"):
        TASK.predict(classifier, ["rain"], TOKENIZER)


def test_what_is_refused():
    with pytest.raises(DataError, match="some rows are pairs of texts and others single ones"):
        TASK.encode(mixed(), TOKENIZER)
    with pytest.raises(DataError, match="max_length=16, but the model of this BertTokenizer takes 8"):
        TASK.encode(texts_of(2), tokenizer_of(model_max_length=8))
    with pytest.raises(DataError, match=r"tokens a row, and BertModel takes 3; encode with max_length=3 or less"):
        TASK.evaluate(bert(TASK, TOKENIZER, max_position_embeddings=3), TASK.encode(pairs_of(), TOKENIZER))
    assert TASK.encode([{"text": "rain sun"}], SlowTokenizer(WORDS))[0]["input_ids"].shape == (4,)


def mixed():
    rows = TASK.rows([{"text": "a"}, {"text": "b"}])
    return type(rows)([{**rows[0], "text_pair": "x"}, rows[1]], rows.report, rows.target)


# Runs.


KD = DistillationConfig(kd_loss_type="logit_mse")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    task = SentenceEmbedding(max_length=16, max_score=4.0)
    model = bert(task, TOKENIZER, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trainer = BasicTrainer(training(tmp_path_factory.mktemp("teacher")), model, task.adaptor(model))
    return run(trainer, model, task.encode(pairs_of(200), TOKENIZER).loader(16, shuffle_seed=0), 120, 3e-3).eval()


def student_of(teacher, seed=1, **sizes):
    return build_student(teacher, StudentConfig(num_layers=1, **sizes), init="random", seed=seed)


def distance(task, teacher, student, texts):
    """Mean squared difference of the vectors."""
    sides = [task.predict(model, texts, TOKENIZER) for model in (teacher, student)]
    vectors = [torch.tensor([each["vector"] for each in side]) for side in sides]
    return float(((vectors[0] - vectors[1]) ** 2).mean())


@pytest.mark.parametrize("normalise", [False, True])
def test_a_student_learns_vectors_from_texts_alone(tmp_path, teacher, normalise):
    task = SentenceEmbedding(max_length=16, normalise=normalise)
    test = task.encode(pairs_of(80, seed=3), TOKENIZER)
    assert task.evaluate(teacher, test)["spearman"] > 0.6
    student = student_of(teacher)
    texts = [row["text"] for row in texts_of(20, seed=8)]
    before = distance(task, teacher, student, texts)
    distiller = GeneralDistiller(training(tmp_path), KD, teacher, student, *task.adaptors(teacher, student, KD))
    run(distiller, student, task.encode(texts_of(300), TOKENIZER).loader(16, shuffle_seed=0), 150)
    assert distance(task, teacher, student, texts) < before / 3
    assert task.evaluate(student, test)["spearman"] > 0.4


def test_the_loss_of_normalised_vectors_is_their_cosine(tmp_path, teacher):
    task, student = SentenceEmbedding(max_length=16, normalise=True), student_of(teacher)
    batch = next(iter(task.encode(texts_of(6), TOKENIZER).loader(6)))
    sides = [adapted(model, task)(batch, {}).logits[0] for model in (student, teacher)]
    cosines = nn.functional.cosine_similarity(*sides)
    assert (16 / 2 * logit_mse_loss(*sides)).item() == pytest.approx((1 - cosines).mean().item(), rel=1e-4)


def test_a_student_of_another_width_learns_through_a_projection(tmp_path, teacher):
    student = student_of(teacher, hidden_size=8, num_attention_heads=2)
    with pytest.raises(
        ConfigError, match=r"`kd_loss_weight`: expected 0, since the teacher's vectors have width 16 and"
    ) as said:
        TASK.adaptors(teacher, student, KD)
    match = {"layer_T": -1, "layer_S": -1, "feature": "hidden", "loss": "embedding_mse", "proj": "auto"}
    assert '"loss": "embedding_mse", "proj": "auto"' in str(said.value)
    config = DistillationConfig(kd_loss_weight=0, intermediate_matches=[match])
    test = TASK.encode(pairs_of(80, seed=3), TOKENIZER)
    before = TASK.evaluate(student, test)["spearman"]
    distiller = GeneralDistiller(training(tmp_path), config, teacher, student, *TASK.adaptors(teacher, student, config))
    run(distiller, student, TASK.encode(texts_of(300), TOKENIZER).loader(16, shuffle_seed=0), 150)
    after = TASK.evaluate(student, test)["spearman"]
    assert after > max(before, 0.3)
    assert len(TASK.predict(student, ["rain"], TOKENIZER)[0]["vector"]) == 8


def test_a_student_learns_a_language_that_its_teacher_does_not_know(tmp_path, teacher):
    task = SentenceEmbedding(max_length=16, bilingual=True)
    rows = [
        {"source": row["text"], "translation": " ".join(FRENCH[word] for word in row["text"].split())}
        for row in texts_of(300)
    ]
    student = student_of(teacher)
    distiller = BasicDistiller(training(tmp_path), KD, teacher, student, *task.adaptors(teacher, student, KD))
    run(distiller, student, task.encode(rows, TOKENIZER).loader(32, shuffle_seed=0), 200)
    texts = WORDS[:5]
    of_teacher = [torch.tensor(each["vector"]) for each in task.predict(teacher, texts, TOKENIZER)]
    of_student = [torch.tensor(e["vector"]) for e in task.predict(student, [FRENCH[w] for w in texts], TOKENIZER)]
    nearest = [min(range(5), key=lambda j, v=vector: float((v - of_teacher[j]).norm())) for vector in of_student]
    assert nearest == list(range(5))


ROWS = {
    "texts": (TASK, lambda: TASK.encode(texts_of(24), TOKENIZER)),
    "pairs": (TASK, lambda: TASK.encode(pairs_of(24), TOKENIZER)),
    "translations": (
        SentenceEmbedding(max_length=16, bilingual=True),
        lambda: SentenceEmbedding(max_length=16, bilingual=True).encode(
            [{"source": r["text"], "translation": r["text"][::-1]} for r in texts_of(24)], TOKENIZER
        ),
    ),
    "tokenizers": (TASK, lambda: TASK.encode(texts_of(24), TOKENIZER, teacher_tokenizer=OTHER)),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_teacher_cache_gives_what_the_teacher_gives_and_finds_it_again(tmp_path, teacher, kind):
    task, make = ROWS[kind]
    found, calls = [], []
    handle = teacher.register_forward_hook(lambda module, inputs, output: calls.append(len(output.last_hidden_state)))
    cache = TeacherCache.in_memory()
    for source in (None, cache, cache):
        student = student_of(teacher)
        calls.clear()
        distiller = BasicDistiller(
            training(tmp_path), KD, teacher, student, *task.adaptors(teacher, student, KD), teacher_cache=source
        )
        torch.manual_seed(0)
        with distiller:
            optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
            distiller.train(optimizer, make().loader(8, shuffle_seed=len(found)), num_epochs=4)
        found.append((weights_of(student), sum(calls)))
    handle.remove()
    # The third run has other batches, and asks the teacher for the sample of its first one alone.
    assert found[2][1] < found[0][1] / 2
    assert cache.list()[0].records <= 24  # however often a text is read


def test_the_same_run_with_and_without_a_cache(tmp_path, teacher):
    found = []
    for cache in (None, TeacherCache.in_memory()):
        student = student_of(teacher)
        adaptors = TASK.adaptors(teacher, student, KD)
        distiller = BasicDistiller(training(tmp_path), KD, teacher, student, *adaptors, teacher_cache=cache)
        torch.manual_seed(0)
        with distiller:
            optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
            distiller.train(optimizer, TASK.encode(pairs_of(24), TOKENIZER).loader(8, shuffle_seed=1), num_epochs=2)
        found.append(weights_of(student))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_micro_batches_do_not_change_the_step(tmp_path, teacher, kind):
    data, found = ROWS[kind][1]().without_labels(), []
    for size, steps in ((24, 1), (7, 4)):
        student = student_of(teacher)
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        config = training(tmp_path, gradient_accumulation_steps=steps, keep_last_accumulation=True)
        distiller = GeneralDistiller(config, KD, teacher, student, *TASK.adaptors(teacher, student, KD))
        with distiller:
            distiller.train(torch.optim.SGD(student.parameters(), lr=1.0), data.loader(size), num_epochs=1)
        found.append(weights_of(student))
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=1e-4)


def test_several_teachers_and_several_tasks(tmp_path, teacher):
    student = student_of(teacher)
    of_teacher, of_student = TASK.adaptors(teacher, student, KD)
    twin = copy.deepcopy(teacher)
    both = [of_teacher, TASK.adaptor(twin, teacher=True)]
    loader = TASK.encode(texts_of(24), TOKENIZER).loader(8, shuffle_seed=0)
    before = weights_of(student)
    run(MultiTeacherDistiller(training(tmp_path), KD, [teacher, twin], student, both, of_student), student, loader, 2)
    assert not torch.equal(weights_of(student), before)
    tasks = MultiTaskDistiller(training(tmp_path), KD, {"e": teacher}, student, {"e": of_teacher}, {"e": of_student})
    before = weights_of(student)
    with tasks:
        tasks.train(torch.optim.AdamW(student.parameters(), lr=1e-3), {"e": loader}, num_steps=2)
    assert not torch.equal(weights_of(student), before)
