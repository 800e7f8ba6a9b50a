"""Which tokens of a block are masked: the same for the same block, seed and pass, wherever and whenever it is made."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ..errors import DataError
from .adaptor import MASK
from .encoded import UNLABELLED, Feature
from .packing import Tokens, framed
from .tokens import Frame


def masked_at_most(probability: float, length: int) -> int:
    """How many of so many tokens are masked.

    >>> masked_at_most(0.15, 128)
    19
    """
    return max(1, round(probability * length))


class Masking:
    """Makes features of blocks: of the tokens that are not special, a share is chosen, and the model is to tell them.

    Of those chosen, 80 % become the mask token, 10 % another token by chance, and 10 % stay. How many are chosen is
    not left to chance. With whole words, all pieces of a word are chosen or none; a word that would be too much is
    left out.

    Args:
        tokenizer: of Transformers.
        probability: the share that is chosen.
        whole_words: whether words are chosen.
        seed: of all choices.

    Raises:
        DataError: the tokenizer has no mask token.

    Source: BERT, 1810.04805; its authors' whole-word masking.
    """

    def __init__(self, tokenizer: Any, probability: float, whole_words: bool, seed: int) -> None:
        if tokenizer.mask_token_id is None:
            raise DataError(f"{type(tokenizer).__name__} has no mask token; masked language models need one")
        self.frame = Frame(tokenizer)
        self.mask = tokenizer.mask_token_id
        special = set(tokenizer.all_special_ids)
        self.ordinary = np.asarray([i for i in range(len(tokenizer)) if i not in special], dtype=np.int32)
        self.probability, self.whole_words, self.seed = probability, whole_words, seed

    def __call__(self, block: Tokens, number: int) -> Feature:
        """A block as a model takes it in the pass of this number: ``labels`` and ``logits_mask`` where it is masked."""
        content = hashlib.blake2b(block.ids.tobytes(), digest_size=8).digest()
        generator = np.random.default_rng([self.seed, number, int.from_bytes(content, "little")])
        tokens, types = framed(block, self.frame)
        chosen = self._chosen(tokens.starts, generator)
        ids, labels = tokens.ids.copy(), np.full(len(tokens.ids), UNLABELLED, dtype=np.int32)
        labels[chosen] = ids[chosen]
        fate = generator.random(len(chosen))
        others = self.ordinary[generator.integers(len(self.ordinary), size=len(chosen))]
        ids[chosen] = np.where(fate < 0.8, self.mask, np.where(fate < 0.9, others, ids[chosen]))
        feature = {"input_ids": ids, "labels": labels, MASK: (labels != UNLABELLED).astype(np.int32)}
        return feature if types is None else {**feature, "token_type_ids": types}

    def _chosen(self, starts: Any, generator: np.random.Generator) -> Any:
        """Positions, in order."""
        open_to_choice = np.flatnonzero(starts >= 0)
        if not len(open_to_choice):
            return open_to_choice
        number = masked_at_most(self.probability, len(open_to_choice))
        if not self.whole_words:
            return np.sort(generator.choice(open_to_choice, number, replace=False))
        begins = np.flatnonzero(starts[open_to_choice] == 1)
        words = np.split(open_to_choice, begins[begins > 0])
        chosen: list[int] = []
        for which in generator.permutation(len(words)):
            if len(chosen) + len(words[which]) <= number:
                chosen.extend(words[which])
        return np.sort(np.asarray(chosen, dtype=np.int64))
