"""The shards of a dataset, as those who run them see them. See `headrace.db.datasets`, too.

What a worker writes here it writes under a `Fence`. The functions that take one raise LeaseLapsed
(wait, and call again), LeaseLost (the worker is to leave) or UnitLost (this unit was cancelled,
expired or freed); then nothing was changed. Each needs a transaction, and may be repeated where
its answer got lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from headrace.dataset import DatasetId, DatasetState, Spec
from headrace.db import speeds
from headrace.db.dataset_tables import dataset_files, datasets, shards
from headrace.db.datasets import fail_for, spec_of
from headrace.db.settling import IN_TIME, LEASE, refusal
from headrace.db.states import in_state, takes
from headrace.db.tables import jobs, now
from headrace.errors import BadOutput, LeaseLost, UnitLost
from headrace.job import JobId, JobState, ModelKey, Step, WorkerId


class Fence(NamedTuple):
    """Who claimed a unit of work, and which claim of it that was."""

    worker: WorkerId
    job: JobId
    attempt: int


class Key(NamedTuple):
    """A shard's place."""

    dataset: DatasetId
    file: int
    number: int
    run: int


@dataclass(frozen=True, slots=True)
class ShardRow:
    """A shard to run. first to piece: see `headrace.datasets.shards.Shard`; file: its number.

    reading: what the plan kept by `planning.set_reading`. trail: what `note` kept. before: of a
    second and later run, what the run before it sealed; the records in its errors file run again,
    and none but these.
    """

    dataset: DatasetId
    tenant: str
    job_id: JobId
    file: int
    number: int
    run: int
    model: ModelKey
    spec: Spec
    reading: str
    uri: str
    size: int
    tag: str
    first: int
    rows: int
    start: int
    stop: int
    piece: str | None
    trail: str | None
    before: str | None

    @property
    def key(self) -> Key:
        """Its place."""
        return Key(self.dataset, self.file, self.number, self.run)


def of_job(connection: sa.Connection, job: JobId) -> ShardRow | None:
    """The shard that this job is to run; None where its dataset has ended or is gone."""
    row = connection.execute(_OF_JOB, {"job": job}).one_or_none()
    if row is None:
        return None
    kept = row._asdict()
    model = ModelKey(kept.pop("model"), kept.pop("version"))
    return ShardRow(**kept | {"model": model, "spec": spec_of(kept["spec"])})


def note(connection: sa.Connection, fence: Fence, running: int, trail: str | None = None) -> bool:
    """Keep how many rows are done. False: stop, for the unit is no longer to be run.

    trail: of a suspect, the rows that go onto the device now, and what earlier deaths have told,
    in words of the caller's; None leaves it as it is. Deaths that it accounts for are not held
    against the shard as a whole: their count begins anew.
    """
    values: dict[str, Any] = {"running": running}
    if trail is not None:
        values["trail"] = trail
    noted = connection.execute(sa.update(shards).where(_NOTED).values(values), _of(fence))
    if noted.rowcount != 1:
        return False
    if trail is not None:
        connection.execute(
            sa.update(jobs).where(HELD, jobs.c.deaths > 0).values(deaths=0), _of(fence)
        )
    return True


def wanted(connection: sa.Connection, fence: Fence) -> bool:
    """Whether `note` would say so: a glance, which needs no transaction."""
    asked = sa.select(shards.c.job_id).where(_NOTED)
    return connection.execute(asked, _of(fence)).one_or_none() is not None


def finish(
    connection: sa.Connection,
    fence: Fence,
    sealed: str,
    succeeded: int,
    failed: int,
    duplicates: int,
    seconds: float,
) -> None:
    """Commit what became of every row of a shard; its files are to be published then.

    sealed: the files, a JSON list of `headrace.datasets.outputs.Sealed`. seconds: of work.
    BadOutput: the rows do not add up. Where this raises anything but LeaseLapsed or a
    DatabaseUnavailable, the files can be discarded: after that one, it may have been committed.
    """
    try:
        hold(connection, fence)
    except (LeaseLost, UnitLost):
        kept = sa.select(shards.c.sealed).where(shards.c.job_id == fence.job)
        if connection.execute(kept).scalar_one_or_none() == sealed:
            return  # the answer to the first time got lost
        raise
    shard = connection.execute(_TO_FINISH, {"job": fence.job}).one_or_none()
    if shard is None:
        raise UnitLost(f"job {fence.job} is no shard of a dataset any more")
    if succeeded + failed != shard.due:
        raise BadOutput(
            f"shard {shard.file}-{shard.number} of dataset {shard.dataset_id} has {shard.due} "
            f"records, but {succeeded} results and {failed} errors"
        )
    settle_job(connection, fence, Step.SUCCEED)
    connection.execute(
        sa.update(shards)
        .where(shards.c.job_id == fence.job)
        .values(
            sealed=sealed,
            succeeded=succeeded,
            failed=failed,
            duplicates=duplicates,
            seconds=seconds,
            finished_at=now(),
            running=None,
            trail=None,
        )
    )
    count(connection, DatasetId(shard.dataset_id), shard.run, succeeded, failed, duplicates)
    if seconds > 0:
        speeds.measured(connection, ModelKey(shard.model, shard.version), shard.due / seconds)


