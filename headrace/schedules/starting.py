"""Waiting runs become running ones: once their input is there, and there is room for them."""

from __future__ import annotations

import logging
from dataclasses import replace

import sqlalchemy as sa

from headrace.db import schedule_runs
from headrace.db.engine import Database
from headrace.errors import HeadraceError, Unavailable
from headrace.schedule import Run, RunState, Trigger
from headrace.schedules.cases import Case, Clock, cases, end, tell
from headrace.schedules.order import Order
from headrace.schedules.runs import Prepared, Runs
from headrace.schedules.sensor import Seen, look
from headrace.settings import Settings

_log = logging.getLogger(__name__)
_LOOKED_AT = 50
"""Runs that one tick looks at."""
LOOK_EVERY = 30.0
"""Seconds between two looks at the input of a run, whoever looks."""


class Starter:
    """Starts what may start."""

    def __init__(self, database: Database, runs: Runs, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._runs = runs
        self._settings = settings
        self._clock = clock

    def start(self) -> int:
        """Look at what waits; returns how many were started. Raises DatabaseUnavailable."""
        with self._database.write() as connection:
            waiting = schedule_runs.waiting(connection, self._clock(connection), _LOOKED_AT)
            roomy = [run for run in waiting if self._has_room(connection, run)]
            found = cases(connection, roomy)
        return sum(self._start_one(case) for case in found)

    def _has_room(self, connection: sa.Connection, run: Run) -> bool:
        """Whether so few run that this one may."""
        backfill = run.trigger is Trigger.BACKFILL
        return (
            schedule_runs.running(connection) < self._settings.scheduled_runs
            and schedule_runs.running(connection, run.schedule, backfill) < run.at_a_time
        )

    def _start_one(self, case: Case) -> bool:
        with self._database.write() as connection:
            now = self._clock(connection)
            if not self._has_room(connection, case.run) or not schedule_runs.take_look(
                connection, case.key, now, now + LOOK_EVERY
            ):
                return False  # due as before
        try:
            if case.run.dataset is not None:
                return self._begin(case, self._runs.again(case.run.dataset), again=1)
            if self._input_is_there(case, now):
                return self._begin(case, self._runs.prepare(_order(case)))
        except Unavailable as error:
            _log.warning("%s cannot start, trying again: %s", case, error)
        except HeadraceError as error:
            with self._database.write() as connection:
                now = self._clock(connection)
                self._end(connection, case, RunState.FAILED, error.code, str(error), now)
        return False

    def _input_is_there(self, case: Case, now: float) -> bool:
        """Or else the run goes on waiting, or is over."""
        seen = look(case.run.input, case.spec.wait_for, self._settings)
        if seen is Seen.READY:
            return True
        late_at = case.run.late_at
        if seen is Seen.EMPTY:
            skips = case.spec.empty == "skip"
            state, code = (RunState.SKIPPED, "skipped") if skips else (RunState.FAILED, "no_input")
            why = f"there is nothing to read at {case.run.input}"
        elif late_at is not None and now >= late_at.timestamp():
            state, code = RunState.LATE, "late"
            why = f"{case.run.input} was not complete within {case.spec.late_after}"
        else:
            return False
        with self._database.write() as connection:
            self._end(connection, case, state, code, why, self._clock(connection))
        return False

    def _begin(self, case: Case, prepared: Prepared, again: int = 0) -> bool:
        """The run gets its dataset, or that runs again: in one transaction."""
        with self._database.write() as connection:
            now = self._clock(connection)
            if not self._has_room(connection, case.run):
                schedule_runs.step(connection, case.key, RunState.WAITING, due_at=now)
                return False
            begun = schedule_runs.step(
                connection,
                case.key,
                RunState.WAITING,
                state=RunState.RUNNING.value,
                started_at=now if case.run.started_at is None else case.run.started_at.timestamp(),
                attempt=case.run.attempt + again,
            )
            if not begun:
                return False
            dataset = prepared.start(connection)
            if dataset is None:
                why = "what failed of it cannot be run again"
                self._end(connection, case, RunState.FAILED, "no_retry", why, now, RunState.RUNNING)
                return False
            schedule_runs.step(connection, case.key, RunState.RUNNING, dataset_id=dataset)
        prepared.ring()
        return True

    def _end(
        self,
        connection: sa.Connection,
        case: Case,
        state: RunState,
        code: str,
        why: str,
        now: float,
        source: RunState = RunState.WAITING,
    ) -> None:
        if end(connection, case, source, state, now, code=code, message=why) and (
            state is not RunState.SKIPPED
        ):
            tell(connection, case, self._settings, state.value, why, now)


def _order(case: Case) -> Order:
    run = case.run
    return replace(
        case.spec.order(run.date),
        tenant=case.tenant,
        input=run.input,
        output=run.folder,
        deadline=run.deadline,
    )
