"""Pairs of Chinese sentences: the same question (LCQMC), or one that follows from the other (XNLI).

With --offline the pairs are made up and the models are small, so that the whole way takes seconds.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    get_linear_schedule_with_warmup,
    set_seed,
)

from textbrewer import (
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    StudentConfig,
    TrainingConfig,
    build_student,
    matches,
)
from textbrewer.errors import TextBrewerError
from textbrewer.tasks import TextClassification, read

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", choices=["lcqmc", "xnli"], default="lcqmc")
parser.add_argument("--offline", action="store_true", help="made-up pairs, small models, nothing downloaded")
parser.add_argument("--teacher", help="folder or hub name; by default hfl/chinese-roberta-wwm-ext, or a small one")
parser.add_argument("--student", choices=["T6", "T3", "T3-small", "T4-tiny", "T12-nano"], help="by default T4-tiny")
parser.add_argument("--epochs", type=int, help="of the student")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", type=Path, help="by default runs/lcqmc or runs/xnli")
parser.add_argument("--resume", action="store_true", help="go on after the checkpoints in the output folder")

TASKS = {
    "lcqmc": TextClassification({"0": "different", "1": "same"}, max_length=128),
    "xnli": TextClassification(["entailment", "neutral", "contradiction"], max_length=128),
}
HUB = {"lcqmc": {"source": "C-MTEB/LCQMC"}, "xnli": {"source": "facebook/xnli", "config": "zh"}}
PLACES = ["北京", "上海", "广州", "西安"]


def made_up(data, number, seed):
    """Ways to places: the same place or another one, and for XNLI going there or not."""
    draw, rows = random.Random(seed), []
    for _ in range(number):
        place, other = draw.sample(PLACES, 2)
        if data == "lcqmc":
            said, label = draw.choice([(place, "same"), (other, "different")])
            texts = (draw.choice(["怎么去{}", "去{}怎么走"]).format(place), f"到{said}的路")
            rows.append({"sentence1": texts[0], "sentence2": texts[1], "label": label})
        else:
            went, label = draw.choice(
                [(f"去了{place}", "entailment"), (f"去了{other}", "neutral"), (f"没去{place}", "contradiction")]
            )
            rows.append(
                {"premise": f"{draw.choice('王李张')}先生到了{place}", "hypothesis": f"他{went}", "label": label}
            )
    return rows


def small_teacher(task, rows):
    """A tokenizer of the characters there are, and a BERT of 4 layers."""
    pieces = sorted({piece for row in rows for column, text in row.items() if column != "label" for piece in text})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    # BERT's tokenizer makes a word of each Chinese character.
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    # Wide first weights and no dropout, so that it learns in few steps.
    wide = {"initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=128, **sizes, **wide, **task.model_settings())
    return tokenizer, BertForSequenceClassification(config)


def main():
    options = parser.parse_args()
    set_seed(options.seed)
    task, folder = TASKS[options.data], options.output_dir or Path("runs") / options.data
    if options.offline:
        rows, held_out = made_up(options.data, 1000, seed=1), made_up(options.data, 400, seed=2)
        size, teacher_epochs, epochs, teacher_rate, rate = StudentConfig(num_layers=2), 5, 5, 1e-3, 1e-3
    else:
        rows, held_out = (read(**HUB[options.data], split=name) for name in ("train", "test"))
        size, teacher_epochs, epochs, teacher_rate, rate = "T4-tiny", 3, 30, 2e-5, 1e-4
    if options.offline and options.teacher is None:
        tokenizer, teacher = small_teacher(task, rows)
    else:
        name = options.teacher or "hfl/chinese-roberta-wwm-ext"
        tokenizer, teacher = AutoTokenizer.from_pretrained(name), task.load(name)
    size, epochs = options.student or size, epochs if options.epochs is None else options.epochs
    # The columns of the pairs and the labels are found by their names; the report says which.
    train_data, test_data = task.encode(rows, tokenizer), task.encode(held_out, tokenizer)
    print(train_data.report)

    def training(name):
        return TrainingConfig(output_dir=folder / name)

    def train(trainer, model, epochs, rate):
        loader = train_data.loader(32, shuffle_seed=options.seed)
        steps = epochs * len(loader)
        with trainer:
            trainer.train(
                torch.optim.AdamW(model.parameters(), lr=rate),
                loader,
                num_epochs=epochs,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": steps // 10, "num_training_steps": steps},
                max_grad_norm=1.0,
                resume="auto" if options.resume else None,
            )

    # A teacher for the task: the pretrained model, trained on the labels.
    train(BasicTrainer(training("teacher"), teacher, task.adaptor(teacher)), teacher, teacher_epochs, teacher_rate)

    # The student learns the teacher's soft labels, its hidden states, and which tokens are alike in them.
    student = build_student(teacher, size, seed=options.seed)
    depths = teacher.config.num_hidden_layers, student.config.num_hidden_layers
    widths = {"teacher_width": teacher.config.hidden_size, "student_width": student.config.hidden_size}
    distill_config = DistillationConfig(
        kd_loss_type="kl",
        temperature=4,
        intermediate_matches=[
            *matches.uniform(*depths, loss="hidden_mse_valid", **widths),
            *matches.uniform(*depths, loss="mmd_valid", **widths),
        ],
    )
    adaptors = task.adaptors(teacher, student, distill_config)
    distiller = GeneralDistiller(training("student"), distill_config, teacher, student, *adaptors)
    train(distiller, student, epochs, rate)
    student.save_pretrained(folder / "student")
    tokenizer.save_pretrained(folder / "student")

    # What distillation is worth: the same student, trained as long on the labels alone.
    alone = build_student(teacher, size, seed=options.seed)
    train(BasicTrainer(training("no_teacher"), alone, task.adaptor(alone)), alone, epochs, rate)

    print(f"\n{'':<12}{task.main_metric}")
    for name, model in {"teacher": teacher, "student": student, "no teacher": alone}.items():
        print(f"{name:<12}{task.evaluate(model, test_data)[task.main_metric]:.3f}")


if __name__ == "__main__":
    try:
        main()
    except (TextBrewerError, OSError) as error:
        sys.exit(f"lcqmc_xnli: {error}")
