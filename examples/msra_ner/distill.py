"""MSRA NER: names in Chinese news, character by character, trained by several processes.

    torchrun --nproc-per-node 2 examples/msra_ner/distill.py

With --offline the sentences are made up and the models are small, so that the whole way takes seconds.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForTokenClassification,
    BertTokenizerFast,
    get_linear_schedule_with_warmup,
    set_seed,
)

from textbrewer import (
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    StudentConfig,
    TeacherCache,
    TrainingConfig,
    build_student,
    matches,
)
from textbrewer.errors import TextBrewerError
from textbrewer.tasks import TokenClassification, read

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--offline", action="store_true", help="made-up sentences, small models, nothing downloaded")
parser.add_argument("--teacher", help="folder or hub name; by default hfl/chinese-electra-180g-base-discriminator")
parser.add_argument(
    "--student", choices=["T6", "T3", "T3-small", "T4-tiny", "ELECTRA-small"], help="by default the last"
)
parser.add_argument("--epochs", type=int, help="of the student")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", type=Path, default=Path("runs/msra_ner"))
parser.add_argument("--resume", action="store_true", help="go on after the checkpoints in the output folder")

SURNAMES, NAMES, PLACES = "王李张刘", "明华强芳", ["北京", "上海", "广州", "西安"]
SENTENCES = ["P在L工作。", "P是O的学生。", "O在L。", "昨天P到了L。", "L下了雨。", "明天王府井开会。"]


def made_up(number, seed):
    """Sentences with people, places and organisations that are named after places."""
    draw, rows = random.Random(seed), []
    for _ in range(number):
        tokens, tags = [], []
        for mark in draw.choice(SENTENCES):
            written = {
                "P": draw.choice(SURNAMES) + draw.choice(NAMES),
                "L": draw.choice(PLACES),
                "O": draw.choice(PLACES) + draw.choice(["大学", "银行"]),
            }.get(mark, mark)
            kind = {"P": "PER", "L": "LOC", "O": "ORG"}.get(mark)
            tokens += written
            tags += [f"B-{kind}", *[f"I-{kind}"] * (len(written) - 1)] if kind else ["O"]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def small_teacher(task, rows):
    """A tokenizer of the characters there are, and a BERT of 4 layers."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({token for row in rows for token in row["tokens"]})]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    # Wide first weights and no dropout, so that it learns in few steps.
    wide = {"initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=128, **sizes, **wide, **task.model_settings())
    return tokenizer, BertForTokenClassification(config)


def main():
    options = parser.parse_args()
    # Every process builds the same models, and their gradients are averaged. One of them prints and saves.
    set_seed(options.seed)
    processes = PartialState(cpu=options.offline)
    if options.offline:
        rows, held_out = made_up(400, seed=1), made_up(300, seed=2)
        size, teacher_epochs, epochs, teacher_rate, rate = StudentConfig(num_layers=2), 4, 4, 1e-3, 1e-3
    else:
        # The hub's own copy of this dataset as Parquet, since its repository holds a script.
        hub = {"source": "levow/msra_ner", "revision": "refs/convert/parquet"}
        rows, held_out = read(**hub, split="train"), read(**hub, split="test")
        size, teacher_epochs, epochs, teacher_rate, rate = "ELECTRA-small", 3, 30, 3e-5, 2e-4
    task = TokenClassification.from_data(rows, max_length=128, units="characters")
    if options.offline and options.teacher is None:
        tokenizer, teacher = small_teacher(task, rows)
    else:
        name = options.teacher or "hfl/chinese-electra-180g-base-discriminator"
        tokenizer, teacher = AutoTokenizer.from_pretrained(name), task.load(name)
    size, epochs = options.student or size, epochs if options.epochs is None else options.epochs
    train_data, test_data = task.encode(rows, tokenizer), task.encode(held_out, tokenizer)

    def training(name):
        return TrainingConfig(output_dir=options.output_dir / name)

    def train(trainer, model, epochs, rate):
        # Each process is given all batches and takes its own: an epoch has fewer steps the more of them there are.
        loader = train_data.loader(16, shuffle_seed=options.seed)
        steps = epochs * (len(loader) // processes.num_processes)
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

    # The student learns the teacher's soft labels of each character, and its hidden states.
    student = build_student(teacher, size, seed=options.seed)
    distill_config = DistillationConfig(
        kd_loss_type="kl",
        temperature=4,
        intermediate_matches=matches.uniform(
            teacher.config.num_hidden_layers,
            student.config.num_hidden_layers,
            loss="hidden_mse_valid",
            teacher_width=teacher.config.hidden_size,
            student_width=student.config.hidden_size,
        ),
    )
    distiller = GeneralDistiller(
        training("student"),
        distill_config,
        teacher,
        student,
        *task.adaptors(teacher, student, distill_config),
        teacher_cache=TeacherCache(options.output_dir / "cache"),
    )
    train(distiller, student, epochs, rate)

    # What distillation is worth: the same student, trained as long on the labels alone.
    alone = build_student(teacher, size, seed=options.seed)
    train(BasicTrainer(training("no_teacher"), alone, task.adaptor(alone)), alone, epochs, rate)

    if processes.is_main_process:
        student.save_pretrained(options.output_dir / "student")
        tokenizer.save_pretrained(options.output_dir / "student")
        print(f"{train_data.report}\n\n{'':<12}{task.main_metric}")
        for name, model in {"teacher": teacher, "student": student, "no teacher": alone}.items():
            print(f"{name:<12}{task.evaluate(model, test_data)[task.main_metric]:.3f}")


if __name__ == "__main__":
    try:
        main()
    except (TextBrewerError, OSError) as error:
        sys.exit(f"msra_ner: {error}")
