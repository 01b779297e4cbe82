"""News of ended jobs, for who waits: on PostgreSQL a few jobs are heard of, not asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import sqlalchemy as sa

from headrace.db.engine import Database
from headrace.db.listen import Listener, notify
from headrace.job import JobId

FEW = 16
"""Jobs that end together, or are waited for together, up to which milliseconds count. News of
large batches would cost more than their waiters' polls."""

_CHANNEL = "headrace_ended"
_KEPT = 1024
_IDLE_SECONDS = 10.0


def tell(connection: sa.Connection, ids: Sequence[JobId]) -> None:
    """Announce that a few jobs have ended, once that is committed."""
    if 0 < len(ids) <= FEW:
        notify(connection, _CHANNEL, " ".join(ids))


class News:
    """What was heard of late. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._listener = Listener(database, _CHANNEL, self._hear, idle=_IDLE_SECONDS)
        self._changed = threading.Condition()
        # Kept for a while: a job may end between the question whether it has and the wait.
        self._ended: dict[str, None] = {}

    def wait(self, ids: Sequence[JobId], seconds: float) -> None:
        """Wait for news of one of a few jobs; of many, or without news, `seconds`."""
        if len(ids) > FEW:
            time.sleep(seconds)
            return
        self._listener.listen()
        with self._changed:
            self._changed.wait_for(lambda: any(id in self._ended for id in ids), seconds)
            for id in ids:
                self._ended.pop(id, None)

    def close(self) -> None:
        """Hear no more."""
        self._listener.close()

    def _hear(self, ids: str) -> None:
        with self._changed:
            self._ended |= dict.fromkeys(ids.split())
            while len(self._ended) > _KEPT:
                del self._ended[next(iter(self._ended))]
            self._changed.notify_all()
