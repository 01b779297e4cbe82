"""What the plan of a dataset keeps: its files as they were found, and the shards cut of them.

Its functions take the plan's `Fence` and raise as those of `headrace.db.shards` do. A plan may
stop anywhere and begin anew: what was kept stays, and is told by `plan_of` and `unplanned`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import sqlalchemy as sa
import uuid_utils

from headrace.dataset import SHARDS, DatasetId, DatasetState, Spec
from headrace.db import jobs as job_table
from headrace.db.bulk import Rows, among, insert_new
from headrace.db.closing import START, Place, beyond
from headrace.db.dataset_tables import dataset_files, datasets, shards
from headrace.db.datasets import CLOSED, GOING, spec_of
from headrace.db.jobs import NewJob
from headrace.db.shards import Fence, hold, settle_job
from headrace.db.states import in_state
from headrace.db.tables import jobs, now
from headrace.errors import UnitLost
from headrace.job import JobId, JobState, ModelKey, Priority, Step


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A dataset to plan. deadline: Unix seconds. files: how many are pinned already.

    reading: what `set_reading` kept. run: 1; in a later one the failed records run again, and
    `renew` is all there is to plan.
    """

    dataset: DatasetId
    tenant: str
    model: ModelKey
    pool: str
    priority: Priority
    spec: Spec
    deadline: float | None
    reading: str | None
    files: int
    run: int


@dataclass(frozen=True, slots=True)
class NewShard:
    """A shard that is cut. file, number: its place. The rest: `headrace.datasets.shards.Shard`.

    piece: uri, size and tag of the file that the rows were laid down in, as JSON.
    """

    file: int
    number: int
    first: int
    rows: int
    start: int = 0
    stop: int = 0
    piece: str | None = None


@dataclass(frozen=True, slots=True)
class Pinned:
    """An input file as it was found. last: the last of its shards that is kept."""

    number: int
    uri: str
    size: int
    tag: str
    last: NewShard | None


def plan_of(connection: sa.Connection, job: JobId) -> PlanRow | None:
    """The dataset that this job is to plan; None where that is gone, or has ended."""
    row = connection.execute(_PLAN_OF, {"job": job}).one_or_none()
    if row is None:
        return None
    id, tenant, model, version, pool, priority, spec, *rest = row
    key = ModelKey(model, version)
    return PlanRow(DatasetId(id), tenant, key, pool, Priority(priority), spec_of(spec), *rest)


def add_files(
    connection: sa.Connection, fence: Fence, files: Sequence[tuple[int, str, int, str]]
) -> None:
    """Pin files, each (number, uri, size, tag), numbered from 0; some thousand at most.

    Those that are pinned already stay as they are.
    """
    dataset = _held(connection, fence)
    given, statement = _pinning(connection.dialect)
    given.execute(connection, statement, list(files), of_dataset=dataset)
    last = sa.select(sa.func.max(dataset_files.c.number)).where(
        dataset_files.c.dataset_id == dataset
    )
    count = sa.func.coalesce(last.scalar_subquery() + 1, 0)
    connection.execute(sa.update(datasets).where(datasets.c.id == dataset).values(files=count))


def set_reading(connection: sa.Connection, fence: Fence, reading: str) -> None:
    """Keep how every file is read: words of the plan's own, which each shard is told."""
    dataset = _held(connection, fence)
    connection.execute(sa.update(datasets).where(datasets.c.id == dataset).values(reading=reading))


def unplanned(
    connection: sa.Connection, dataset: DatasetId, after: int, limit: int
) -> list[Pinned]:
    """Files with shards still to cut, by number, above `after` (-1: from the first)."""
    parameters = {"dataset": dataset, "after": after, "at_most": limit}
    found = []
    for number, uri, size, tag, *last in connection.execute(_UNPLANNED, parameters):
        shard = None if last[0] is None else NewShard(number, *last)
        found.append(Pinned(number, uri, size, tag, shard))
    return found


