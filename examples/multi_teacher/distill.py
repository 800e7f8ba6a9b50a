"""Two teachers of different widths, depths and label orders, one student, a toy task that can be learned in seconds.

The task: which of two tokens occurs more often in a text. Each teacher learns it from texts of its own.
"""

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from textbrewer import BasicTrainer, DistillationConfig, MultiTeacherDistiller, TrainingConfig

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--combine", default="probabilities", choices=["logits", "probabilities", "losses"])
parser.add_argument("--teacher-weights", default="confidence", choices=["uniform", "confidence", "loss"])
parser.add_argument("--rows", type=int, default=1500, help="texts of each model")
parser.add_argument("--teacher-epochs", type=int, default=8)
parser.add_argument("--epochs", type=int, default=12)
options = parser.parse_args()
torch.manual_seed(0)

FEWER, MORE = 5, 6


def texts(number, seed):
    generator = torch.Generator().manual_seed(seed)
    made = []
    while len(made) < number:
        ids = torch.randint(5, 7, (13,), generator=generator)
        label = int((ids == MORE).sum() > (ids == FEWER).sum())
        made.append({"input_ids": ids, "attention_mask": torch.ones(13).long(), "labels": torch.tensor(label)})
    return made


def model(layers, width, labels=("fewer", "more")):
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=2,
        intermediate_size=2 * width,
        vocab_size=8,
        max_position_embeddings=16,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return BertForSequenceClassification(config)


def accuracy(trained, rows, swapped=False):
    trained.eval()
    with torch.no_grad():
        ids = torch.stack([row["input_ids"] for row in rows])
        found = trained(input_ids=ids.to(trained.device)).logits.argmax(-1).cpu()
    expected = torch.stack([row["labels"] for row in rows])
    return ((1 - found if swapped else found) == expected).float().mean().item()


def loader_of(rows):
    return DataLoader(rows, batch_size=32, shuffle=True)


quiet = {"ckpt_frequency": 0, "output_dir": "runs/multi_teacher"}
first, second, student = model(3, 48), model(2, 32, labels=("more", "fewer")), model(1, 32)
held_out = texts(1000, seed=99)

# The second teacher calls class 0 "more": its labels are swapped, and a map tells the distiller.
swapped = [{**row, "labels": 1 - row["labels"]} for row in texts(options.rows, seed=2)]
for teacher, rows in ((first, texts(options.rows, seed=1)), (second, swapped)):
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
    with (trainer := BasicTrainer(TrainingConfig(**quiet), teacher)):
        trainer.train(optimizer, loader_of(rows), num_epochs=options.teacher_epochs)

distill_config = DistillationConfig(
    temperature=2,
    intermediate_matches=[
        {"layer_T": 3, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 0.1, "proj": "auto"},
        {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 0.1, "teacher": 1},
    ],
)
distiller = MultiTeacherDistiller(
    TrainingConfig(**quiet),
    distill_config,
    [first, second],
    student,
    combine=options.combine,
    teacher_weights=options.teacher_weights,
    label_maps=[None, "names"],
)
with distiller:
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    distiller.train(optimizer, loader_of(texts(options.rows, seed=3)), num_epochs=options.epochs)

print(f"first teacher  {accuracy(first, held_out):.3f}")
print(f"second teacher {accuracy(second, held_out, swapped=True):.3f}")
print(f"student        {accuracy(student, held_out):.3f}")
