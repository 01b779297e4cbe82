"""What a producer does to jobs: insert, cancel, replay."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from headrace.db.bulk import Rows, among, insert_new
from headrace.db.states import in_state, literal, may, takes
from headrace.db.tables import idempotency_keys, jobs, now
from headrace.job import (
    JobId,
    JobState,
    ModelKey,
    PackId,
    Priority,
    Step,
)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job on its way into the table.

    input: the encoded record, or None where it lies in the object store at `input_at`
    (key, offset, length), in the pack `input_pack`. deadline: Unix seconds; deadline_in: seconds
    from the insert.
    """

    id: JobId
    tenant: str
    pool: str
    model: ModelKey
    priority: Priority
    input: bytes | None
    input_at: tuple[str, int, int] | None = None
    input_pack: PackId | None = None
    deadline: float | None = None
    deadline_in: float | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """A job that was queued again, and the line it stands in."""

    id: JobId
    tenant: str
    pool: str
    model: str
    version: int
    priority: int


def insert(connection: sa.Connection, rows: Sequence[NewJob]) -> None:
    """Queue the jobs. One whose id is there already is left as it is: a submit was retried.

    A job queues up behind its own tenant's last one, or at the head where the tenant has none
    waiting: tenants take turns, whatever the length of their queues.
    """
    lines: dict[tuple[str, str, int], list[NewJob]] = {}
    for row in rows:
        lines.setdefault((row.pool, row.tenant, int(row.priority)), []).append(row)
    given, statement = _inserting(connection.dialect)
    for (pool, tenant, priority), of_line in lines.items():
        line = {"of_pool": pool, "of_tenant": tenant, "of_priority": priority}
        if given.table is None:
            line = {"last_turn": connection.execute(_LAST_TURN, line).scalar_one()}
        given.execute(
            connection,
            statement,
            [
                (
                    row.id,
                    row.tenant,
                    row.pool,
                    row.model.name,
                    row.model.version,
                    priority,
                    place,
                    row.deadline,
                    row.deadline_in,
                    row.input_pack,
                    *(row.input_at or (None, None, None)),
                    row.metadata,
                    row.input,
                )
                for place, row in enumerate(of_line, start=1)
            ],
            **line,
        )


def take_keys(
    connection: sa.Connection, tenant: str, keys: Sequence[tuple[str, str, JobId]]
) -> dict[str, tuple[str, JobId]]:
    """Claim idempotency keys, each (key, payload hash, job id).

    Returns, by key, the hash and the job that hold it now: the given ones, or those of the
    earlier call that came first.
    """
    given, statement = _taking(connection.dialect)
    # In one order, so that two calls with the same keys wait for each other only one way.
    given.execute(connection, statement, sorted(keys), of_tenant=tenant)
    table = idempotency_keys.c
    held: dict[str, tuple[str, JobId]] = {}
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        names = [key for key, _, _ in keys[start : start + _KEYS_AT_ONCE]]
        rows = connection.execute(
            sa.select(table.key, table.payload_hash, table.job_id).where(
                table.tenant == tenant, table.key.in_(names)
            )
        )
        held |= {key: (digest, JobId(job)) for key, digest, job in rows}
    return held


def cancel(connection: sa.Connection, ids: Sequence[JobId]) -> list[JobId]:
    """Cancel what is queued or running; returns the ids that this call cancelled."""
    return [JobId(id) for (id,) in connection.execute(_CANCEL, {"ids": ids})]


def replay(
    connection: sa.Connection,
    ids: Sequence[JobId],
    *,
    deadline: float | None = None,
    deadline_in: float | None = None,
) -> list[Replayed]:
    """Queue what ended without a result again, as if it were new; returns what this call queued.

    The old deadline is dropped. deadline: Unix seconds; deadline_in: seconds from now. One that
    was a suspect still runs alone. Several of these at once queue each job once.
    """
    found = [Replayed(*row) for row in connection.execute(_REPLAYABLE, {"ids": ids})]
    given, statement = _replaying(connection.dialect)
    lines: dict[tuple[str, str, int], list[Replayed]] = {}
    for job in found:
        lines.setdefault((job.pool, job.tenant, job.priority), []).append(job)
    for (pool, tenant, priority), of_line in lines.items():
        line = {"of_pool": pool, "of_tenant": tenant, "of_priority": priority}
        last = connection.execute(_LAST_TURN, line).scalar_one()
        rows = [(job.id, last + place) for place, job in enumerate(of_line, start=1)]
        given.execute(connection, statement, rows, deadline_at=deadline, deadline_in=deadline_in)
    return found


