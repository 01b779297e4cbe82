"""One file per model format, behind one Protocol.

The workers, the golden check and `headrace.load` all run models through this. A runtime
imports its framework only when a model of its format is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from headrace.errors import CodeNotAllowed, PackageError
from headrace.job import Outcome
from headrace.runtimes.collated import Answer, Collated
from headrace.signature import Record, Signature


class Model(Protocol):
    """A model on its device. Used by one thread at a time.

    memory: bytes its weights take on the device.
    """

    memory: int

    def infer(self, records: Sequence[Record]) -> Sequence[Outcome]:
        """One outcome per record, in order.

        records: validated against the signature, all in one bucket. Raises BadOutput where the
        model's answer does not fit the records or the signature. Whatever the model raises
        passes through: the caller decides what it means for the batch.
        """
        ...

    def close(self) -> None:
        """Free the device's memory."""
        ...


@runtime_checkable
class TensorsModel(Model, Protocol):
    """A model that also takes batches ready made, so that nothing is done record by record."""

    def infer_batch(self, batch: Collated) -> Answer:
        """As `infer`; it may write to the batch."""
        ...


class Loadable(Protocol):
    """What a runtime needs to know of a package (`headrace.registry.package.Package` is one).

    root: the folder its files lie in. weights: file name, "" where there is none.
    code: sha256 (hex) by file name of everything that runs code when the model is loaded.
    """

    @property
    def root(self) -> Path: ...  # noqa: D102 - described above
    @property
    def format(self) -> str: ...  # noqa: D102
    @property
    def signature(self) -> Signature: ...  # noqa: D102
    @property
    def weights(self) -> str: ...  # noqa: D102
    @property
    def handler(self) -> str | None: ...  # noqa: D102
    @property
    def code(self) -> Mapping[str, str]: ...  # noqa: D102


def load(package: Loadable, device: str, allow_code: frozenset[str]) -> Model:
    """The package's model, ready on `device` (``cpu``, ``cuda``, ``cuda:1``).

    allow_code: sha256 digests (hex) of the files that may run code. Raises CodeNotAllowed
    before any of the package's code runs, PackageError where the files are no such model, and
    NotInstalled where the framework is missing.
    """
    require_allowed(package.code, allow_code)
    match package.format:
        case "torch-export":
            from headrace.runtimes import torch_export

            return torch_export.load(package, device)
        case "torchscript":
            from headrace.runtimes import torchscript

            return torchscript.load(package, device)
        case "safetensors":
            from headrace.runtimes import safetensors

            return safetensors.load(package, device)
        case "python":
            from headrace.runtimes import python

            return python.load(package, device)
        case other:
            raise PackageError("model.toml: format", f"no runtime for {other!r}")


def require_allowed(code: Mapping[str, str], allow_code: frozenset[str]) -> None:
    """Raises CodeNotAllowed for the first file of `code` whose digest is not allowed."""
    for file, digest in code.items():
        if digest not in allow_code:
            raise CodeNotAllowed(file, digest, "runs code when the model is loaded")
