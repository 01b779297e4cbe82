"""Two who change one dataset at once: whatever each of them does, it is whole afterwards.

Each act is begun while another is between its statements and its commit, in either order. SQLite
has one writer at a time, so there is nothing to see.
"""

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from headrace.dataset import PLANS, DatasetId
from headrace.db import closing, datasets, planning, publishing, shards, workers
from headrace.db.closing import START
from headrace.db.dataset_tables import datasets as datasets_table
from headrace.db.dataset_tables import shards as shards_table
from headrace.db.publishing import Finished
from headrace.db.shards import Fence
from headrace.db.tables import jobs
from headrace.errors import LeaseLapsed, LeaseLost, UnitLost
from headrace.job import JobId
from tests.conformance.dataset_table import DatasetTable, cut, new_dataset
from tests.conformance.job_table import JobTable, new_id

_BLOCKED_SECONDS = 0.03
"""Whoever has not come back by then waits for a lock, or is slow, which is as good."""


@dataclass
class World:
    """A dataset whose plan is at work; of its shards one is finished, one runs, one waits."""

    sets: DatasetTable
    id: DatasetId
    plan: Fence
    row: planning.PlanRow
    running: Fence
    finished: Finished


def world(sets: DatasetTable) -> World:
    pool = new_id()
    sets.table.model(model := new_id(), pool=pool)
    id = sets.insert(f"/{new_id()}", pool=pool, model=datasets.ModelKey(model, 1))
    plan = sets.claim(PLANS, sets.table.worker(pool), pool)
    row = sets.call(planning.plan_of, plan.job)
    sets.call(planning.add_files, plan, [(0, "/in/a", 10, "tag")])
    sets.call(planning.set_reading, plan, "{}")
    sets.call(planning.add, plan, row, cut(3, 4, 5))
    first = sets.shard(sets.table.worker(pool), pool)
    sets.finish(first, 2, 1)
    running = sets.shard(sets.table.worker(pool), pool)
    return World(sets, id, plan, row, running, sets.unpublished(id)[0])


Act = Callable[[sa.Connection, World], object]


def _stop(connection: sa.Connection, it: World) -> None:
    """Jobs are stopped in a transaction after the one that ends their dataset."""
    ended = datasets_table.c.state.in_(["cancelled", "failed"])
    if connection.execute(sa.select(datasets_table.c.id).where(ended)).first():
        closing.stop(connection, it.id, START, 100)


ACTS: dict[str, Act] = {
    "finish": lambda c, it: shards.finish(c, it.running, _sealed(it), 4, 0, 0, 1.0),
    "note": lambda c, it: shards.note(c, it.running, 2, "trail"),
    "fail": lambda c, it: shards.fail(c, it.running, "code", "why"),
    "publish": lambda c, it: publishing.published(c, it.finished.key),
    "lose": lambda c, it: publishing.lost(c, it.finished),
    "add": lambda c, it: planning.add(c, it.plan, it.row, cut(3, 4, 5, 6)),
    "plan": lambda c, it: planning.planned(c, it.plan),
    "renew": lambda c, it: planning.renew(c, it.plan, it.row),
    "cancel": lambda c, it: datasets.cancel(c, it.id),
    "stop": _stop,
    "settle": lambda c, it: closing.settle(c, it.id),
    "worker dies": lambda c, it: workers.retire(
        c, it.running.worker, suspects=[it.running.job], why="", quarantine_after=1
    ),
}


def _sealed(it: World) -> str:
    return json.dumps([it.running.job])


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_any_two_at_once_leave_it_whole(table: JobTable) -> None:
    sets = DatasetTable(table)
    for first, second in itertools.product(ACTS, repeat=2):
        it = world(sets)
        errors: list[BaseException] = []
        _at_once(it, ACTS[first], ACTS[second], errors)
        assert not errors, (first, second, errors)
        _check(it, f"{first}, then {second}")
        _run_to_its_end(it, f"{first}, then {second}")


def _at_once(it: World, first: Act, second: Act, errors: list[BaseException]) -> None:
    begun = threading.Event()

    def act(which: Act, between: Callable[[], object]) -> None:
        try:
            with it.sets.database.write() as connection:
                which(connection, it)
                between()
        except (UnitLost, LeaseLost, LeaseLapsed):
            begun.set()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test is to tell it
            errors.append(error)
            begun.set()

    other = threading.Thread(target=act, args=(second, lambda: None))

    def between() -> None:
        other.start()
        other.join(_BLOCKED_SECONDS)

    act(first, between)
    if not other.ident:
        other.start()
    other.join()


def _check(it: World, what: str) -> None:
    with it.sets.database.read() as connection:
        rows = connection.execute(
            sa.select(shards_table, jobs.c.state)
            .join_from(shards_table, jobs, jobs.c.id == shards_table.c.job_id, isouter=True)
            .where(shards_table.c.dataset_id == it.id)
        ).all()
    found = it.sets.get(it.id)
    done = [row for row in rows if row.finished_at is not None]
    assert found.total == sum(row.rows for row in rows), what
    assert found.succeeded == sum(row.succeeded for row in done), what
    assert found.failed == sum(row.failed for row in done), what
    assert found.shards == len(rows), what
    assert found.open_shards == sum(row.published_at is None for row in rows), what
    for row in rows:
        if row.finished_at is None and not found.state.ended:
            assert row.state in ("queued", "running"), what
        assert (row.sealed is None) == (row.finished_at is None), what


def _run_to_its_end(it: World, what: str) -> None:
    """Whatever was cut short goes on, and every record is accounted for once."""
    sets, pool = it.sets, it.row.pool
    if sets.get(it.id).state.ended:
        sets.stop(it.id)
        _publish(it)
        assert sets.close(it.id) is not None, what
        assert sets.call(datasets.go_on, new_dataset(id=it.id, pool=pool, model=it.row.model)), what
    else:
        sets.table.retire(it.plan.worker)
        sets.table.retire(it.running.worker)
    if sets.get(it.id).planned_at is None:
        sets.renew(it.id, worker=sets.table.worker(pool), pool=pool)
    while fence := sets.next_shard(pool):
        sets.finish(fence, sets.call(shards.of_job, JobId(fence.job)).rows)
    _publish(it)
    ended = sets.close(it.id)
    assert ended is not None, what
    assert ended.succeeded + ended.failed == ended.total >= 12, what


def _publish(it: World) -> None:
    for each in it.sets.unpublished(it.id):
        assert it.sets.call(publishing.published, each.key)
