"""A model and its tokenizer without the tokens that the data does not use."""

from __future__ import annotations

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StudentError, UnsupportedError, one_of
from .build import leave_out

Texts = Iterable[str | Sequence[int] | Tensor]

_TOKENIZER_FILE = "tokenizer.json"
_MODELS = ("WordPiece", "BPE", "Unigram")


@dataclass(frozen=True)
class PrunedVocabulary:
    """What :func:`prune_vocabulary` made.

    Attributes:
        model: of the class it was, with the embeddings of the kept tokens.
        tokenizer: with the kept tokens only.
        kept: the id that each token had, in the order of the ids that they have now.
        tokens_before: tokens that the model had embeddings of.
        parameters_before: parameters that the model had.
    """

    model: Any
    tokenizer: Any
    kept: tuple[int, ...]
    tokens_before: int
    parameters_before: int

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and tokenizer to one folder, from which Transformers' Auto classes load them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def __str__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{len(self.kept):,} of {self.tokens_before:,} tokens kept; {parameters:,} parameters, "
            f"{self.parameters_before - parameters:,} fewer"
        )


def prune_vocabulary(model: nn.Module, tokenizer: Any, texts: Texts, *, min_count: int = 1) -> PrunedVocabulary:
    """Leave out of a model and its tokenizer the tokens that occur fewer than ``min_count`` times in ``texts``.

    Special and added tokens are kept, and what any text can fall back on: single characters of WordPiece and Unigram,
    whatever BPE does not make by merging, such as bytes, and the tokens that kept ones are merged from. A text whose
    tokens are all kept is divided as before, and its logits are the same; others get shorter tokens, or the unknown one
    where the vocabulary lacks a character. Neither the model nor the tokenizer that are given are changed.

    Prune a teacher before its student is built, and both read the same ids.

    Source: the pruning of vocabularies in TextPruner, Yang, Cui & Chen 2022 (2203.15996).

    Args:
        model: with ``config.vocab_size``: of Transformers, or :class:`~textbrewer.BiGRUStudent`.
        tokenizer: a fast one of Transformers; its model is WordPiece, BPE or Unigram.
        texts: texts, or their token ids.
        min_count: how often a token must occur.

    Raises:
        StudentError: there are no texts, ``min_count`` is below 1, or the model has not the tokenizer's tokens.
        UnsupportedError: the tokenizer is of another kind.
    """
    described = _described(tokenizer)
    if min_count < 1:
        raise StudentError(f"prune_vocabulary: expected min_count of at least 1, got {min_count}")
    before = getattr(getattr(model, "config", None), "vocab_size", None)
    if before is None or before < len(tokenizer):
        raise StudentError(
            f"prune_vocabulary: expected a model with config.vocab_size of at least the tokenizer's {len(tokenizer)} "
            f"tokens, got {type(model).__name__} with {before}"
        )
    if isinstance(texts, str):
        raise StudentError(
            f"prune_vocabulary: expected several texts, got the one text {texts[:40]!r}; put it in a list"
        )
    counts = _counted(tokenizer, texts)
    if not counts:
        raise StudentError("prune_vocabulary: the texts have no tokens; give those that the model is for")
    used = {token for token, count in counts.items() if count >= min_count}
    kept = sorted(set(_needed(described, used)))
    places = {old: new for new, old in enumerate(kept)}
    return PrunedVocabulary(
        model=_with_embeddings(model, places),
        tokenizer=_with_tokens(tokenizer, described, places),
        kept=tuple(kept),
        tokens_before=before,
        parameters_before=sum(parameter.numel() for parameter in model.parameters()),
    )


