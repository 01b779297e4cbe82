"""Where batches that ran wait for the store, and which of them are stored together. Thread-safe."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from workers.flow import Ran

_DEPTH = 4
_PACK_BYTES = 1024 * 1024
"""Batches share an object up to this size; from there on it is the bytes that take the time."""
_GATHER_SECONDS = 0.05


class Line:
    """Batches gather for a moment, to share an object and a commit: while a thread stores, and
    where the next ones follow so soon that the line is full by then. A full line does not wait.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[Ran] = deque()
        self._storing = 0
        self._stopping = False
        self._batch_bytes = 1

    def put(self, ran: Ran, timeout: float | None) -> bool:
        """Append, once there is room; False where there was none within `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._line) < _DEPTH, timeout):
                return False
            self._line.append(ran)
            self._changed.notify_all()
        return True

    def stop(self) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def take(self) -> list[Ran]:
        """What to store together, until `stored` is called; none once there will be no more."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._line or self._stopping)
                self._changed.wait_for(
                    lambda: len(self._line) == _DEPTH or self._stopping or not self._gathers(),
                    _GATHER_SECONDS,
                )
                if self._line or self._stopping:
                    return self._take()

    def stored(self) -> None:
        """What a `take` gave out is done with."""
        with self._changed:
            self._storing -= 1
            self._changed.notify_all()

    def wrote(self, batch_bytes: int) -> None:
        """The results of a batch were this large: a guess at the next one's."""
        self._batch_bytes = max(1, batch_bytes)

    def _gathers(self) -> bool:
        if self._storing:
            return True
        soon = _GATHER_SECONDS / _DEPTH
        return bool(self._line) and self._line[-1].more and self._line[-1].seconds < soon

    def _take(self) -> list[Ran]:
        rans: list[Ran] = []
        room = max(1, _PACK_BYTES // self._batch_bytes)
        while self._line and len(rans) < room and _alike([*rans[:1], self._line[0]]):
            rans.append(self._line.popleft())
        self._storing += bool(rans)
        self._changed.notify_all()
        return rans


def _alike(rans: Sequence[Ran]) -> bool:
    """Whether they may share packs, which tell of their jobs how many ran together."""
    sizes = {pack.batch_size for ran in rans for pack in ran.batch.packs}
    return len(rans) == 1 or (len(sizes) == 1 and all(ran.batch.packs for ran in rans))
