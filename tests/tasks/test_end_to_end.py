"""Each task from rows to a distilled student, with every distiller."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra `hf`")
pytest.importorskip("sklearn", reason="needs the extra `hf`")
pytest.importorskip("seqeval", reason="needs the extra `hf`")

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
from textbrewer.tasks import (
    MultiLabelClassification,
    QuestionAnswering,
    TextClassification,
    TextRegression,
    TokenClassification,
)
from textbrewer.teachers import TeacherCache

WORDS = ["rain", "snow", "sun", "bern", "rome", "ann", "bob", "in", "was", "who", "where", "cold", "warm"]
TOKENIZER = tokenizer_of(WORDS)
FILLERS = ["in", "was", "a", "b", "c", "cold", "warm"]
HIDDEN = [{"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 0.1}]


def classification_row(generator):
    kind = generator.choice(["rain", "snow", "sun"])
    return {"text": " ".join([*generator.choices(FILLERS, k=3), kind]), "label": kind}


def multi_label_row(generator):
    kinds = [kind for kind in ("rain", "snow", "sun") if generator.random() < 0.5]
    return {"text": " ".join([*generator.choices(FILLERS, k=2), *kinds]), "label": kinds}


def regression_row(generator):
    number = generator.randint(0, 3)
    return {"text": " ".join(["sun"] * number + generator.choices(FILLERS, k=4 - number)), "label": number}


def token_row(generator):
    tokens, tags = [], []
    for _ in range(4):
        kind = generator.choice(["O", "LOC", "PER"])
        tokens += {"O": [generator.choice(FILLERS)], "LOC": ["bern", "rome"], "PER": ["ann"]}[kind]
        tags += {"O": ["O"], "LOC": ["B-LOC", "I-LOC"], "PER": ["B-PER"]}[kind]
    return {"tokens": tokens, "tags": tags}


def question_row(generator):
    name, place = generator.choice(["ann", "bob"]), generator.choice(["bern", "rome"])
    context = " ".join([*generator.choices(FILLERS, k=generator.randint(1, 6)), name, "was", "in", place])
    question = generator.choice(["who", "where"])
    answer = name if question == "who" else place
    return {
        "question": question,
        "context": context,
        "answers": [{"text": answer, "answer_start": context.index(answer)}],
    }


CASES = {
    "classes": (TextClassification(["rain", "snow", "sun"], max_length=12), classification_row, "ce"),
    "sets": (MultiLabelClassification(["rain", "snow", "sun"], max_length=12), multi_label_row, "binary_kl"),
    "numbers": (TextRegression(max_length=12), regression_row, "logit_mse"),
    # Rows of up to ten tokens, in windows of eight.
    "tags": (TokenClassification(["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], max_length=8), token_row, "kl"),
    "answers": (QuestionAnswering(max_length=10, doc_stride=3, max_question_length=1), question_row, "ce"),
}


def data_of(name, number=96, seed=0):
    task, make, _ = CASES[name]
    generator = random.Random(seed)
    return task.encode([make(generator) for _ in range(number)], TOKENIZER)


def trained(distiller, model, data, steps, rate=1e-2):
    return run(distiller, model, data.loader(16, shuffle_seed=0), steps, rate)


_TEACHERS = {}


@pytest.fixture
def teacher_of(tmp_path):
    """Teachers, each trained once for all tests."""

    def teacher_of(name):
        if name not in _TEACHERS:
            task = CASES[name][0]
            model = bert(task, TOKENIZER, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            trainer = BasicTrainer(training(tmp_path), model, task.adaptor(model))
            _TEACHERS[name] = trained(trainer, model, data_of(name), 80).eval()
        return _TEACHERS[name]

    return teacher_of


def student_of(teacher, seed=1):
    return build_student(teacher, StudentConfig(num_layers=1), init="random", seed=seed)


def config_of(name, **settings):
    return DistillationConfig(**{"kd_loss_type": CASES[name][2], "temperature": 2, **settings})


@pytest.mark.parametrize("name", CASES)
def test_a_student_learns_from_a_trained_teacher_without_any_label(tmp_path, teacher_of, name):
    task, teacher, test = CASES[name][0], teacher_of(name), data_of(name, 60, seed=1)
    assert task.evaluate(teacher, test)[task.main_metric] > 0.8
    student, config = student_of(teacher), config_of(name, intermediate_matches=HIDDEN)
    before = task.evaluate(student, test)[task.main_metric]
    distiller = GeneralDistiller(training(tmp_path), config, teacher, student, *task.adaptors(teacher, student, config))
    trained(distiller, student, data_of(name).without_labels(), 80)
    after = task.evaluate(student, test)[task.main_metric]
    assert after > max(before, 0.75)
    (said,) = task.predict(student, [dict(test.rows[0])], TOKENIZER)
    assert task.score([said], test.rows[:1]) and student.config.id2label == teacher.config.id2label


@pytest.mark.parametrize("name", CASES)
def test_rows_with_and_without_labels_mix(tmp_path, teacher_of, name):
    task, make, _ = CASES[name]
    generator = random.Random(5)
    rows = [make(generator) for _ in range(32)]
    # The first half of the batches has no label at all.
    mixed = [{key: value for key, value in row.items() if key != task.target} for row in rows[:16]] + rows[16:]
    data = task.encode(mixed, TOKENIZER)
    teacher = teacher_of(name)
    student, config = student_of(teacher), config_of(name)
    distiller = BasicDistiller(training(tmp_path), config, teacher, student, *task.adaptors(teacher, student, config))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    with distiller:
        distiller.train(optimizer, data.loader(8), num_epochs=1)
    assert all(parameter.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize("name", CASES)
def test_two_teachers_that_are_the_same_teach_what_one_teaches(tmp_path, teacher_of, name):
    task, teacher = CASES[name][0], teacher_of(name)
    found = []
    for several in (False, True):
        student, config = student_of(teacher), config_of(name)
        of_teacher, of_student = task.adaptors(teacher, student, config)
        if several:
            twin = copy.deepcopy(teacher)
            adaptors = [of_teacher, task.adaptor(twin, teacher=True)]
            distiller = MultiTeacherDistiller(
                training(tmp_path), config, [teacher, twin], student, adaptors, of_student
            )
        else:
            distiller = BasicDistiller(training(tmp_path), config, teacher, student, of_teacher, of_student)
        torch.manual_seed(0)
        found.append(weights_of(trained(distiller, student, data_of(name, 32), 4, rate=1e-3)))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


class TwoHeads(nn.Module):
    """One encoder with the heads of two tasks, told which."""

    def __init__(self, models):
        super().__init__()
        first = next(iter(models.values()))
        self.encoder, self.config = first.bert, None
        self.heads = nn.ModuleDict(
            {name: nn.Linear(16, model.classifier.out_features) for name, model in models.items()}
        )

    def forward(self, input_ids, attention_mask, token_type_ids=None, task=None):
        states = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        return self.heads[task](states[:, 0] if task == "classes" else states)


def test_several_tasks(tmp_path, teacher_of):
    names = ["classes", "tags"]
    teachers = {name: teacher_of(name) for name in names}
    student = TwoHeads({name: bert(CASES[name][0], TOKENIZER, seed=3, num_hidden_layers=1) for name in names})
    configs = {name: config_of(name) for name in names}
    pairs = {name: CASES[name][0].adaptors(teachers[name], student, configs[name]) for name in names}
    distiller = MultiTaskDistiller(
        training(tmp_path),
        configs,
        teachers,
        student,
        {name: pair[0] for name, pair in pairs.items()},
        {name: pair[1] for name, pair in pairs.items()},
        task_argument="task",
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    with distiller:
        distiller.train(optimizer, {name: data_of(name).loader(16, shuffle_seed=0) for name in names}, num_steps=120)
    for name in names:
        task = CASES[name][0]
        assert task.evaluate(student, data_of(name, 60, seed=1), task=name)[task.main_metric] > 0.7


@pytest.mark.parametrize("name", CASES)
def test_the_update_does_not_depend_on_micro_batches_and_padding(tmp_path, teacher_of, name):
    """With a loss that averages over the whole step."""
    task = CASES[name][0]
    teacher = teacher_of(name)
    data = data_of(name, 16).without_labels()
    loss = "kl" if name in ("classes", "tags", "answers") else CASES[name][2]
    found = []
    for batch_size, steps in ((len(data), 1), (-(-len(data) // 4), 4)):
        student, config = student_of(teacher), config_of(name, kd_loss_type=loss)
        adaptors = task.adaptors(teacher, student, config)
        config_train = training(tmp_path, gradient_accumulation_steps=steps, keep_last_accumulation=True)
        distiller = GeneralDistiller(config_train, config, teacher, student, *adaptors)
        optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with distiller:
            distiller.train(optimizer, data.loader(batch_size), num_epochs=1)
        found.append(weights_of(student))
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_teacher_cache_gives_what_the_teacher_gives(tmp_path, teacher_of, name):
    task, teacher = CASES[name][0], teacher_of(name)
    found = []
    for cache in (None, TeacherCache.in_memory()):
        student, config = student_of(teacher), config_of(name)
        adaptors = task.adaptors(teacher, student, config)
        distiller = GeneralDistiller(training(tmp_path), config, teacher, student, *adaptors, teacher_cache=cache)
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        with distiller:
            distiller.train(optimizer, data_of(name, 24).loader(8, shuffle_seed=1), num_epochs=2)
        found.append(weights_of(student))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