_KEYS_AT_ONCE = 500

_IN_LINE = sa.and_(
    in_state(JobState.QUEUED),
    jobs.c.pool == sa.bindparam("of_pool"),
    jobs.c.priority == sa.bindparam("of_priority"),
)
_HEAD_TURN = sa.select(jobs.c.turn).where(_IN_LINE, jobs.c.turn > 0).order_by(jobs.c.turn).limit(1)
_OWN_TURN = (
    sa.select(jobs.c.turn)
    .where(_IN_LINE, jobs.c.turn >= 1, jobs.c.tenant == sa.bindparam("of_tenant"))
    .order_by(jobs.c.turn.desc())
    .limit(1)
)
_BEFORE = sa.union_all(
    sa.select(_OWN_TURN.scalar_subquery().label("turn")),
    sa.select(_HEAD_TURN.scalar_subquery() - 1),
).subquery()
_LAST_TURN = sa.select(sa.func.coalesce(sa.func.max(_BEFORE.c.turn), 0))

_CANCEL = (
    sa.update(jobs)
    .where(among(jobs.c.id, "ids"), may(Step.CANCEL))
    .values(**takes(Step.CANCEL), finished_at=now())
    .returning(jobs.c.id)
)


# Locked in one order, and judged again by whoever had to wait.
_REPLAYABLE = (
    sa.select(
        *(jobs.c[name] for name in "id tenant pool model version priority".split()),
    )
    .where(among(jobs.c.id, "ids"), may(Step.REPLAY, by_id=True))
    .order_by(jobs.c.id)
    .with_for_update()
)


def _last_turn(given: Rows) -> sa.ColumnElement[int]:
    """The turn that the tenant's next job comes after. Two submits at once may both get it.

    Asked for on the way where that saves a round trip; where the statement runs once per row,
    it would count the rows before.
    """
    if given.table is None:
        return sa.bindparam("last_turn", type_=sa.BigInteger)
    return _LAST_TURN.scalar_subquery()


@functools.cache
def _inserting(dialect: sa.Dialect) -> tuple[Rows, sa.Insert]:
    names = "id tenant pool model version priority turn".split()
    places = "input_pack_id input_key input_offset input_length metadata input".split()
    given = Rows(
        dialect,
        {name: jobs.c[name].type for name in names}
        | {"deadline_at": sa.Double(), "deadline_in": sa.Double()}
        | {name: jobs.c[name].type for name in places},
    )
    values = {name: given.c[name] for name in (*names, *places)} | {
        "state": literal(JobState.QUEUED),
        "attempt": sa.literal_column("0"),
        "turn": given.c["turn"] + _last_turn(given),
        "created_at": now(),
        "due_at": now(),
        "deadline": sa.func.coalesce(given.c["deadline_at"], now() + given.c["deadline_in"]),
    }
    return given, insert_new(dialect, jobs, given, values, ["id"])


@functools.cache
def _replaying(dialect: sa.Dialect) -> tuple[Rows, sa.Update]:
    given = Rows(dialect, {"id": jobs.c.id.type, "turn": jobs.c.turn.type})
    until = sa.bindparam("deadline_at", type_=sa.Double)
    lasting = sa.bindparam("deadline_in", type_=sa.Double)
    values = takes(Step.REPLAY) | {
        "turn": given.c["turn"],
        "due_at": now(),
        "deadline": sa.func.coalesce(until, now() + lasting),
        "finished_at": None,
        "error_code": None,
        "error_message": None,
    }
    return given, sa.update(jobs).where(jobs.c.id == given.c["id"]).values(values)


@functools.cache
def _taking(dialect: sa.Dialect) -> tuple[Rows, sa.Insert]:
    table = idempotency_keys
    given = Rows(dialect, {n: table.c[n].type for n in ("key", "payload_hash", "job_id")})
    values = {
        "tenant": sa.bindparam("of_tenant", type_=sa.String),
        "created_at": now(),
        **given.c,
    }
    return given, insert_new(dialect, table, given, values, ["tenant", "key"])
