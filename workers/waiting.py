"""Where claimed items wait for the device, and where the worker decides to claim more.

Shared by the stations: accept puts, batch takes, infer reports. It holds the batch policy
under one lock and bounds what is claimed, which is the backpressure of the whole worker.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from headrace.job import JobId, ModelKey
from workers.flow import Item
from workers.policy import BatchPolicy

_LEAD = 0.1
"""Claim when the work in hand is expected to last less than this many seconds: enough for a
claim's round trip, too little to hoard jobs that another worker could run at once."""

_AT_ONCE = 4
"""Short batches in one claim: half the lead's worth, and no more than these."""

_SMOOTHING = 0.3


class Waiting:
    """Items between accept and infer. Thread-safe. ceiling: see `BatchPolicy`."""

    def __init__(self, ceiling: Callable[[ModelKey], int | None] = lambda _: None) -> None:
        self._policy = BatchPolicy(ceiling)
        self._changed = threading.Condition()
        self._closed = False
        self._started_at: float | None = None
        # Seconds a batch takes, by version, smoothed; a version that never ran is not here.
        self._seconds: dict[ModelKey, float] = {}
        # The versions of the batches given out and not yet back, oldest first.
        self._handed: deque[ModelKey] = deque()
        # The suspect that was given out and is not yet settled: nothing runs beside it.
        self._alone: JobId | None = None
        self._beside_shard = False

    def beside_shard(self, there: bool) -> None:
        """Whether the device has a shard as well, which every note of what is on it must name."""
        with self._changed:
            self._beside_shard = there

    def put(self, items: Sequence[Item]) -> None:
        """Let claimed items wait."""
        with self._changed:
            self._policy.add(items)
            self._changed.notify_all()

    def wait_for_room(self, timeout: float) -> bool:
        """Whether to claim another batch; waits up to `timeout` seconds for that."""
        end = time.monotonic() + timeout
        with self._changed:
            while not self._closed:
                pause = self._room_in(time.monotonic())
                left = end - time.monotonic()
                if pause <= 0:
                    return True
                if left <= 0:
                    return False
                self._changed.wait(min(pause, left))
            return False

    def several(self, at_most: int) -> tuple[ModelKey, int] | None:
        """A version and how many batches of it to claim at once; None for one of any."""
        with self._changed:
            seconds = self._seconds.get(self._handed[-1]) if self._handed else None
            if not seconds:
                return None
            batches = min(_AT_ONCE, at_most, int(_LEAD / 2 / seconds))
            return self._handed[-1], max(1, batches)

    def idle(self) -> bool:
        """Whether what is claimed now runs at once: nothing waits, and the device is idle."""
        with self._changed:
            busy = self._handed or self._alone or self._beside_shard
            return not (len(self._policy) or busy)

    def take(self) -> list[Item] | None:
        """The next batch: anything while the device is idle, only a full one while it is busy.

        Blocks until there is one, and while a suspect is in hand; None once closed.
        """
        with self._changed:
            while not self._closed:
                if len(self._handed) < 2 and self._alone is None:
                    items = self._policy.next(full_only=len(self._handed) == 1)
                    if items is not None:
                        self._handed.append(items[0].version.key)
                        if items[0].unit.suspect:
                            self._alone = items[0].unit.id
                        self._changed.notify_all()
                        return items
                self._changed.wait()
            return None

    def started(self) -> None:
        """The device begins a batch that `take` gave out."""
        with self._changed:
            self._started_at = time.monotonic()

    def ended(self, seconds: float | None) -> None:
        """The oldest batch that `take` gave out is off the device, after `seconds` on it.

        None: it never ran.
        """
        with self._changed:
            key = self._handed.popleft()
            self._started_at = None
            if seconds is not None:
                before = self._seconds.get(key, seconds)
                self._seconds[key] = before + _SMOOTHING * (seconds - before)
            self._changed.notify_all()

    def dropped(self) -> None:
        """The newest batch that `take` gave out will not run."""
        with self._changed:
            self._handed.pop()
            self._changed.notify_all()

    def settled(self, ids: Collection[JobId]) -> None:
        """These jobs are out of the worker's hands."""
        with self._changed:
            if self._alone in ids:
                self._alone = None
                self._changed.notify_all()

    def close(self) -> list[Item]:
        """Stop giving out batches; returns what still waited."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._policy.drain()

    def _room_in(self, now: float) -> float:
        """Seconds until there is room, as far as can be foretold; 0 or less is now."""
        if len(self._policy) and (not self._handed or self._policy.plenty()):
            return 1.0  # the batch in the making is taken first, and taking it notifies
        return self._work_left(now) - _LEAD

    def _work_left(self, now: float) -> float:
        """Seconds the batches handed out are expected to take yet; 0 when there are none."""
        if not self._handed:
            return 0.0
        if any(key not in self._seconds for key in self._handed):
            return _LEAD + 1.0
        done = now - self._started_at if self._started_at is not None else 0.0
        return max(0.0, sum(self._seconds[key] for key in self._handed) - done)