def fail(connection: sa.Connection, fence: Fence, code: str, message: str) -> None:
    """Fail the unit, a shard or a plan, and with it the whole dataset."""
    hold(connection, fence)
    settle_job(connection, fence, Step.FAIL, error_code=code, error_message=message)
    fail_for(connection, fence.job)


def hold(connection: sa.Connection, fence: Fence) -> None:
    """Lock the lease, and the unit under this claim, until this transaction ends."""
    if connection.execute(LEASE, {"worker": fence.worker}).one_or_none() is None:
        raise refusal(connection, fence.worker)
    held = sa.select(jobs.c.id).where(HELD).with_for_update()
    if connection.execute(held, _of(fence)).one_or_none() is None:
        raise UnitLost(
            f"unit {fence.job} was cancelled, expired or freed at attempt {fence.attempt}"
        )


def settle_job(connection: sa.Connection, fence: Fence, step: Step, **values: Any) -> None:
    """Have the held unit take the step, which ends it."""
    ended = takes(step) | {"finished_at": now()} | values
    connection.execute(sa.update(jobs).where(HELD).values(ended), _of(fence))


def count(
    connection: sa.Connection,
    dataset: DatasetId,
    run: int,
    succeeded: int,
    failed: int,
    duplicates: int,
) -> None:
    """Add to a dataset's counts. What runs again was among its failed records until now."""
    more = {
        "succeeded": succeeded,
        "failed": failed if run == 1 else -succeeded,
        "duplicates": duplicates,
    }
    values = {name: datasets.c[name] + number for name, number in more.items()}
    connection.execute(sa.update(datasets).where(datasets.c.id == dataset).values(values))


def _of(fence: Fence) -> dict[str, Any]:
    return {"worker": fence.worker, "job": fence.job, "at_attempt": fence.attempt}


HELD = sa.and_(
    jobs.c.id == sa.bindparam("job"),
    jobs.c.attempt == sa.bindparam("at_attempt"),
    jobs.c.worker_id == sa.bindparam("worker"),
    in_state(JobState.RUNNING, by_id=True),
)
_NOTED = sa.and_(
    shards.c.job_id == sa.bindparam("job"),
    shards.c.finished_at.is_(None),
    sa.exists(sa.select(jobs.c.id).where(HELD, IN_TIME)),
    sa.exists(
        sa.select(datasets.c.id).where(
            datasets.c.id == shards.c.dataset_id,
            datasets.c.state == DatasetState.RUNNING.value,
        )
    ),
)
_before = shards.alias("before")
_BEFORE = sa.and_(
    _before.c.dataset_id == shards.c.dataset_id,
    _before.c.file == shards.c.file,
    _before.c.number == shards.c.number,
    _before.c.run == shards.c.run - 1,
)
_OF_JOB = (
    sa.select(
        shards.c.dataset_id.label("dataset"),
        datasets.c.tenant,
        *(shards.c[name] for name in "job_id file number run".split()),
        datasets.c.model,
        datasets.c.version,
        datasets.c.spec,
        datasets.c.reading,
        dataset_files.c.uri,
        dataset_files.c.size,
        dataset_files.c.tag,
        *(shards.c[name] for name in "first rows start stop piece trail".split()),
        _before.c.sealed.label("before"),
    )
    .select_from(
        shards.join(datasets, datasets.c.id == shards.c.dataset_id)
        .join(
            dataset_files,
            sa.and_(
                dataset_files.c.dataset_id == shards.c.dataset_id,
                dataset_files.c.number == shards.c.file,
            ),
        )
        .outerjoin(_before, _BEFORE)
    )
    .where(
        shards.c.job_id == sa.bindparam("job"),
        shards.c.finished_at.is_(None),
        datasets.c.state == DatasetState.RUNNING.value,
    )
)
_TO_FINISH = (
    sa.select(
        *(shards.c[name] for name in "dataset_id file number run".split()),
        sa.func.coalesce(_before.c.failed, shards.c.rows).label("due"),
        datasets.c.model,
        datasets.c.version,
    )
    .select_from(
        shards.join(datasets, datasets.c.id == shards.c.dataset_id).outerjoin(_before, _BEFORE)
    )
    .where(shards.c.job_id == sa.bindparam("job"), shards.c.finished_at.is_(None))
)
