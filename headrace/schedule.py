"""What a scheduled run is, and where it may stand. Pure: no I/O, no clock."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NewType, Protocol

from headrace.dataset import DatasetId
from headrace.job import ErrorInfo

ScheduleId = NewType("ScheduleId", str)


class RunState(enum.StrEnum):
    """Where a run stands. It is waiting until its input is there, and others are out of its way."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SKIPPED = "skipped"
    LATE = "late"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self not in ACTIVE


ACTIVE = frozenset({RunState.WAITING, RunState.RUNNING})


class Trigger(enum.StrEnum):
    """Why there is a run."""

    DUE = "due"
    MISSED = "missed"
    BACKFILL = "backfill"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a schedule. Times are UTC, by the database's clock.

    date: when the schedule was due, which names the run's files. number: 1, and one more for
    each time the date was run again. version: of the schedule. output: the folder of the date;
    `folder` is the run's own in it. attempt: how often its failed records were run again.
    due_at: when a waiting run is looked at next. late_at: until when it waits for its input.
    cancel: somebody wants it to end. slow: somebody was told that it is.
    """

    schedule: ScheduleId
    date: datetime
    number: int
    version: int
    trigger: Trigger
    state: RunState
    input: str
    output: str
    at_a_time: int
    created_at: datetime
    due_at: datetime
    late_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline: datetime | None = None
    dataset: DatasetId | None = None
    attempt: int = 0
    cancel: bool = False
    slow: bool = False
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    error: ErrorInfo | None = None

    @property
    def folder(self) -> str:
        """Where its results are."""
        return f"{self.output}/run-{self.number}"

    @property
    def seconds(self) -> float | None:
        """How long it took, from when its dataset was made."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as people see it. spec: what its present version says, defaults left out.

    next: the next date; None where there is none, or while it is paused. last: its latest run.
    """

    name: str
    version: int
    since: datetime
    spec: Mapping[str, Any]
    next: datetime | None
    paused_at: datetime | None = None
    paused_by: str | None = None
    last: Run | None = None


@dataclass(frozen=True, slots=True)
class Upcoming:
    """A date to come, or to fill in, and its files. taken: there is a run for them already."""

    date: datetime
    input: str
    output: str
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What applying a file does to one schedule. fields: what was, and what is to be.

    what: ``add``, ``edit``, ``remove`` or ``keep``, the last for one that the file does not name.
    """

    name: str
    what: str
    fields: Mapping[str, tuple[Any, Any]]


class Schedules(Protocol):
    """Calls about the schedules of a tenant. Thread-safe.

    fields: those of `headrace.schedules.spec.Spec`, as plain values. Every call may raise an
    Unavailable error; those with a name raise ScheduleNotFound.
    """

    def add(self, tenant: str, name: str, fields: Mapping[str, Any], by: str) -> Schedule:
        """Run it from now on. Raises InvalidInput, ModelNotFound, ScheduleExists."""
        ...

    def edit(self, tenant: str, name: str, fields: Mapping[str, Any], by: str) -> Schedule:
        """From now on have some fields be others; None takes one back to its default."""
        ...

    def apply(
        self,
        tenant: str,
        wanted: Mapping[str, Mapping[str, Any]],
        by: str,
        *,
        prune: bool,
        dry_run: bool,
    ) -> list[Change]:
        """Have the schedules be these, all or none; others go only with `prune`."""
        ...

    def every(self, tenant: str) -> list[Schedule]:
        """All of them, by name."""
        ...

    def next(self, tenant: str, name: str, count: int) -> list[Upcoming]:
        """The dates to come."""
        ...

    def pause(self, tenant: str, name: str, by: str) -> None:
        """Plan and start none of its runs for now; what runs goes on."""
        ...

    def resume(self, tenant: str, name: str, skip_missed: bool) -> bool:
        """Undo that; False where it was not paused. What was missed is up to its `catch_up`."""
        ...

    def run(self, tenant: str, name: str, date: str | None) -> Run:
        """Run a date, or the last one, now: once more where it has run. Raises InvalidInput."""
        ...

    def backfill(
        self, tenant: str, name: str, first: str, last: str, at_a_time: int, dry_run: bool
    ) -> list[Upcoming]:
        """Run the dates of a time that have no run yet, some at a time."""
        ...

    def cancel(self, tenant: str, name: str, date: str, number: int | None) -> bool:
        """End a run, the last of its date unless said; False where it had ended."""
        ...

    def remove(self, tenant: str, name: str) -> None:
        """Make no more runs; what runs goes on, and the history stays."""
        ...

    def history(self, tenant: str, name: str, limit: int) -> list[Run]:
        """Its runs, newest date first."""
        ...
