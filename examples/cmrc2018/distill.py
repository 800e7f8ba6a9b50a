"""CMRC 2018: answers found in Chinese paragraphs, from RoBERTa-wwm to a smaller student.

The student also learns from the questions of DRCD, of which only the teacher says the answers.
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
from textbrewer.errors import TextBrewerError
from textbrewer.tasks import QuestionAnswering, read

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--offline", action="store_true", help="made-up questions, small models, nothing downloaded")
parser.add_argument("--teacher", help="folder or hub name; by default hfl/chinese-roberta-wwm-ext, or a small one")
parser.add_argument("--student", choices=["T6", "T3", "T3-small", "T4-tiny", "T12-nano"], help="by default T3")
parser.add_argument("--epochs", type=int, help="of the student")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", type=Path, default=Path("runs/cmrc2018"))
parser.add_argument("--resume", action="store_true", help="go on after the checkpoints in the output folder")

QUESTIONS = {"谁": "谁去了那里？", "地": "他去了哪里？", "年": "他哪年去的？"}


def made_up(number, seed, template):
    """Who went where in which year, behind some other words."""
    draw, rows = random.Random(seed), []
    for _ in range(number):
        found = {
            "谁": draw.choice("王李张刘") + draw.choice("明华强芳"),
            "地": draw.choice(["北京", "上海", "广州", "西安"]),
            "年": draw.choice(["一九五三", "一九八七", "二零一二"]),
        }
        before = "".join(draw.choices(["那时", "天很冷", "下着雨"], k=draw.randint(0, 3)))
        context = f"{before}，{template.format(**found)}"
        asked = draw.choice(sorted(found))
        answer = {"text": [found[asked]], "answer_start": [context.index(found[asked])]}
        rows.append({"question": QUESTIONS[asked], "context": context, "answers": answer})
    return rows


def small_teacher(task, rows):
    """A tokenizer of the characters there are, and a BERT of 4 layers."""
    pieces = sorted({piece for row in rows for text in (row["question"], row["context"]) for piece in text})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    # BERT's tokenizer makes a word of each Chinese character.
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
        task = QuestionAnswering(rules="cmrc", max_length=48, doc_stride=16, max_question_length=8)
        rows, held_out = (made_up(number, number, "{年}年{谁}去了{地}。") for number in (500, 300))
        more = made_up(300, 3, "{谁}在{年}年到了{地}。")
        size, teacher_epochs, epochs, teacher_rate, rate = StudentConfig(num_layers=2), 5, 4, 1e-3, 1e-3
    else:
        task = QuestionAnswering(rules="cmrc", max_length=512, doc_stride=128, max_answer_length=50)
        rows, held_out = (read("hfl/cmrc2018", split=name) for name in ("train", "validation"))
        more = read("clue/clue", config="drcd", split="train")
        size, teacher_epochs, epochs, teacher_rate, rate = "T3", 2, 50, 3e-5, 1e-4
    if options.offline and options.teacher is None:
        tokenizer, teacher = small_teacher(task, [*rows, *more])
    else:
        name = options.teacher or "hfl/chinese-roberta-wwm-ext"
        tokenizer, teacher = AutoTokenizer.from_pretrained(name), task.load(name)
    size, epochs = options.student or size, epochs if options.epochs is None else options.epochs
    labelled, test_data = task.encode(rows, tokenizer), task.encode(held_out, tokenizer)
    # A row without answers is one that only the teacher knows something of.
    train_data = task.encode([*rows, *({**row, "answers": None} for row in more)], tokenizer)
    print(train_data.report)
    teacher_steps, steps = (n * len(data) // 32 for n, data in ((teacher_epochs, labelled), (epochs, train_data)))

    def training(name):
        return TrainingConfig(output_dir=options.output_dir / name, ckpt_steps=1000)

    def train(trainer, model, data, steps, rate):
        loader = data.loader(32, shuffle_seed=options.seed)
        with trainer:
            trainer.train(
                torch.optim.AdamW(model.parameters(), lr=rate),
                loader,
                num_steps=steps,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": steps // 10, "num_training_steps": steps},
                max_grad_norm=1.0,
                resume="auto" if options.resume else None,
            )

    # A teacher for the task: the pretrained model, trained on the answers of CMRC 2018.
    trainer = BasicTrainer(training("teacher"), teacher, task.adaptor(teacher))
    train(trainer, teacher, labelled, teacher_steps, teacher_rate)

    # The student learns where the teacher sees starts and ends in both, and its hidden states.
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
    train(distiller, student, train_data, steps, rate)
    student.save_pretrained(options.output_dir / "student")
    tokenizer.save_pretrained(options.output_dir / "student")

    # What distillation is worth: the same student, trained for as many steps on the answers alone.
    alone = build_student(teacher, size, seed=options.seed)
    train(BasicTrainer(training("no_teacher"), alone, task.adaptor(alone)), alone, labelled, steps, rate)

    print(f"\n{'':<12}{'exact_match':>12}{'f1':>8}")
    for name, model in {"teacher": teacher, "student": student, "no teacher": alone}.items():
        scores = task.evaluate(model, test_data)
        print(f"{name:<12}{scores['exact_match']:12.3f}{scores['f1']:8.3f}")


if __name__ == "__main__":
    try:
        main()
    except (TextBrewerError, OSError) as error:
        sys.exit(f"cmrc2018: {error}")
