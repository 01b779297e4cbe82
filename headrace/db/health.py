"""What tells a healthy job table from one that something is wrong with: counts, and ages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa

from headrace.dataset import PLANS, SHARDS
from headrace.db.packs import IS_DELETED, IS_WRITING
from headrace.db.pauses import paused
from headrace.db.settling import IN_TIME
from headrace.db.states import in_state, may
from headrace.db.tables import jobs, now, packs, sweeps, workers
from headrace.job import JobId, JobState, Step

_SHOWN = 5
"""Ids in a finding: enough to look at, few enough to read."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a pool could run now.

    due: jobs. waited: seconds, by the one that has been due for longest. units: shards and plans
    of datasets, which wait for hours where there are many.
    """

    pool: str
    due: int = 0
    waited: float = 0.0
    units: int = 0


def clock(connection: sa.Connection) -> float:
    """The database's clock, in Unix seconds."""
    return float(connection.execute(sa.select(now())).scalar_one())


def backlogs(connection: sa.Connection) -> list[Backlog]:
    """Every pool with something that a worker could claim now."""
    of_model = (jobs.c.pool, jobs.c.model, jobs.c.version)
    due = (
        sa.select(
            *of_model, sa.func.count().label("due"), sa.func.min(jobs.c.due_at).label("since")
        )
        .where(may(Step.CLAIM), jobs.c.due_at <= now(), IN_TIME)
        .group_by(*of_model)
        .cte("due")
    )
    pool = sa.func.replace(sa.func.replace(due.c.pool, SHARDS, ""), PLANS, "")
    rows = connection.execute(
        sa.select(due.c.pool, sa.func.sum(due.c.due), now() - sa.func.min(due.c.since))
        .where(sa.not_(paused(pool, due.c.model, due.c.version)))
        .group_by(due.c.pool)
    )
    found: dict[str, Backlog] = {}
    for line, count, waited in rows:
        name, _, unit = line.partition("/")
        held = found.get(name, Backlog(name))
        more = {"units": held.units + int(count)} if unit else {"due": int(count), "waited": waited}
        found[name] = replace(held, **more)
    return sorted(found.values(), key=lambda backlog: backlog.pool)


def unswept(connection: sa.Connection) -> float:
    """Seconds since the last sweep."""
    return float(connection.execute(sa.select(now() - sweeps.c.swept_at)).scalar_one())


def lapsed(connection: sa.Connection, seconds: float) -> int:
    """How many workers lost their lease more than `seconds` ago, and hold their jobs yet."""
    return _count(
        connection,
        sa.select(sa.func.count()).where(
            workers.c.stopped_at.is_(None), workers.c.lease_until < now() - seconds
        ),
    )


def held_by_nobody(connection: sa.Connection) -> list[JobId]:
    """A few running jobs whose worker has been stopped, or never was."""
    there = sa.exists(
        sa.select(workers.c.id).where(
            workers.c.id == jobs.c.worker_id, workers.c.stopped_at.is_(None)
        )
    )
    orphans = sa.select(jobs.c.id).where(in_state(JobState.RUNNING), sa.not_(there)).limit(_SHOWN)
    return [JobId(id) for (id,) in connection.execute(orphans)]


def half_written(connection: sa.Connection) -> int:
    """How many packs are `writing` for a worker that has been stopped."""
    return _count(
        connection,
        sa.select(sa.func.count()).where(
            IS_WRITING,
            packs.c.worker_id == workers.c.id,
            workers.c.stopped_at.isnot(None),
        ),
    )


def undeleted(connection: sa.Connection, seconds: float) -> int:
    """How many packs should have been removed more than `seconds` ago."""
    return _count(
        connection,
        sa.select(sa.func.count()).where(IS_DELETED, packs.c.delete_at < now() - seconds),
    )


def _count(connection: sa.Connection, statement: sa.Select[int]) -> int:
    return int(connection.execute(statement).scalar_one())
