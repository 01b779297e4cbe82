"""Leases: one row per worker incarnation, and what becomes of a dead one's work."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime

import sqlalchemy as sa

from headrace.db import datasets
from headrace.db.bulk import among
from headrace.db.packs import IS_WRITING, given_up
from headrace.db.states import literal, may, takes
from headrace.db.tables import jobs, now, packs, utc, workers
from headrace.job import JobId, JobState, Step, WorkerId


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker incarnation that holds its lease.

    ready_at: None while it warms up. draining_at: since when it claims no more.
    """

    id: WorkerId
    pool: str
    device: str
    host: str
    pid: int
    started_at: datetime
    ready_at: datetime | None
    draining_at: datetime | None

    @property
    def state(self) -> str:
        """``warming up``, ``ready`` (it takes jobs) or ``draining``."""
        if self.draining_at is not None:
            return "draining"
        return "warming up" if self.ready_at is None else "ready"


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did. given_back and suspects are jobs of dead workers, requeued.

    removed: jobs that had ended long enough ago.
    """

    dead_workers: int = 0
    given_back: int = 0
    suspects: int = 0
    quarantined: int = 0
    expired: int = 0
    removed: int = 0

    def __bool__(self) -> bool:
        return any(astuple(self))

    def __add__(self, other: Swept) -> Swept:
        return Swept(*map(operator.add, astuple(self), astuple(other)))


def register(
    connection: sa.Connection,
    worker: WorkerId,
    *,
    pool: str,
    device: str,
    host: str,
    pid: int,
    lease: float,
) -> None:
    """Add the incarnation, holding a lease of `lease` seconds from now."""
    connection.execute(
        sa.insert(workers).values(
            id=worker,
            pool=pool,
            device=device,
            host=host,
            pid=pid,
            started_at=now(),
            lease_until=now() + lease,
        )
    )


def renew(connection: sa.Connection, worker: WorkerId, lease: float) -> bool:
    """Extend the lease; False where the worker was stopped, for then it stays lost.

    One that ran out without that, as in an outage of the database, is whole again: nobody has
    touched the worker's jobs, and whoever stops it does so in one transaction with freeing them.
    """
    held = connection.execute(
        sa.update(workers)
        .where(workers.c.id == worker, workers.c.stopped_at.is_(None))
        .values(lease_until=now() + lease)
    )
    return held.rowcount == 1


def ready(connection: sa.Connection, worker: WorkerId) -> None:
    """Note that the worker is warm and takes work."""
    connection.execute(sa.update(workers).where(workers.c.id == worker).values(ready_at=now()))


def draining(connection: sa.Connection, worker: WorkerId) -> None:
    """Note that the worker claims no more, and leaves once its running batch is done."""
    connection.execute(sa.update(workers).where(workers.c.id == worker).values(draining_at=now()))


def alive(connection: sa.Connection, pool: str | None = None) -> list[WorkerInfo]:
    """The incarnations that hold a lease, oldest first."""
    table = workers.c
    statement = (
        sa.select(
            table.id,
            table.pool,
            table.device,
            table.host,
            table.pid,
            table.started_at,
            table.ready_at,
            table.draining_at,
        )
        .where(table.stopped_at.is_(None), table.lease_until > now())
        .order_by(table.started_at)
    )
    if pool is not None:
        statement = statement.where(table.pool == pool)
    return [
        WorkerInfo(
            WorkerId(row.id),
            row.pool,
            row.device,
            row.host,
            row.pid,
            utc(row.started_at),
            utc(row.ready_at),
            utc(row.draining_at),
        )
        for row in connection.execute(statement)
    ]


def retire(
    connection: sa.Connection,
    worker: WorkerId,
    *,
    suspects: Sequence[JobId],
    why: str,
    quarantine_after: int,
) -> Swept:
    """End an incarnation whose process is gone for certain, and free its work at once.

    suspects: the batch that was on the device, if that may be what ended it. why: how it ended,
    as in "the worker …". quarantine_after: workers that may die with a job alone.
    """
    if _stop(connection, worker, sa.true()) is None:
        return Swept()
    return _free(connection, worker, suspects, why, quarantine_after)


def lapsed(connection: sa.Connection) -> list[WorkerId]:
    """Incarnations whose lease ran out and that nobody has stopped yet."""
    ran_out = sa.and_(workers.c.stopped_at.is_(None), workers.c.lease_until <= now())
    return [WorkerId(id) for (id,) in connection.execute(sa.select(workers.c.id).where(ran_out))]


def bury(connection: sa.Connection, worker: WorkerId, *, quarantine_after: int) -> Swept:
    """End an incarnation, and free its work, unless its lease was renewed meanwhile.

    Which of its batches ran, and how it ended, nobody is left to tell.
    """
    named = _stop(connection, worker, workers.c.lease_until <= now())
    if named is None:
        return Swept()
    return _free(connection, worker, named, "fell silent", quarantine_after)


def _stop(
    connection: sa.Connection, worker: WorkerId, where: sa.ColumnElement[bool]
) -> list[JobId] | None:
    """End the lease; returns what was on the device, or next in line. None: it has ended."""
    named: str | None = connection.execute(
        sa.update(workers)
        .where(workers.c.id == worker, workers.c.stopped_at.is_(None), where)
        .values(stopped_at=now())
        .returning(workers.c.on_device)
    ).scalar_one_or_none()
    return None if named is None else json.loads(named)


def _free(
    connection: sa.Connection,
    worker: WorkerId,
    suspects: Sequence[JobId],
    why: str,
    quarantine_after: int,
) -> Swept:
    """Requeue what the stopped worker held.

    A suspect runs alone from now on, and one that was alone already has a death to its name: it
    goes to the end of the line, so that one more unlucky kill hits another job, and at
    `quarantine_after` deaths it is failed. All others were bystanders; their claim is undone.
    """
    held = {"worker": worker}
    blamed = held | {"suspects": suspects}
    quarantined = lost = 0
    if len(suspects) == 1:
        told = {
            "bound": quarantine_after,
            "why": f"{quarantine_after} workers died with this job alone on the device, "
            f"the last of which {why}; see its log. `headrace replay` queues the job again",
        }
        quarantined = connection.execute(_QUARANTINE, blamed | told).rowcount
        lost = connection.execute(_LOSE_ALONE, blamed).rowcount
        if quarantined:
            datasets.fail_for(connection, suspects[0])
    elif suspects:
        lost = connection.execute(_LOSE, blamed).rowcount
    given_back = connection.execute(_GIVE_BACK, held).rowcount
    connection.execute(_DROP_PACKS, held)
    return Swept(1, given_back, lost, quarantined)


_HELD = jobs.c.worker_id == sa.bindparam("worker")
_SUSPECT = sa.and_(_HELD, among(jobs.c.id, "suspects"))
_ONE_MORE = jobs.c.deaths + 1
_QUARANTINE = (
    sa.update(jobs)
    .where(may(Step.FAIL), _SUSPECT, sa.bindparam("bound") <= _ONE_MORE)
    .values(
        **takes(Step.FAIL),
        suspect=True,
        deaths=_ONE_MORE,
        finished_at=now(),
        error_code="quarantined",
        error_message=sa.bindparam("why"),
    )
)
_LOSE = sa.update(jobs).where(may(Step.LOSE), _SUSPECT).values(**takes(Step.LOSE), suspect=True)
_line = jobs.alias("line")
_END_OF_LINE = (
    sa.select(sa.func.coalesce(sa.func.max(_line.c.turn), 0) + 1)
    .where(
        _line.c.state == literal(JobState.QUEUED),
        _line.c.pool == jobs.c.pool,
        _line.c.priority == jobs.c.priority,
    )
    .scalar_subquery()
)
_LOSE_ALONE = _LOSE.values(deaths=_ONE_MORE, turn=_END_OF_LINE)
_GIVE_BACK = sa.update(jobs).where(may(Step.GIVE_BACK), _HELD).values(**takes(Step.GIVE_BACK))
_DROP_PACKS = (
    sa.update(packs)
    .where(packs.c.worker_id == sa.bindparam("worker"), IS_WRITING)
    .values(**given_up())
)
