"""Running runs end with their datasets, are tried again, or are slow and somebody is told."""

from __future__ import annotations

import statistics

import sqlalchemy as sa

from headrace.dataset import Dataset, DatasetState
from headrace.db import schedule_runs
from headrace.db.engine import Database
from headrace.schedule import RunState
from headrace.schedules.cases import Case, Clock, cases, end, tell
from headrace.schedules.runs import Runs
from headrace.schedules.spec import seconds
from headrace.settings import Settings

_COMPARED, _FEWEST = 20, 3
"""Runs whose durations tell what is slow, and how many it takes to tell."""


class Ender:
    """Takes over what became of the datasets."""

    def __init__(self, database: Database, runs: Runs, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._runs = runs
        self._settings = settings
        self._clock = clock

    def end(self) -> int:
        """Look at what runs; returns how many runs ended. Raises DatabaseUnavailable."""
        with self._database.read() as connection:
            found = cases(connection, schedule_runs.all_running(connection))
        seen = self._runs.look([case.run.dataset for case in found if case.run.dataset])
        ended = 0
        for case in found:
            dataset = seen.get(case.run.dataset) if case.run.dataset else None
            if dataset is None or dataset.state.ended:
                ended += self._end(case, dataset)
            elif case.run.cancel:
                self._runs.cancel(dataset.id)
            else:
                self._watch(case)
        return ended

    def _end(self, case: Case, dataset: Dataset | None) -> bool:
        with self._database.write() as connection:
            now = self._clock(connection)
            if dataset is None:
                return self._settle(connection, case, RunState.FAILED, "no_dataset", _GONE, now)
            counts = {
                "total": dataset.total,
                "succeeded": dataset.succeeded,
                "failed": dataset.failed,
            }
            failed = dataset.state in (DatasetState.FAILED, DatasetState.PARTIAL)
            if failed and not case.run.cancel and case.run.attempt < case.spec.retries:
                again = now + seconds(case.spec.retry_after)
                schedule_runs.step(
                    connection,
                    case.key,
                    RunState.RUNNING,
                    state=RunState.WAITING.value,
                    due_at=again,
                    **counts,
                )
                return False
            state = RunState(dataset.state.value)
            code, why = _reason(case, dataset)
            return self._settle(connection, case, state, code, why, now, **counts)

    def _settle(
        self,
        connection: sa.Connection,
        case: Case,
        state: RunState,
        code: str | None,
        why: str | None,
        now: float,
        **counts: int,
    ) -> bool:
        """The run's end, and what is told of it, in one transaction."""
        if not end(
            connection, case, RunState.RUNNING, state, now, code=code, message=why, **counts
        ):
            return False
        bearable = case.spec.partial * counts.get("total", 0)
        if state in (RunState.FAILED, RunState.EXPIRED) or (
            state is RunState.PARTIAL and counts["failed"] > bearable
        ):
            tell(connection, case, self._settings, state.value, why or "", now)
        return True

    def _watch(self, case: Case) -> None:
        """Tell somebody, once, where it takes far longer than it used to."""
        if case.spec.slow is None or case.run.slow or case.run.started_at is None:
            return
        with self._database.write() as connection:
            now = self._clock(connection)
            before = schedule_runs.history(
                connection, case.run.schedule, _COMPARED, [RunState.SUCCEEDED, RunState.PARTIAL]
            )
            usual = [run.seconds for run in before if run.seconds is not None]
            if len(usual) < _FEWEST:
                return
            took, median = now - case.run.started_at.timestamp(), statistics.median(usual)
            if took > case.spec.slow * median and schedule_runs.step(
                connection, case.key, RunState.RUNNING, slow=True
            ):
                why = f"It has run for {took:.0f} s; the median of its last runs is {median:.0f} s."
                tell(connection, case, self._settings, "slow", why, now)


_GONE = "its dataset is not there any more"


def _reason(case: Case, dataset: Dataset) -> tuple[str | None, str | None]:
    """A code and a sentence for what did not go well."""
    if dataset.error is not None:
        return dataset.error.code, dataset.error.message
    if dataset.state is DatasetState.CANCELLED:
        said = case.run.error
        return "cancelled", said.message if said else "its dataset was cancelled"
    if dataset.failed:
        return "records_failed", f"{dataset.failed:,} of {dataset.total:,} records failed"
    return None, None
