"""Tiny models and their files, made once per test run: torch is slow to import and export."""

from __future__ import annotations

import numpy as np
import torch
from torch.export import Dim

from headrace.signature import Field, Signature

SIGNATURE = Signature(
    (Field("x", "float32", ("tokens", 4), 0.0), Field("mask", "float32", ("tokens",), 0.0)),
    (Field("total", "float32", (3,)), Field("each", "float32", ("tokens", 3))),
)


class Pool(torch.nn.Module):
    """Weighs tokens with a mask, so that padding changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 3)
        self.register_buffer("offset", torch.ones(3))
        self.scale = torch.tensor([2.0])

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        each = (self.linear(x) + self.offset * self.scale) * mask.unsqueeze(-1)
        return {"total": each.sum(1), "each": each}


class Scale(torch.nn.Module):
    """One input, one output, any shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def example(records: int = 3, tokens: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "x": random.normal(size=(records, tokens, 4)).astype(np.float32),
        "mask": np.ones((records, tokens), np.float32),
    }


def record(tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(tokens, 4)).astype(np.float32),
        "mask": np.ones(tokens, np.float32),
    }


def expected(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        answer = Pool()(torch.from_numpy(inputs["x"])[None], torch.from_numpy(inputs["mask"])[None])
    return {name: value[0].numpy() for name, value in answer.items()}


def export_pool(path: str, batch: int | None = None) -> None:
    arrays = example(batch or 3)
    first = Dim("batch") if batch is None else None
    tokens = Dim("tokens", min=1, max=64)
    program = torch.export.export(
        Pool().eval(),
        tuple(torch.from_numpy(array) for array in arrays.values()),
        dynamic_shapes=({0: first, 1: tokens}, {0: first, 1: tokens}),
    )
    torch.export.save(program, path)
