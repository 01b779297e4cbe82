"""The tick: what became due is planned, what may start is started, what has ended is settled.

Any number of tickers run at once. What two of them see, one of them does: a plan, a start and an
end each take their turn in the database, and name the state that they leave.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from headrace.db import schedule_runs, schedules
from headrace.db.engine import Database
from headrace.errors import HeadraceError
from headrace.schedule import ScheduleId
from headrace.schedules.cases import Clock
from headrace.schedules.closing import Closer
from headrace.schedules.ending import Ender
from headrace.schedules.planner import plan
from headrace.schedules.runs import Runs
from headrace.schedules.starting import Starter
from headrace.schedules.stored import new_run, time, versions_of
from headrace.schedules.telling import Teller
from headrace.settings import Settings

_log = logging.getLogger(__name__)
_AT_ONCE = 100


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
        with self._database.read() as connection:
            if not schedules.any_at_all(connection):
                return Ticked()
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
