"""SQuAD 1.1: answers found in English paragraphs, from BERT to a smaller student, on questions and variants of them.

With --offline the questions are made up and the models are small, so that the whole way takes seconds.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
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
from textbrewer.data_utils import Augmenter
from textbrewer.errors import TextBrewerError
from textbrewer.tasks import QuestionAnswering, read

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--offline", action="store_true", help="made-up questions, small models, nothing downloaded")
parser.add_argument("--teacher", help="folder or hub name; by default google-bert/bert-base-cased, or a small one")
parser.add_argument("--student", choices=["T6", "T3", "T3-small", "T4-tiny", "T12-nano"], help="by default T4-tiny")
parser.add_argument("--variants", type=int, default=1, help="of each paragraph, with other words masked in each")
parser.add_argument("--epochs", type=int, help="of the student")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", type=Path, default=Path("runs/squad"))
parser.add_argument("--resume", action="store_true", help="go on after the checkpoints in the output folder")


def made_up(number, seed):
    """Who moved where and when, behind some other words."""
    draw, rows = random.Random(seed), []
    for _ in range(number):
        found = {
            "who": draw.choice(["ann", "bob", "eve", "dan"]),
            "where": draw.choice(["bern", "rome", "oslo", "kyiv"]),
            "when": draw.choice(["1950", "1962", "1987", "2001"]),
        }
        before = " ".join(draw.choices(["it", "was", "cold", "and", "rain", "fell"], k=draw.randint(0, 8)))
        context = f"{before} . in {found['when']} {found['who']} moved to {found['where']} by train ."
        asked = draw.choice(sorted(found))
        answer = {"text": [found[asked]], "answer_start": [context.index(found[asked])]}
        rows.append({"question": f"{asked} was the move ?", "context": context, "answers": answer})
    return rows


def small_teacher(task, rows):
    """A tokenizer of the words there are, and a BERT of 4 layers."""
    words = sorted({word for row in rows for text in (row["question"], row["context"]) for word in text.split()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    # Wide first weights and no dropout, so that it learns in few steps.
    wide = {"initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=64, **sizes, **wide, **task.model_settings())
    return tokenizer, BertForQuestionAnswering(config)


def main():
    options = parser.parse_args()
    set_seed(options.seed)
    if options.offline:
        # Windows of 24 tokens, so that longer paragraphs are read in two.
        task = QuestionAnswering(max_length=24, doc_stride=8, max_question_length=6)
        rows, held_out = made_up(400, seed=1), made_up(300, seed=2)
        size, teacher_epochs, epochs, teacher_rate, rate = StudentConfig(num_layers=2), 5, 3, 1e-3, 1e-3
    else:
        task = QuestionAnswering(max_length=384, doc_stride=128)
        rows, held_out = (read("rajpurkar/squad", split=name) for name in ("train", "validation"))
        size, teacher_epochs, epochs, teacher_rate, rate = "T4-tiny", 2, 30, 3e-5, 1.5e-4
    if options.offline and options.teacher is None:
        tokenizer, teacher = small_teacher(task, rows)
    else:
        name = options.teacher or "google-bert/bert-base-cased"
        tokenizer, teacher = AutoTokenizer.from_pretrained(name), task.load(name)
    size, epochs = options.student or size, epochs if options.epochs is None else options.epochs
    labelled, test_data = task.encode(rows, tokenizer), task.encode(held_out, tokenizer)
    print(labelled.report)

    # Of each paragraph variants too, with some words masked, but never the answer.
    augmenter = Augmenter("context", n=options.variants, answers="answers", mask=tokenizer.mask_token)
    train_data = task.encode([*rows, *augmenter.over(rows)], tokenizer)

    def training(name):
        return TrainingConfig(output_dir=options.output_dir / name)

    def train(trainer, model, data, epochs, rate):
        loader = data.loader(32, shuffle_seed=options.seed)
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

    # A teacher for the task: the pretrained model, trained on the questions as they are.
    trainer = BasicTrainer(training("teacher"), teacher, task.adaptor(teacher))
    train(trainer, teacher, labelled, teacher_epochs, teacher_rate)

    # The student learns where the teacher sees starts and ends, and its hidden states.
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
    adaptors = task.adaptors(teacher, student, distill_config)
    distiller = GeneralDistiller(training("student"), distill_config, teacher, student, *adaptors)
    train(distiller, student, train_data, epochs, rate)
    student.save_pretrained(options.output_dir / "student")
    tokenizer.save_pretrained(options.output_dir / "student")

    # What distillation is worth: the same student, trained as long on the answers alone.
    alone = build_student(teacher, size, seed=options.seed)
    train(BasicTrainer(training("no_teacher"), alone, task.adaptor(alone)), alone, train_data, epochs, rate)

    print(f"\n{'':<12}{'exact_match':>12}{'f1':>8}")
    for name, model in {"teacher": teacher, "student": student, "no teacher": alone}.items():
        scores = task.evaluate(model, test_data)
        print(f"{name:<12}{scores['exact_match']:12.3f}{scores['f1']:8.3f}")


if __name__ == "__main__":
    try:
        main()
    except (TextBrewerError, OSError) as error:
        sys.exit(f"squad: {error}")
