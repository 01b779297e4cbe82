"""Removing jobs: their rows, their idempotency keys, and their hold on the packs they point at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa

from headrace.db import packs
from headrace.db.bulk import among
from headrace.db.states import in_state
from headrace.db.tables import idempotency_keys, jobs, workers
from headrace.job import TERMINAL, JobId, PackId


def remove(connection: sa.Connection, ids: Sequence[JobId]) -> list[JobId]:
    """Remove those of the jobs that have ended; returns their ids. Needs a transaction."""
    removed = connection.execute(_REMOVE, {"ids": ids}).all()
    gone = [JobId(row.id) for row in removed]
    if gone:
        connection.execute(_FORGET_KEYS, {"ids": gone})
        held = (pack for row in removed for pack in (row.pack_id, row.input_pack_id) if pack)
        packs.release(connection, Counter(map(PackId, held)))
    return gone


def old(
    connection: sa.Connection, *, ended_before: float, after: JobId | None, limit: int
) -> tuple[list[JobId], JobId | None]:
    """One step of a walk, by id, over the jobs old enough to have ended before that time.

    after: where the step before got to; None to begin. Looks at no more than `limit` jobs, for
    those that cannot go yet may be many. Returns those that can, and where it got to; None at
    the end. ended_before: Unix seconds.
    """
    walked = connection.execute(
        _WALK,
        {
            "first": after or _floor(0),
            "last": _floor(ended_before),
            "cutoff": ended_before,
            "size": limit,
        },
    ).all()
    ids = [JobId(row.id) for row in walked if row.over]
    return ids, JobId(walked[-1].id) if len(walked) == limit else None


def forget_workers(connection: sa.Connection, stopped_before: float) -> None:
    """Remove the rows of workers that stopped before that time, in Unix seconds."""
    connection.execute(sa.delete(workers).where(workers.c.stopped_at < stopped_before))


# An id begins with the milliseconds of its making (UUIDv7), and no job ends before it is made.
# So the primary key serves for a walk over the oldest, and finishing a job pays for no index. The
# producer's clock made the id: where it is fast, its jobs stay as much longer.
def _floor(seconds: float) -> JobId:
    """The least id that a job may have that was made at that time."""
    made = f"{max(0, int(1000 * seconds)):012x}"
    return JobId(f"{made[:8]}-{made[8:]}-0000-0000-000000000000")


_LOCKED = (
    sa.select(jobs.c.id)
    .where(among(jobs.c.id, "ids"), in_state(*TERMINAL, by_id=True))
    # In id order, so that two transactions cannot wait for each other.
    .order_by(jobs.c.id)
    .with_for_update()
    .cte("locked")
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
_REMOVE = (
    sa.delete(jobs)
    .where(jobs.c.id.in_(sa.select(_LOCKED.c.id)))
    .returning(jobs.c.id, jobs.c.pack_id, jobs.c.input_pack_id)
)
_FORGET_KEYS = sa.delete(idempotency_keys).where(among(idempotency_keys.c.job_id, "ids"))
_ID = jobs.c.id.type
_WALK = (
    sa.select(
        jobs.c.id,
        sa.and_(in_state(*TERMINAL), jobs.c.finished_at < sa.bindparam("cutoff")).label("over"),
    )
    .where(
        jobs.c.id > sa.bindparam("first", type_=_ID), jobs.c.id < sa.bindparam("last", type_=_ID)
    )
    .order_by(jobs.c.id)
    .limit(sa.bindparam("size", type_=sa.Integer))
)
