"""A student for any task: text without labels, of which it learns to tell masked words as its BERT teacher does.

With --offline the text is made up and the models are small, so that the whole way takes seconds.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
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
from textbrewer.tasks import MaskedLM, read

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--offline", action="store_true", help="made-up text, small models, nothing downloaded")
parser.add_argument("--corpus", nargs="+", help="text files to learn from instead, a document a line; of any size")
parser.add_argument("--teacher", help="folder or hub name; by default google-bert/bert-base-uncased, or a small one")
parser.add_argument("--student", choices=["T6", "T3", "T3-small", "T4-tiny", "T12-nano"], help="by default T6")
parser.add_argument("--steps", type=int, help="of the student")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", type=Path, default=Path("runs/masked_lm"))
parser.add_argument("--resume", action="store_true", help="go on after the checkpoints in the output folder")

TRADES = {"baker": "bakes bread", "farmer": "grows corn", "smith": "forges iron", "tailor": "sews coats"}


def made_up(number, seed):
    """People whose trade tells what they do; their names can only be guessed."""
    draw = random.Random(seed)
    people = draw.choices(["ann", "bob", "eve"], k=number)
    return [f"{who} the {trade} {TRADES[trade]} for us" for who in people for trade in [draw.choice(sorted(TRADES))]]


def write_made_up(path, number, seed):
    """A text file, a document a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(made_up(number, seed)), encoding="utf-8")
    return path


def small_teacher(texts):
    """A tokenizer of the words there are, and a BERT of 4 layers."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in texts for word in text.split()})]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    # Wide first weights and no dropout, so that it learns in few steps.
    wide = {"initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tokenizer, BertForMaskedLM(BertConfig(vocab_size=len(pieces), max_position_embeddings=128, **sizes, **wide))


def main():
    options = parser.parse_args()
    set_seed(options.seed)
    hub = {"source": "Salesforce/wikitext", "config": "wikitext-103-raw-v1"}
    if options.offline:
        task, batch_size = MaskedLM(max_length=32, whole_words=True), 16
        options.corpus = options.corpus or [write_made_up(options.output_dir / "corpus.txt", 2000, seed=1)]
        held_out = [{"text": text} for text in made_up(400, seed=2)]
        size, teacher_steps, steps, rate = StudentConfig(num_layers=2), 300, 150, 2e-3
    else:
        task, batch_size = MaskedLM(max_length=128, whole_words=True), 64
        held_out = read(**hub, split="validation")
        size, teacher_steps, steps, rate = "T6", 0, 50_000, 1e-4
    if options.offline and options.teacher is None:
        tokenizer, teacher = small_teacher(made_up(400, seed=1))
    else:
        name, teacher_steps = options.teacher or "google-bert/bert-base-uncased", 0
        tokenizer, teacher = AutoTokenizer.from_pretrained(name), task.load(name)
    size, steps = options.student or size, steps if options.steps is None else options.steps
    test_data = task.encode(held_out, tokenizer)
    print(test_data.report)
    if options.corpus:
        # Read as it is needed: a corpus may be larger than the memory.
        loader = task.stream(options.corpus, tokenizer, batch_size, shuffle_seed=options.seed)
    else:
        loader = task.encode(read(**hub, split="train"), tokenizer).loader(batch_size, shuffle_seed=options.seed)

    def training(name):
        return TrainingConfig(output_dir=options.output_dir / name, ckpt_steps=1000)

    def train(trainer, model, steps):
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

    # A pretrained teacher knows the language already; the small one learns it here.
    if teacher_steps:
        train(BasicTrainer(training("teacher"), teacher, task.adaptor(teacher)), teacher, teacher_steps)

    # The student learns the masked words, what the teacher takes them for, and its hidden states.
    student = build_student(teacher, size, seed=options.seed)
    distill_config = DistillationConfig(
        kd_loss_type="kl",
        temperature=2,
        hard_label_weight=1,
        intermediate_matches=matches.uniform(
            teacher.config.num_hidden_layers,
            student.config.num_hidden_layers,
            loss="hidden_mse_valid",
            teacher_width=teacher.config.hidden_size,
            student_width=student.config.hidden_size,
        ),
    )
    # No teacher cache: text is masked anew each time it is seen, so the teacher is always asked something new.
    adaptors = task.adaptors(teacher, student, distill_config)
    distiller = GeneralDistiller(training("student"), distill_config, teacher, student, *adaptors)
    train(distiller, student, steps)
    student.save_pretrained(options.output_dir / "student")
    tokenizer.save_pretrained(options.output_dir / "student")

    # What distillation is worth: the same student, trained as long on the text alone.
    alone = build_student(teacher, size, seed=options.seed)
    train(BasicTrainer(training("no_teacher"), alone, task.adaptor(alone)), alone, steps)

    print(f"\n{'':<12}{'perplexity':>12}{'accuracy':>10}")
    for name, model in {"teacher": teacher, "student": student, "no teacher": alone}.items():
        scores = task.evaluate(model, test_data)
        print(f"{name:<12}{scores['perplexity']:12.2f}{scores['accuracy']:10.3f}")


if __name__ == "__main__":
    try:
        main()
    except (TextBrewerError, OSError) as error:
        sys.exit(f"masked_lm: {error}")
