"""Packs: objects that jobs point at. Each counts its jobs, and goes with the last of them.

A pack's row is older than its object, and outlives it, so that no object is ever without a row:
``writing`` before the object is there, ``live`` once jobs point at it, ``deleted`` when the
object is to be removed, and then the row. None comes back from ``deleted``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headrace.db.bulk import Rows, among
from headrace.db.tables import now, packs
from headrace.db.units import NewPack, WrittenPack
from headrace.errors import PackLost
from headrace.job import PackId

_ABANDONED = 3600.0
"""Seconds that a submission may take from its inputs' pack to its jobs; then it is given up."""

_LATE = 3600.0
"""Seconds that the row stays of a pack which was given up while it was being written: its writer
may be paused, and put the object there when it wakes."""

# As text, for a partial index is only used where the planner sees that its condition holds.
IS_WRITING = packs.c.state == sa.literal_column("'writing'")
_IS_LIVE = packs.c.state == sa.literal_column("'live'")
IS_DELETED = packs.c.state == sa.literal_column("'deleted'")


def announce(connection: sa.Connection, pack: NewPack) -> None:
    """Add the row of a submission's inputs, before their object. Twice is once."""
    postgres = connection.dialect.name == "postgresql"
    insert = postgresql.insert(packs) if postgres else sqlite.insert(packs)
    values = {"id": pack.id, "tenant": pack.tenant, "key": pack.key, "batch_size": pack.batch_size}
    connection.execute(
        insert.values(**values, state="writing", created_at=now()).on_conflict_do_nothing()
    )


def publish(connection: sa.Connection, pack: WrittenPack, count: int) -> None:
    """`count` jobs point at the submission's inputs. Twice is once. Raises PackLost."""
    published = connection.execute(
        sa.update(packs)
        .where(packs.c.id == pack.id, IS_WRITING)
        .values(size=pack.size, sha256=pack.sha256, **pointed_at(sa.literal(count)))
    )
    if not published.rowcount and not live(connection, [pack.id]):
        raise PackLost(f"the inputs in pack {pack.id} were swept before their jobs; submit again")


def drop(connection: sa.Connection, ids: Sequence[PackId]) -> None:
    """Forget packs that were announced and have not been written."""
    connection.execute(_DROP, {"ids": ids})


def give_up(connection: sa.Connection, ids: Sequence[PackId]) -> None:
    """Nobody will point at these packs, whether or not their objects are there."""
    connection.execute(_GIVE_UP, {"ids": ids})


def give_up_abandoned(connection: sa.Connection, limit: int) -> int:
    """Give up at most `limit` packs of submissions that have not come; returns how many."""
    return len(connection.execute(_GIVE_UP_ABANDONED, {"at_most": limit}).all())


def live(connection: sa.Connection, ids: Sequence[PackId]) -> set[PackId]:
    """Those of the packs that jobs point at."""
    return {PackId(id) for (id,) in connection.execute(_LIVE, {"ids": ids})}


def known(connection: sa.Connection, ids: Sequence[PackId]) -> set[PackId]:
    """Those of the packs that have a row, whatever their state."""
    return {PackId(id) for (id,) in connection.execute(_KNOWN, {"ids": ids})}


def release(connection: sa.Connection, jobs: Mapping[PackId, int]) -> None:
    """So many jobs fewer point at each pack; one that has none left is to be removed."""
    # In id order, so that two transactions cannot wait for each other.
    connection.execute(_LOCK, {"ids": list(jobs)}).all()
    given, statement = _releasing(connection.dialect)
    given.execute(connection, statement, list(jobs.items()))


def deleted(connection: sa.Connection, limit: int) -> dict[PackId, str]:
    """Keys of objects that are to be removed now."""
    return {PackId(id): key for id, key in connection.execute(_DELETED, {"at_most": limit})}


def forget(connection: sa.Connection, ids: Sequence[PackId]) -> None:
    """The deleted packs' objects are gone."""
    connection.execute(_FORGET, {"ids": ids})


def postpone(connection: sa.Connection, ids: Sequence[PackId], seconds: float) -> None:
    """The deleted packs' objects could not be removed: others come before they do again."""
    connection.execute(_POSTPONE, {"ids": ids, "seconds": seconds})


def pointed_at(count: sa.ColumnElement[int]) -> dict[str, Any]:
    """What an update sets in ``packs`` whose objects are there: `count` jobs point at each."""
    return {
        "jobs": count,
        "state": sa.case((count > 0, sa.literal_column("'live'")), else_="deleted"),
        "delete_at": sa.case((count > 0, sa.null()), else_=now()),
    }


def given_up() -> dict[str, Any]:
    """What an update sets in ``packs`` that may still be written."""
    return {"state": "deleted", "delete_at": now() + _LATE}


_DROP = sa.delete(packs).where(among(packs.c.id, "ids"), IS_WRITING)
_GIVE_UP = sa.update(packs).where(among(packs.c.id, "ids"), IS_WRITING).values(**given_up())
_SIZE = sa.bindparam("at_most", type_=sa.Integer)
_OF_NO_WORKER = (
    sa.select(packs.c.id)
    .where(IS_WRITING, packs.c.worker_id.is_(None), packs.c.created_at < now() - _ABANDONED)
    .limit(_SIZE)
    .with_for_update(skip_locked=True)
    .cte("of_no_worker")
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
_GIVE_UP_ABANDONED = (
    sa.update(packs)
    .where(packs.c.id == _OF_NO_WORKER.c.id)
    .values(**given_up())
    .returning(packs.c.id)
)
_LIVE = sa.select(packs.c.id).where(among(packs.c.id, "ids"), _IS_LIVE)
_KNOWN = sa.select(packs.c.id).where(among(packs.c.id, "ids"))
_LOCK = sa.select(packs.c.id).where(among(packs.c.id, "ids")).order_by(packs.c.id).with_for_update()
_DELETED = (
    sa.select(packs.c.id, packs.c.key)
    .where(IS_DELETED, packs.c.delete_at <= now())
    .order_by(packs.c.delete_at)
    .limit(_SIZE)
)
_FORGET = sa.delete(packs).where(among(packs.c.id, "ids"), IS_DELETED)
_POSTPONE = (
    sa.update(packs)
    .where(among(packs.c.id, "ids"), IS_DELETED)
    .values(delete_at=now() + sa.bindparam("seconds", type_=sa.Double))
)


@functools.cache
def _releasing(dialect: sa.Dialect) -> tuple[Rows, sa.Update]:
    given = Rows(dialect, {"id": packs.c.id.type, "jobs": packs.c.jobs.type})
    left = packs.c.jobs - given.c["jobs"]
    return given, sa.update(packs).where(packs.c.id == given.c["id"]).values(**pointed_at(left))