def add(
    connection: sa.Connection,
    fence: Fence,
    plan: PlanRow,
    cut: Sequence[NewShard],
    planned: Sequence[int] = (),
) -> list[JobId]:
    """Keep some thousand shards at most, and queue a job for each; returns these, to ring for.

    Those that are there already stay as they are. planned: the files, by number, that have all
    of their shards with these.
    """
    _held(connection, fence)
    ids = _new_ids(len(cut))
    given, statement = _adding(connection.dialect)
    rows = [(*astuple(shard), 1, id) for shard, id in zip(cut, ids, strict=True)]
    given.execute(connection, statement, rows, of_dataset=plan.dataset)
    added = _queue(connection, plan, ids)
    new = set(added)
    total = sum(shard.rows for shard, id in zip(cut, ids, strict=True) if id in new)
    for number in planned:
        at = sa.and_(dataset_files.c.dataset_id == plan.dataset, dataset_files.c.number == number)
        connection.execute(sa.update(dataset_files).where(at).values(planned=True))
    _grow(connection, plan, len(added), shards=len(added), total=total)
    return added


def renew(
    connection: sa.Connection, fence: Fence, plan: PlanRow, after: Place = START, limit: int = 1000
) -> tuple[list[JobId], Place | None]:
    """Queue what is to run again, in a walk over the dataset's shards, some at a time.

    That is what was stopped before it was finished and, of a second and later run, what had
    failed records in the run before. Whoever plans a dataset that has shards does this first.
    Returns the new jobs, and where the walk got to, to pass on as `after`; None at its end.
    """
    _held(connection, fence)
    of_it = {"dataset": plan.dataset, "at_most": limit}
    walked = connection.execute(_WALK.where(beyond(after)), of_it).all()
    stopped = [row for row in walked if row.finished_at is None and not row.active]
    failed = [row for row in walked if row.run == plan.run - 1 and row.failed and not row.next]
    ids, again = _new_ids(len(stopped)), _new_ids(len(failed))
    replaced, replacing = _replacing(connection.dialect)
    new_jobs = [(row.job_id, id) for row, id in zip(stopped, ids, strict=True)]
    replaced.execute(connection, replacing, new_jobs)
    added, adding = _adding(connection.dialect)
    new_rows = [
        (*(row._mapping[name] for name in _PLACED), plan.run, id)
        for row, id in zip(failed, again, strict=True)
    ]
    added.execute(connection, adding, new_rows, of_dataset=plan.dataset)
    _queue(connection, plan, ids + again)
    _grow(connection, plan, len(again))
    last = walked[-1] if len(walked) == limit else None
    return ids + again, last and (last.file, last.number, last.run)


def planned(connection: sa.Connection, fence: Fence) -> None:
    """All shards are there: the plan is done, and the dataset once none of them is open."""
    try:
        dataset = _held(connection, fence)
    except UnitLost:
        done = sa.and_(datasets.c.plan_job_id == fence.job, datasets.c.planned_at.isnot(None))
        if connection.execute(sa.select(datasets.c.id).where(done)).first() is not None:
            return  # the answer to the first time got lost
        raise
    settle_job(connection, fence, Step.SUCCEED)
    connection.execute(sa.update(datasets).where(datasets.c.id == dataset).values(planned_at=now()))


def _held(connection: sa.Connection, fence: Fence) -> DatasetId:
    """The dataset that the unit is the plan of. Its row is locked, and cannot end meanwhile."""
    hold(connection, fence)
    going = sa.select(datasets.c.id).where(_PLANNED_BY, GOING).with_for_update()
    id = connection.execute(going, {"job": fence.job}).scalar_one_or_none()
    if id is None:
        raise UnitLost(f"the dataset that job {fence.job} is the plan of has ended")
    return DatasetId(id)


def _new_ids(count: int) -> list[JobId]:
    return [JobId(str(uuid_utils.uuid7())) for _ in range(count)]


def _queue(connection: sa.Connection, plan: PlanRow, ids: Sequence[JobId]) -> list[JobId]:
    """Queue a job for each shard that has one of these ids, and so is new; returns those."""
    found = sa.select(shards.c.job_id).where(among(shards.c.job_id, "ids"))
    new = set(connection.execute(found, {"ids": ids}).scalars())
    rows = [
        NewJob(
            id,
            plan.tenant,
            plan.pool + SHARDS,
            plan.model,
            plan.priority,
            input=None,
            deadline=plan.deadline,
        )
        for id in ids
        if id in new
    ]
    job_table.insert(connection, rows)
    return [row.id for row in rows]


