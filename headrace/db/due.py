"""What is due, by line: which workers' bells are worth ringing, and for what."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from headrace.db.pauses import paused
from headrace.db.settling import IN_TIME
from headrace.db.states import may
from headrace.db.tables import jobs, model_versions, now, workers
from headrace.job import JobId, ModelKey, Priority, Step


@dataclass(frozen=True, slots=True)
class Line:
    """Jobs of one version and priority, some of them due.

    batch: the most that one claim takes. workers: those of its pool that take work.
    """

    model: ModelKey
    pool: str
    priority: Priority
    batch: int
    workers: int


def lines(connection: sa.Connection, waited: float = 0.0) -> list[Line]:
    """Every line with a due job that nobody has paused and somebody could claim.

    waited: seconds for which the job must have been due.

    Looks at no more than the first thousand of each: behind as many that are not due yet, a due
    one is not seen.
    """
    return [
        Line(ModelKey(name, version), pool, Priority(priority), batch, serving)
        for name, version, pool, priority, batch, serving in connection.execute(
            _LINES, {"waited": waited}
        )
    ]


def ids(connection: sa.Connection, line: Line, waited: float, *, limit: int) -> list[JobId]:
    """At most `limit` due jobs of the line, of the first thousand."""
    parameters = {
        "of_pool": line.pool,
        "of_name": line.model.name,
        "of_version": line.model.version,
        "of_priority": int(line.priority),
        "waited": waited,
        "at_most": limit,
    }
    return [JobId(id) for (id,) in connection.execute(_IDS, parameters)]


_LOOKED_AT = 1000
_WAITED = sa.bindparam("waited", type_=sa.Double)

_version = model_versions.c
_PRIORITIES = sa.union_all(
    *(sa.select(sa.literal_column(str(int(each))).label("priority")) for each in Priority)
).subquery("priorities")


def _due(
    pool: sa.ColumnElement[str],
    model: sa.ColumnElement[str],
    version: sa.ColumnElement[int],
    priority: sa.ColumnElement[int],
) -> sa.Select[str]:
    """Ids of due jobs among a line's first; suspects apart, as in their index."""
    first = [
        sa.select(jobs.c.id, jobs.c.due_at, IN_TIME.label("in_time"))
        .where(
            may(Step.CLAIM),
            jobs.c.pool == pool,
            jobs.c.model == model,
            jobs.c.version == version,
            jobs.c.suspect == suspect,
            jobs.c.priority == priority,
        )
        .order_by(jobs.c.turn, jobs.c.id)
        .limit(sa.literal_column(str(_LOOKED_AT)))
        .correlate(model_versions, _PRIORITIES)
        .subquery()
        for suspect in (sa.false(), sa.true())
    ]
    both = sa.union_all(*(sa.select(each) for each in first)).subquery()
    return sa.select(both.c.id).where(both.c.due_at <= now() - _WAITED, both.c.in_time)


_SERVING = (
    sa.select(workers.c.pool, sa.func.count().label("count"))
    .where(
        workers.c.stopped_at.is_(None),
        workers.c.lease_until > now(),
        workers.c.draining_at.is_(None),
    )
    .group_by(workers.c.pool)
    .subquery("serving")
)
_LINES = (
    sa.select(
        _version.name,
        _version.version,
        _version.pool,
        _PRIORITIES.c.priority,
        _version.max_records,
        _SERVING.c.count,
    )
    .join_from(model_versions, _SERVING, _SERVING.c.pool == _version.pool)
    .join(_PRIORITIES, sa.true())
    .where(
        sa.not_(paused(_version.pool, _version.name, _version.version)),
        sa.exists(_due(_version.pool, _version.name, _version.version, _PRIORITIES.c.priority)),
    )
    .order_by(_PRIORITIES.c.priority)
)
_IDS = _due(
    sa.bindparam("of_pool", type_=sa.String),
    sa.bindparam("of_name", type_=sa.String),
    sa.bindparam("of_version", type_=sa.Integer),
    sa.bindparam("of_priority", type_=sa.SmallInteger),
).limit(sa.bindparam("at_most", type_=sa.Integer))
