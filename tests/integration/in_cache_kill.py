"""What processes of ``test_cache_kill.py`` do: fill one cache, and read from it, until they are done or killed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.tiny import EncoderAdaptor, batch_of, encoder
from textbrewer import TeacherCache
from textbrewer.adaptors import AdaptedModel
from textbrewer.configs import IntermediateMatch
from textbrewer.errors import CacheError
from textbrewer.feeding import sides
from textbrewer.teachers import CachedTeacher, LiveTeacher, Reads

BATCHES, ROWS = 150, 4


def loader():
    """Other rows in every batch, of records that take several pages each."""
    for seed in range(BATCHES):
        batch = batch_of(ROWS, 40, seed=seed, labels=False)
        batch["input_ids"][:, :3] = torch.tensor([[1 + seed % 40, 1 + seed // 40, 1 + row] for row in range(ROWS)])
        batch["attention_mask"][:, :3] = 1
        yield batch


def teacher():
    return encoder(1, width=64)


def behind(cache: TeacherCache) -> tuple[CachedTeacher, LiveTeacher]:
    model = teacher().eval()
    adapted = AdaptedModel(model, EncoderAdaptor(), name="adaptor_T", features=frozenset({"hidden"}), teacher=True)
    match = IntermediateMatch(layer_T=1, layer_S=1, feature="hidden", loss="hidden_mse")
    live = LiveTeacher(adapted, torch.no_grad, [match])
    return CachedTeacher(live, cache.namespace(model, adapted), Reads.of([match])), live


def is_right(source: CachedTeacher, live: LiveTeacher, batch) -> bool:
    """Whether a cache gives what the teacher gives, rounded."""
    fed, mask = sides(batch), batch["attention_mask"]
    found, expected = source(fed, {}, mask), live(fed, {}, mask)
    real = mask != 0
    pairs = [(found.logits[0], expected.logits[0]), (found.hidden[1][real], expected.hidden[1][real])]
    return all(torch.allclose(a.float(), b, rtol=2e-3, atol=2e-3) for a, b in pairs)


def fill(folder: Path, told: Path) -> None:
    """Fill the cache batch by batch; after each commit, tell how many batches are on the disk."""
    with TeacherCache(folder) as cache:
        source, _ = behind(cache)
        with told.open("a") as file:
            for number, batch in enumerate(loader(), start=1):
                source.fill(sides(batch), {})
                if number % 3 == 0:
                    cache.flush()
                    file.write(f"{number}\n")
                    file.flush()


def read(folder: Path) -> None:
    """Read until everything is there; leave with 1 if something was wrong."""
    while True:
        try:
            cache = TeacherCache(folder, read_only=True)
            source, live = behind(cache)
            break
        except CacheError:
            continue  # not begun yet
    while True:
        missing = 0
        for batch in loader():
            try:
                if not is_right(source, live, batch):
                    sys.exit(1)
            except CacheError as error:
                if "not in the read-only cache" not in str(error):
                    raise
                missing += 1
        if not missing:
            break
    cache.close()
