"""What finished shards have sealed, until it is published. See `headrace.datasets.outputs`."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
import uuid_utils

from headrace.dataset import SHARDS, DatasetId
from headrace.db import jobs as job_table
from headrace.db.dataset_tables import datasets, shards
from headrace.db.datasets import GOING
from headrace.db.jobs import NewJob
from headrace.db.shards import Key, count
from headrace.db.tables import now
from headrace.job import JobId, ModelKey, Priority


@dataclass(frozen=True, slots=True)
class Finished:
    """A shard that is finished. sealed: its files, as `shards.finish` was given them."""

    key: Key
    sealed: str


def unpublished(
    connection: sa.Connection, dataset: DatasetId | None, older_than: float, limit: int
) -> list[Finished]:
    """Finished shards (of the dataset) whose files are not published yet.

    older_than: seconds since the finish, in which the worker publishes by itself.
    """
    statement = (
        sa.select(*_KEY, shards.c.sealed)
        .where(_SEALED, shards.c.finished_at <= now() - older_than)
        .order_by(shards.c.dataset_id, shards.c.finished_at)
        .limit(limit)
    )
    if dataset is not None:
        statement = statement.where(shards.c.dataset_id == dataset)
    return [Finished(Key(*key), sealed) for *key, sealed in connection.execute(statement)]


def published(connection: sa.Connection, key: Key) -> bool:
    """Note that the files of a finished shard are there. False: it was noted before.

    Needs a transaction.
    """
    noted = sa.update(shards).where(_at(key), _SEALED).values(published_at=now())
    if connection.execute(noted).rowcount != 1:
        return False
    fewer = {"open_shards": datasets.c.open_shards - 1}
    connection.execute(sa.update(datasets).where(datasets.c.id == key.dataset).values(fewer))
    return True


def lost(connection: sa.Connection, finished: Finished) -> bool:
    """Undo the finish of a shard whose files are gone before they were published.

    It runs again, unless the dataset has ended. False: it is as it should be, or was undone
    before. Needs a transaction.
    """
    key = finished.key
    undo = dict.fromkeys("sealed succeeded failed duplicates seconds finished_at".split())
    of_it = sa.and_(_at(key), _SEALED, shards.c.sealed == finished.sealed)
    counts = (shards.c.succeeded, shards.c.failed, shards.c.duplicates)
    was = connection.execute(sa.select(*counts).where(of_it).with_for_update()).one_or_none()
    if was is None:
        return False
    job = JobId(str(uuid_utils.uuid7()))
    connection.execute(sa.update(shards).where(of_it).values(undo | {"job_id": job}))
    count(connection, key.dataset, key.run, *(-number for number in was))
    columns = (datasets.c[name] for name in "tenant pool model version priority deadline".split())
    going = sa.select(*columns).where(datasets.c.id == key.dataset, GOING)
    row = connection.execute(going).one_or_none()
    if row is not None:
        again = NewJob(
            job,
            row.tenant,
            row.pool + SHARDS,
            ModelKey(row.model, row.version),
            Priority(row.priority),
            input=None,
            deadline=row.deadline,
        )
        job_table.insert(connection, [again])
    return True


_KEY = tuple(shards.c[name] for name in "dataset_id file number run".split())
_SEALED = sa.and_(shards.c.finished_at.isnot(None), shards.c.published_at.is_(None))


def _at(key: Key) -> sa.ColumnElement[bool]:
    return sa.and_(*(column == value for column, value in zip(_KEY, key, strict=True)))
