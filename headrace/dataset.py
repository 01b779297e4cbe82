"""What a dataset is: files of records in, files of results out. Pure: no I/O, no clock."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NewType

from headrace.job import ErrorInfo, ModelKey, Priority

DatasetId = NewType("DatasetId", str)

SHARDS, PLANS = "/shards", "/plans"
"""What a pool's name ends in where units of work wait that are no single jobs."""


class DatasetState(enum.StrEnum):
    """Where a dataset stands. It is queued until its plan has cut a first shard."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether nothing runs any more, unless somebody asks for its failed records again."""
        return self not in (DatasetState.QUEUED, DatasetState.RUNNING)


def outcome(succeeded: int, failed: int) -> DatasetState:
    """How a dataset of so many records ends that ran to its end; one without any succeeded."""
    if not failed:
        return DatasetState.SUCCEEDED
    return DatasetState.PARTIAL if succeeded else DatasetState.FAILED


@dataclass(frozen=True, slots=True)
class Spec:
    """What was asked for, as it is kept with the dataset.

    input: a path, a folder, a pattern, or the same in ``s3://bucket/…``. output: a folder.
    inputs: by the model's field, the columns it is made of; a field that is not named is the
    column of its own name. id: the column that names a record; None where its file and row do.
    carry: columns that go along into the results. fetch: fields whose column holds the path or
    URI of a file with the value. format, compression: of the results. dedupe: whether equal
    records of a shard run once. shard_rows: records per shard; None: as many as take some 45 s.
    """

    input: str
    output: str
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    id: str | None = None
    carry: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    format: str = "parquet"
    compression: str = ""
    dedupe: bool = False
    shard_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset as the table has it. Times are UTC, by the database's clock.

    total: records found so far, all of them once `planned_at` is set. succeeded, failed: of
    those, the ones in shards that are done. running: records that shards which run now have
    done. duplicates: records that took the result of an equal one. open_shards: not published.
    run: 1, and one more each time the failed records were run again.
    """

    id: DatasetId
    tenant: str
    model: ModelKey
    pool: str
    state: DatasetState
    priority: Priority
    spec: Spec
    run: int
    files: int
    shards: int
    open_shards: int
    total: int
    succeeded: int
    failed: int
    duplicates: int
    running: int
    created_at: datetime
    started_at: datetime | None = None
    planned_at: datetime | None = None
    finished_at: datetime | None = None
    deadline: datetime | None = None
    error: ErrorInfo | None = None
    rows_per_second: float | None = None

    @property
    def done(self) -> int:
        """Records with a result or an error."""
        return self.succeeded + self.failed + self.running

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None while that, or how many there are, is not known."""
        if self.planned_at is None or not self.rows_per_second or self.state.ended:
            return None
        return (self.total - self.done) / self.rows_per_second

    @property
    def summary(self) -> str:
        """Its counts, its speed and the time left, as far as they are known, for a person."""
        found = "" if self.planned_at else " found so far"
        said = [f"{self.done:,} of {self.total:,} records{found}", f"{self.failed:,} failed"]
        if self.duplicates:
            said.append(f"{self.duplicates:,} duplicates")
        if self.rows_per_second and not self.state.ended:
            said.append(f"{self.rows_per_second:,.0f} rows/s")
        if self.seconds_left is not None:
            said.append(f"{timedelta(seconds=round(self.seconds_left))} left")
        return ", ".join(said)