def _described(tokenizer: Any) -> dict[str, Any]:
    """The ``tokenizer.json`` of a fast tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    found = described["model"].get("type", "none that Transformers calls fast")
    if found not in _MODELS:
        raise UnsupportedError(
            f"prune_vocabulary: expected a fast tokenizer whose model is {one_of(_MODELS)}, got "
            f"{type(tokenizer).__name__} with {found}; leave its vocabulary as it is"
        )
    return described


def _counted(tokenizer: Any, texts: Texts) -> Counter[int]:
    counts: Counter[int] = Counter()
    remaining = iter(texts)
    while some := list(islice(remaining, 1000)):
        written = [text for text in some if isinstance(text, str)]
        if written:
            for ids in tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]:
                counts.update(ids)
        for text in some:
            if not isinstance(text, str):
                counts.update(text.tolist() if isinstance(text, Tensor) else text)
    words: list[Any] = [token for token in counts if isinstance(token, str)]
    if words:
        raise StudentError(
            f"prune_vocabulary: expected texts, or the token ids of each, got {words[0][:40]!r} in a list of its own; "
            "give every text by itself, those of pairs too"
        )
    strange = [token for token in counts if not 0 <= token < len(tokenizer)]
    if strange:
        raise StudentError(f"prune_vocabulary: token id {strange[0]}, but the tokenizer has 0..{len(tokenizer) - 1}")
    return counts


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """The ids of the tokens of a ``tokenizer.json``'s model."""
    if model["type"] == "Unigram":
        return {token: place for place, (token, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _needed(described: Mapping[str, Any], used: set[int]) -> Iterator[int]:
    """Ids to keep, more than once some of them."""
    model = described["model"]
    vocabulary = _vocabulary(model)
    yield from used
    yield from (token["id"] for token in described["added_tokens"])
    yield from (vocabulary[token] for token in [model.get("unk_token")] if token in vocabulary)
    if model["type"] == "BPE":
        yield from _merged_from(model, used)
        return
    prefix = model.get("continuing_subword_prefix") or ""
    yield from (i for token, i in vocabulary.items() if len(token.removeprefix(prefix)) == 1)
    if model["type"] == "Unigram":
        # Paths with unknown characters are scored by the lowest score of all tokens.
        yield min(range(len(model["vocab"])), key=lambda i: model["vocab"][i][1])
        yield from (i for i in [model["unk_id"]] if i is not None)
        if model.get("byte_fallback"):
            yield from (vocabulary[token] for i in range(256) if (token := f"<0x{i:02X}>") in vocabulary)


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Left, right, and what they are merged to."""
    prefix = model.get("continuing_subword_prefix") or ""
    return [(left, right, left + right.removeprefix(prefix)) for left, right in model["merges"]]


def _merged_from(model: Mapping[str, Any], used: set[int]) -> Iterator[int]:
    """Tokens that no merge makes, and all that the used ones are merged from, by any way there is."""
    vocabulary: dict[str, int] = model["vocab"]
    ways: dict[str, list[str]] = {}
    for left, right, whole in _merges(model):
        ways.setdefault(whole, []).extend((left, right))
    yield from (i for token, i in vocabulary.items() if token not in ways)
    waiting = [token for token, i in vocabulary.items() if i in used]
    seen = set(waiting)
    while waiting:
        parts = [part for part in ways.get(waiting.pop(), []) if part not in seen]
        seen.update(parts)
        waiting.extend(parts)
    yield from (vocabulary[token] for token in seen)


def _with_tokens(tokenizer: Any, described: dict[str, Any], places: Mapping[int, int]) -> Any:
    """The tokenizer with the ids of ``places`` only, as it is after it was saved and loaded."""
    described = copy.deepcopy(described)
    model = described["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in places]
        model["unk_id"] = places.get(model["unk_id"])
    else:
        model["vocab"] = {token: places[i] for token, i in model["vocab"].items() if i in places}
    if model["type"] == "BPE":
        model["merges"] = [merge[:2] for merge in _merges(model) if all(token in model["vocab"] for token in merge)]
    for token in described["added_tokens"]:
        token["id"] = places[token["id"]]
    _renumber(described, places)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / _TOKENIZER_FILE).write_text(json.dumps(described), encoding="utf-8")
        pruned = type(tokenizer).from_pretrained(folder)
    pruned.name_or_path = tokenizer.name_or_path
    return pruned


def _renumber(described: Any, places: Mapping[int, int]) -> None:
    """Ids in what pads and adds special tokens, wherever it is nested."""
    if described.get("padding"):
        described["padding"]["pad_id"] = places[described["padding"]["pad_id"]]
    waiting = [described["post_processor"]]
    while waiting:
        processor = waiting.pop() or {}
        waiting += processor.get("processors", [])
        for token in processor.get("special_tokens", {}).values():
            token["ids"] = [places[i] for i in token["ids"]]
        for name in ("sep", "cls"):
            if name in processor:
                processor[name][1] = places[processor[name][1]]


def _with_embeddings(model: Any, places: Mapping[int, int]) -> Any:
    config = copy.deepcopy(model.config)
    before = config.vocab_size
    config.vocab_size = len(places)
    for name in [name for name in vars(config) if name.endswith("_token_id")]:
        old = getattr(config, name)
        if isinstance(old, list):
            setattr(config, name, [places[each] for each in old if each in places])
        elif old is not None:
            setattr(config, name, places.get(old))
    pruned = type(model)(config).to(next(model.parameters()).dtype)
    leave_out(pruned, model)
    kept = torch.tensor(list(places))
    weights = {}
    for name, theirs in model.state_dict().items():
        mine = pruned.state_dict()[name]
        weights[name] = theirs if theirs.shape == mine.shape else theirs[kept.to(theirs.device)]
        if weights[name].shape != mine.shape or (theirs.shape != mine.shape and len(theirs) != before):
            raise StudentError(
                f"prune_vocabulary: {name} of {type(model).__name__} changes from {list(theirs.shape)} to "
                f"{list(mine.shape)} with its vocabulary, and which rows are kept is not known; prune another model"
            )
    pruned.load_state_dict(weights)
    for mine, theirs in zip(pruned.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return pruned.to(next(model.parameters()).device).train(model.training)
