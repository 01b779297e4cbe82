"""News of ended jobs, for who waits: on PostgreSQL a few jobs are heard of, not asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import sqlalchemy as sa

from headrace.db.engine import Database
from headrace.db.listen import Listener
from headrace.db.tables import jobs, lazy_commit
from headrace.job import JobId

FEW = 16
"""Jobs that end together, or are waited for together, up to which milliseconds count. News of
large batches would cost more than their waiters' polls."""

_CHANNEL = "headrace_ended"
_KEPT = 1024
_IDLE_SECONDS = 10.0
_LEAST_SECONDS = 0.02
_NOTICE_BYTES, _ID_BYTES = 7900, 40
"""PostgreSQL's limit is 8000."""


def tell(connection: sa.Connection, ids: Sequence[JobId]) -> None:
    """Announce that a few jobs have ended, with their results where these are small.

    A statement of its own, after the commit of what it tells of: PostgreSQL lets one transaction
    at a time commit with a notice, and that one should not wait for the disk meanwhile. It tells
    what the table has, whatever the caller believes. Nobody listens on SQLite.
    """
    if 0 < len(ids) <= FEW and connection.dialect.name == "postgresql":
        room = (_NOTICE_BYTES // len(ids) - _ID_BYTES) // 2
        connection.execute(_TELL, {"ids": ids, "room": room})


class News:
    """What was heard of late. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._listener = Listener(database, _CHANNEL, self._hear, idle=_IDLE_SECONDS)
        self._changed = threading.Condition()
        # Kept for a while: a job may end between the question whether it has and the wait.
        self._ended: dict[str, bytes] = {}

    def wait(self, ids: Sequence[JobId], seconds: float) -> dict[JobId, bytes]:
        """Wait for news of one of a few jobs; of many, or without news, `seconds`.

        Where news would be heard, asking again too soon only gets into its way.

        Returns the encoded results that came along.
        """
        if len(ids) > FEW:
            time.sleep(seconds)
            return {}
        self._listener.listen()
        if self._listener.listening:
            seconds = max(seconds, _LEAST_SECONDS)
        with self._changed:
            self._changed.wait_for(lambda: any(id in self._ended for id in ids), seconds)
            heard = {id: self._ended.pop(id, b"") for id in ids}
        return {id: result for id, result in heard.items() if result}

    def close(self) -> None:
        """Hear no more."""
        self._listener.close()

    def _hear(self, notice: str) -> None:
        told = (word.partition("=") for word in notice.split())
        with self._changed:
            self._ended |= {id: bytes.fromhex(result) for id, _, result in told}
            while len(self._ended) > _KEPT:
                del self._ended[next(iter(self._ended))]
            self._changed.notify_all()


_ids = sa.func.unnest(sa.cast(sa.bindparam("ids"), sa.ARRAY(jobs.c.id.type)))
_told = _ids.table_valued(sa.column("id", jobs.c.id.type)).render_derived(name="told")
_small = sa.func.octet_length(jobs.c.result) <= sa.bindparam("room", type_=sa.Integer)
_result = sa.literal_column("'='").concat(sa.func.encode(jobs.c.result, "hex"))
_words = sa.func.concat(_told.c.id, sa.case((_small, _result)))  # leaves out what is NULL
_TELL = sa.select(
    sa.func.pg_notify(_CHANNEL, sa.func.string_agg(_words, " ")), lazy_commit()
).select_from(_told.outerjoin(jobs, jobs.c.id == _told.c.id))
