"""Knocks: on PostgreSQL, a submission of a few jobs wakes one idle worker by name.

Its ticket follows, by way of the broker, for a knock may get lost. One worker only: of many
that were woken for one job, all but one would claim for nothing.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from headrace.db.tables import lazy_commit, now, workers
from headrace.job import WorkerId
from headrace.news import FEW

_NOBODY_SECONDS = 0.05
"""Where no worker was idle, the next submissions do not even look for one: they come thick and
fast, or nobody is there."""


def door(worker: WorkerId) -> str:
    """The channel on which the worker listens for knocks."""
    return f"headrace_{worker}"


class Knocks:
    """A producer's. Thread-safe."""

    def __init__(self) -> None:
        self._nobody_until = 0.0

    def knock(self, connection: sa.Connection, pool: str, jobs: int) -> None:
        """Tell an idle worker of `pool` of a few jobs that were committed; no-op on SQLite."""
        if (
            jobs > FEW
            or connection.dialect.name != "postgresql"
            or time.monotonic() < self._nobody_until
        ):
            return
        if connection.execute(_KNOCK, {"of_pool": pool}).one_or_none() is None:
            self._nobody_until = time.monotonic() + _NOBODY_SECONDS


_IDLE = (
    sa.select(workers.c.id)
    .where(
        workers.c.pool == sa.bindparam("of_pool"),
        workers.c.stopped_at.is_(None),
        workers.c.lease_until > now(),
        workers.c.ready_at.isnot(None),
        workers.c.draining_at.is_(None),
        workers.c.on_device == "[]",
    )
    .order_by(sa.func.random())
    .limit(1)
    .cte("idle")
)
# A transaction of its own, after the commit of the jobs, as all notices are (see `headrace.news`).
_KNOCK = sa.select(
    sa.func.pg_notify(sa.literal(door(WorkerId(""))).concat(sa.cast(_IDLE.c.id, sa.Text)), ""),
    lazy_commit(),
)
