"""The tick: what became due is planned, what may start is started, what has ended is settled.

Any number of tickers run at once. What two of them see, one of them does: a plan, a start and an
end each take their turn in the database, and name the state that they leave.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from headrace.db import schedule_runs, schedules
from headrace.db.engine import Database
from headrace.db.schedule_runs import NewRun
from headrace.db.schedules import StoredSchedule
from headrace.errors import HeadraceError
from headrace.schedule import ScheduleId, Trigger
from headrace.schedules.closing import Closer
from headrace.schedules.ending import Ender
from headrace.schedules.planner import Due, Version, plan
from headrace.schedules.runs import Runs
from headrace.schedules.spec import Spec, seconds
from headrace.schedules.starting import Starter
from headrace.schedules.telling import Teller
from headrace.settings import Settings

_log = logging.getLogger(__name__)
_AT_ONCE = 100
Clock = Callable[[sa.Connection], float]


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one tick did: runs planned, started, ended; messages sent."""

    planned: int = 0
    started: int = 0
    ended: int = 0
    told: int = 0

    def __str__(self) -> str:
        return (
            f"{self.planned} runs planned, {self.started} started, {self.ended} ended; "
            f"{self.told} messages sent"
        )


class Ticker:
    """Ticks as often as it is asked to.

    clock: takes the turn and says what time it is, in Unix seconds; other than the database's
    for tests of years.
    """

    def __init__(
        self,
        database: Database,
        runs: Runs,
        teller: Teller,
        settings: Settings,
        clock: Clock = schedules.turn,
    ) -> None:
        self._database = database
        self._clock = clock
        self._every = settings.lease / 3
        self._teller = teller
        self._starter = Starter(database, runs, settings, clock)
        self._ender = Ender(database, runs, settings, clock)
        self._closer = Closer(database, runs, settings, clock)

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set, whatever happens."""
        while not stop.is_set():
            try:
                if (ticked := self.tick()) != Ticked():
                    _log.info("%s", ticked)
            except HeadraceError as error:
                _log.warning("cannot look after schedules: %s", error)
            except Exception:  # noqa: BLE001  # a fault here must not end the ticks
                _log.exception("a tick of the schedules failed")
            stop.wait(self._every)

    def tick(self) -> Ticked:
        """Everything that is to be done now. Raises DatabaseUnavailable."""
        planned = self._plan()
        ended = self._ender.end()
        started = self._starter.start()
        self._closer.close()
        return Ticked(planned, started, ended, self._teller.send())

    def _plan(self) -> int:
        with self._database.write() as connection:
            due = schedules.undecided(connection, self._clock(connection), _AT_ONCE)
        return sum(self._plan_one(id) for id in due)

    def _plan_one(self, id: ScheduleId) -> int:
        with self._database.write() as connection:
            now = self._clock(connection)
            schedule = schedules.get(connection, [id]).get(id)
            if schedule is None or schedule.paused_at or schedule.removed_at:
                return 0
            versions = versions_of(schedule)
            active = schedule_runs.active(connection, id)
            found = plan(versions, time(schedule.decided_until), time(now), active)
            if found.cancel:
                why = f"{found.dates[-1].date:%Y-%m-%d %H:%M} UTC is due, and overlap is cancel"
                schedule_runs.cancel(connection, id, now, why, backfills=False)
            made = schedule_runs.insert(connection, [new_run(id, due, now) for due in found.dates])
            schedules.change(
                connection,
                id,
                decided_until=found.decided.timestamp(),
                next_at=found.next and found.next.timestamp(),
            )
        return made


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
