"""What is paused: a model, a version of one, or a pool, whose jobs nobody claims for now.

Each by one name: ``digits``, ``digits@3``, ``pool:gpu``.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headrace.dataset import Dataset
from headrace.db.tables import now, pauses
from headrace.job import Job, Pause


def paused(
    pool: sa.ColumnElement[str], model: sa.ColumnElement[str], version: sa.ColumnElement[int]
) -> sa.ColumnElement[bool]:
    """Whether the jobs of this pool, model and version wait for a `resume`."""
    numbered = model + sa.literal("@") + sa.cast(version, sa.Text)
    names = (sa.literal("pool:") + pool, model, numbered)
    return sa.exists(sa.select(pauses.c.what).where(pauses.c.what.in_(names)))


def pause(connection: sa.Connection, what: str, *, by: str, reason: str) -> None:
    """From now on no claim takes its jobs. Paused already, it is told anew by whom and why."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    said = {"paused_by": by, "reason": reason}
    connection.execute(
        insert(pauses)
        .values(what=what, paused_at=now(), **said)
        .on_conflict_do_update(index_elements=["what"], set_=said)
    )


def resume(connection: sa.Connection, what: str) -> bool:
    """Undo a pause of the same name; False where there is none."""
    return connection.execute(sa.delete(pauses).where(pauses.c.what == what)).rowcount == 1


def every(connection: sa.Connection) -> list[Pause]:
    """What is paused, oldest first."""
    return _found(connection, sa.true())


def of(connection: sa.Connection, job: Job | Dataset) -> list[Pause]:
    """The pauses that hold the job or the dataset up, oldest first."""
    names = (f"pool:{job.pool}", job.model.name, str(job.model))
    return _found(connection, pauses.c.what.in_(names))


def _found(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[Pause]:
    rows = connection.execute(sa.select(pauses).where(which).order_by(pauses.c.paused_at))
    return [
        Pause(row.what, datetime.fromtimestamp(row.paused_at, UTC), row.paused_by, row.reason)
        for row in rows
    ]
