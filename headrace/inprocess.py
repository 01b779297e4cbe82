"""`headrace.load`: a package's model called directly, without queue, table or store.

The same validation, batching and outcomes as a worker's, for tests, notebooks and services
that hold their own copy of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from headrace import runtimes
from headrace.errors import BadOutput, JobFailed
from headrace.job import Done, Failed, Outcome, Retry
from headrace.registry.manifest import Batching
from headrace.registry.package import Package, read_package
from headrace.runtimes import Model
from headrace.runtimes.isolation import Isolation
from headrace.signature import Record, Signature, Value


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    allow_code: Iterable[str] | Literal[True] | None = None,
) -> LocalModel:
    """The model of the package in folder `path`, ready to be called on `device`.

    allow_code: sha256 digests of the package's files that may run code; True allows this
    package's own, whatever they are; None takes ``HEADRACE_ALLOW_CODE`` and the settings file.
    Raises PackageError, CodeNotAllowed, NotInstalled.
    """
    package = read_package(path)
    return LocalModel(package, runtimes.load(package, device, _allowed(package, allow_code)))


def _allowed(package: Package, allow_code: Iterable[str] | Literal[True] | None) -> frozenset[str]:
    if allow_code is True:
        return frozenset(package.code.values())
    if allow_code is not None:
        return frozenset(allow_code)
    if not package.code:
        return frozenset()
    from headrace.settings import load_settings

    return load_settings().allow_code


class LocalModel:
    """A model in this process. For one thread at a time; also a context manager.

    package: what was loaded.
    """

    def __init__(self, package: Package, model: Model) -> None:
        self.package = package
        self._model = model

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.package.signature

    def __call__(self, inputs: Any) -> dict[str, Value]:
        """The outputs for one record, by name.

        inputs: a mapping by field name, or the bare value of a model with one input. Raises
        InvalidInput; JobFailed where the model fails the record or asks to run it later; and
        whatever the model raises.
        """
        (outcome,) = self._infer([self.signature.check(inputs)])
        match outcome:
            case Done(outputs):
                return dict(outputs)
            case Failed(code, message):
                raise JobFailed("in process", code, message)
            case Retry(message=message):
                raise JobFailed("in process", "retry", message)

    def many(self, inputs: Any) -> list[Outcome]:
        """One outcome per record, in order.

        inputs: a sequence of records; or columns, which are arrays with a leading record
        dimension, by field name or bare where the model has one input. Records run in batches
        as model.toml says, like with like. Where the model raises, the batch is halved until
        the bad record stands alone and is Failed. Raises InvalidInput before anything runs;
        DevicePoisoned.
        """
        records = self._records(inputs)
        outcomes: list[Outcome | None] = [None] * len(records)
        for rows in plan_batches(self.signature, self.package.manifest.batching, records):
            batch = [records[row] for row in rows]
            lengths = [self.signature.length(record) for record in batch]
            isolation = Isolation(self._model.infer, batch, lengths, passes=lambda _: False)
            for row, answer in zip(rows, isolation.run(), strict=True):
                outcomes[row] = answer
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """Free the device's memory."""
        self._model.close()

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _records(self, inputs: Any) -> list[dict[str, Value]]:
        if isinstance(inputs, Mapping) or hasattr(inputs, "__array__"):
            return list(self.signature.check_columns(inputs)[1])
        if isinstance(inputs, str | bytes) or not isinstance(inputs, Sequence):
            inputs = list(inputs) if isinstance(inputs, Iterator) else [inputs]
        return [self.signature.check(record, f"inputs[{i}]") for i, record in enumerate(inputs)]

    def _infer(self, records: Sequence[Record]) -> list[Outcome]:
        outcomes = list(self._model.infer(records))
        if len(outcomes) != len(records):
            raise BadOutput(f"the model gave {len(outcomes)} outcomes for {len(records)} records")
        return outcomes


def plan_batches(
    signature: Signature, batching: Batching, records: Sequence[Record]
) -> Iterator[list[int]]:
    """Row numbers batch by batch: one bucket each, sorted by length, within the bounds."""
    buckets: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for row, record in enumerate(records):
        buckets.setdefault(signature.bucket(record), []).append((signature.length(record), row))
    for bucket in buckets.values():
        batch: list[int] = []
        for length, row in sorted(bucket):
            # Sorted, so this record is the longest of the batch so far.
            tokens = length * (len(batch) + 1)
            full = len(batch) == batching.max_records
            if batching.max_tokens is not None and tokens > batching.max_tokens:
                full = True
            if batch and full:
                yield batch
                batch = []
            batch.append(row)
        yield batch
