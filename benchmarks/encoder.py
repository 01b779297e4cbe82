"""The second model that is measured: a small transformer encoder over texts of 8 to 256 tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

import headrace
from headrace.registry.manifest import Batching
from headrace.registry.package import Package
from headrace.signature import Array

NAME = "encoder"
SHORTEST, LONGEST = 8, 256
_WORDS, _WIDTH, _HEADS, _LAYERS, _CLASSES = 8192, 128, 4, 2, 10
_MEDIAN, _SPREAD = 48, 0.8


def package(directory: Path, batching: Batching) -> Package:
    """The model as a package in `directory`."""
    torch.manual_seed(0)
    example = {"tokens": np.ones((4, SHORTEST), np.int64)}
    return headrace.package_module(
        Encoder(),
        example,
        directory,
        name=NAME,
        shapes={"tokens": ("length",)},
        pad={"tokens": 0},
        batching=batching,
    )


def texts(rng: np.random.Generator, count: int) -> list[Array]:
    """Rows of tokens. Most texts are short and a few are long, as texts are."""
    drawn = rng.lognormal(np.log(_MEDIAN), _SPREAD, count)
    lengths = np.clip(drawn, SHORTEST, LONGEST).astype(int)
    flat = rng.integers(1, _WORDS, int(lengths.sum()))
    return np.split(flat, np.cumsum(lengths)[:-1])


class Encoder(torch.nn.Module):
    """Tokens [batch, length], padded with 0, to scores [batch, 10]; padding changes no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(_WORDS, _WIDTH)
        self.places = torch.nn.Parameter(torch.randn(LONGEST, _WIDTH) / _WIDTH)
        self.layers = torch.nn.ModuleList(_Layer() for _ in range(_LAYERS))
        self.head = torch.nn.Linear(_WIDTH, _CLASSES)

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = tokens != 0
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        weights = mask.unsqueeze(2).to(x.dtype)
        return {"scores": self.head((x * weights).sum(1) / weights.sum(1))}


class _Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = torch.nn.LayerNorm(_WIDTH)
        self.between = torch.nn.LayerNorm(_WIDTH)
        self.heads = torch.nn.Linear(_WIDTH, 3 * _WIDTH)
        self.joined = torch.nn.Linear(_WIDTH, _WIDTH)
        self.wide = torch.nn.Linear(_WIDTH, 4 * _WIDTH)
        self.narrow = torch.nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        split = self.heads(self.before(x)).unflatten(2, (3, _HEADS, _WIDTH // _HEADS))
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value, mask)
        x = x + self.joined(seen.transpose(1, 2).flatten(2))
        more: torch.Tensor = self.narrow(functional.gelu(self.wide(self.between(x))))
        return x + more
