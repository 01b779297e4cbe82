"""A dataset as a whole: made, looked at, cut short, run again.

Its shards are in `headrace.db.shards`, its end in `headrace.db.closing`. All three take locks in
one order, so that no two transactions wait for each other: a worker's lease, a unit's job, its
shard, the dataset.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headrace.dataset import PLANS, Dataset, DatasetId, DatasetState, Spec
from headrace.db import jobs as job_table
from headrace.db.bulk import among
from headrace.db.dataset_tables import datasets, shards, speeds
from headrace.db.jobs import NewJob
from headrace.db.states import in_state
from headrace.db.tables import instant, jobs, now, utc
from headrace.errors import DatasetExists
from headrace.job import ErrorInfo, JobId, JobState, ModelKey, Priority

CLOSED = datasets.c.closed_at.isnot(None)
UNDONE = datasets.c.planned_at.is_(None) | (datasets.c.open_shards > 0)
GOING = datasets.c.state.in_([DatasetState.QUEUED.value, DatasetState.RUNNING.value])
"""What still runs. Whoever ends a dataset proves with it to be the first."""


@dataclass(frozen=True, slots=True)
class NewDataset:
    """A dataset on its way into the table.

    deadline: Unix seconds; deadline_in: seconds from the insert. plan_job: the id of the job
    that is to plan it.
    """

    id: DatasetId
    tenant: str
    pool: str
    model: ModelKey
    priority: Priority
    spec: Spec
    deadline: float | None
    deadline_in: float | None
    plan_job: JobId


def insert(connection: sa.Connection, new: NewDataset) -> DatasetId:
    """Add the dataset and queue its plan. Twice is once: a submit was retried.

    Raises DatasetExists where another has the output; then nothing was changed.
    """
    either = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = either(datasets).values(
        id=new.id,
        tenant=new.tenant,
        pool=new.pool,
        model=new.model.name,
        version=new.model.version,
        priority=int(new.priority),
        state=DatasetState.QUEUED.value,
        output=new.spec.output,
        spec=json.dumps(asdict(new.spec)),
        plan_job_id=new.plan_job,
        created_at=now(),
        deadline=_deadline(new),
    )
    connection.execute(statement.on_conflict_do_nothing())
    holder = connection.execute(
        sa.select(datasets.c.id).where(datasets.c.output == new.spec.output)
    ).scalar_one()
    if holder != new.id:
        raise DatasetExists(new.spec.output, holder)
    _queue_plan(connection, new)
    return new.id


def get(connection: sa.Connection, id: DatasetId) -> Dataset | None:
    """The dataset, if there is one."""
    of_it = _VIEW.where(among(datasets.c.id, "ids"))  # what is no UUID is no id of ours
    row = connection.execute(of_it, {"ids": [id]}).one_or_none()
    return None if row is None else dataset_of(row)


def by_output(connection: sa.Connection, output: str) -> Dataset | None:
    """The dataset that writes there, if there is one."""
    row = connection.execute(_VIEW.where(datasets.c.output == output)).one_or_none()
    return None if row is None else dataset_of(row)


def page(
    connection: sa.Connection,
    tenant: str,
    states: Sequence[DatasetState] = (),
    after: DatasetId | None = None,
    limit: int = 100,
) -> list[Dataset]:
    """Datasets of the tenant in any of these states, newest first, below the id `after`."""
    statement = _VIEW.where(datasets.c.tenant == tenant)
    if states:
        statement = statement.where(_SHOWN.in_([state.value for state in states]))
    if after is not None:
        statement = statement.where(datasets.c.id < after)
    rows = connection.execute(statement.order_by(datasets.c.id.desc()).limit(limit))
    return [dataset_of(row) for row in rows]


def cancel(connection: sa.Connection, id: DatasetId) -> bool:
    """End a dataset that still runs; `closing.stop` ends its jobs then.

    False: it had ended, or is done and has only its manifest to come.
    """
    return end(connection, DatasetState.CANCELLED, (datasets.c.id == id) & UNDONE) == 1


def expire(connection: sa.Connection) -> int:
    """End those that are past their deadline; returns how many."""
    return end(
        connection,
        DatasetState.EXPIRED,
        sa.not_(CLOSED) & (datasets.c.deadline <= instant()) & UNDONE,
        ErrorInfo("deadline", "the deadline passed before the dataset was done"),
    )


def fail(connection: sa.Connection, id: DatasetId, code: str, message: str) -> bool:
    """End a dataset that cannot go on; `closing.stop` ends its jobs then. False: it had ended."""
    error = ErrorInfo(code, message)
    return end(connection, DatasetState.FAILED, datasets.c.id == id, error) == 1


def fail_for(connection: sa.Connection, job: JobId) -> None:
    """Fail the dataset whose plan, or a shard of which, is this failed job, for its reason.

    A job that is neither changes nothing.
    """
    found = connection.execute(_FAILED_UNIT, {"job": job}).one_or_none()
    if found is not None:
        place = "" if found.file is None else f"shard {found.file}-{found.number}: "
        fail(connection, DatasetId(found.id), found.error_code, place + found.error_message)


def go_on(connection: sa.Connection, new: NewDataset) -> bool:
    """Have a dataset that was cut short, and is closed, go on where it was; False: it is not.

    new: with the dataset's id, and a new plan job, which finds the shards that have not run
    (`headrace.db.shards.renew`). Its deadline is the new one.
    """
    error = datasets.c.error_code.isnot(None)
    cut_short = datasets.c.state.in_([DatasetState.CANCELLED.value, DatasetState.EXPIRED.value])
    return _begin_again(connection, new, sa.or_(cut_short, error))


def run_failed(connection: sa.Connection, new: NewDataset) -> bool:
    """Have the failed records of a dataset run again that ran to its end; False: it did not.

    new: as for `go_on`. There must be some.
    """
    ran = sa.and_(
        datasets.c.state.in_([DatasetState.PARTIAL.value, DatasetState.FAILED.value]),
        datasets.c.error_code.is_(None),
        datasets.c.failed > 0,
    )
    return _begin_again(connection, new, ran, run=datasets.c.run + 1)


def spec_of(text: str) -> Spec:
    """A spec as the table keeps it."""
    kept = json.loads(text)
    for name in ("carry", "fetch"):
        kept[name] = tuple(kept[name])
    kept["inputs"] = {field: tuple(columns) for field, columns in kept["inputs"].items()}
    return Spec(**kept)


def end(
    connection: sa.Connection,
    state: DatasetState,
    where: sa.ColumnElement[bool],
    error: ErrorInfo | None = None,
) -> int:
    """The only way out of what still runs."""
    ended = (
        sa.update(datasets)
        .where(GOING, where)
        .values(
            state=state.value,
            finished_at=now(),
            error_code=error and error.code,
            error_message=error and error.message,
        )
    )
    return connection.execute(ended).rowcount


def _begin_again(
    connection: sa.Connection, new: NewDataset, where: sa.ColumnElement[bool], **values: Any
) -> bool:
    begun = (
        sa.update(datasets)
        .where(datasets.c.id == new.id, CLOSED, where)
        .values(
            state=sa.case((datasets.c.shards == 0, "queued"), else_="running"),
            plan_job_id=new.plan_job,
            priority=int(new.priority),
            deadline=_deadline(new),
            planned_at=None,
            finished_at=None,
            closed_at=None,
            error_code=None,
            error_message=None,
            **values,
        )
    )
    if connection.execute(begun).rowcount != 1:
        return False
    _queue_plan(connection, new)
    return True


# Of a shard that runs. A subquery, for PostgreSQL would rather read all jobs than join a few.
_STARTED = (
    sa.select(jobs.c.started_at)
    .where(jobs.c.id == shards.c.job_id, in_state(JobState.RUNNING, by_id=True))
    .correlate(shards)
    .scalar_subquery()
)
_SPEED_KNOWN_AFTER = 5.0
"""Seconds, after which a running shard's own speed says more than that of those before."""
_AGE = now() - _STARTED
_USUAL = (
    sa.select(speeds.c.rows_per_second)
    .where(speeds.c.name == datasets.c.model, speeds.c.version == datasets.c.version)
    .correlate(datasets)
    .scalar_subquery()
)
_SPEED = sa.case(
    (_STARTED.is_(None), 0.0),
    (_AGE > _SPEED_KNOWN_AFTER, shards.c.running / _AGE),
    else_=sa.func.coalesce(_USUAL, 0.0),
)
# What runs again is among the failed until it is done.
_DONE = sa.case((_STARTED.isnot(None) & (shards.c.run == 1), shards.c.running), else_=0)


