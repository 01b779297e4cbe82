"""How fast a version runs on one worker, as its last shards have shown."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headrace.db.dataset_tables import speeds
from headrace.db.tables import now
from headrace.job import ModelKey

_WEIGHT = 0.3
"""Of a new measurement, against all before."""


def get(connection: sa.Connection, key: ModelKey) -> float | None:
    """Rows per second; None before anything was measured."""
    return connection.execute(
        sa.select(speeds.c.rows_per_second).where(
            speeds.c.name == key.name, speeds.c.version == key.version
        )
    ).scalar_one_or_none()


def measured(connection: sa.Connection, key: ModelKey, rows_per_second: float) -> None:
    """Take one more measurement into the mean, in which older ones fade."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    mean = (1 - _WEIGHT) * speeds.c.rows_per_second + _WEIGHT * rows_per_second
    connection.execute(
        insert(speeds)
        .values(
            name=key.name, version=key.version, rows_per_second=rows_per_second, changed_at=now()
        )
        .on_conflict_do_update(
            index_elements=["name", "version"], set_={"rows_per_second": mean, "changed_at": now()}
        )
    )
