"""What `Client` asks of whatever carries its calls.

`headrace.service.Service` is one such transport, used in the process by `headrace.direct`;
an HTTP one speaks to a gateway that calls the same service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from headrace.dataset import Dataset, DatasetId, DatasetState, Spec
from headrace.errors import InvalidInput
from headrace.job import Job, JobId, JobState, Pause, Priority
from headrace.schedule import Schedules

Result = dict[str, Any]
"""A job's outputs by name: numpy arrays, bytes, str, JSON values."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Jobs to queue in one transaction: all of them or none.

    model: ``name``, ``name@stable`` or ``name@3``.
    inputs: records (each a mapping by field, or a bare value for a model with one input), or,
    where `columns` is set, arrays with a leading record dimension.
    deadline: a UTC instant, or seconds from the moment the job is queued.
    idempotency_key: makes a repeated submission return the jobs of the first.
    """

    model: str
    inputs: Any
    columns: bool = False
    priority: Priority = Priority.NORMAL
    deadline: datetime | float | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, Any] | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class DatasetSubmission:
    """A dataset to run. model, deadline: as of `Submission`. spec: its paths are absolute."""

    model: str
    spec: Spec
    priority: Priority = Priority.BULK
    deadline: datetime | float | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a job or a dataset stands, and in `detail` what it waits for, or why it ended."""

    state: JobState | DatasetState
    detail: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs to list; None and () match all. since, until: submission time, UTC.

    code: of their error.
    """

    model: str | None = None
    states: tuple[JobState, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    tenant: str = ""
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first. cursor: pass it on for the next page; None at the end."""

    jobs: list[Job]
    cursor: str | None


class DatasetTransport(Protocol):
    """The part of a `Transport` that is about datasets."""

    def submit_dataset(self, submission: DatasetSubmission) -> DatasetId:
        """Queue a dataset, or have the one go on that was submitted like this before.

        Raises InvalidInput, ModelNotFound, DatasetExists.
        """
        ...

    def dataset(self, id: DatasetId) -> Dataset:
        """The dataset, with its counts. Raises DatasetNotFound."""
        ...

    def datasets(
        self, tenant: str, states: Sequence[DatasetState], after: DatasetId | None, limit: int
    ) -> list[Dataset]:
        """A tenant's datasets in any of these states, newest first, below the id `after`."""
        ...

    def cancel_dataset(self, id: DatasetId) -> bool:
        """End a dataset; False where it had ended. Raises DatasetNotFound."""
        ...

    def rerun_failed(self, id: DatasetId) -> bool:
        """Run the failed records of a dataset again; False where there are none.

        Raises DatasetNotFound, DatasetNotEnded.
        """
        ...


class Transport(DatasetTransport, Protocol):
    """Thread-safe. Every call may raise an Unavailable error, and may then be repeated."""

    def submit(self, submission: Submission) -> list[JobId]:
        """Queue the jobs, in order. Raises InvalidInput, ModelNotFound, IdempotencyConflict."""
        ...

    def get(self, ids: Sequence[JobId]) -> list[Job]:
        """The jobs, in order. Raises JobNotFound."""
        ...

    def status(self, id: JobId) -> Status:
        """Where the job, or the dataset, stands. Raises JobNotFound."""
        ...

    def ended(self, ids: Sequence[JobId]) -> Mapping[JobId, JobState]:
        """Those of `ids` that are terminal; unknown ids are left out."""
        ...

    def listen(self, ids: Sequence[JobId], seconds: float) -> Mapping[JobId, Result]:
        """Let `seconds` pass, or less where one of `ids` is heard to have ended.

        Returns what was heard of their results; that there was nothing says nothing.
        """
        ...

    def results(self, ids: Sequence[JobId]) -> Iterable[Result]:
        """The jobs' outputs, in order.

        Raises JobError at the first job without a result: JobUnfinished while it has not ended.
        """
        ...

    def cancel(self, ids: Sequence[JobId]) -> list[JobId]:
        """Cancel what has not ended; returns the ids this call cancelled."""
        ...

    def replay(self, ids: Sequence[JobId], deadline: datetime | float | None) -> list[JobId]:
        """Queue what ended without a result again; returns the ids this call queued."""
        ...

    def delete(self, ids: Sequence[JobId]) -> list[JobId]:
        """Delete jobs that have ended, all or none; returns the ids this call deleted.

        Raises JobNotEnded. Ids that do not exist are left out.
        """
        ...

    def page(self, filter: Filter, limit: int, cursor: str | None) -> Page:
        """Jobs that match, newest first."""
        ...

    def pause(self, model: str | None, pool: str | None, *, by: str, reason: str) -> str:
        """Have nobody claim the jobs of a model, a version or a pool; returns what is paused.

        Raises ModelNotFound, InvalidInput.
        """
        ...

    def resume(self, model: str | None, pool: str | None) -> bool:
        """Undo that; False where it was not paused. Raises as `pause`."""
        ...

    def pauses(self) -> list[Pause]:
        """What is paused, oldest first."""
        ...

    @property
    def schedules(self) -> Schedules:
        """The calls about schedules."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def priority_of(priority: Priority | str) -> Priority:
    """The priority, by its name too. Raises InvalidInput."""
    try:
        return priority if isinstance(priority, Priority) else Priority[priority.upper()]
    except (KeyError, AttributeError):
        names = ", ".join(p.queue for p in Priority)
        raise InvalidInput("priority", f"expected one of {names}, got {priority!r}") from None


def seconds_of(deadline: datetime | timedelta | float | None) -> datetime | float | None:
    """A deadline as the transports take it."""
    return deadline.total_seconds() if isinstance(deadline, timedelta) else deadline
