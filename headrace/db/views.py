"""What a producer reads of jobs: their states, results, lists, and what they wait for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from headrace.db.bulk import among
from headrace.db.states import in_state
from headrace.db.tables import jobs, now, packs, utc
from headrace.job import TERMINAL, ErrorInfo, Job, JobId, JobState, ModelKey, Priority


@dataclass(frozen=True, slots=True)
class StoredResult:
    """Where a job's result is: inline, or `length` bytes from `offset` of the object `key`."""

    id: JobId
    state: JobState
    error: ErrorInfo | None
    inline: bytes | None
    key: str | None
    offset: int
    length: int


def fetch(connection: sa.Connection, ids: Sequence[JobId]) -> dict[JobId, Job]:
    """The jobs that exist, by id."""
    return {row.id: _job(row) for row in connection.execute(_FETCH, {"ids": ids})}


def ended(connection: sa.Connection, ids: Sequence[JobId]) -> dict[JobId, JobState]:
    """Those of the jobs that are terminal, with their states: what a wait asks for."""
    return {JobId(id): JobState(state) for id, state in connection.execute(_ENDED, {"ids": ids})}


def results(connection: sa.Connection, ids: Sequence[JobId]) -> dict[JobId, StoredResult]:
    """Where the jobs' results are, by id."""
    return {
        id: StoredResult(
            id, JobState(state), _error(code, message), inline, key, offset or 0, length or 0
        )
        for id, state, code, message, inline, key, offset, length in connection.execute(
            _RESULTS, {"ids": ids}
        )
    }


def page(
    connection: sa.Connection,
    *,
    tenant: str,
    model: str | None = None,
    version: int | None = None,
    states: Sequence[JobState] = (),
    code: str | None = None,
    since: float | None = None,
    until: float | None = None,
    after: JobId | None = None,
    limit: int = 100,
) -> list[Job]:
    """Jobs that match, newest first, below the id `after`. Times in Unix seconds.

    code: of their error. The units of datasets are not among them.
    """
    table = jobs.c
    statement = _VIEW.where(table.tenant == tenant, sa.not_(table.pool.contains("/")))
    if model is not None:
        statement = statement.where(table.model == model)
    if version is not None:
        statement = statement.where(table.version == version)
    if states:
        statement = statement.where(in_state(*states))
    if code is not None:
        statement = statement.where(table.error_code == code)
    if since is not None:
        statement = statement.where(table.created_at >= since)
    if until is not None:
        statement = statement.where(table.created_at < until)
    if after is not None:
        statement = statement.where(table.id < after)
    rows = connection.execute(statement.order_by(table.id.desc()).limit(limit))
    return [_job(row) for row in rows]


def backlog(connection: sa.Connection, pool: str, at_most: int) -> tuple[int, int]:
    """How many jobs of the pool are queued and due now, and how many run.

    Each is counted up to `at_most`.
    """
    parameters = {"of_pool": pool, "at_most": at_most}
    due, running = connection.execute(_BACKLOG, parameters).one()
    return int(due), int(running)


def held_up(connection: sa.Connection, id: JobId) -> tuple[bool, float]:
    """Whether the job has to run alone, and in how many seconds it is due; 0 where it is."""
    row = connection.execute(_HELD_UP, {"ids": [id]}).one_or_none()
    return (False, 0.0) if row is None else (bool(row.suspect), max(0.0, row.due_in))


_VIEW = sa.select(
    *(
        jobs.c[name]
        for name in (
            "id model version pool state priority attempt created_at started_at finished_at "
            "deadline error_code error_message deaths metadata"
        ).split()
    ),
    packs.c.key,
    packs.c.batch_size,
).join_from(jobs, packs, packs.c.id == jobs.c.pack_id, isouter=True)

_FETCH = _VIEW.where(among(jobs.c.id, "ids"))
_BACKLOG = sa.select(
    *(
        sa.select(sa.func.count())
        .select_from(
            sa.select(jobs.c.id)
            .where(counted, jobs.c.pool == sa.bindparam("of_pool"))
            .limit(sa.bindparam("at_most", type_=sa.Integer))
            .subquery()
        )
        .scalar_subquery()
        for counted in (
            sa.and_(in_state(JobState.QUEUED), jobs.c.due_at <= now()),
            in_state(JobState.RUNNING),
        )
    )
)
_HELD_UP = sa.select(jobs.c.suspect, (jobs.c.due_at - now()).label("due_in")).where(
    among(jobs.c.id, "ids")
)
_ENDED = sa.select(jobs.c.id, jobs.c.state).where(among(jobs.c.id, "ids"), in_state(*TERMINAL))
_RESULTS = (
    sa.select(
        jobs.c.id,
        jobs.c.state,
        jobs.c.error_code,
        jobs.c.error_message,
        jobs.c.result,
        packs.c.key,
        jobs.c.result_offset,
        jobs.c.result_length,
    )
    .join_from(jobs, packs, packs.c.id == jobs.c.pack_id, isouter=True)
    .where(among(jobs.c.id, "ids"))
)


def _job(row: sa.Row[*tuple[Any, ...]]) -> Job:
    metadata: Mapping[str, Any] = json.loads(row.metadata) if row.metadata else {}
    return Job(
        id=JobId(row.id),
        model=ModelKey(row.model, row.version),
        pool=row.pool,
        state=JobState(row.state),
        priority=Priority(row.priority),
        attempt=row.attempt,
        created_at=utc(row.created_at),
        started_at=utc(row.started_at),
        finished_at=utc(row.finished_at),
        deadline=utc(row.deadline),
        error=_error(row.error_code, row.error_message),
        result_uri=row.key,
        batch_size=row.batch_size,
        deaths=row.deaths,
        metadata=metadata,
    )


def _error(code: str | None, message: str | None) -> ErrorInfo | None:
    return None if code is None else ErrorInfo(code, message or "")
