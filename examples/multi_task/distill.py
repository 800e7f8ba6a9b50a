"""Two tasks with a teacher each, one student with a shared encoder and two heads; learned in seconds from made-up text.

`texts`: which of two tokens occurs more often in a text. `tokens`: for each token, whether it is that one.
"""

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, set_seed

from textbrewer import (
    BasicTrainer,
    DistillationConfig,
    MultiTaskDistiller,
    MultiTaskStudent,
    StudentConfig,
    TrainingConfig,
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rows", type=int, default=1500, help="texts of each task")
parser.add_argument("--teacher-epochs", type=int, default=4)
parser.add_argument("--steps", type=int, default=300)
options = parser.parse_args()
set_seed(0)

ONE, OTHER = 5, 6
LENGTH = 15


def rows_of(task, number, seed):
    ids = torch.randint(ONE, OTHER + 1, (number, LENGTH), generator=torch.Generator().manual_seed(seed))
    more = torch.where((ids == OTHER).sum(1) > (ids == ONE).sum(1), OTHER, ONE)
    labels = more - ONE if task == "texts" else (ids == more[:, None]).long()
    mask = torch.ones(LENGTH).long()
    return [{"input_ids": i, "attention_mask": mask, "labels": label} for i, label in zip(ids, labels, strict=True)]


def teacher_of(model_class, labels):
    config = BertConfig(
        num_hidden_layers=3,
        hidden_size=48,
        num_attention_heads=4,
        intermediate_size=96,
        vocab_size=8,
        max_position_embeddings=16,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return model_class(config)


def accuracy(model, rows, **told):
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        ids = torch.stack([row["input_ids"] for row in rows]).to(device)
        found = model(input_ids=ids, **told).logits.argmax(-1).cpu()
    return (found == torch.stack([row["labels"] for row in rows])).float().mean().item()


def loader_of(rows):
    return DataLoader(rows, batch_size=32, shuffle=True)


quiet = {"ckpt_frequency": 0, "output_dir": "runs/multi_task"}
teachers = {
    "texts": teacher_of(BertForSequenceClassification, ["one", "other"]),
    "tokens": teacher_of(BertForTokenClassification, ["rarer", "more"]),
}
for task, teacher in teachers.items():
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    with (trainer := BasicTrainer(TrainingConfig(**quiet), teacher)):
        trainer.train(optimizer, loader_of(rows_of(task, options.rows, seed=1)), num_epochs=options.teacher_epochs)

# The student takes its shape, its tasks and their labels from the teachers, and is told the task of each batch.
student = MultiTaskStudent.from_teachers(teachers, StudentConfig(num_layers=2, hidden_size=32, num_attention_heads=4))
distiller = MultiTaskDistiller(
    TrainingConfig(**quiet), DistillationConfig(temperature=2), teachers, student, task_argument="task"
)
with distiller:
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    loaders = {task: loader_of(rows_of(task, options.rows, seed=2)) for task in teachers}
    distiller.train(optimizer, loaders, num_steps=options.steps)

for task, teacher in teachers.items():
    held_out = rows_of(task, 1000, seed=99)
    print(f"{task:<6} teacher {accuracy(teacher, held_out):.3f} student {accuracy(student, held_out, task=task):.3f}")
