"""The files of a shard's results: a part with the rows that succeeded, and one with the errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import pyarrow as pa

from headrace.datasets import outputs, writing
from headrace.datasets.formats import Compression, Format, suffix
from headrace.datasets.outputs import Output, Sealed
from headrace.datasets.reading import Reading
from headrace.datasets.rows import Reject, in_order
from headrace.db.shards import ShardRow
from headrace.errors import StoreUnavailable
from headrace.settings import Settings
from headrace.signature import Signature
from workers.window import Window

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PATIENCE, _PAUSE = 60.0, 1.0
"""Seconds a file is kept for a store that takes nothing, before the shard is given back."""


@dataclass(frozen=True, slots=True)
class Written:
    """A shard that is done with: its files, not yet published, and what became of its records."""

    sealed: tuple[Sealed, ...]
    succeeded: int
    failed: int
    duplicates: int


class Parts:
    """Takes windows in the input's order. What is not sealed goes again at the block's end.

    look: called while a store is waited for; what it raises ends the wait. Every call raises
    StoreUnavailable, StorageError.
    """

    def __init__(
        self,
        row: ShardRow,
        signature: Signature,
        reading: Reading,
        settings: Settings,
        look: Callable[[], None],
    ) -> None:
        self._row = row
        self._signature = signature
        self._columns = reading.columns
        self._schema = writing.schema_of(signature, reading.columns, reading.schema)
        self._settings = settings
        self._look = look
        self._files = ExitStack()
        self._errors: _Patient | None = None
        self._succeeded = self._failed = 0

    def __enter__(self) -> Self:
        spec = self._row.spec
        format, compression = Format(spec.format), Compression(spec.compression)
        self._part = self._open("part", suffix(format, compression))
        self._writer = writing.open_writer(self._part, self._schema, format, compression)
        self._writing = ExitStack()
        self._writing.enter_context(self._writer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # pyarrow ends a file when it lets go of it, whether anybody wants it or not.
        self._part.closed = True
        self._writing.__exit__(kind, error, trace)
        self._files.__exit__(kind, error, trace)

    def write(self, window: Window) -> None:
        """Put a window's results, and its errors, behind those that are there."""
        try:
            table, failed = self._results(window)
        except (pa.ArrowException, ValueError, TypeError):
            window.failed |= writing.unstorable(self._signature, window.outputs)
            table, failed = self._results(window)
        self._writer.write_table(table)
        rejects = in_order(window.records.rejects, failed)
        if rejects:
            if self._errors is None:
                self._errors = self._open("errors", ".jsonl")
            writing.write_errors(self._errors, self._row.uri, rejects)
        self._succeeded += table.num_rows
        self._failed += len(rejects)

    def seal(self, duplicates: int) -> Written:
        """All windows are there. duplicates: records that took the result of an equal one."""
        self._writing.close()
        files = [self._part, *([self._errors] if self._errors else [])]
        sealed = tuple(file.seal() for file in files)
        return Written(sealed, self._succeeded, self._failed, duplicates)

    def _results(self, window: Window) -> tuple[pa.Table, list[Reject]]:
        return writing.results(
            self._signature,
            self._columns,
            self._schema,
            self._row.uri,
            window.records,
            window.outputs,
            window.failed,
        )

    def _open(self, kind: str, ending: str) -> _Patient:
        row = self._row
        again = f"-r{row.run}" if row.run > 1 else ""
        name = f"{kind}-{row.file:05d}-{row.number:05d}{again}{ending}"
        uri = f"{row.spec.output.rstrip('/')}/{name}"
        output = patiently(lambda: outputs.open_output(uri, self._settings), self._look)
        return _Patient(self._files.enter_context(output), self._look)


class _Patient:
    """An output that waits for a store which is away. closed: what comes now is for nobody."""

    def __init__(self, output: Output, look: Callable[[], None]) -> None:
        self.closed = False
        self._output = output
        self._look = look

    def write(self, data: bytes) -> int:
        if self.closed:
            return len(data)
        try:
            return self._output.write(data)
        except StoreUnavailable:
            if not self._output.keeps:
                raise
        patiently(lambda: self._output.write(b""), self._look)
        return len(data)

    def seal(self) -> Sealed:
        if not self._output.keeps:
            return self._output.seal()
        return patiently(self._output.seal, self._look)


def patiently(action: Callable[[], _T], look: Callable[[], None]) -> _T:
    """Try it until the store takes it. Raises StoreUnavailable after a minute."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return action()
        except StoreUnavailable as error:
            if time.monotonic() > give_up:
                raise
            _log.warning("cannot write a result, trying again: %s", error)
        look()
        time.sleep(_PAUSE)
