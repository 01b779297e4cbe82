"""The parts that staging and finishing are made of, whatever the database."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from headrace.db.bulk import Rows, among
from headrace.db.states import in_state, may, takes
from headrace.db.tables import jobs, now, workers
from headrace.db.units import Again, Failure, Settlement, Success
from headrace.errors import LeaseLapsed, LeaseLost
from headrace.job import JobState, Step, WorkerId

WORKER_LIVES = sa.and_(
    workers.c.id == sa.bindparam("worker"),
    workers.c.stopped_at.is_(None),
    workers.c.lease_until > now(),
)
# Shared, so that nobody can end the lease before this transaction has.
LEASE = sa.select(workers.c.id).where(WORKER_LIVES).with_for_update(read=True)
ON_DEVICE = sa.update(workers).where(WORKER_LIVES).values(on_device=sa.bindparam("new_on_device"))
IN_TIME = sa.or_(jobs.c.deadline.is_(None), jobs.c.deadline > now())
# Not the others: of a job that was deleted there is no row to find.
STILL_OURS = sa.select(jobs.c.id).where(
    among(jobs.c.id, "ids"),
    in_state(JobState.RUNNING, by_id=True),
    jobs.c.worker_id == sa.bindparam("worker"),
    IN_TIME,
)

_STORED: Mapping[Step, tuple[str, ...]] = {
    Step.SUCCEED: ("pack_id", "result_offset", "result_length", "result"),
    Step.FAIL: ("error_code", "error_message"),
}
"""The columns that an outcome fills; the others carry a delay."""


def by_step(outcomes: Iterable[Settlement]) -> dict[Step, list[tuple[Any, ...]]]:
    """Rows of (id, attempt, values…) for `settling`, by the step they take.

    In id order, so that two workers that settle the same jobs cannot wait for each other.
    """
    rows: dict[Step, list[tuple[Any, ...]]] = {}
    row: tuple[Any, ...]
    for outcome in sorted(outcomes, key=lambda outcome: outcome.id):
        match outcome:
            case Success(id, attempt, pack, offset, length, inline):
                step, row = Step.SUCCEED, (id, attempt, pack, offset, length, inline)
            case Failure(id, attempt, code, message):
                step, row = Step.FAIL, (id, attempt, code, message)
            case Again(id, attempt, delay, counted):
                step = Step.RETRY if counted else Step.GIVE_BACK
                row = (id, attempt, delay)
        rows.setdefault(step, []).append(row)
    return rows


@functools.cache
def settling(dialect: sa.Dialect, step: Step) -> tuple[Rows, sa.Update]:
    """The statement that takes `step` for many rows, where the worker still holds the jobs."""
    stored = _STORED.get(step)
    columns: dict[str, sa.types.TypeEngine[Any]] = {
        name: jobs.c[name].type for name in ("id", "attempt", *(stored or ()))
    }
    if stored is None:
        columns["delay"] = sa.Double()
    given = Rows(dialect, columns, name=step.value)
    values: dict[str, Any] = (
        {"due_at": now() + given.c["delay"]}
        if stored is None
        else {"finished_at": now()} | {name: given.c[name] for name in stored}
    )
    statement = (
        sa.update(jobs)
        .where(
            may(step, by_id=True),
            jobs.c.id == given.c["id"],
            jobs.c.attempt == given.c["attempt"],
            jobs.c.worker_id == sa.bindparam("worker"),
        )
        .values(**takes(step), **values)
    )
    return given, statement


def refusal(connection: sa.Connection, worker: WorkerId) -> LeaseLapsed | LeaseLost:
    """Why a worker was refused that does not hold its lease: the error to raise."""
    if connection.execute(_UNSTOPPED, {"worker": worker}).one_or_none():
        return LeaseLapsed(f"the lease of worker {worker} ran out and waits to be renewed")
    return LeaseLost(f"worker {worker} was stopped; what it held is free")


_UNSTOPPED = sa.select(workers.c.id).where(
    workers.c.id == sa.bindparam("worker"), workers.c.stopped_at.is_(None)
)
