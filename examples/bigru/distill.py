"""A recurrent student: the sentiment of sentences from film reviews, from BERT to a BiGRU, with variants of the text.

With --offline the sentences are made up and the models are small, so that the whole way takes seconds.
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
    BasicDistiller,
    BasicTrainer,
    DistillationConfig,
    StudentConfig,
    TeacherCache,
    TrainingConfig,
    build_student,
)
from textbrewer.data_utils import Augmenter
from textbrewer.errors import TextBrewerError
from textbrewer.tasks import glue_task, read

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--offline", action="store_true", help="made-up sentences, small models, nothing downloaded")
parser.add_argument("--teacher", help="folder or hub name; by default google-bert/bert-base-uncased, or a small one")
parser.add_argument("--variants", type=int, default=2, help="of each sentence, for the student to learn from")
parser.add_argument("--epochs", type=int, help="of the student")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", type=Path, default=Path("runs/bigru"))
parser.add_argument("--resume", action="store_true", help="go on after the checkpoints in the output folder")

WORDS = {"positive": ["good", "moving", "clever", "warm"], "negative": ["bad", "dull", "silly", "cold"]}


def made_up(number, seed):
    """Reviews as positive as their adjective, or the other way round after "not"."""
    draw, rows = random.Random(seed), []
    for _ in range(number):
        kind, other = draw.sample(sorted(WORDS), 2)
        subject = draw.choice(["film", "plot", "cast", "end"])
        said = draw.choice([draw.choice(WORDS[kind]), f"not {draw.choice(WORDS[other])}"])
        rows.append({"sentence": f"the {subject} is {said} , {draw.choice(['i', 'we'])} think", "label": kind})
    return rows


def small_teacher(task, rows):
    """A tokenizer of the words there are, and a BERT of 4 layers."""
    words = sorted({word for row in rows for word in row["sentence"].split()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    # Wide first weights and no dropout, so that it learns in few steps.
    wide = {"initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=64, **sizes, **wide, **task.model_settings())
    return tokenizer, BertForSequenceClassification(config)


def main():
    options = parser.parse_args()
    set_seed(options.seed)
    task = glue_task("sst2", max_length=64)
    if options.offline:
        rows, held_out = made_up(500, seed=1), made_up(400, seed=2)
        size, teacher_epochs, epochs, teacher_rate, rate = StudentConfig(num_layers=1, family="bigru"), 4, 3, 1e-3, 2e-3
    else:
        rows, held_out = (read("nyu-mll/glue", config="sst2", split=name) for name in ("train", "validation"))
        size, teacher_epochs, epochs, teacher_rate, rate = "BiGRU", 3, 10, 2e-5, 1e-3
    if options.offline and options.teacher is None:
        tokenizer, teacher = small_teacher(task, rows)
    else:
        name = options.teacher or "google-bert/bert-base-uncased"
        tokenizer, teacher = AutoTokenizer.from_pretrained(name), task.load(name)
    epochs = epochs if options.epochs is None else options.epochs
    labelled, test_data = task.encode(rows, tokenizer), task.encode(held_out, tokenizer)
    # Variants have no label: a sentence with words masked or left out may say something else. The teacher tells.
    augmenter = Augmenter("sentence", n=options.variants, drop="label", mask=tokenizer.mask_token)
    train_data = task.encode([*rows, *augmenter.over(rows)], tokenizer)
    print(train_data.report)
    teacher_steps, steps = (n * len(data) // 32 for n, data in ((teacher_epochs, labelled), (epochs, train_data)))

    def training(name):
        return TrainingConfig(output_dir=options.output_dir / name, ckpt_steps=1000)

    def train(trainer, model, data, steps, rate):
        with trainer:
            trainer.train(
                torch.optim.AdamW(model.parameters(), lr=rate),
                data.loader(32, shuffle_seed=options.seed),
                num_steps=steps,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": steps // 10, "num_training_steps": steps},
                max_grad_norm=1.0,
                resume="auto" if options.resume else None,
            )

    # A teacher for the task: the pretrained model, trained on the labels.
    trainer = BasicTrainer(training("teacher"), teacher, task.adaptor(teacher))
    train(trainer, teacher, labelled, teacher_steps, teacher_rate)

    # The student reads with the teacher's token embeddings, and learns its soft labels of all sentences.
    student = build_student(teacher, size, seed=options.seed)
    distill_config = DistillationConfig(kd_loss_type="kl", temperature=4)
    distiller = BasicDistiller(
        training("student"),
        distill_config,
        teacher,
        student,
        *task.adaptors(teacher, student, distill_config),
        teacher_cache=TeacherCache(options.output_dir / "cache"),
    )
    train(distiller, student, train_data, steps, rate)
    student.save_pretrained(options.output_dir / "student")
    tokenizer.save_pretrained(options.output_dir / "student")

    # What distillation is worth: the same student, trained for as many steps on the labels alone.
    alone = build_student(teacher, size, seed=options.seed)
    train(BasicTrainer(training("no_teacher"), alone, task.adaptor(alone)), alone, labelled, steps, rate)

    print(f"\n{'':<12}{task.main_metric}")
    for name, model in {"teacher": teacher, "student": student, "no teacher": alone}.items():
        print(f"{name:<12}{task.evaluate(model, test_data)[task.main_metric]:.3f}")


if __name__ == "__main__":
    try:
        main()
    except (TextBrewerError, OSError) as error:
        sys.exit(f"bigru: {error}")
