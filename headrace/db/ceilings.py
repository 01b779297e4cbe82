"""How large batches may be on a kind of device, as workers found out by running out of memory."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headrace.db.tables import ceilings, now
from headrace.job import ModelKey


def get(connection: sa.Connection, key: ModelKey, device: str) -> int | None:
    """The padded tokens that a batch may have; None where no bound is known."""
    return connection.execute(
        sa.select(ceilings.c.tokens).where(*_of(key, device))
    ).scalar_one_or_none()


def put(connection: sa.Connection, key: ModelKey, device: str, tokens: int | None) -> None:
    """Remember it; None forgets it."""
    if tokens is None:
        connection.execute(sa.delete(ceilings).where(*_of(key, device)))
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    found = {"tokens": tokens, "changed_at": now()}
    connection.execute(
        insert(ceilings)
        .values(name=key.name, version=key.version, device=device, **found)
        .on_conflict_do_update(index_elements=["name", "version", "device"], set_=found)
    )


def _of(key: ModelKey, device: str) -> tuple[sa.ColumnElement[bool], ...]:
    table = ceilings.c
    return table.name == key.name, table.version == key.version, table.device == device
