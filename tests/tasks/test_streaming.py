"""Corpora that are read as they are needed: every block once a pass, and passes that go on."""

from __future__ import annotations

import io
import random

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hf`")

from tests.tasks.small import bert, tokenizer_of
from textbrewer import BasicDistiller, BasicTrainer, DistillationConfig, StudentConfig, TrainingConfig, build_student
from textbrewer.errors import ConfigError, DataError
from textbrewer.ranks import Ranks
from textbrewer.stream import Stream
from textbrewer.tasks import Corpus, MaskedLM
from textbrewer.tasks.data.corpus import Place

WORDS = ["rain", "snow", "sun", "cold"]
TOKENIZER = tokenizer_of(WORDS)
TASK = MaskedLM(max_length=12, probability=0.2)


@pytest.fixture
def files(tmp_path):
    generator = random.Random(0)
    for name in "abc":
        lines = [" ".join(generator.choices([*WORDS, "xyz"], k=generator.randint(0, 25))) for _ in range(12)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "*.txt")


def loader_of(files, batch_size=3, task=TASK, **options):
    return task.stream(files, TOKENIZER, batch_size, **options)


def plain(batches):
    return [{key: value.tolist() for key, value in batch.items()} for batch in batches]


def blocks_in(batches):
    """What stood in each block before it was masked."""
    found = []
    for batch in batches:
        for ids, labels, real in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            found.append(tuple(torch.where(labels >= 0, labels, ids)[real == 1].tolist()))
    return found


def test_the_blocks_are_those_of_the_documents_in_memory(files):
    rows = [{"text": text} for text in Corpus(files)]
    data = TASK.encode(rows, TOKENIZER)
    whole = blocks_in(data.loader(4))
    assert blocks_in(loader_of(files)) == whole
    shuffled = blocks_in(loader_of(files, shuffle_seed=3, pool=2))
    assert shuffled != whole and sorted(shuffled) == sorted(whole)
    # Blocks are shuffled with those of their own pool.
    assert all(sorted(shuffled[i : i + 6]) == sorted(whole[i : i + 6]) for i in range(0, len(whole), 6))


def test_static_masks_are_those_of_the_documents_in_memory(files):
    static = MaskedLM(max_length=12, probability=0.2, masking="static")
    rows = [{"text": text} for text in Corpus(files)]
    in_memory = {tuple(f["input_ids"].tolist()) for f in static.encode(rows, TOKENIZER).features}
    loader = loader_of(files, task=static, shuffle_seed=0)
    for _ in range(2):
        found = {
            tuple(ids[real == 1].tolist())
            for batch in loader
            for ids, real in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        }
        assert found == in_memory


def test_passes_differ_and_depend_on_the_seed_alone(files):
    loader, again = loader_of(files, shuffle_seed=5), loader_of(files, shuffle_seed=5)
    first = plain(loader)
    torch.manual_seed(1), random.seed(1)
    second = plain(loader)
    assert first != second and [plain(again), plain(again)] == [first, second]
    kept = loader_of(files)
    assert plain(kept) != plain(kept)  # the same order, other masks


@pytest.mark.parametrize("shuffle_seed", [None, 2])
@pytest.mark.parametrize("pool", [1, 2, 100])
def test_its_own_state_goes_on_behind_any_batch(files, shuffle_seed, pool):
    loader = loader_of(files, shuffle_seed=shuffle_seed, pool=pool)
    plain(loader)  # one pass before
    batches, states = [], []
    for batch in loader:
        batches += plain([batch])
        states.append(loader.state_dict())
    following = plain(loader)
    for i, state in enumerate(states):
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        again = loader_of(files, shuffle_seed=shuffle_seed, pool=pool)
        again.load_state_dict(torch.load(file, weights_only=True))
        assert plain(again) == batches[i + 1 :]
        assert plain(again) == following


def test_going_on_reads_nothing_that_was_taken(files, monkeypatch):
    loader = loader_of(files, pool=1)
    batches = iter(loader)
    for _ in range(8):
        next(batches)
    state = loader.state_dict()
    again = loader_of(files, pool=1)
    again.load_state_dict(state)
    read = []
    beginning_at = Corpus.beginning_at

    def noted(self, place):
        for found, text in beginning_at(self, place):
            read.append(found)
            yield found, text

    monkeypatch.setattr(Corpus, "beginning_at", noted)
    rest = plain(again)
    assert rest == plain(batches)
    every = [place for place, _ in beginning_at(again.corpus, Place())]
    # From the document in which the pool began, not from the first.
    assert read[0] == Place(*state["place"]) and len(read) < len(every)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("before", [1, 4, 9])
def test_a_stream_of_it_goes_on(files, processes, before):
    for index in range(processes):
        ranks = Ranks(processes, index)
        whole = Stream(loader_of(files, shuffle_seed=1, pool=2), ranks).endless()
        expected = plain(next(whole) for _ in range(16))
        stream = Stream(loader_of(files, shuffle_seed=1, pool=2), ranks)
        batches = stream.endless()
        first = plain(next(batches) for _ in range(before))
        again = Stream(loader_of(files, shuffle_seed=1, pool=2), ranks)
        again.load_state_dict(stream.state_dict())
        rest = again.endless()
        assert first + plain(next(rest) for _ in range(16 - before)) == expected


def test_a_model_is_trained_and_distilled_from_files(files, tmp_path):
    teacher = bert(TASK, TOKENIZER)
    config = TrainingConfig(output_dir=str(tmp_path / "run"), ckpt_frequency=0, progress_bar=False, device="cpu")
    test = TASK.encode([{"text": text} for text in Corpus(files)], TOKENIZER)
    before = TASK.evaluate(teacher, test)["perplexity"]
    trainer = BasicTrainer(config, teacher, TASK.adaptor(teacher))
    with trainer:
        trainer.train(
            torch.optim.AdamW(teacher.parameters(), lr=1e-2), loader_of(files, 8, shuffle_seed=0), num_steps=30
        )
    after = TASK.evaluate(teacher, test)["perplexity"]
    assert after < before
    student, kd = build_student(teacher, StudentConfig(num_layers=1), init="random", seed=1), DistillationConfig()
    distiller = BasicDistiller(config, kd, teacher, student, *TASK.adaptors(teacher, student, kd))
    before = TASK.evaluate(student, test)["perplexity"]
    with distiller:
        distiller.train(torch.optim.AdamW(student.parameters(), lr=1e-2), loader_of(files, 8), num_steps=15)
    assert TASK.evaluate(student, test)["perplexity"] < before


def test_what_is_refused(files, tmp_path):
    with pytest.raises(ConfigError, match="2 problems"):
        loader_of(files, 0, pool=0)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"empty\.txt: no document with any text"):
        list(loader_of(tmp_path / "empty.txt"))
    with pytest.raises(DataError, match=r"expected what encode\(…\) gives, or a loader of it, got CorpusLoader"):
        TASK.evaluate(bert(TASK, TOKENIZER), loader_of(files))
    with pytest.raises(TypeError):
        len(loader_of(files))


@pytest.mark.parametrize("stop", [4, 12])
def test_a_run_that_goes_on_ends_with_the_same_bits(files, tmp_path, stop):
    """Passes of nine batches: within the first, and within the second."""

    def train(folder, steps, **options):
        model = bert(TASK, TOKENIZER, seed=1, num_hidden_layers=1)
        config = TrainingConfig(output_dir=str(tmp_path / folder), ckpt_steps=1, progress_bar=False, device="cpu")
        trainer = BasicTrainer(config, model, TASK.adaptor(model))
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        with trainer:
            trainer.train(optimizer, loader_of(files, 8, shuffle_seed=0, pool=1), num_steps=steps, **options)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    whole = train("whole", 15)
    train("parts", stop)
    torch.manual_seed(99)
    assert torch.equal(train("parts", 15, resume="auto"), whole)
