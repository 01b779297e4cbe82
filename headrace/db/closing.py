"""The end of a dataset: its jobs are stopped, its outcome is settled, its rows go at last."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from headrace.dataset import Dataset, DatasetId, DatasetState, outcome
from headrace.db import jobs as job_table
from headrace.db.dataset_tables import dataset_files, datasets, shards
from headrace.db.datasets import CLOSED, GOING, UNDONE, dataset_of, end
from headrace.db.states import in_state
from headrace.db.tables import jobs, now
from headrace.job import JobId, JobState

Place = tuple[int, int, int]
"""Of a shard in its dataset: file, number, run."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a shard. sealed: as `shards.finish` was given it; None before that."""

    place: Place
    succeeded: int | None
    failed: int | None
    sealed: str | None
    piece: str | None


START: Place = (-1, 0, 0)


def stop(connection: sa.Connection, id: DatasetId, after: Place, limit: int) -> Place | None:
    """Cancel the jobs of an ended dataset, those of some shards at a time.

    after: where the step before got to; `START` to begin. Returns where this one got to, and None
    at the end: from then on no shard is added or finished any more.
    """
    walked = connection.execute(
        sa.select(shards.c.file, shards.c.number, shards.c.run, shards.c.job_id)
        .where(shards.c.dataset_id == id, beyond(after))
        .order_by(shards.c.file, shards.c.number, shards.c.run)
        .limit(limit)
    ).all()
    plan = connection.execute(sa.select(datasets.c.plan_job_id).where(datasets.c.id == id))
    job_table.cancel(connection, [JobId(row.job_id) for row in walked] + list(plan.scalars()))
    if len(walked) < limit:
        return None
    file, number, run, _ = walked[-1]
    return file, number, run


def closable(connection: sa.Connection) -> list[DatasetId]:
    """Datasets to close: those that have ended, or are planned and have no open shard."""
    found = connection.execute(
        sa.select(datasets.c.id)
        .where(sa.not_(CLOSED), sa.not_(GOING & UNDONE))
        .order_by(datasets.c.id)
    )
    return [DatasetId(id) for id in found.scalars()]


def settle(connection: sa.Connection, id: DatasetId) -> Dataset | None:
    """End a dataset that is planned and has no open shard, by what became of its records.

    Returns it as it has ended, with counts that will not change any more. None: a unit of it
    still runs or is not published, or it is closed already. Needs a transaction.
    """
    row = connection.execute(
        sa.select(datasets).where(datasets.c.id == id, sa.not_(CLOSED)).with_for_update()
    ).one_or_none()
    if row is None:
        return None
    if not DatasetState(row.state).ended:
        if row.planned_at is None or row.open_shards:
            return None
        end(connection, outcome(row.succeeded, row.failed), datasets.c.id == id)
    elif connection.execute(_BUSY, {"dataset": id}).first() is not None:
        return None
    return dataset_of(connection.execute(_AS_IT_IS, {"dataset": id}).one())


def results(connection: sa.Connection, id: DatasetId, after: Place, limit: int) -> list[Result]:
    """What became of each shard, in order, some at a time. after: as for `stop`."""
    columns = (shards.c[name] for name in "file number run succeeded failed sealed piece".split())
    rows = connection.execute(
        sa.select(*columns)
        .where(shards.c.dataset_id == id, beyond(after))
        .order_by(shards.c.file, shards.c.number, shards.c.run)
        .limit(limit)
    )
    return [Result((file, number, run), *rest) for file, number, run, *rest in rows]


def inputs(
    connection: sa.Connection, id: DatasetId, after: int, limit: int
) -> list[tuple[int, str, int, str]]:
    """The files that were pinned, each (number, uri, size, tag), some at a time, from -1."""
    columns = (dataset_files.c[name] for name in "number uri size tag".split())
    rows = connection.execute(
        sa.select(*columns)
        .where(dataset_files.c.dataset_id == id, dataset_files.c.number > after)
        .order_by(dataset_files.c.number)
        .limit(limit)
    )
    return [(number, uri, size, tag) for number, uri, size, tag in rows]


def is_open(connection: sa.Connection, id: DatasetId, run: int) -> bool:
    """Whether nobody has closed this run of the dataset yet."""
    still = sa.select(datasets.c.id).where(_of_run(id, run))
    return connection.execute(still).first() is not None


def close(connection: sa.Connection, id: DatasetId, run: int) -> bool:
    """Note that all is written that belongs to its end. False: another was first."""
    closed = sa.update(datasets).where(_of_run(id, run), sa.not_(GOING)).values(closed_at=now())
    return connection.execute(closed).rowcount == 1


def old(connection: sa.Connection, closed_before: float, limit: int) -> list[DatasetId]:
    """Datasets that were closed before that time, in Unix seconds."""
    found = sa.select(datasets.c.id).where(datasets.c.closed_at < closed_before).limit(limit)
    return [DatasetId(id) for id in connection.execute(found).scalars()]


def forget(connection: sa.Connection, id: DatasetId, limit: int) -> bool:
    """Remove at most `limit` rows of a closed dataset, itself last; True once it is gone."""
    closed = sa.select(datasets.c.id).where(datasets.c.id == id, CLOSED).with_for_update()
    if connection.execute(closed).first() is None:
        return True
    for table in (shards, dataset_files):
        key = table.primary_key.columns
        some = sa.select(*key).where(table.c.dataset_id == id).limit(limit)
        if connection.execute(sa.delete(table).where(sa.tuple_(*key).in_(some))).rowcount == limit:
            return False
    connection.execute(sa.delete(datasets).where(datasets.c.id == id))
    return True


def beyond(place: Place) -> sa.ColumnElement[bool]:
    """Whether a shard comes after that place."""
    return sa.tuple_(shards.c.file, shards.c.number, shards.c.run) > sa.tuple_(*place)


def _of_run(id: DatasetId, run: int) -> sa.ColumnElement[bool]:
    return sa.and_(datasets.c.id == id, datasets.c.run == run, sa.not_(CLOSED))


_AS_IT_IS = sa.select(
    datasets, datasets.c.state.label("shown"), sa.null().label("now"), sa.null().label("speed")
).where(datasets.c.id == sa.bindparam("dataset"))
# Of an ended dataset: what may still change it, or is to be published.
_BUSY = (
    sa.select(shards.c.job_id)
    .join_from(shards, jobs, jobs.c.id == shards.c.job_id, isouter=True)
    .where(
        shards.c.dataset_id == sa.bindparam("dataset"),
        shards.c.published_at.is_(None),
        sa.or_(
            shards.c.finished_at.isnot(None),
            in_state(JobState.QUEUED, JobState.RUNNING, by_id=True),
        ),
    )
    .limit(1)
)
