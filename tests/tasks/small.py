"""Tokenizers and models small enough for tests; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import transformers

from textbrewer import TrainingConfig

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vocabulary(words: Iterable[str] = ()) -> dict[str, int]:
    """Special tokens, letters alone and inside of a word, digits, marks, some characters of Chinese, and ``words``."""
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *"0123456789.,?!()'-", "##1", "##2"]
    pieces += list("我爱北京上海天安门的是在小明他去了中国首都哪里年")
    return {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *words]))}


def tokenizer_of(words: Iterable[str] = (), **options: Any) -> Any:
    """A BERT tokenizer: whole words it knows, else letter by letter."""
    return transformers.BertTokenizerFast(vocab=vocabulary(words), **options)


class SlowTokenizer(transformers.PythonBackend):
    """A tokenizer in Python, without offsets: one token a word."""

    def __init__(self, words: Iterable[str] = (), **options: Any) -> None:
        self.known = vocabulary(words)
        self.names = list(self.known)
        special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        super().__init__(**special, **options)

    @property
    def vocab_size(self) -> int:
        return len(self.known)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.known)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self.known.get(token, self.known["[UNK]"])

    def _convert_id_to_token(self, index: int) -> str:
        return self.names[index]

    def build_inputs_with_special_tokens(self, first: list[int], second: list[int] | None = None) -> list[int]:
        ends = [self.cls_token_id, *first, self.sep_token_id]
        return ends if second is None else [*ends, *second, self.sep_token_id]


def bert(task: Any, tokenizer: Any, seed: int = 0, **sizes: Any) -> Any:
    """A tiny BERT with the head of a task and weights that depend on ``seed`` alone."""
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(
        **{"vocab_size": len(tokenizer), "max_position_embeddings": 64, **shape, **task.model_settings(), **sizes}
    )
    transformers.set_seed(seed)
    name = task.model_class.replace("AutoModel", "Bert")
    return getattr(transformers, "BertModel" if name == "Bert" else name)(config).eval()


def training(folder: Any, **settings: Any) -> TrainingConfig:
    """Of a run on the CPU that writes nothing."""
    return TrainingConfig(output_dir=str(folder), ckpt_frequency=0, progress_bar=False, device="cpu", **settings)


def run(distiller: Any, model: Any, loader: Any, steps: int, rate: float = 1e-2, optimizer: Any = None) -> Any:
    """Train a model; the model itself."""
    with distiller:
        distiller.train((optimizer or torch.optim.AdamW)(model.parameters(), lr=rate), loader, num_steps=steps)
    return model


def weights_of(model: Any) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
