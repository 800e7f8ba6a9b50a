"""What the documentation says is there: its code runs, its names and links exist, its tables are complete."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch

import textbrewer
from textbrewer.presets import KD_LOSS_MAP, MATCH_LOSS_MAP, PROJ_MAP, TEMPERATURE_SCHEDULER, WEIGHT_SCHEDULER
from textbrewer.students import STUDENT_PRESETS

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README_ZH.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TABLES = {"kd_loss": KD_LOSS_MAP, "match_loss": MATCH_LOSS_MAP, "projection": PROJ_MAP}
TABLES |= {"weight_scheduler": WEIGHT_SCHEDULER, "temperature_scheduler": TEMPERATURE_SCHEDULER}


def name_of(path):
    return str(path.relative_to(ROOT))


def text_of(path):
    return path.read_text(encoding="utf-8")


def blocks_of(path, language="python"):
    """The fenced blocks of a page."""
    return [body for _, kind, body in FENCE.findall(text_of(path)) if kind == language]


def prose_of(path):
    return FENCE.sub("", text_of(path))


def listed_in(path):
    """What a page asks the reference to write out."""
    return re.findall(r"^::: ([\w.]+)$", text_of(path), re.MULTILINE)


def anchors_of(path):
    """Of every heading, as Python-Markdown makes them, and of what is written out."""
    headings = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in HEADING.findall(prose_of(path)))
    return {re.sub(r"[-\s]+", "-", heading) for heading in headings}.union(listed_in(path))


@cache
def bert(width, **more):
    """A model of BERT-base's depth with little else."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"intermediate_size": 32, "vocab_size": 60, "max_position_embeddings": 32, "num_labels": 3, **more}
    return BertForSequenceClassification(BertConfig(hidden_size=width, **sizes))


def given(path):
    """What pages take as the reader's own; those on widths have a teacher of BERT-base's."""
    torch.manual_seed(0)
    ids = torch.randint(5, 60, (8, 6))
    rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[0] % 3} for i in ids]
    return {
        "torch": torch,
        "textbrewer": textbrewer,
        "teacher": bert(768 if path.stem in ("matching", "students") else 48),
        "student": bert(24, num_hidden_layers=3),
        "rows": rows,
        "loader": torch.utils.data.DataLoader(rows, batch_size=4),
    }


@pytest.mark.parametrize("path", [page for page in PAGES if page.name != "README_ZH.md"], ids=name_of)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch):
    """From top to bottom, in one namespace. That of the second README is the first one's, see below."""
    pytest.importorskip("transformers", reason="needs the extra `hf`")
    monkeypatch.chdir(tmp_path)
    tables = [(table, dict(table)) for table in TABLES.values()]
    names = given(path)
    try:
        for number, block in enumerate(blocks_of(path), 1):
            exec(compile(block, f"{name_of(path)}, block {number}", "exec"), names)
    finally:
        for table, entries in tables:
            table.clear()
            table.update(entries)


@pytest.mark.parametrize("path", [*PAGES, *OTHERS], ids=name_of)
def test_links_lead_somewhere(path):
    broken = []
    for link in LINK.findall(prose_of(path)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (path.parent / target) if target else path
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("table", TABLES)
def test_every_name_of_a_table_is_explained(table):
    named = set(re.findall(r"`\"?([\w-]+)\"?`", prose_of(ROOT / "docs" / "losses.md")))
    named |= set(re.findall(r"\[\"(\w+)\"", prose_of(ROOT / "docs" / "losses.md")))
    assert set(TABLES[table]) - named == set()


def test_every_loss_has_a_line_of_its_own_with_the_tests_of_it():
    lines = [line for line in text_of(ROOT / "docs" / "losses.md").splitlines() if "| `test_" in line]
    first = {name for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert first == {*KD_LOSS_MAP, *MATCH_LOSS_MAP}
    for line in lines:
        for file in re.findall(r"`(test_\w+\.py)`", line):
            assert (ROOT / "tests" / "losses" / file).exists(), line


def test_the_map_counts_what_the_losses_count():
    units = {"rows": {"rows", "logit_rows"}, "tokens": {"tokens"}, "pairs of tokens": {"token_pairs"}, "—": {""}}
    for line in text_of(ROOT / "docs" / "losses.md").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if "| `test_" in line:
            for name in re.findall(r"`(\w+)`", cells[0]):
                loss = {**KD_LOSS_MAP, **MATCH_LOSS_MAP}[name]
                assert textbrewer.losses.unit_of(loss) in units[cells[-2]], line


def test_every_student_preset_is_named():
    named = set(re.findall(r"`\"?([\w-]+)\"?`", prose_of(ROOT / "docs" / "students.md")))
    assert set(STUDENT_PRESETS) - named == set()


def test_every_public_name_is_in_the_reference():
    """By itself, or in a module whose names are all there."""
    listed = listed_in(ROOT / "docs" / "api.md")
    things = [resolve_name(path) for path in listed]  # which is an error where there is no such thing
    modules = [vars(thing) for thing in things if inspect.ismodule(thing)]
    single = {path.rpartition(".")[2] for path in listed}
    missing = [name for name in textbrewer.__all__ if name not in single and not any(name in all_ for all_ in modules)]
    assert missing == []


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": (\w+\.md)", text_of(ROOT / "mkdocs.yml")))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_the_readmes_say_the_same():
    english, chinese = READMES
    assert len(HEADING.findall(prose_of(english))) == len(HEADING.findall(prose_of(chinese)))
    assert LINK.findall(prose_of(english))[1:] == LINK.findall(prose_of(chinese))[1:]  # all but that to each other

    def code(path):
        return [(kind, re.sub(r"#.*", "", body)) for _, kind, body in FENCE.findall(text_of(path))]

    assert code(english) == code(chinese)