def _grow(connection: sa.Connection, plan: PlanRow, opened: int, **more: int) -> None:
    values = {name: datasets.c[name] + count for name, count in more.items()}
    connection.execute(
        sa.update(datasets)
        .where(datasets.c.id == plan.dataset)
        .values(
            values
            | {
                "open_shards": datasets.c.open_shards + opened,
                "state": DatasetState.RUNNING.value,
                "started_at": sa.func.coalesce(datasets.c.started_at, now()),
            }
        )
    )


# The few that are not closed have an index.
_PLANNED_BY = sa.and_(datasets.c.plan_job_id == sa.bindparam("job"), sa.not_(CLOSED))
_PLAN_OF = sa.select(
    *(
        datasets.c[name]
        for name in "id tenant model version pool priority spec deadline reading files run".split()
    )
).where(_PLANNED_BY, GOING, datasets.c.planned_at.is_(None))

_CUT = "first rows start stop piece".split()
_PLACED = ["file", "number", *_CUT]
_last = shards.alias("last")
_UNPLANNED = (
    sa.select(
        *(dataset_files.c[name] for name in "number uri size tag".split()),
        _last.c.number.label("last_number"),
        *(_last.c[name] for name in _CUT),
    )
    .join_from(
        dataset_files,
        _last,
        sa.and_(
            _last.c.dataset_id == dataset_files.c.dataset_id,
            _last.c.file == dataset_files.c.number,
            _last.c.run == 1,
            _last.c.number
            == sa.select(sa.func.max(shards.c.number))
            .where(
                shards.c.dataset_id == dataset_files.c.dataset_id,
                shards.c.file == dataset_files.c.number,
            )
            .correlate(dataset_files)
            .scalar_subquery(),
        ),
        isouter=True,
    )
    .where(
        dataset_files.c.dataset_id == sa.bindparam("dataset"),
        dataset_files.c.number > sa.bindparam("after"),
        sa.not_(dataset_files.c.planned),
    )
    .order_by(dataset_files.c.number)
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)
_next = shards.alias("next")
_WALK = (
    sa.select(
        shards,
        in_state(JobState.QUEUED, JobState.RUNNING, by_id=True).label("active"),
        _next.c.run.label("next"),
    )
    .select_from(
        shards.outerjoin(jobs, jobs.c.id == shards.c.job_id).outerjoin(
            _next,
            sa.and_(
                _next.c.dataset_id == shards.c.dataset_id,
                _next.c.file == shards.c.file,
                _next.c.number == shards.c.number,
                _next.c.run == shards.c.run + 1,
            ),
        )
    )
    .where(shards.c.dataset_id == sa.bindparam("dataset"))
    .order_by(shards.c.file, shards.c.number, shards.c.run)
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)


@functools.cache
def _pinning(dialect: sa.Dialect) -> tuple[Rows, sa.Insert]:
    table = dataset_files.c
    given = Rows(dialect, {name: table[name].type for name in "number uri size tag".split()})
    values = {"dataset_id": sa.bindparam("of_dataset", type_=table.dataset_id.type), **given.c}
    return given, insert_new(dialect, dataset_files, given, values, ["dataset_id", "number"])


@functools.cache
def _adding(dialect: sa.Dialect) -> tuple[Rows, sa.Insert]:
    table, key = shards.c, ["dataset_id", "file", "number", "run"]
    given = Rows(dialect, {name: table[name].type for name in (*_PLACED, "run", "job_id")})
    values = {"dataset_id": sa.bindparam("of_dataset", type_=table.dataset_id.type), **given.c}
    return given, insert_new(dialect, shards, given, values, key)


@functools.cache
def _replacing(dialect: sa.Dialect) -> tuple[Rows, sa.Update]:
    """A shard that was stopped gets another job; what its trail tells is true of that too."""
    type = shards.c.job_id.type
    given = Rows(dialect, {"old_job": type, "new_job": type})
    statement = (
        sa.update(shards)
        .where(shards.c.job_id == given.c["old_job"])
        .values(job_id=given.c["new_job"], running=None)
    )
    return given, statement
