"""Batches of a corpus that does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError, DataError, Problem
from .data.corpus import Corpus, Place
from .encoded import Collate, Feature, drawn_number
from .packing import Packer, Tokens


class CorpusLoader:
    """A loader that reads its files anew in each pass, and goes on in the middle of one at once. It has no length.

    So many batches are read ahead, and their blocks shuffled; more than these are never held. What it draws depends on
    the seed alone. Its state says where in which file it stands, so that a run that goes on reads on from there. With
    several processes each of them reads everything and takes its own batches, and reads again what was taken before it
    goes on.

    Files that are sorted, by subject say, are best shuffled before: blocks that are far apart never meet.

    Args:
        corpus: the files.
        packer: makes blocks of them.
        make: a feature of a block, in the pass of a number.
        collate: a batch of features.
        batch_size: blocks of a batch; the last of a pass may have fewer.
        shuffle_seed: of the order; None keeps that of the files.
        pool: batches whose blocks are shuffled together.

    Raises:
        ConfigError: ``batch_size`` or ``pool`` is below 1.
    """

    def __init__(
        self,
        corpus: Corpus,
        packer: Packer,
        make: Callable[[Tokens, int], Feature],
        collate: Collate,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        pool: int = 100,
    ) -> None:
        given = {"batch_size": batch_size, "pool": pool}
        problems = [Problem(name, "at least 1", str(value)) for name, value in given.items() if value < 1]
        if problems:
            raise ConfigError("CorpusLoader", problems)
        self.corpus, self.packer, self.make, self.collate = corpus, packer, make, collate
        self.batch_size, self.pool, self.shuffles = batch_size, pool, shuffle_seed is not None
        # By this name a stream of batches finds what to put back where it goes on in the middle of a pass.
        self.generator = torch.Generator().manual_seed(shuffle_seed or 0)
        self._state: dict[str, Any] = {}
        self._from: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Where it stands behind the batch it gave last."""
        return {**self._state, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass be the rest of the one that the state is of."""
        self.generator.set_state(state["generator"])
        self._from = state if "pass" in state else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        begun, self._from = self._from, None
        if begun is None:
            begun = {"pass": drawn_number(self.generator), "place": list(Place()), "skip": 0, "pool": 0, "given": 0}
        number, which, given = begun["pass"], begun["pool"], begun["given"]
        place, skip = Place(*begun["place"]), begun["skip"]
        documents = self.packer.tokenised(self.corpus.beginning_at(place))
        blocks = self.packer.packed(documents, skip)
        while held := list(islice(blocks, self.pool * self.batch_size)):
            order = np.random.default_rng([number, which]).permutation(len(held)) if self.shuffles else range(len(held))
            for batch in range(given, -(-len(held) // self.batch_size)):
                chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                self._state = {
                    "pass": number,
                    "place": list(place),
                    "skip": skip,
                    "pool": which,
                    "given": batch + 1,
                }
                yield self.collate([self.make(held[i][0], number) for i in chosen])
            (place, skip), which, given = held[-1][1], which + 1, 0
        if which == 0:
            raise DataError(f"{', '.join(map(str, self.corpus.paths))}: no document with any text")
