"""Everything a person can ask of schedules: the service behind client, command line and gateway."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa

from headrace.db import schedule_runs, schedules
from headrace.db.engine import Database
from headrace.db.schedules import StoredSchedule, StoredVersion
from headrace.errors import InvalidInput, ScheduleExists, ScheduleNotFound
from headrace.schedule import Change, Run, Schedule, ScheduleId, Trigger, Upcoming
from headrace.schedules import spec as specs
from headrace.schedules.asking import always, meant, span
from headrace.schedules.order import Order
from headrace.schedules.planner import Due, dates, upcoming
from headrace.schedules.spec import Spec
from headrace.schedules.stored import new_run, time, versions_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_MOST = 10_000
"""Dates that one backfill may have."""


class Scheduling:
    """Implements `headrace.schedule.Schedules`. Thread-safe.

    check: whether there can be such a dataset at all. Raises InvalidInput, ModelNotFound.
    """

    def __init__(self, database: Database, check: Callable[[Order], None]) -> None:
        self._database = database
        self._check = check

    def add(self, tenant: str, name: str, fields: Mapping[str, Any], by: str) -> Schedule:
        """Run it from now on."""
        spec = self._checked(name, fields)
        with self._database.write() as connection:
            now = schedules.turn(connection)
            found = schedules.find(connection, tenant, name)
            if found is not None and found.removed_at is None:
                raise ScheduleExists(name)
            self._add(connection, tenant, name, spec, by, now)
            return _shown(connection, _existing(connection, tenant, name), now)

    def edit(self, tenant: str, name: str, fields: Mapping[str, Any], by: str) -> Schedule:
        """From now on have some fields be others; None takes one back to its default."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            found = _existing(connection, tenant, name)
            merged = {**_plain(_spec(found)), **fields}
            spec = self._checked(name, {k: v for k, v in merged.items() if v is not None})
            if spec != _spec(found):
                _add_version(connection, found.id, found.versions, spec, by, now)
            return _shown(connection, _existing(connection, tenant, name), now)

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
        checked = {name: self._checked(name, fields) for name, fields in wanted.items()}
        with self._database.write() as connection:
            now = schedules.turn(connection)
            present = {found.name: found for found in schedules.every(connection, tenant)}
            changes = []
            for name in sorted(present.keys() | checked.keys()):
                change = _change(name, present.get(name), checked.get(name), prune)
                changes += [change] if change else []
                if change is None or dry_run:
                    continue
                if change.what == "add":
                    self._add(connection, tenant, name, checked[name], by, now)
                elif change.what == "edit":
                    was = present[name]
                    _add_version(connection, was.id, was.versions, checked[name], by, now)
                elif change.what == "remove":
                    _remove(connection, present[name].id, now)
        return changes

    def every(self, tenant: str) -> list[Schedule]:
        """All of them, by name."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            return [_shown(connection, each, now) for each in schedules.every(connection, tenant)]

    def next(self, tenant: str, name: str, count: int) -> list[Upcoming]:
        """The dates to come."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            found = _existing(connection, tenant, name)
        coming = dates(versions_of(found), time(now), None)
        return [_upcoming(due) for due in islice(coming, count)]

    def pause(self, tenant: str, name: str, by: str) -> None:
        """Plan and start none of its runs for now; what runs goes on."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            found = _existing(connection, tenant, name)
            schedules.change(connection, found.id, paused_at=now, paused_by=by)

    def resume(self, tenant: str, name: str, skip_missed: bool) -> bool:
        """Undo that; False where it was not paused."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            found = _existing(connection, tenant, name)
            decided = now if skip_missed else found.decided_until
            schedules.change(
                connection,
                found.id,
                paused_at=None,
                paused_by=None,
                next_at=now,
                decided_until=decided,
            )
        return found.paused_at is not None

    def run(self, tenant: str, name: str, date: str | None) -> Run:
        """Run a date, or the last one, now: once more where it has run."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            found = _existing(connection, tenant, name)
            version = versions_of(found)[-1]
            due = meant(version, date, now)
            # Its files may have run under another date, before the schedule was moved.
            before = schedule_runs.of_output(connection, found.id, version.spec.output_at(due.date))
            if before:
                due = replace(due, date=before[0].date)
            before += schedule_runs.history(connection, found.id, _MOST, date=due.date.timestamp())
            number = 1 + max((run.number for run in before), default=0)
            new = new_run(found.id, due, now, Trigger.MANUAL, number)
            schedule_runs.insert(connection, [new])
            made = schedule_runs.history(connection, found.id, 1, date=new.date)
        return made[0]

    def backfill(
        self, tenant: str, name: str, first: str, last: str, at_a_time: int, dry_run: bool
    ) -> list[Upcoming]:
        """Run the dates of a time that have no run yet, some at a time."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            found = _existing(connection, tenant, name)
            version = versions_of(found)[-1]
            start, _ = span(first, version.spec, "from")
            _, end = span(last, version.spec, "to")
            past = dates([always(version)], start - timedelta(microseconds=1), min(end, time(now)))
            wanted = list(islice(past, _MOST + 1))
            if not 0 < len(wanted) <= _MOST:
                raise InvalidInput("from", f"{len(wanted)} dates, expected 1 to {_MOST}")
            made = [
                new_run(found.id, due, now, Trigger.BACKFILL, at_a_time=at_a_time) for due in wanted
            ]
            taken = schedule_runs.taken(connection, found.id, [run.output for run in made])
            if not dry_run:
                schedule_runs.insert(connection, [run for run in made if run.output not in taken])
        return [_upcoming(due, taken) for due in wanted]

    def cancel(self, tenant: str, name: str, date: str, number: int | None) -> bool:
        """End a run, the last of its date unless said; False where it had ended."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            found = _existing(connection, tenant, name)
            start, end = span(date, versions_of(found)[-1].spec, "date")
            runs = [
                run
                for run in schedule_runs.history(connection, found.id, _MOST)
                if start <= run.date <= end and number in (None, run.number)
            ]
            if not runs:
                raise InvalidInput("date", f"no run of {date}")
            key = schedule_runs.key(runs[0])
            return schedule_runs.cancel_one(connection, key, now, "somebody cancelled it")

    def remove(self, tenant: str, name: str) -> None:
        """Make no more runs; what runs goes on, and the history stays."""
        with self._database.write() as connection:
            now = schedules.turn(connection)
            _remove(connection, _existing(connection, tenant, name).id, now)

    def history(self, tenant: str, name: str, limit: int) -> list[Run]:
        """Its runs, newest date first."""
        with self._database.read() as connection:
            found = _existing(connection, tenant, name)
            return schedule_runs.history(connection, found.id, limit)

    def _checked(self, name: str, fields: Mapping[str, Any]) -> Spec:
        if not _NAME.fullmatch(name):
            raise InvalidInput("name", f"expected lower case letters, digits, . _ -, got {name!r}")
        spec = specs.parse(fields)
        now = datetime.now(UTC)
        specs.check(spec, now)
        self._check(spec.order(now))
        return spec

    def _add(
        self,
        connection: sa.Connection,
        tenant: str,
        name: str,
        spec: Spec,
        by: str,
        now: float,
    ) -> None:
        """One that was removed goes on with its history, and from now."""
        found = schedules.find(connection, tenant, name)
        id = found.id if found else schedules.add(connection, tenant, name, now)
        schedules.change(connection, id, removed_at=None, paused_at=None, decided_until=now)
        _add_version(connection, id, found.versions if found else (), spec, by, now)


def _add_version(
    connection: sa.Connection,
    id: ScheduleId,
    before: tuple[StoredVersion, ...],
    spec: Spec,
    by: str,
    now: float,
) -> None:
    stored = spec.model_dump_json(exclude_defaults=True)
    schedules.add_version(connection, id, StoredVersion(len(before) + 1, now, stored), by)
    schedules.change(connection, id, next_at=now)


def _remove(connection: sa.Connection, id: ScheduleId, now: float) -> None:
    schedules.change(connection, id, removed_at=now)
    schedule_runs.cancel_waiting(connection, id, now, "the schedule was removed")


def _change(
    name: str, present: StoredSchedule | None, spec: Spec | None, prune: bool
) -> Change | None:
    """What is to be done about one name; None where all is as it should be."""
    was = _plain(_spec(present)) if present else {}
    if spec is None:
        return Change(name, "remove" if prune else "keep", {})
    if present is not None and _spec(present) == spec:
        return None
    be = _plain(spec)
    fields = {
        field: (was.get(field), be.get(field))
        for field in Spec.model_fields
        if was.get(field) != be.get(field)
    }
    return Change(name, "edit" if present else "add", fields)


def _existing(connection: sa.Connection, tenant: str, name: str) -> StoredSchedule:
    found = schedules.find(connection, tenant, name)
    if found is None or found.removed_at is not None:
        raise ScheduleNotFound(name)
    return found


def _shown(connection: sa.Connection, found: StoredSchedule, now: float) -> Schedule:
    last = schedule_runs.history(connection, found.id, 1)
    versions = versions_of(found)
    return Schedule(
        name=found.name,
        version=versions[-1].number,
        since=versions[-1].since,
        spec=_plain(versions[-1].spec),
        next=None if found.paused_at else upcoming(versions, time(now)),
        paused_at=None if found.paused_at is None else time(found.paused_at),
        paused_by=found.paused_by,
        last=last[0] if last else None,
    )


def _spec(found: StoredSchedule) -> Spec:
    return Spec.model_validate_json(found.versions[-1].spec)


def _plain(spec: Spec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_defaults=True)


def _upcoming(due: Due, taken: set[str] | frozenset[str] = frozenset()) -> Upcoming:
    spec = due.version.spec
    output = spec.output_at(due.date)
    return Upcoming(due.date, spec.input_at(due.date), output, output in taken)
