"""Rings for jobs that are due while no ticket says so.

A retry or a give-back whose time has come has no ticket, what was paused has lost its own, and a
broker may have been wiped. Idle workers find such jobs by polling; a ticket spares them the wait.
"""

from __future__ import annotations

from headrace.broker import Bell
from headrace.db import due
from headrace.db.engine import Database


def ring_due(database: Database, bell: Bell, *, waited: float = 0.0) -> int:
    """Ring for what is due where no ticket waits; returns for how many lines.

    waited: only for what has been due for so many seconds.

    A ticket per batch, but no more than there are workers: one that finds a full batch looks
    again by itself. Raises DatabaseUnavailable; a broker that does not answer is left alone.
    """
    rung = 0
    silent: dict[tuple[str, int], bool] = {}
    with database.read() as connection:
        lines = due.lines(connection, waited)
    for line in lines:
        queue = line.pool, line.priority
        if queue not in silent:
            silent[queue] = bell.silent(*queue)
        if not silent[queue]:
            continue
        with database.read() as connection:
            ids = due.ids(connection, line, waited, limit=line.batch * line.workers)
        if ids:
            rung += bell.ring(line.model, line.pool, line.priority, ids, line.batch)
    return rung
