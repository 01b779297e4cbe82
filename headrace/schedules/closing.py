"""What is written beside the results of a run that has ended: its report, and who is the latest.

After the run's end has committed, and again after a crash: it is closed once all is there.
"""

from __future__ import annotations

import logging

from headrace.db import schedule_runs
from headrace.db.engine import Database
from headrace.errors import HeadraceError
from headrace.schedules import report
from headrace.schedules.cases import Case, Clock, cases
from headrace.schedules.placing import place
from headrace.schedules.runs import Runs
from headrace.settings import Settings

_log = logging.getLogger(__name__)
_AT_ONCE = 20
_COMPARED = 30
"""Runs that a report compares its own with."""
LATEST = "latest"
"""The file in a date's folder that says which of its runs holds: ``run-2``."""


class Closer:
    """Writes what belongs to the end of runs."""

    def __init__(self, database: Database, runs: Runs, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._runs = runs
        self._settings = settings
        self._clock = clock

    def close(self) -> int:
        """Close what has ended; returns how many runs. Raises DatabaseUnavailable."""
        with self._database.read() as connection:
            found = cases(connection, schedule_runs.unclosed(connection, _AT_ONCE))
        closed = 0
        for case in found:
            try:
                if case.run.dataset is not None:
                    self._report(case)
                    self._point(case)
            except HeadraceError as error:
                _log.warning("%s is not reported on yet: %s", case, error)
                continue
            with self._database.write() as connection:
                now = self._clock(connection)
                closed += schedule_runs.mark(connection, case.key, "closed_at", now, None)
        return closed

    def _report(self, case: Case) -> None:
        assert case.run.dataset is not None
        with self._database.read() as connection:
            history = schedule_runs.history(connection, case.run.schedule, _COMPARED + 1)
        errors = self._runs.errors(case.run.dataset)
        told = report.make(case, [run for run in history if run.dataset], errors)
        for name, data, kind in (
            ("_report.json", report.as_json(told), "application/json"),
            ("_report.html", report.as_html(told), "text/html; charset=utf-8"),
        ):
            place(f"{case.run.folder}/{name}", data.encode(), kind, self._settings)

    def _point(self, case: Case) -> None:
        """Have the pointer say which run holds, until that is still the one once it is written."""
        written: int | None = None
        while True:
            with self._database.read() as connection:
                latest = schedule_runs.latest_with_results(
                    connection, case.run.schedule, case.run.date.timestamp()
                )
            if latest in (None, written):
                return
            pointer = f"run-{latest}\n".encode()
            place(f"{case.run.output}/{LATEST}", pointer, "text/plain", self._settings)
            written = latest
