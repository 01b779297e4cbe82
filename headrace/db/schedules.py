"""Schedules and their versions: made, changed, found when there is something to decide.

Whoever plans, starts or changes takes `turn` first and holds it until the commit: so what is
counted stays so. Specs are JSON here; `headrace.schedules.spec` knows what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import uuid_utils

from headrace.db.schedule_tables import schedule_ticks, schedule_versions, schedules
from headrace.db.tables import now
from headrace.schedule import ScheduleId


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """since: Unix seconds. spec: JSON."""

    number: int
    since: float
    spec: str


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule with all of its versions, oldest first. Times are Unix seconds."""

    id: ScheduleId
    tenant: str
    name: str
    paused_at: float | None
    paused_by: str | None
    removed_at: float | None
    decided_until: float
    next_at: float | None
    versions: tuple[StoredVersion, ...]


def turn(connection: sa.Connection) -> float:
    """Wait for one's turn, which lasts until the commit; the database's time, Unix seconds."""
    statement = sa.update(schedule_ticks).values(ticked_at=now())
    return float(connection.execute(statement.returning(schedule_ticks.c.ticked_at)).scalar_one())


def any_at_all(connection: sa.Connection) -> bool:
    """Whether there is, or was, a schedule of anybody's."""
    return connection.execute(sa.select(schedules.c.id).limit(1)).first() is not None


def find(connection: sa.Connection, tenant: str, name: str) -> StoredSchedule | None:
    """The schedule of that name, a removed one as well."""
    found = _stored(connection, (schedules.c.tenant == tenant) & (schedules.c.name == name))
    return found[0] if found else None


def get(connection: sa.Connection, ids: Sequence[ScheduleId]) -> dict[ScheduleId, StoredSchedule]:
    """Schedules by id, removed ones as well."""
    return {found.id: found for found in _stored(connection, schedules.c.id.in_(ids))}


def every(connection: sa.Connection, tenant: str) -> list[StoredSchedule]:
    """Those of a tenant that are not removed, by name."""
    return _stored(connection, (schedules.c.tenant == tenant) & schedules.c.removed_at.is_(None))


def undecided(connection: sa.Connection, at: float, limit: int) -> list[ScheduleId]:
    """Those that have something to decide at `at`, or once decided more than is due by then."""
    due = (schedules.c.next_at <= at) | (schedules.c.decided_until > at)
    ticking = schedules.c.paused_at.is_(None) & schedules.c.removed_at.is_(None)
    statement = sa.select(schedules.c.id).where(ticking, due).order_by(schedules.c.next_at)
    return [ScheduleId(id) for id in connection.execute(statement.limit(limit)).scalars()]


def add(connection: sa.Connection, tenant: str, name: str, at: float) -> ScheduleId:
    """A schedule without a version yet."""
    id = ScheduleId(str(uuid_utils.uuid7()))
    connection.execute(
        sa.insert(schedules).values(
            id=id, tenant=tenant, name=name, created_at=at, decided_until=at
        )
    )
    return id


def add_version(connection: sa.Connection, id: ScheduleId, version: StoredVersion, by: str) -> None:
    """From `since` on the schedule is this one."""
    connection.execute(
        sa.insert(schedule_versions).values(
            schedule_id=id,
            number=version.number,
            since=version.since,
            spec=version.spec,
            made_by=by,
        )
    )


def change(connection: sa.Connection, id: ScheduleId, **values: Any) -> None:
    """Set columns of the schedule."""
    connection.execute(sa.update(schedules).where(schedules.c.id == id).values(**values))


def _stored(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[StoredSchedule]:
    rows = connection.execute(sa.select(schedules).where(which).order_by(schedules.c.name)).all()
    versions: dict[str, list[StoredVersion]] = {row.id: [] for row in rows}
    statement = (
        sa.select(schedule_versions)
        .where(schedule_versions.c.schedule_id.in_(versions))
        .order_by(schedule_versions.c.number)
    )
    for row in connection.execute(statement):
        versions[row.schedule_id].append(StoredVersion(row.number, row.since, row.spec))
    return [
        StoredSchedule(
            id=ScheduleId(row.id),
            tenant=row.tenant,
            name=row.name,
            paused_at=row.paused_at,
            paused_by=row.paused_by,
            removed_at=row.removed_at,
            decided_until=row.decided_until,
            next_at=row.next_at,
            versions=tuple(versions[row.id]),
        )
        for row in rows
    ]
