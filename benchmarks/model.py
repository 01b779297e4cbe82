"""The model that is measured: an MLP of 784-1024-1024-10, random weights, one torch thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import headrace
from headrace.registry import golden
from headrace.registry.manifest import Batching, Manifest
from headrace.registry.package import Package, write_manifest
from headrace.signature import Field, Signature

NAME = "mlp"
INPUT = 784

SLEEPERS, SLEEP = 16, 0.1
"""Records per batch of the sleeper, and the seconds that a batch takes."""

_SLEEPER = f"""\
import time


class Handler:
    def forward(self, records):
        time.sleep({SLEEP} * (len(records) > 1))
        return [dict(record) for record in records]
"""


def package(directory: Path, batching: Batching | None = None) -> Package:
    """The model as a package in `directory`. batching: as jobs are batched, unless it is said."""
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(INPUT, 1024),
        torch.nn.ReLU(),
        torch.nn.Linear(1024, 1024),
        torch.nn.ReLU(),
        torch.nn.Linear(1024, 10),
    ).eval()
    example = {"input": inputs(4)}
    return headrace.package_module(layers, example, directory, name=NAME, batching=batching)


def inputs(count: int) -> npt.NDArray[np.float32]:
    """[count, 784] values in [0, 1)."""
    return np.random.default_rng(0).random((count, INPUT), dtype=np.float32)


def sleeper(directory: Path) -> Path:
    """A package whose batches take a tenth of a second and no processor."""
    field = Field("x", "int64")
    directory.mkdir(exist_ok=True)
    (directory / "handler.py").write_text(_SLEEPER)
    signature = Signature((field,), (field,))
    write_manifest(
        directory,
        Manifest(
            "sleeper",
            "python",
            signature,
            handler="handler.py",
            batching=Batching(max_records=SLEEPERS),
        ),
    )
    golden.write(directory, signature, [({"x": 1}, {"x": 1})])
    return directory
