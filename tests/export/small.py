"""Texts with an opinion, and modules so small that they are soon exported."""

from __future__ import annotations

import random

import torch

WORDS = ("the", "film", "was", "very", "long", "good", "bad")


def rows(number, seed=0):
    """Texts that say ``good`` or ``bad`` somewhere, and which."""
    draw = random.Random(seed)
    found = []
    for i in range(number):
        words = draw.choices(WORDS[:5], k=draw.randint(2, 9))
        label = ("good", "bad")[i % 2]
        words.insert(draw.randint(0, len(words)), label)
        found.append({"text": " ".join(words), "label": label})
    return found


class Averages(torch.nn.Module):
    """Logits of a text: the mean of its embeddings, or if ``decide`` something that only their values tell."""

    def __init__(self, decide=False):
        super().__init__()
        self.embeddings = torch.nn.Embedding(50, 3)
        self.dropout = torch.nn.Dropout(0.5)
        self.decide = decide

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1).to(self.embeddings.weight.dtype)
        logits = (self.dropout(self.embeddings(input_ids)) * mask).sum(1) / mask.sum(1)
        return {"logits": -logits if self.decide and logits.sum().item() > 0 else logits}


class OfTokens(torch.nn.Module):
    """Logits of a token and its place: three classes, or the start and the end of an answer."""

    def __init__(self, answers, seed=5):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embeddings = torch.nn.Embedding(200, 2 if answers else 3)
        self.answers = answers

    def forward(self, input_ids, attention_mask, token_type_ids):
        place = attention_mask.cumsum(1).unsqueeze(-1) * torch.tensor([0.01, -0.02, 0.03])
        logits = self.embeddings(input_ids + token_type_ids) + place[..., : self.embeddings.embedding_dim]
        if self.answers:
            return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
        return {"logits": logits}
