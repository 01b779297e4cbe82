"""Runs of schedules: made once per date and number, moved from state to state.

Every step names the state that it leaves, so that of two who would take it one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headrace.dataset import DatasetId
from headrace.db.schedule_tables import schedule_runs as runs
from headrace.db.schedule_tables import schedules
from headrace.db.tables import utc
from headrace.job import ErrorInfo
from headrace.schedule import ACTIVE, Run, RunState, ScheduleId, Trigger

_ACTIVE = runs.c.state.in_(sorted(state.value for state in ACTIVE))
_PARAMETERS = 1000
"""Of one statement: SQLite may have a limit."""
_BACKFILL = runs.c.trigger == Trigger.BACKFILL.value


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run on its way into the table. Times are Unix seconds, the database's."""

    schedule: ScheduleId
    date: float
    number: int
    version: int
    trigger: Trigger
    input: str
    output: str
    at_a_time: int
    priority: int
    created_at: float
    late_at: float | None = None
    deadline: float | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """Which run."""

    schedule: ScheduleId
    date: float
    number: int


def key(run: Run) -> Key:
    """Of a run."""
    return Key(run.schedule, run.date.timestamp(), run.number)


def insert(connection: sa.Connection, new: Sequence[NewRun]) -> int:
    """Make the runs that are not there yet, by date or by output; returns how many it made."""
    if not new:
        return 0
    either = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    made = 0
    for run in new:
        state = RunState.SKIPPED if run.skipped else RunState.WAITING
        statement = either(runs).values(
            schedule_id=run.schedule,
            date=run.date,
            number=run.number,
            version=run.version,
            trigger=run.trigger.value,
            state=state.value,
            input=run.input,
            output=run.output,
            at_a_time=run.at_a_time,
            priority=run.priority,
            created_at=run.created_at,
            due_at=run.created_at,
            late_at=run.late_at,
            deadline=run.deadline,
            finished_at=run.created_at if run.skipped else None,
            closed_at=run.created_at if run.skipped else None,
            error_code="skipped" if run.skipped else None,
            error_message=run.skipped or None,
        )
        made += connection.execute(statement.on_conflict_do_nothing()).rowcount
    return made


def active(connection: sa.Connection, schedule: ScheduleId) -> int:
    """Its runs, other than those of backfills, that are not over."""
    statement = sa.select(sa.func.count()).where(
        runs.c.schedule_id == schedule, _ACTIVE, sa.not_(_BACKFILL)
    )
    return int(connection.execute(statement).scalar_one())


def running(
    connection: sa.Connection, schedule: ScheduleId | None = None, backfill: bool | None = None
) -> int:
    """How many run now: of everything, or of one schedule's backfills or other runs."""
    statement = sa.select(sa.func.count()).where(runs.c.state == RunState.RUNNING.value)
    if schedule is not None:
        statement = statement.where(runs.c.schedule_id == schedule)
    if backfill is not None:
        statement = statement.where(_BACKFILL if backfill else sa.not_(_BACKFILL))
    return int(connection.execute(statement).scalar_one())


def cancel(
    connection: sa.Connection, schedule: ScheduleId, at: float, why: str, backfills: bool = True
) -> int:
    """End the runs of a schedule: what waits at once, what runs by its next look."""
    which = _ACTIVE & (runs.c.schedule_id == schedule)
    return _cancel(connection, which if backfills else which & sa.not_(_BACKFILL), at, why)


def cancel_waiting(connection: sa.Connection, schedule: ScheduleId, at: float, why: str) -> int:
    """Likewise, but what runs goes on."""
    waits = runs.c.state == RunState.WAITING.value
    return _cancel(connection, waits & (runs.c.schedule_id == schedule), at, why)


def cancel_one(connection: sa.Connection, key: Key, at: float, why: str) -> bool:
    """Likewise for one run; False where it is over."""
    return _cancel(connection, _ACTIVE & _is(key), at, why) == 1


def step(connection: sa.Connection, key: Key, source: RunState, **values: Any) -> bool:
    """Change the run where it is in `source`; False where it no longer is."""
    statement = sa.update(runs).where(_is(key), runs.c.state == source.value).values(**values)
    return connection.execute(statement).rowcount == 1


def take_look(connection: sa.Connection, key: Key, at: float, until: float) -> bool:
    """Be the one who looks at a waiting run until then; False where another is."""
    due = sa.and_(_is(key), runs.c.state == RunState.WAITING.value, runs.c.due_at <= at)
    return connection.execute(sa.update(runs).where(due).values(due_at=until)).rowcount == 1


def mark(connection: sa.Connection, key: Key, column: str, value: object, expected: object) -> bool:
    """Set a column that holds `expected`; False where it holds something else."""
    held = runs.c[column].is_(None) if expected is None else runs.c[column] == expected
    statement = sa.update(runs).where(_is(key), held).values({column: value})
    return connection.execute(statement).rowcount == 1


