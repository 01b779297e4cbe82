"""`Client.schedules`: datasets that run once per date.

with Client() as client:
    client.schedules.add(
        "nightly",
        cron="0 2 * * *",
        tz="Europe/Berlin",
        model="digits@stable",
        input="s3://in/{date-1d:%Y/%m/%d}/*.parquet",
        output="s3://out/{date-1d:%Y-%m-%d}/",
    )
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from headrace.errors import InvalidInput
from headrace.schedule import Change, Run, Schedule, Schedules, Upcoming

Date = datetime | date | str
"""An instant; or a day, or a time without a zone, by the clock of the schedule's zone."""
_FORMAT = 1


class ScheduleCalls:
    """Calls on behalf of one tenant. Thread-safe.

    Those with a name raise ScheduleNotFound; every one may raise DatabaseUnavailable.
    """

    def __init__(self, schedules: Schedules, tenant: str, by: Callable[[], str]) -> None:
        self._schedules = schedules
        self._tenant = tenant
        self._by = by

    def add(self, name: str, **fields: Any) -> Schedule:
        """Run a dataset at each date from now on. fields: see docs/schedules.md.

        Raises InvalidInput (nothing is stored), ModelNotFound, ScheduleExists.
        """
        return self._schedules.add(self._tenant, name, _absolute(fields), self._by())

    def edit(self, name: str, **fields: Any) -> Schedule:
        """From now on have some fields be others; None takes one back to its default."""
        return self._schedules.edit(self._tenant, name, _absolute(fields), self._by())

    def apply(
        self, path: str | Path, *, prune: bool = False, dry_run: bool = False
    ) -> list[Change]:
        """Have the schedules be those of a ``schedules.toml``, all or none; returns what changed.

        prune: remove those that the file does not name. dry_run: only say.
        """
        wanted = {name: _absolute(of) for name, of in read_schedules(Path(path)).items()}
        return self._schedules.apply(self._tenant, wanted, self._by(), prune=prune, dry_run=dry_run)

    def every(self) -> list[Schedule]:
        """All of them, by name."""
        return self._schedules.every(self._tenant)

    def next(self, name: str, count: int = 10) -> list[Upcoming]:
        """The dates to come, with their files."""
        return self._schedules.next(self._tenant, name, count)

    def pause(self, name: str) -> None:
        """Plan and start none of its runs until `resume`; what runs goes on."""
        self._schedules.pause(self._tenant, name, self._by())

    def resume(self, name: str, *, skip_missed: bool = False) -> bool:
        """Undo a `pause`; False where there was none.

        What was due meanwhile is up to the schedule's `catch_up`. skip_missed: is left out.
        """
        return self._schedules.resume(self._tenant, name, skip_missed)

    def run(self, name: str, date: Date | None = None) -> Run:
        """Run a date, or the last one that was due, now: once more where it has run.

        A further run has a number and a folder of its own. Raises InvalidInput.
        """
        return self._schedules.run(self._tenant, name, None if date is None else _text(date))

    def backfill(
        self, name: str, first: Date, last: Date, *, at_a_time: int = 1, dry_run: bool = False
    ) -> list[Upcoming]:
        """Run every date from `first` to `last` that has no run yet, `at_a_time`.

        Returns the dates; those that are `taken` are left alone. Raises InvalidInput.
        """
        return self._schedules.backfill(
            self._tenant, name, _text(first), _text(last), at_a_time, dry_run
        )

    def cancel(self, name: str, date: Date, number: int | None = None) -> bool:
        """End a run of a date, the last unless `number` is given; False where it had ended."""
        return self._schedules.cancel(self._tenant, name, _text(date), number)

    def remove(self, name: str) -> None:
        """Make no more runs. What runs goes on; the history stays, should it come back."""
        self._schedules.remove(self._tenant, name)

    def history(self, name: str, limit: int = 30) -> list[Run]:
        """Its runs, newest date first."""
        return self._schedules.history(self._tenant, name, limit)


def read_schedules(path: Path) -> dict[str, dict[str, Any]]:
    """The fields of each schedule in a file. Raises InvalidInput."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(path.name, f"expected a TOML file ({error})") from None
    if content.keys() != {"version", "schedules"} or content["version"] != _FORMAT:
        raise InvalidInput(path.name, f"expected version = {_FORMAT} and tables [schedules.NAME]")
    tables = content["schedules"]
    for name, fields in tables.items():
        if not isinstance(fields, dict):
            raise InvalidInput(path.name, f"schedules.{name}: expected a table")
    return dict(tables)


def _text(when: Date) -> str:
    return when if isinstance(when, str) else when.isoformat()


def _absolute(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's working directory is another one."""
    paths = {
        name: os.path.abspath(fields[name])
        for name in ("input", "output")
        if isinstance(fields.get(name), str) and "://" not in fields[name]
    }
    return {**fields, **paths}