def _over_running(sum_of: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
    """A sum over the shards that run now: as many as there are workers, not as there are shards."""
    return (
        sa.select(sa.func.sum(sum_of))
        .where(shards.c.running.isnot(None), shards.c.dataset_id == datasets.c.id)
        .correlate(datasets)
        .scalar_subquery()
    )


# Well ended is what also has its manifest; until then it is running.
_TO_CLOSE = sa.and_(
    sa.not_(CLOSED),
    datasets.c.state.in_(["succeeded", "partial", "failed"]),
    datasets.c.error_code.is_(None),
)
_SHOWN = sa.case((_TO_CLOSE, DatasetState.RUNNING.value), else_=datasets.c.state)
_VIEW = sa.select(
    datasets,
    _SHOWN.label("shown"),
    _over_running(_DONE).label("now"),
    _over_running(_SPEED).label("speed"),
)
_FAILED_UNIT = (
    sa.select(
        datasets.c.id, shards.c.file, shards.c.number, jobs.c.error_code, jobs.c.error_message
    )
    .select_from(
        jobs.outerjoin(shards, shards.c.job_id == jobs.c.id).join(
            datasets,
            sa.or_(
                datasets.c.id == shards.c.dataset_id,
                sa.and_(datasets.c.plan_job_id == jobs.c.id, sa.not_(CLOSED)),
            ),
        )
    )
    .where(jobs.c.id == sa.bindparam("job"), in_state(JobState.FAILED, by_id=True))
)


def _deadline(new: NewDataset) -> sa.ColumnElement[float]:
    in_seconds = now() + sa.literal(new.deadline_in, sa.Double)
    return sa.func.coalesce(sa.literal(new.deadline, sa.Double), in_seconds)


def _queue_plan(connection: sa.Connection, new: NewDataset) -> None:
    plan = NewJob(
        new.plan_job,
        new.tenant,
        new.pool + PLANS,
        new.model,
        new.priority,
        input=None,
        deadline=new.deadline,
        deadline_in=new.deadline_in,
    )
    job_table.insert(connection, [plan])


def dataset_of(row: sa.Row[*tuple[Any, ...]]) -> Dataset:
    """Of a row of the table, with the state to be `shown`, rows running `now`, and `speed`."""
    return Dataset(
        id=DatasetId(row.id),
        tenant=row.tenant,
        model=ModelKey(row.model, row.version),
        pool=row.pool,
        state=DatasetState(row.shown),
        priority=Priority(row.priority),
        spec=spec_of(row.spec),
        run=row.run,
        files=row.files,
        shards=row.shards,
        open_shards=row.open_shards,
        total=row.total,
        succeeded=row.succeeded,
        failed=row.failed,
        duplicates=row.duplicates,
        running=int(row.now or 0),
        created_at=utc(row.created_at),
        started_at=utc(row.started_at),
        planned_at=utc(row.planned_at),
        finished_at=utc(row.finished_at),
        deadline=utc(row.deadline),
        error=None if row.error_code is None else ErrorInfo(row.error_code, row.error_message),
        rows_per_second=row.speed or None,
    )
