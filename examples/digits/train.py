"""Trains a small convolutional network on scikit-learn's handwritten digits, and packages it.

``python -m examples.digits.train FOLDER`` writes a package of your own to push and play with.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from headrace.registry.init_package import init_package
from headrace.registry.package import Package

_SEED = 0
_EPOCHS = 30
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Digits:
    """Images are float32[records, 8, 8] with grey levels from 0 to 16; labels int64[records]."""

    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


class Network(nn.Module):
    """Grey levels in, one logit per digit out: float32[batch, 8, 8] → float32[batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # The scale is part of the model, so that callers send what the data set holds.
        logits: torch.Tensor = self.layers(image.unsqueeze(1) / 16)
        return logits


def load_data() -> Digits:
    """The 1,797 images, half of them (899) held out."""
    bunch: Any = load_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        bunch.images.astype(np.float32),
        bunch.target.astype(np.int64),
        test_size=0.5,
        random_state=_SEED,
        stratify=bunch.target,
    )
    return Digits(train_images, train_labels, test_images, test_labels)


def train(digits: Digits) -> Network:
    """The trained network, in eval mode. The same on every run on the same machine."""
    torch.manual_seed(_SEED)
    # A network this small gains nothing from more threads, and loses much where they compete.
    torch.set_num_threads(1)
    network = Network()
    images = torch.from_numpy(digits.train_images)
    labels = torch.from_numpy(digits.train_labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(images))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    return network.eval()


def package(network: Network, digits: Digits, folder: Path) -> Package:
    """Export the network for any batch size, and make `folder` its package."""
    example = digits.train_images[:8]
    program = torch.export.export(
        network,
        (torch.from_numpy(example),),
        dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=4096)}},
    )
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "digits.pt2"
        torch.export.save(program, weights)
        return init_package(
            weights,
            {"image": example},
            folder,
            name="digits",
            outputs=["logits"],
            description="Handwritten digits, 8×8 grey levels from 0 to 16",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the package's folder, which must not exist")
    folder = parser.parse_args().folder
    digits = load_data()
    package(train(digits), digits, folder)
    print(f"{folder} is a package; register it with: headrace models push {folder}")


if __name__ == "__main__":
    main()
