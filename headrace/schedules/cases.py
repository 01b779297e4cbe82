"""A run with what its schedule says about it, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from headrace.db import outbox, schedule_runs, schedules
from headrace.db.schedule_runs import Key
from headrace.schedule import Run, RunState
from headrace.schedules.spec import Spec
from headrace.settings import Settings

Clock = Callable[[sa.Connection], float]
"""Takes the turn, and says what time it is, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Case:
    """A run of schedule `name`, and the version of that which it belongs to."""

    run: Run
    tenant: str
    name: str
    spec: Spec

    @property
    def key(self) -> Key:
        """Of the run."""
        return schedule_runs.key(self.run)

    def __str__(self) -> str:
        date = self.run.date.astimezone(self.spec.zone)
        again = f", run {self.run.number}" if self.run.number > 1 else ""
        return f"{self.name} of {date:%Y-%m-%d %H:%M %Z}{again}"


def cases(connection: sa.Connection, runs: Sequence[Run]) -> list[Case]:
    """Of these runs, in order."""
    found = schedules.get(connection, sorted({run.schedule for run in runs}))
    specs = {
        (schedule.id, version.number): Spec.model_validate_json(version.spec)
        for schedule in found.values()
        for version in schedule.versions
    }
    return [
        Case(
            run,
            found[run.schedule].tenant,
            found[run.schedule].name,
            specs[run.schedule, run.version],
        )
        for run in runs
    ]


def tell(
    connection: sa.Connection, case: Case, settings: Settings, what: str, why: str, at: float
) -> None:
    """Put a message about the run into the outbox, to whom the schedule names, or else all do."""
    run = case.run
    lines = [
        f"{case}: {what}.",
        why,
        "",
        f"model    {case.spec.model}",
        f"input    {run.input}",
        f"output   {run.folder}",
        f"dataset  {run.dataset or 'none was made'}",
        "",
        f"headrace schedules history {case.name}",
    ]
    outbox.put(
        connection,
        case.tenant,
        [f"mailto:{address}" for address in case.spec.notify or settings.notify],
        f"[headrace] {case}: {what}",
        "\n".join(lines),
        at,
    )


def end(
    connection: sa.Connection,
    case: Case,
    source: RunState,
    target: RunState,
    at: float,
    *,
    code: str | None = None,
    message: str | None = None,
    **values: Any,
) -> bool:
    """The run goes from `source` to its end; False where somebody else was first."""
    return schedule_runs.step(
        connection,
        case.key,
        source,
        state=target.value,
        finished_at=at,
        error_code=code,
        error_message=message,
        **values,
    )
