"""MNLI: whether a sentence follows from another, from several BERT teachers to one student.

Layers are matched one to one, or with --emd each with all, by the cheapest transport between them.
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
    BasicTrainer,
    DistillationConfig,
    MultiTeacherDistiller,
    StudentConfig,
    TrainingConfig,
    build_student,
    matches,
)
from textbrewer.errors import TextBrewerError
from textbrewer.tasks import glue_task, read

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--offline", action="store_true", help="made-up sentences, small models, nothing downloaded")
parser.add_argument("--teacher", nargs="+", help="folders or hub names; by default google-bert/bert-base-cased twice")
parser.add_argument("--student", choices=["T6", "T3", "T3-small", "T4-tiny", "T12-nano"], help="by default T4-tiny")
parser.add_argument("--emd", action="store_true", help="match every layer with every layer of the teachers")
parser.add_argument("--epochs", type=int, help="of the student")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", type=Path, default=Path("runs/mnli"))
parser.add_argument("--resume", action="store_true", help="go on after the checkpoints in the output folder")

ANIMALS = ["cat", "dog", "fox", "cow"]


def made_up(number, seed):
    """Whether an animal is seen: the same one follows, none of it contradicts, another may be there too."""
    draw, rows = random.Random(seed), []
    for _ in range(number):
        seen, other = draw.sample(ANIMALS, 2)
        label, said = draw.choice(
            [("entailment", f"a {seen}"), ("neutral", f"a {other}"), ("contradiction", f"no {seen}")]
        )
        who = draw.choice(["ann", "bob"])
        rows.append({"premise": f"{who} sees a {seen}", "hypothesis": f"there is {said}", "label": label})
    return rows


def small_teacher(task, rows, layers):
    """A tokenizer of the words there are, and a BERT with so many layers."""
    words = sorted({word for row in rows for text in (row["premise"], row["hypothesis"]) for word in text.split()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    sizes = {"hidden_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 128}
    # Wide first weights and no dropout, so that it learns in few steps.
    wide = {"initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=128, **sizes, **wide, **task.model_settings())
    return tokenizer, BertForSequenceClassification(config)


def main():
    options = parser.parse_args()
    set_seed(options.seed)
    task = glue_task("mnli", max_length=128)
    if options.offline:
        rows, tests = made_up(1000, seed=1), {"made up": made_up(400, seed=2)}
        size, teacher_epochs, epochs, teacher_rate, rate = StudentConfig(num_layers=2), 5, 5, 1e-3, 1e-3
    else:
        rows = read("nyu-mll/glue", config="mnli", split="train")
        kinds = ("matched", "mismatched")
        tests = {kind: read("nyu-mll/glue", config="mnli", split=f"validation_{kind}") for kind in kinds}
        size, teacher_epochs, epochs, teacher_rate, rate = "T4-tiny", 3, 30, 2e-5, 1e-4
    if options.offline and options.teacher is None:
        tokenizers, teachers = zip(*(small_teacher(task, rows, layers) for layers in (4, 3)), strict=True)
    else:
        names = options.teacher or 2 * ["google-bert/bert-base-cased"]
        tokenizers, teachers = zip(*((AutoTokenizer.from_pretrained(n), task.load(n)) for n in names), strict=True)
    if any(tokenizer.get_vocab() != tokenizers[0].get_vocab() for tokenizer in tokenizers):
        parser.error("--teacher: all teachers read the same batches, so they need the same vocabulary")
    size, epochs = options.student or size, epochs if options.epochs is None else options.epochs
    train_data = task.encode(rows, tokenizers[0])
    print(train_data.report)

    def training(name):
        return TrainingConfig(output_dir=options.output_dir / name)

    def train(trainer, model, epochs, rate, seed=options.seed):
        loader = train_data.loader(32, shuffle_seed=seed)
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

    # Teachers that are alike learn from the rows in different orders, with heads that began differently.
    for i, teacher in enumerate(teachers):
        trainer = BasicTrainer(training(f"teacher{i}"), teacher, task.adaptor(teacher))
        train(trainer, teacher, teacher_epochs, teacher_rate, seed=options.seed + i)

    # The student learns from the mean of their logits, and its layers from the layers of each.
    student = build_student(teachers[0], size, seed=options.seed)
    rule = matches.many_to_many if options.emd else matches.uniform
    distill_config = DistillationConfig(
        kd_loss_type="kl",
        temperature=4,
        intermediate_matches=[
            {**match, "teacher": i}
            for i, teacher in enumerate(teachers)
            for match in rule(
                teacher.config.num_hidden_layers,
                student.config.num_hidden_layers,
                loss="hidden_mse_valid",
                teacher_width=teacher.config.hidden_size,
                student_width=student.config.hidden_size,
            )
        ],
    )
    adaptors = [task.adaptors(teacher, student, distill_config) for teacher in teachers]
    distiller = MultiTeacherDistiller(
        training("student_emd" if options.emd else "student"),
        distill_config,
        teachers,
        student,
        [of_teacher for of_teacher, _ in adaptors],
        adaptors[0][1],
    )
    train(distiller, student, epochs, rate)
    student.save_pretrained(distiller.t_config.output_dir)
    tokenizers[0].save_pretrained(distiller.t_config.output_dir)

    # What distillation is worth: the same student, trained as long on the labels alone.
    alone = build_student(teachers[0], size, seed=options.seed)
    train(BasicTrainer(training("no_teacher"), alone, task.adaptor(alone)), alone, epochs, rate)

    print("\naccuracy    " + "  ".join(f"{kind:>10}" for kind in tests))
    encoded = {kind: task.encode(test, tokenizers[0]) for kind, test in tests.items()}
    models = {f"teacher {i}": teacher for i, teacher in enumerate(teachers)}
    for name, model in {**models, "student": student, "no teacher": alone}.items():
        print(f"{name:<12}" + "  ".join(f"{task.evaluate(model, data)['accuracy']:10.3f}" for data in encoded.values()))


if __name__ == "__main__":
    try:
        main()
    except (TextBrewerError, OSError) as error:
        sys.exit(f"mnli: {error}")
