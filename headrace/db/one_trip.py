"""PostgreSQL: claiming, staging and finishing a batch in one statement each, so in one round trip.

As separate statements in a transaction they cost five; a small batch on an idle worker spends
more time on those than on the device. Each condition is a subquery on the steps before it,
and every step locks what it judges, so the order is that of the separate statements.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.base import PGDialect

from headrace.db.bulk import Rows, among
from headrace.db.packs import IS_WRITING, pointed_at
from headrace.db.settling import ON_DEVICE, STILL_OURS, by_step, refusal, settling
from headrace.db.tables import jobs, lazy_commit, now, packs, workers
from headrace.db.units import NewPack, Settlement, WrittenPack
from headrace.errors import PackLost
from headrace.job import JobId, PackId, Step, WorkerId


@functools.cache
def naming(claiming: sa.sql.dml.ReturningUpdate[Any]) -> sa.Select[Any]:
    """The claim, with what it claims named as on the device.

    If that is one unit, the pack of its result is announced, too.
    """
    claimed = claiming.cte("claimed")
    ids = sa.select(sa.func.json_agg(claimed.c.id)).scalar_subquery()
    named = (
        sa.update(workers)
        .where(workers.c.id == sa.bindparam("worker"), sa.exists(sa.select(claimed.c.id)))
        .values(on_device=sa.cast(ids, sa.Text))
        .cte("named")
    )
    pack = sa.select(
        sa.bindparam("ahead_id", type_=packs.c.id.type),
        sa.bindparam("ahead_key", type_=packs.c.key.type),
        claimed.c.tenant,
        sa.bindparam("worker", type_=packs.c.worker_id.type),
        *map(sa.literal_column, ("1", "'writing'")),
        now(),
    ).where(sa.select(sa.func.count()).select_from(claimed).scalar_subquery() == 1)
    columns = "id key tenant worker_id batch_size state created_at".split()
    announced = insert(packs).from_select(columns, pack).cte("announced")
    return sa.select(claimed).add_cte(named, announced)


def stage(
    connection: sa.Connection,
    worker: WorkerId,
    batch: Sequence[JobId],
    on_device: Sequence[JobId],
    new_packs: Sequence[NewPack],
) -> set[JobId]:
    """See `headrace.db.work.stage`."""
    rows = [(pack.id, pack.tenant, pack.key, pack.batch_size) for pack in new_packs]
    held, ours, _ = connection.execute(
        _STAGE,
        {
            "worker": worker,
            "new_on_device": json.dumps(list(on_device)),
            "ids": batch,
            **_NEW_PACKS.arrays(rows),
        },
    ).one()
    if not held:
        raise refusal(connection, worker)
    return set(batch) - {JobId(str(id)) for id in ours}


def finish(
    connection: sa.Connection,
    worker: WorkerId,
    on_device: Sequence[JobId],
    written: Sequence[WrittenPack],
    unused: Sequence[PackId],
    outcomes: Sequence[Settlement],
) -> int:
    """See `headrace.db.work.finish`."""
    rows = by_step(outcomes)
    arrays = {
        name: array
        for step, of_step in rows.items()
        for name, array in settling(_DIALECT, step)[0].arrays(of_step).items()
    }
    held, whole, settled = connection.execute(
        _finishing(frozenset(rows), bool(unused)),
        {
            "worker": worker,
            "new_on_device": json.dumps(list(on_device)),
            "count": len(written),
            "ids": unused,
            "written": [pack.id for pack in written],
            **_WRITTEN.arrays([(pack.id, pack.size, pack.sha256) for pack in written]),
            **arrays,
        },
    ).one()
    if not held:
        raise refusal(connection, worker)
    if not whole:
        ids = " or ".join(pack.id for pack in written)
        raise PackLost(f"pack {ids} was swept before its batch was finished")
    return int(settled)


_DIALECT = PGDialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped

_LEASE = ON_DEVICE.returning(workers.c.id).cte("lease")
_HELD = sa.exists(sa.select(_LEASE.c.id))

_NEW_PACKS = Rows(
    _DIALECT, {name: packs.c[name].type for name in ("id", "tenant", "key", "batch_size")}
)
assert _NEW_PACKS.table is not None
_ANNOUNCED = (
    insert(packs)
    .from_select(
        [*_NEW_PACKS.c, "worker_id", "state", "created_at"],
        sa.select(
            *_NEW_PACKS.c.values(), _LEASE.c.id, sa.literal_column("'writing'"), now()
        ).select_from(_NEW_PACKS.table.join(_LEASE, sa.true())),
    )
    # Staging may be repeated, where the answer to the first time got lost.
    .on_conflict_do_nothing()
    .cte("announced")
)
_STAGE = sa.select(_HELD, sa.func.array(STILL_OURS.scalar_subquery()), lazy_commit()).add_cte(
    _ANNOUNCED
)

_WRITTEN = Rows(_DIALECT, {name: packs.c[name].type for name in ("id", "size", "sha256")})
_LOCKED = (
    sa.select(packs.c.id)
    .where(among(packs.c.id, "written"), IS_WRITING, _HELD)
    .with_for_update()
    .cte("locked")
)
# All of them or none: half a batch must not be published.
_WHOLE = sa.and_(
    _HELD,
    sa.select(sa.func.count()).select_from(_LOCKED).scalar_subquery() == sa.bindparam("count"),
)
_DROPPED = sa.delete(packs).where(among(packs.c.id, "ids"), IS_WRITING, _WHOLE).cte("dropped")


@functools.cache
def _finishing(steps: frozenset[Step], unused: bool) -> sa.Select[Any]:
    """Only what this batch needs: PostgreSQL plans every part, for every batch."""
    settled = {
        step: settling(_DIALECT, step)[1].where(_WHOLE).returning(jobs.c.pack_id).cte(step.value)
        for step in sorted(steps)
    }
    counts = [
        sa.select(sa.func.count()).select_from(cte).scalar_subquery() for cte in settled.values()
    ]
    finish = sa.select(_HELD, _WHOLE, sum(counts, start=sa.literal_column("0")))
    finish = finish.add_cte(_published(settled.get(Step.SUCCEED)))
    return finish.add_cte(_DROPPED) if unused else finish


def _published(succeeded: sa.CTE | None) -> sa.CTE:
    """Every pack with the number of jobs that succeeded into it."""
    assert _WRITTEN.table is not None
    if succeeded is None:
        counted = sa.select(*_WRITTEN.c.values(), sa.literal_column("0").label("jobs"))
    else:
        counted = (
            sa.select(*_WRITTEN.c.values(), sa.func.count(succeeded.c.pack_id).label("jobs"))
            .select_from(
                _WRITTEN.table.outerjoin(succeeded, succeeded.c.pack_id == _WRITTEN.c["id"])
            )
            .group_by(*_WRITTEN.c.values())
        )
    pack = counted.cte("counted").c
    return (
        sa.update(packs)
        .where(packs.c.id == pack.id, _WHOLE)
        .values(size=pack.size, sha256=pack.sha256, **pointed_at(pack.jobs))
        .cte("published")
    )
