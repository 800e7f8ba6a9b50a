"""CoNLL-2003: names of people, places and organisations in English news, from BERT to a smaller student.

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
parser.add_argument("--teacher", help="folder or hub name; by default google-bert/bert-base-cased, or a small one")
parser.add_argument("--student", choices=["T6", "T3", "T3-small", "T4-tiny", "T12-nano"], help="by default T4-tiny")
parser.add_argument("--train", type=Path, help="a CoNLL file to train on instead, with --test")
parser.add_argument("--test", type=Path, help="a CoNLL file to test on instead, with --train")
parser.add_argument("--epochs", type=int, help="of the student")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", type=Path, default=Path("runs/conll2003"))
parser.add_argument("--resume", action="store_true", help="go on after the checkpoints in the output folder")

# Jordan and Paris may be people or places, and any place part of an organisation: only the words around them tell.
PEOPLE, PLACES = ["Ann", "Bob", "Jordan", "Paris"], ["Bern", "Rome", "Jordan", "Paris"]
SENTENCES = ["PER flew to LOC .", "PER works for ORG .", "ORG is in LOC .", "in LOC it rained .", "PER met PER ."]


def write_made_up(path, number, seed):
    """A file in CoNLL's form: a token and its tag a line, an empty line between sentences."""
    draw, lines = random.Random(seed), []
    for _ in range(number):
        for word in draw.choice(SENTENCES).split():
            if word == "PER":
                surname = draw.choice([[], ["Smith I-PER"]])
                lines += [f"{draw.choice(PEOPLE)} B-PER", *surname]
            elif word == "LOC":
                lines.append(f"{draw.choice(PLACES)} B-LOC")
            elif word == "ORG":
                lines += [f"{draw.choice(PLACES)} B-ORG", f"{draw.choice(['Bank', 'University'])} I-ORG"]
            else:
                lines.append(f"{word} O")
        lines.append("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def small_teacher(task, table):
    """A tokenizer of the words there are, and a BERT of 4 layers."""
    words = sorted({word for row in table for word in row["tokens"]})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *words]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=False)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    # Wide first weights and no dropout, so that it learns in few steps.
    wide = {"initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=128, **sizes, **wide, **task.model_settings())
    return tokenizer, BertForTokenClassification(config)


def main():
    options = parser.parse_args()
    if not options.offline and (options.train is None) != (options.test is None):
        given = "--test" if options.train is None else "--train"
        parser.error(f"--train and --test: expected both or neither, got {given} alone; give the other too")
    set_seed(options.seed)
    columns = None
    if options.offline:
        options.train = options.train or write_made_up(options.output_dir / "train.conll", 400, seed=1)
        options.test = options.test or write_made_up(options.output_dir / "test.conll", 300, seed=2)
        size, teacher_epochs, epochs, teacher_rate, rate = StudentConfig(num_layers=2), 4, 4, 1e-3, 1e-3
    else:
        size, teacher_epochs, epochs, teacher_rate, rate = "T4-tiny", 3, 50, 3e-5, 1e-4
    if options.train and options.test:
        # In this format whatever the files are called: those of the shared task are eng.train and eng.testb.
        table, held_out = read(options.train, "conll"), read(options.test, "conll")
    else:
        # The hub's own copy of this dataset as Parquet, since its repository holds a script.
        hub = {"source": "eriktks/conll2003", "revision": "refs/convert/parquet"}
        table, held_out, columns = read(**hub, split="train"), read(**hub, split="test"), {"tags": "ner_tags"}
    task = TokenClassification.from_data(table, columns, max_length=128)
    if options.offline and options.teacher is None:
        tokenizer, teacher = small_teacher(task, table)
    else:
        name = options.teacher or "google-bert/bert-base-cased"
        tokenizer, teacher = AutoTokenizer.from_pretrained(name), task.load(name)
    size, epochs = options.student or size, epochs if options.epochs is None else options.epochs
    train_data, test_data = (task.encode(task.rows(each, columns), tokenizer) for each in (table, held_out))
    print(train_data.report)

    def training(name):
        return TrainingConfig(output_dir=options.output_dir / name)

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

    # The student learns the teacher's soft labels of each word, and its hidden states.
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
    student.save_pretrained(options.output_dir / "student")
    tokenizer.save_pretrained(options.output_dir / "student")

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
        sys.exit(f"conll2003: {error}")
