"""What a worker process and its supervisor share in memory.

The supervisor must tell a long batch from a hung one without asking: a process that hangs
does not answer, and one that computes may not get to answering. And it must know which jobs
a process had in hand when it died. So the worker writes down what it is at, and the
supervisor reads it, across processes, on the machine's one monotonic clock.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.job import JobId

# last tick, device busy since (0: idle), seconds it may take
_HEAD = struct.Struct("<3d")
_TICK, _BUSY = 0, 8
_PAIR = struct.Struct("<2d")
_ONE = struct.Struct("<d")
_COUNT = struct.Struct("<I")
_IDS = 2 * 1024**2
"""Bytes for the ids of a batch: some 50,000. A file takes up only what was written of it."""


@dataclass(frozen=True, slots=True)
class _Text:
    """A text of at most `size` bytes at `start`, behind its length, which is written last."""

    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + _COUNT.size + self.size

    def write(self, board: mmap.mmap, text: str) -> None:
        data = text.encode("utf-8", "replace")[: self.size]
        _COUNT.pack_into(board, self.start, 0)
        at = self.start + _COUNT.size
        board[at : at + len(data)] = data
        _COUNT.pack_into(board, self.start, len(data))

    def read(self, board: mmap.mmap) -> str:
        (length,) = _COUNT.unpack_from(board, self.start)
        at = self.start + _COUNT.size
        return board[at : at + length].decode("utf-8", "replace")


_LAST_WORDS = _Text(_HEAD.size, 1024)
_BLAMED = _Text(_LAST_WORDS.end, _IDS)
_ON_DEVICE = _Text(_BLAMED.end, _IDS)
_ENCODING = _Text(_ON_DEVICE.end, _IDS)
_READING = _Text(_ENCODING.end, 1024)


class Progress:
    """One worker's board. Each field has one writing thread; a torn read is read again later."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _READING.end)
        self.path = path

    @classmethod
    def create(cls) -> Progress:
        """A fresh board in a temporary file."""
        with tempfile.NamedTemporaryFile(prefix="headrace-progress-", delete=False) as file:
            file.write(_HEAD.pack(time.monotonic(), 0.0, 0.0))
            file.truncate(_READING.end)
        return cls(Path(file.name))

    def tick(self) -> None:
        """The worker goes round."""
        _ONE.pack_into(self._map, _TICK, time.monotonic())

    @contextmanager
    def device(self, limit: float) -> Iterator[None]:
        """The device is busy inside this block, for at most `limit` seconds."""
        _PAIR.pack_into(self._map, _BUSY, time.monotonic(), limit)
        try:
            yield
        finally:
            _PAIR.pack_into(self._map, _BUSY, 0.0, 0.0)

    def stuck(self, tick_limit: float, watched_since: float = 0.0) -> str | None:
        """Why the worker makes no progress; None while it does.

        watched_since: when the caller began to look, or looked again after it had been away
        itself, on the monotonic clock. What was before is not held against the worker.
        """
        tick, since, limit = _HEAD.unpack_from(self._map)
        now = time.monotonic()
        if since:
            seconds = now - max(since, watched_since)
            if seconds <= limit:
                return None
            return f"a batch has run for {seconds:.0f} s, over its limit of {limit:g} s"
        seconds = now - max(tick, watched_since)
        if seconds > tick_limit:
            return f"it has stood still for {seconds:.0f} s"
        return None

    def begin(self, ids: Sequence[JobId]) -> None:
        """These jobs go to the device, as one batch."""
        _ON_DEVICE.write(self._map, "\n".join(ids))

    def end(self) -> None:
        """They are off it again."""
        _ON_DEVICE.write(self._map, "")

    @contextmanager
    def encoding(self, ids: Sequence[JobId]) -> Iterator[None]:
        """These jobs' results are made ready to be stored inside this block."""
        _ENCODING.write(self._map, "\n".join(ids))
        try:
            yield
        finally:
            _ENCODING.write(self._map, "")

    @contextmanager
    def reading(self, id: JobId) -> Iterator[None]:
        """A shard's rows are read, and made ready to run, inside this block."""
        _READING.write(self._map, id)
        try:
            yield
        finally:
            _READING.write(self._map, "")

    def last_words(self, why: str, blamed: Sequence[JobId]) -> None:
        """The process ends itself. why: as in "the worker …". blamed: the jobs that caused it."""
        _BLAMED.write(self._map, "\n".join(blamed))
        _LAST_WORDS.write(self._map, why)

    def why_ended(self) -> str:
        """What the process said when it ended itself; else empty."""
        return _LAST_WORDS.read(self._map)

    def suspects(self) -> list[JobId]:
        """The jobs that may have ended the process: those in hand where a record could do it.

        A shard that was being read is one only where nothing else was in hand: it is read all the
        time, and the job that is at fault must not share the blame for ever.
        """
        said = bool(self.why_ended())
        for parts in ((_BLAMED,),) if said else ((_ON_DEVICE, _ENCODING), (_READING,)):
            ids = [JobId(id) for part in parts for id in part.read(self._map).splitlines()]
            if ids:
                return ids
        return []

    def remove(self) -> None:
        """Delete the file; the process that maps it goes on unharmed."""
        self.path.unlink(missing_ok=True)
