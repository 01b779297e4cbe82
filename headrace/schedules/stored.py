"""Between what the tables hold and what the planner knows. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from headrace.db.schedule_runs import NewRun
from headrace.db.schedules import StoredSchedule
from headrace.schedule import ScheduleId, Trigger
from headrace.schedules.planner import Due, Version
from headrace.schedules.spec import Spec, seconds


def new_run(
    id: ScheduleId,
    due: Due,
    now: float,
    trigger: Trigger | None = None,
    number: int = 1,
    at_a_time: int | None = None,
) -> NewRun:
    """A run of a date, as its version wants it.

    trigger: None for what is planned. A deadline that is over already is none: what is filled in
    is wanted all the same.
    """
    spec = due.version.spec
    deadline = spec.deadline_at(due.date)
    return NewRun(
        schedule=id,
        date=due.date.timestamp(),
        number=number,
        version=due.version.number,
        trigger=trigger or (Trigger.MISSED if due.missed else Trigger.DUE),
        input=spec.input_at(due.date),
        output=spec.output_at(due.date),
        at_a_time=at_a_time or spec.at_a_time,
        priority=int(spec.urgency),
        created_at=now,
        late_at=now + seconds(spec.late_after) if spec.wait_for is not None else None,
        deadline=deadline.timestamp() if deadline and deadline.timestamp() > now else None,
        skipped="the runs before it are not over, and overlap is skip" if due.skip else "",
    )


def versions_of(schedule: StoredSchedule) -> list[Version]:
    """Its versions, as the planner knows them."""
    return [
        Version(version.number, time(version.since), Spec.model_validate_json(version.spec))
        for version in schedule.versions
    ]


def time(instant: float) -> datetime:
    """Of Unix seconds."""
    return datetime.fromtimestamp(instant, UTC)
