"""The tables. Times are Unix seconds by the database's clock, in double precision.

Seconds, not timestamps: the same arithmetic (``now + lease``) then runs on SQLite and
PostgreSQL alike; in psql, ``to_timestamp(created_at)`` shows one to a person.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, overload

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from headrace.job import JobState

metadata = sa.MetaData(
    naming_convention={"ix": "%(table_name)s_%(column_0_N_name)s", "pk": "%(table_name)s_pkey"}
)

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME: sa.Double[float] = sa.Double()


class now(FunctionElement[float]):  # noqa: N801  # reads as the SQL function it is
    """The database's clock, in Unix seconds; not the transaction's start, but the present."""

    type = TIME
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **kwargs: Any) -> str:
    return "extract(epoch from clock_timestamp())::float8"


@overload
def utc(seconds: float) -> datetime: ...
@overload
def utc(seconds: None) -> None: ...
@overload
def utc(seconds: float | None) -> datetime | None: ...
def utc(seconds: float | None) -> datetime | None:
    """A time of these tables, for a person; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def instant() -> sa.ColumnElement[float]:
    """`now`, asked once per statement: a condition on it can use an index.

    PostgreSQL's clock may have moved on with every row, so it compares row by row.
    """
    return sa.select(now()).scalar_subquery()


class lazy_commit(FunctionElement[bool]):  # noqa: N801
    """True, and lets this transaction commit without waiting for the disk.

    For what may be undone by a crash of the database without harm: a claim that is forgotten
    is a job that is queued, and its worker's finish is refused.
    """

    type = sa.Boolean()
    inherit_cache = True


@compiles(lazy_commit, "sqlite")
def _lazy_commit_sqlite(element: lazy_commit, compiler: Any, **kwargs: Any) -> str:
    return "1 = 1"


@compiles(lazy_commit, "postgresql")
def _lazy_commit_postgresql(element: lazy_commit, compiler: Any, **kwargs: Any) -> str:
    return "set_config('synchronous_commit', 'off', true) = 'off'"


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("pool", sa.String(64), nullable=False),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    # The place in the queue of its pool and priority: what makes claims fair between tenants.
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("due_at", TIME, nullable=False),
    sa.Column("deadline", TIME),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("started_at", TIME),
    sa.Column("finished_at", TIME),
    sa.Column("worker_id", ID),
    # The input: its bytes below, or where they lie in the object store.
    sa.Column("input_pack_id", ID),
    sa.Column("input_key", sa.Text),
    sa.Column("input_offset", sa.BigInteger),
    sa.Column("input_length", sa.BigInteger),
    # The result: a byte range of a pack, and a copy of it below where it is small.
    sa.Column("pack_id", ID),
    sa.Column("result_offset", sa.BigInteger),
    sa.Column("result_length", sa.BigInteger),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    # A suspect was on a device when its worker died, and runs alone from then on. deaths: the
    # workers that died with it alone.
    sa.Column("suspect", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("deaths", sa.SmallInteger, nullable=False, server_default="0"),
    # Last, because SQLite walks over what stands before a column that it reads.
    sa.Column("metadata", sa.Text),
    sa.Column("input", sa.LargeBinary),
    sa.Column("result", sa.LargeBinary),
)

_queued = jobs.c.state == JobState.QUEUED.value
_running = jobs.c.state == JobState.RUNNING.value


def partial(name: str, where: sa.ColumnElement[bool], *columns: sa.Column[Any]) -> None:
    """An index of the rows that `where` holds for, whose table's it is."""
    sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


# What is due: the head of a pool, then more of the head's model. due_at is there so that what is
# not due yet is passed over without a look at its row.
partial("jobs_due", _queued, *(jobs.c[name] for name in "pool priority turn id due_at".split()))
partial(
    "jobs_due_by_model",
    _queued,
    *(jobs.c[name] for name in "pool model version suspect priority turn id due_at".split()),
)
# A tenant's last place, which its next job queues up behind. By its condition it serves that
# question alone: where PostgreSQL's statistics know of no backlog yet, a claim and the search for
# the head of the line would each read it whole, and sort.
partial(
    "jobs_turn",
    _queued & (jobs.c.turn >= 1),
    *(jobs.c[name] for name in "pool priority tenant turn".split()),
)
partial("jobs_running", _running, jobs.c.worker_id)
partial(
    "jobs_deadline",
    jobs.c.state.in_([JobState.QUEUED.value, JobState.RUNNING.value]) & jobs.c.deadline.isnot(None),
    jobs.c.deadline,
)
# The dead letters, newest first.
partial("jobs_failed", jobs.c.state == JobState.FAILED.value, jobs.c.tenant, jobs.c.id)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("payload_hash", sa.String(64), nullable=False),
    sa.Column("job_id", ID, nullable=False),
    sa.Column("created_at", TIME, nullable=False),
)
# A key goes with its job.
sa.Index("idempotency_keys_job", idempotency_keys.c.job_id)

packs = sa.Table(
    "packs",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    # writing: the object may or may not be there; live: jobs point at it; deleted: to be removed
    sa.Column("state", sa.String(16), nullable=False),
    # None: not results but inputs, which a submission writes
    sa.Column("worker_id", ID),
    sa.Column("batch_size", sa.Integer, nullable=False),
    # how many jobs point at it, so that nobody needs an index to see that the last one has gone
    sa.Column("jobs", sa.Integer, nullable=False, server_default="0"),
    sa.Column("size", sa.BigInteger),
    sa.Column("sha256", sa.String(64)),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("delete_at", TIME),
)
partial("packs_writing", packs.c.state == "writing", packs.c.worker_id)
partial("packs_deleted", packs.c.state == "deleted", packs.c.delete_at)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("pool", sa.String(64), nullable=False),
    sa.Column("device", sa.String(32), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", TIME, nullable=False),
    sa.Column("lease_until", TIME, nullable=False),
    sa.Column("ready_at", TIME),
    sa.Column("draining_at", TIME),
    sa.Column("stopped_at", TIME),
    # ids of the units on the device, as JSON: the suspects if the process dies now
    sa.Column("on_device", sa.Text, nullable=False, server_default="[]"),
)
partial("workers_alive", workers.c.stopped_at.is_(None), workers.c.pool, workers.c.lease_until)

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("stable", sa.Integer, nullable=False),
)

model_versions = sa.Table(
    "model_versions",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("pool", sa.String(64), nullable=False),
    sa.Column("max_records", sa.Integer, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("files", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("created_at", TIME, nullable=False),
    sa.UniqueConstraint("name", "digest", name="model_versions_name_digest"),
)

pauses = sa.Table(
    "pauses",
    metadata,
    # a model, a version or a pool: digits, digits@3, pool:gpu
    sa.Column("what", sa.String(192), primary_key=True),
    sa.Column("paused_at", TIME, nullable=False),
    sa.Column("paused_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

# The largest batches that fit into memory, in padded tokens; no row where no bound is known.
ceilings = sa.Table(
    "ceilings",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("device", sa.String(128), primary_key=True),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("changed_at", TIME, nullable=False),
)

sweeps = sa.Table(
    "sweeps",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("swept_at", TIME, nullable=False),
    # when sweeping began again after a gap: nobody's work is freed for a lease from then
    sa.Column("resumed_at", TIME, nullable=False),
    # the last job that retention has looked at in its walk over the old ones; None: at the start
    sa.Column("walked_to", ID),
)
