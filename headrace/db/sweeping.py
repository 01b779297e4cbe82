"""A sweeper's statements: whose turn it is, and what is due to be put right, some at a time."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from headrace.db.states import may, takes
from headrace.db.tables import instant, jobs, now, sweeps
from headrace.job import JobId, Step


@dataclass(frozen=True, slots=True)
class Turn:
    """A sweep to make. began_at: Unix seconds, the database's clock.

    watched: seconds for which sweeps have come without a gap. After a gap the workers may have
    been cut off from the database just as the sweepers were: their leases say nothing before
    each could renew its own. walked_to: where the sweep before got to among the old jobs.
    """

    began_at: float
    watched: float
    walked_to: JobId | None


def begin(connection: sa.Connection, every: float) -> Turn | None:
    """Take the turn, of which there is one per `every` seconds, however many ask."""
    row = connection.execute(_BEGIN, {"every": every, "gap": _GAP * every}).one_or_none()
    return None if row is None else Turn(*row)


def end(connection: sa.Connection, walked_to: JobId | None) -> None:
    """The sweep is over. Gaps count from here, so that a long sweep is not taken for one."""
    connection.execute(sa.update(sweeps).values(swept_at=now(), walked_to=walked_to))


def expire(connection: sa.Connection, limit: int) -> int:
    """End at most `limit` jobs that are past their deadline; returns how many it were."""
    return len(connection.execute(_EXPIRE, {"size": limit}).all())


_GAP = 2
"""Sweeps missed in a row, after which sweeping has had a gap. With sweeps every third of a lease,
a worker that could not renew in a shorter one has some of its lease left."""

_EVERY, _LONG = sa.bindparam("every", type_=sa.Double), sa.bindparam("gap", type_=sa.Double)
_BEGIN = (
    sa.update(sweeps)
    .where(sweeps.c.swept_at <= now() - _EVERY)
    .values(
        swept_at=now(),
        resumed_at=sa.case((sweeps.c.swept_at < now() - _LONG, now()), else_=sweeps.c.resumed_at),
    )
    .returning(sweeps.c.swept_at, sweeps.c.swept_at - sweeps.c.resumed_at, sweeps.c.walked_to)
)

# Common table expressions, for a subselect with a limit may run more than once.
_OVERDUE = (
    sa.select(jobs.c.id)
    .where(may(Step.EXPIRE), jobs.c.deadline <= instant())
    .order_by(jobs.c.deadline)
    .limit(sa.bindparam("size", type_=sa.Integer))
    .with_for_update(skip_locked=True)
    .cte("overdue")
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
_EXPIRE = (
    sa.update(jobs)
    .where(jobs.c.id == _OVERDUE.c.id)
    .values(
        **takes(Step.EXPIRE),
        finished_at=now(),
        error_code="deadline",
        error_message="the deadline passed before the job was done",
    )
    .returning(jobs.c.id)
)