def waiting(connection: sa.Connection, at: float, limit: int) -> list[Run]:
    """Those to look at: the most urgent first, backfills last, then by date."""
    statement = (
        sa.select(runs)
        .join(schedules, schedules.c.id == runs.c.schedule_id)
        .where(
            runs.c.state == RunState.WAITING.value,
            runs.c.due_at <= at,
            schedules.c.paused_at.is_(None),
        )
        .order_by(runs.c.priority, _BACKFILL, runs.c.date, runs.c.number)
        .limit(limit)
    )
    return [run_of(row) for row in connection.execute(statement)]


def all_running(connection: sa.Connection) -> list[Run]:
    """What runs now."""
    statement = sa.select(runs).where(runs.c.state == RunState.RUNNING.value).order_by(runs.c.date)
    return [run_of(row) for row in connection.execute(statement)]


def unclosed(connection: sa.Connection, limit: int) -> list[Run]:
    """What has ended, and has no report yet."""
    statement = (
        sa.select(runs)
        .where(runs.c.closed_at.is_(None), runs.c.finished_at.isnot(None))
        .order_by(runs.c.finished_at)
        .limit(limit)
    )
    return [run_of(row) for row in connection.execute(statement)]


def latest_with_results(connection: sa.Connection, schedule: ScheduleId, date: float) -> int | None:
    """The highest number of a run of that date that has results."""
    good = [RunState.SUCCEEDED.value, RunState.PARTIAL.value]
    statement = sa.select(sa.func.max(runs.c.number)).where(
        runs.c.schedule_id == schedule, runs.c.date == date, runs.c.state.in_(good)
    )
    latest: int | None = connection.execute(statement).scalar_one()
    return latest


def of_output(connection: sa.Connection, schedule: ScheduleId, output: str) -> list[Run]:
    """The runs whose results are for that folder, oldest first."""
    statement = (
        sa.select(runs)
        .where(runs.c.schedule_id == schedule, runs.c.output == output)
        .order_by(runs.c.number)
    )
    return [run_of(row) for row in connection.execute(statement)]


def taken(connection: sa.Connection, schedule: ScheduleId, outputs: Sequence[str]) -> set[str]:
    """Those of the folders that a run writes to, or wrote."""
    found: set[str] = set()
    for start in range(0, len(outputs), _PARAMETERS):
        some = outputs[start : start + _PARAMETERS]
        statement = sa.select(runs.c.output).where(
            runs.c.schedule_id == schedule, runs.c.output.in_(some)
        )
        found.update(connection.execute(statement).scalars())
    return found


def history(
    connection: sa.Connection,
    schedule: ScheduleId,
    limit: int,
    states: Sequence[RunState] = (),
    date: float | None = None,
) -> list[Run]:
    """Runs of a schedule, newest date first."""
    statement = sa.select(runs).where(runs.c.schedule_id == schedule)
    if states:
        statement = statement.where(runs.c.state.in_([state.value for state in states]))
    if date is not None:
        statement = statement.where(runs.c.date == date)
    statement = statement.order_by(runs.c.date.desc(), runs.c.number.desc()).limit(limit)
    return [run_of(row) for row in connection.execute(statement)]


def _is(key: Key) -> sa.ColumnElement[bool]:
    return sa.and_(
        runs.c.schedule_id == key.schedule,
        runs.c.date == key.date,
        runs.c.number == key.number,
    )


def _cancel(connection: sa.Connection, which: sa.ColumnElement[bool], at: float, why: str) -> int:
    waits = runs.c.state == RunState.WAITING.value
    statement = (
        sa.update(runs)
        .where(which)
        .values(
            cancel=sa.true(),
            state=sa.case((waits, RunState.CANCELLED.value), else_=runs.c.state),
            finished_at=sa.case((waits, at), else_=runs.c.finished_at),
            error_code="cancelled",
            error_message=why,
        )
    )
    return connection.execute(statement).rowcount


def run_of(row: Any) -> Run:
    """Of a row of the table."""
    return Run(
        schedule=ScheduleId(row.schedule_id),
        date=utc(row.date),
        number=row.number,
        version=row.version,
        trigger=Trigger(row.trigger),
        state=RunState(row.state),
        input=row.input,
        output=row.output,
        at_a_time=row.at_a_time,
        created_at=utc(row.created_at),
        due_at=utc(row.due_at),
        late_at=utc(row.late_at),
        started_at=utc(row.started_at),
        finished_at=utc(row.finished_at),
        deadline=utc(row.deadline),
        dataset=None if row.dataset_id is None else DatasetId(row.dataset_id),
        attempt=row.attempt,
        cancel=row.cancel,
        slow=row.slow,
        total=row.total,
        succeeded=row.succeeded,
        failed=row.failed,
        error=None if row.error_code is None else ErrorInfo(row.error_code, row.error_message),
    )
