"""A worker's statements, a batch at a time: claim, stage, finish, give back."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from headrace.db import one_trip
from headrace.db.bulk import among, in_few
from headrace.db.packs import IS_WRITING, drop, pointed_at
from headrace.db.pauses import paused
from headrace.db.settling import (
    IN_TIME,
    LEASE,
    ON_DEVICE,
    STILL_OURS,
    by_step,
    refusal,
    settling,
)
from headrace.db.states import may, takes
from headrace.db.tables import instant, jobs, lazy_commit, model_versions, now, packs, workers
from headrace.db.units import NewPack, Settlement, Unit, WrittenPack
from headrace.errors import PackLost
from headrace.job import JobId, ModelKey, PackId, Priority, Step, WorkerId


def claim(
    connection: sa.Connection,
    worker: WorkerId,
    pool: str,
    *,
    line: str = "",
    at_most: int | None = None,
    several: tuple[ModelKey, int] | None = None,
    excluding: Sequence[ModelKey] = (),
    at_once: NewPack | None = None,
) -> list[Unit]:
    """Claim one batch: the pool's most urgent due job, and more of the same model version.

    line: of the pool's lines, the one of this name (`headrace.dataset.SHARDS`), not that of its
    single jobs. excluding: versions this worker cannot serve just now. at_once: for a device that
    is idle, name the units as on it; if that is one, announce this pack for its tenant.
    several: of this version, so many batches. At most the version's max_records, or at_most; a
    suspect by itself. Nothing that is paused.
    Raises LeaseLapsed, LeaseLost. Fit for `Database.single`.
    """
    in_one_trip = at_once is not None and connection.dialect.name == "postgresql"
    head, claiming = _passing_over(tuple(excluding)) if excluding else (_HEAD, _CLAIM)
    key, batches = several or (ModelKey("", 0), 1)
    parameters = {
        "worker": worker,
        "of_pool": pool,
        "of_line": pool + line,
        "at_most": _ALL if at_most is None else at_most,
        "several_of": key.name,
        "several_version": key.version,
        "batches": batches,
    }
    if at_once is not None and in_one_trip:
        parameters |= {"ahead_id": at_once.id, "ahead_key": at_once.key}
    for tried in range(_CLAIM_TRIES):
        statement = one_trip.naming(claiming) if in_one_trip else claiming
        rows = connection.execute(statement, parameters).all()
        if rows:
            units = sorted(map(_unit, rows), key=lambda unit: (unit.priority, unit.id))
            if at_once is not None and not in_one_trip:
                _hold_lease(connection, worker, [unit.id for unit in units])
                if len(units) == 1:
                    _announce(connection, worker, [replace(at_once, tenant=units[0].tenant)])
            return units
        found = connection.execute(head, parameters).one_or_none()
        if found is None:
            return []
        if connection.execute(LEASE, parameters).one_or_none() is None:
            raise refusal(connection, worker)
        # It is paused, or others hold all that it has; another may have work.
        head, claiming = _passing_over(tuple(excluding), suspects=bool(tried and found.suspect))
    return []


def disown(connection: sa.Connection, worker: WorkerId, *, after: float) -> int:
    """Give back what the worker claimed after `after`: claims whose answers it never got.

    after: Unix seconds, the database's clock. Returns how many. For `Database.write`.
    """
    # A claim that is still under way shares this lock.
    connection.execute(_LOCK, {"worker": worker})
    return connection.execute(_DISOWN, {"worker": worker, "after": after}).rowcount


def stage(
    connection: sa.Connection,
    worker: WorkerId,
    batch: Sequence[JobId],
    on_device: Sequence[JobId],
    new_packs: Sequence[NewPack],
) -> set[JobId]:
    """Just before a batch runs: name what is on the device, announce the packs to come.

    batch: the ids about to run. on_device: every id that is or will be there with them.
    Returns those of `batch` that must not run, see `gone`.
    Raises LeaseLapsed, LeaseLost. Fit for `Database.single`.
    """
    if connection.dialect.name == "postgresql":
        return one_trip.stage(connection, worker, batch, on_device, new_packs)
    _hold_lease(connection, worker, on_device)
    _announce(connection, worker, new_packs)
    return gone(connection, worker, batch)


def name(connection: sa.Connection, worker: WorkerId, on_device: Sequence[JobId]) -> None:
    """Name all that is or will be on the device. Raises LeaseLapsed, LeaseLost. For `write`."""
    _hold_lease(connection, worker, on_device)


def gone(connection: sa.Connection, worker: WorkerId, batch: Sequence[JobId]) -> set[JobId]:
    """Those of `batch` that must not run.

    They are no longer this worker's, for they were cancelled (and perhaps deleted since), or they
    are past their deadline, and the next sweep ends them.
    """
    rows = connection.execute(STILL_OURS, {"ids": batch, "worker": worker})
    return set(batch) - {JobId(id) for (id,) in rows}


def finish(
    connection: sa.Connection,
    worker: WorkerId,
    on_device: Sequence[JobId],
    written: Sequence[WrittenPack],
    unused: Sequence[PackId],
    outcomes: Sequence[Settlement],
) -> int:
    """Commit a batch's outcomes where this worker still holds the jobs.

    written: packs that lie in the store; unused: announced, but nothing to put into them.
    Returns how many jobs took their outcome; those cancelled or lost meanwhile did not.
    Raises LeaseLapsed, LeaseLost, PackLost; then nothing was changed. Fit for `Database.single`.
    """
    if connection.dialect.name == "postgresql":
        return one_trip.finish(connection, worker, on_device, written, unused, outcomes)
    _hold_lease(connection, worker, on_device)
    settled = settle(connection, worker, outcomes)
    ids = [outcome.id for outcome in outcomes]
    for pack in written:
        live = connection.execute(
            _PUBLISH,
            {"pack": pack.id, "new_size": pack.size, "new_sha256": pack.sha256, "ids": ids},
        )
        if live.rowcount != 1:
            raise PackLost(f"pack {pack.id} was swept before its batch was finished")
    if unused:
        drop(connection, unused)
    return settled


def settle(connection: sa.Connection, worker: WorkerId, outcomes: Sequence[Settlement]) -> int:
    """Give jobs their outcomes where this worker holds them, in one statement per kind.

    On its own it is the give-back of units that never ran. Returns how many took theirs.
    """
    settled = 0
    for step, rows in by_step(outcomes).items():
        given, statement = settling(connection.dialect, step)
        settled += given.execute(connection, statement, rows, worker=worker)
    return settled


_CLAIM_TRIES = 3

_ALL = 2**31 - 1
_OF_POOL = sa.bindparam("of_pool", type_=sa.String)
_AT_MOST = sa.bindparam("at_most", type_=sa.Integer)
_DUE = sa.and_(
    may(Step.CLAIM),
    jobs.c.pool == sa.bindparam("of_line", type_=sa.String),
    jobs.c.due_at <= instant(),
    IN_TIME,
)
_URGENT_FIRST = (jobs.c.priority, jobs.c.turn, jobs.c.id)

_VERSION = model_versions.c
_SEVERAL = sa.and_(
    jobs.c.model == sa.bindparam("several_of", type_=sa.String),
    jobs.c.version == sa.bindparam("several_version", type_=sa.Integer),
)
_FOUND = (
    jobs.c.model,
    jobs.c.version,
    jobs.c.suspect,
    sa.case(
        (jobs.c.suspect, 1),
        (_VERSION.max_records > _AT_MOST, _AT_MOST),
        (_SEVERAL, _VERSION.max_records * sa.bindparam("batches", type_=sa.Integer)),
        else_=_VERSION.max_records,
    ).label("size"),
)
_HEAD = (
    sa.select(*_FOUND)
    .join_from(
        jobs,
        model_versions,
        sa.and_(_VERSION.name == jobs.c.model, _VERSION.version == jobs.c.version),
    )
    .where(_DUE)
    .order_by(*_URGENT_FIRST)
    .limit(1)
)
# The same, passing over versions which may have a million jobs at the head of the line: of the
# first of each other version, and its first suspect, the most urgent.
_KINDS = sa.union_all(
    sa.select(sa.false().label("suspect")), sa.select(sa.true().label("suspect"))
).subquery("kinds")
_FIRST = (
    sa.select(jobs.c.id)
    .where(
        _DUE,
        jobs.c.model == _VERSION.name,
        jobs.c.version == _VERSION.version,
        jobs.c.suspect == _KINDS.c.suspect,
    )
    .order_by(*_URGENT_FIRST)
    .limit(1)
    .correlate(model_versions, _KINDS)
    .scalar_subquery()
)
_HEAD_OF_UNPAUSED = (
    sa.select(*_FOUND)
    .join_from(model_versions, _KINDS, sa.true())
    .join(jobs, jobs.c.id == _FIRST)
    .where(
        _VERSION.pool == _OF_POOL,
        sa.not_(paused(_VERSION.pool, _VERSION.name, _VERSION.version)),
    )
    .order_by(*_URGENT_FIRST)
    .limit(1)
)

# Common table expressions, for a subselect with a limit may run more than once.
_LEASE_ALIVE = (
    LEASE.where(lazy_commit()).cte("lease").prefix_with("MATERIALIZED", dialect="postgresql")
)


def _claiming(head: sa.Select[Any]) -> sa.sql.dml.ReturningUpdate[Any]:
    """Claim what `head` finds, and more of its model."""
    first = head.cte("head")
    open_size = sa.select(first.c.size).where(
        sa.not_(paused(_OF_POOL, first.c.model, first.c.version))
    )
    picked = (
        sa.select(jobs.c.id)
        .where(
            _DUE,
            jobs.c.model == sa.select(first.c.model).scalar_subquery(),
            jobs.c.version == sa.select(first.c.version).scalar_subquery(),
            jobs.c.suspect == sa.select(first.c.suspect).scalar_subquery(),
            sa.exists(sa.select(_LEASE_ALIVE.c.id)),
        )
        .order_by(*_URGENT_FIRST)
        .limit(sa.func.coalesce(open_size.scalar_subquery(), 0))
        .with_for_update(skip_locked=True)
        .cte("picked")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return (
        sa.update(jobs)
        .where(in_few(jobs.c.id, sa.select(picked.c.id)))
        .values(**takes(Step.CLAIM), worker_id=sa.bindparam("worker"), started_at=now())
        .returning(
            jobs.c.id,
            jobs.c.tenant,
            jobs.c.model,
            jobs.c.version,
            jobs.c.priority,
            jobs.c.attempt,
            jobs.c.created_at,
            jobs.c.started_at,
            jobs.c.input,
            jobs.c.input_key,
            jobs.c.input_offset,
            jobs.c.input_length,
            jobs.c.suspect,
            jobs.c.deadline,
        )
    )


_CLAIM = _claiming(_HEAD)
_LOCK = sa.select(workers.c.id).where(workers.c.id == sa.bindparam("worker")).with_for_update()
_DISOWN = (
    sa.update(jobs)
    .where(
        may(Step.GIVE_BACK),
        jobs.c.worker_id == sa.bindparam("worker"),
        jobs.c.started_at > sa.bindparam("after"),
    )
    .values(**takes(Step.GIVE_BACK))
)
# Staging may be repeated, where the answer to the first time got lost.
_ANNOUNCE = sa.insert(packs).values(state="writing", created_at=now()).prefix_with("OR IGNORE")
_POINTING = (
    sa.select(sa.func.count())
    .where(among(jobs.c.id, "ids"), jobs.c.pack_id == packs.c.id)
    .scalar_subquery()
)
_PUBLISH = (
    sa.update(packs)
    .where(packs.c.id == sa.bindparam("pack"), IS_WRITING)
    .values(
        size=sa.bindparam("new_size"), sha256=sa.bindparam("new_sha256"), **pointed_at(_POINTING)
    )
)


@functools.lru_cache(16)
def _passing_over(
    excluding: tuple[ModelKey, ...], *, suspects: bool = False
) -> tuple[sa.Select[Any], sa.sql.dml.ReturningUpdate[Any]]:
    """The head of the line without what is paused and these versions, and the claim of it.

    suspects: pass over those as well.
    """
    head = _HEAD_OF_UNPAUSED
    for key in excluding:
        head = head.where(sa.or_(_VERSION.name != key.name, _VERSION.version != key.version))
    if suspects:
        head = head.where(sa.not_(_KINDS.c.suspect))
    return head, _claiming(head)


def _hold_lease(connection: sa.Connection, worker: WorkerId, on_device: Sequence[JobId]) -> None:
    """Note what is on the device, under the lock of a worker row that proves to be alive."""
    noted = connection.execute(
        ON_DEVICE, {"worker": worker, "new_on_device": json.dumps(list(on_device))}
    )
    if noted.rowcount != 1:
        raise refusal(connection, worker)


def _announce(connection: sa.Connection, worker: WorkerId, new_packs: Sequence[NewPack]) -> None:
    connection.execute(
        _ANNOUNCE,
        [
            {
                "id": pack.id,
                "worker_id": worker,
                "tenant": pack.tenant,
                "key": pack.key,
                "batch_size": pack.batch_size,
            }
            for pack in new_packs
        ],
    )


def _unit(row: sa.Row[*tuple[Any, ...]]) -> Unit:
    (
        id,
        tenant,
        model,
        version,
        priority,
        attempt,
        created_at,
        claimed_at,
        data,
        key,
        offset,
        length,
        suspect,
        deadline,
    ) = row
    return Unit(
        JobId(id),
        tenant,
        ModelKey(model, version),
        Priority(priority),
        attempt,
        created_at,
        claimed_at,
        data,
        None if key is None else (key, offset, length),
        suspect,
        deadline,
    )
