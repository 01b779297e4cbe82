"""Two at once, one in the middle of the other: the outcome is that of one after the other.

The same story is told three times, each time by a pool of its own: A before B, B before A, and
B while A is between two of its statements. The third must end as the first or the second did.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings

from headrace.db.engine import Database
from headrace.db.tables import jobs, packs
from headrace.db.units import NewPack, Unit
from headrace.errors import LeaseLapsed, LeaseLost, PackLost
from headrace.job import JobId, Priority, WorkerId
from tests.conformance.job_table import JobTable, again, failure, new_id, new_pack, success

JOBS, BATCH = 4, 2
_BLOCKED_SECONDS = 0.05
"""Whoever has not come back by then waits for a lock, or is slow, which is as good."""


@dataclass
class World:
    """A pool with four jobs, of which two workers have claimed some.

    staged: what they claimed is on their devices. silent: the first one's lease has run out.
    overdue: so have the first and the last job's deadlines.
    """

    table: JobTable
    claims: tuple[bool, bool]
    staged: bool
    silent: bool
    overdue: bool
    ids: list[JobId] = field(default_factory=list)
    workers: list[WorkerId] = field(default_factory=list)
    held: list[list[Unit]] = field(default_factory=list)
    packs: list[NewPack] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = new_id()
        self.model = self.table.model(new_id(), max_records=BATCH, pool=self.pool)
        self.ids = self.table.queue(JOBS, self.model, pool=self.pool, priority=Priority.NORMAL)
        self.workers = [self.table.worker(self.pool) for _ in self.claims]
        for worker, claims in zip(self.workers, self.claims, strict=True):
            self.held.append(self.table.claim(worker, self.pool) if claims else [])
            self.packs.append(new_pack(BATCH))
            if self.staged:
                self.table.stage(worker, [u.id for u in self.held[-1]], self.packs[-1])
        if self.silent:
            self.table.lease_in(self.workers[0], -1)
        if self.overdue:
            self.table.deadline_in(self.ids[0], -1)
            self.table.deadline_in(self.ids[-1], -1)

    def seen(self) -> list[tuple[object, ...]]:
        """What the table says, in words that hold in every pool."""
        columns = (jobs.c.id, jobs.c.state, jobs.c.attempt, jobs.c.worker_id, packs.c.state)
        with self.table.database.read() as connection:
            rows = connection.execute(
                sa.select(*columns)
                .join_from(jobs, packs, packs.c.id == jobs.c.pack_id, isouter=True)
                .where(jobs.c.pool == self.pool)
                .order_by(jobs.c.id)
            ).all()
            announced = connection.execute(
                sa.select(packs.c.state)
                .where(packs.c.id.in_([pack.id for pack in self.packs]))
                .order_by(packs.c.id)
            ).scalars()
            return [
                *((state, n, w and self.workers.index(w), pack) for _, state, n, w, pack in rows),
                tuple(announced),
            ]


@dataclass(frozen=True)
class Act:
    """do: returns what its doer gets to know."""

    name: str
    do: Callable[[World], object]

    def __repr__(self) -> str:
        return self.name


def _claim(which: int) -> Act:
    def do(world: World) -> object:
        units = world.table.claim(world.workers[which], world.pool)
        return sorted((world.ids.index(unit.id), unit.attempt) for unit in units)

    return Act(f"worker {which} claims", do)


def _stage(which: int) -> Act:
    def do(world: World) -> object:
        ids = [unit.id for unit in world.held[which]]
        return len(world.table.stage(world.workers[which], ids, new_pack(BATCH)))

    return Act(f"worker {which} stages", do)


def _finish(which: int) -> Act:
    def do(world: World) -> object:
        pack, units = world.packs[which], world.held[which]
        done = [success(unit, pack) for unit in units[:1]] + [failure(u) for u in units[1:]]
        return world.table.finish(world.workers[which], done, [pack.id] if units else [])

    return Act(f"worker {which} finishes", do)


def _give_back(which: int, counted: bool) -> Act:
    def do(world: World) -> object:
        units = [again(unit, counted=counted) for unit in world.held[which]]
        return world.table.give_back(world.workers[which], units)

    return Act(f"worker {which} {'retries' if counted else 'gives back'}", do)


def _retire(which: int) -> Act:
    return Act(f"worker {which} dies", lambda world: world.table.retire(world.workers[which]))


def _renew(which: int) -> Act:
    return Act(f"worker {which} renews", lambda world: world.table.renew(world.workers[which]))


def _cancel(*which: int) -> Act:
    def do(world: World) -> object:
        return sorted(map(world.ids.index, world.table.cancel(*(world.ids[i] for i in which))))

    return Act(f"{which} are cancelled", do)


def _sweep(world: World) -> None:
    """What it did the table tells, after one more."""
    world.table.sweep()


_EACH = (0, 1)
ACTS = [
    *(make(which) for make in (_claim, _stage, _finish, _retire, _renew) for which in _EACH),
    *(_give_back(which, counted) for which in _EACH for counted in (True, False)),
    _cancel(0, 1),
    _cancel(1, 2, 3),
    Act("a sweep", _sweep),
]


def _do(act: Act, world: World) -> object:
    try:
        return act.do(world)
    except (LeaseLost, LeaseLapsed):
        return "no lease"
    except PackLost:
        return "no pack"


def _one_after_the_other(first: Act, then: Act, world: World) -> tuple[object, ...]:
    told = {act: _do(act, world) for act in (first, then)}
    return _outcome(told, world)


def _in_between(outer: Act, after: int, inner: Act, world: World) -> tuple[object, ...]:
    """`inner` begins when `outer` has done so many statements."""
    told: dict[Act, object] = {}
    thread = threading.Thread(target=lambda: told.update({inner: _do(inner, world)}))
    engine, ours, left = world.table.database.engine, threading.get_ident(), [after]

    def executed(*_: object) -> None:
        if threading.get_ident() == ours:
            left[0] -= 1
            if left[0] == 0:
                thread.start()
                thread.join(_BLOCKED_SECONDS)

    sa.event.listen(engine, "after_cursor_execute", executed)
    try:
        told[outer] = _do(outer, world)
    finally:
        sa.event.remove(engine, "after_cursor_execute", executed)
    if left[0] > 0:
        thread.start()
    thread.join()
    return _outcome(told, world)


def _outcome(told: dict[Act, object], world: World) -> tuple[object, ...]:
    # What a sweep passed over because it was locked, the next one finds.
    world.table.sweep()
    return sorted((act.name, repr(said)) for act, said in told.items()), world.seen()


def test_two_at_once_are_as_one_after_the_other(database: Database) -> None:
    table = JobTable(database)
    # SQLite has one writer at a time, so there is little to see, and much to wait for.
    examples = 30 if database.engine.dialect.name == "sqlite" else 150

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        pair=st.lists(st.sampled_from(ACTS), min_size=2, max_size=2, unique_by=repr),
        after=st.integers(1, 5),
        claims=st.tuples(st.booleans(), st.booleans()),
        staged=st.booleans(),
        silent=st.booleans(),
        overdue=st.booleans(),
    )
    def check(pair: list[Act], after: int, **what: Any) -> None:
        a, b = pair

        def world() -> World:
            return World(table, **what)

        serial = [_one_after_the_other(a, b, world()), _one_after_the_other(b, a, world())]
        assert _in_between(a, after, b, world()) in serial

    check()
