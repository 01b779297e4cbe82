"""Equal records of a shard run once; the others take the result of the first."""

from __future__ import annotations

import functools
import pickle
import sqlite3
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np

from headrace import payload
from headrace.job import Failed
from headrace.signature import Array
from workers.window import Window

_ROW_BITS = 32
_REMEMBERED = 16
"""Windows whose results are kept in memory; those of the others lie in files."""

_Kept = tuple[dict[str, Any], dict[int, Failed]]


class Copies:
    """Of one shard, for the length of a block, in a folder that goes with it: its memory does not
    grow with the shard. One thread asks for `originals`, another for the rest.

    count: records that took the result of an equal one.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headrace-copies-")
        path = Path(self._folder.name, "seen.db")
        self._seen = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute("PRAGMA synchronous = OFF")
        self._seen.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, place) WITHOUT ROWID")
        self._copies: dict[int, list[tuple[int, int]]] = {}
        self._kept: Callable[[int], _Kept] = functools.lru_cache(_REMEMBERED)(self._load)
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.close()
        self._folder.cleanup()

    def originals(self, window: Window) -> Array:
        """The rows of the window to run: no two alike, and none like one of a window before."""
        copies: list[tuple[int, int]] = []
        first = np.ones(len(window.records), dtype=bool)
        for row in range(len(window.records)):
            digest = blake2b(payload.encode(window.records.record(row)), digest_size=16).digest()
            place = window.number << _ROW_BITS | row
            add = "INSERT OR IGNORE INTO seen VALUES (?, ?)"
            if not self._seen.execute(add, (digest, place)).rowcount:
                find = "SELECT place FROM seen WHERE digest = ?"
                copies.append((row, self._seen.execute(find, (digest,)).fetchone()[0]))
                first[row] = False
        if copies:
            self._copies[window.number] = copies
            window.left -= len(copies)
        return np.flatnonzero(first)

    def fill(self, window: Window) -> None:
        """Give the copies in a window their results; every window before it was filled."""
        copies = self._copies.pop(window.number, [])
        for row, place in copies:
            number, original = place >> _ROW_BITS, place & (1 << _ROW_BITS) - 1
            here = number == window.number
            outputs, failed = (window.outputs, window.failed) if here else self._kept(number)
            for name, values in outputs.items():
                column: Any = window.outputs[name]
                column[row] = values[original]
            if original in failed:
                window.failed[row] = failed[original]
        self.count += len(copies)
        self._path(window.number).write_bytes(pickle.dumps((window.outputs, window.failed)))

    def _load(self, number: int) -> _Kept:
        kept: _Kept = pickle.loads(self._path(number).read_bytes())  # our own
        return kept

    def _path(self, number: int) -> Path:
        return Path(self._folder.name, str(number))
