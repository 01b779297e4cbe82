"""Several workers on one pool, over PostgreSQL: they share evenly, come and go."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from headrace import Client
from headrace.db import workers
from headrace.db.tables import jobs
from headrace.job import JobState
from headrace.stack.process import Process
from tests.service.rig import Rig, eventually, rig


@pytest.fixture
def pool(tmp_path: Path, postgresql_url: str, redis_url: str) -> Iterator[Rig]:
    with rig(tmp_path, postgresql_url, redis_url) as made:
        yield made


@contextmanager
def more_workers(pool: Rig, count: int) -> Iterator[list[Process]]:
    """Workers beside the rig's own, each with a supervisor; ready."""
    with ExitStack() as stack:
        before = ready(pool)
        started = []
        for number in range(count):
            process = Process(
                f"worker{number}",
                [sys.executable, "-m", "workers"],
                log=pool.folder / f"worker{number}.log",
                cwd=Path.cwd(),
                env=os.environ | pool.environment(),
            )
            stack.callback(process.stop, grace=5)
            started.append(process)
        eventually("all are ready", lambda: ready(pool) >= before + count)
        yield started


def ready(pool: Rig) -> int:
    with pool.database.read() as connection:
        return sum(worker.ready_at is not None for worker in workers.alive(connection, pool.pool))


def by_worker(pool: Rig) -> Counter[str]:
    with pool.database.read() as connection:
        return Counter(connection.execute(sa.select(jobs.c.worker_id)).scalars())


def test_a_worker_holds_no_work_that_another_could_begin(pool: Rig) -> None:
    pool.push("slow", max_records=2)
    with more_workers(pool, 1):
        pool.submit("slow", range(20), op="sleep 1")
        # Two batches of two seconds each, watched in the middle of each: what it holds, it runs.
        for done in (0, 2):
            eventually("it runs", lambda n=done: pool.count(JobState.SUCCEEDED) == n)
            time.sleep(1)
            assert pool.count(JobState.RUNNING) == 2


def test_four_workers_share_evenly(pool: Rig) -> None:
    pool.push("slow", max_records=2)
    with more_workers(pool, 4):
        ids = pool.submit("slow", range(16), op="sleep 1")
        started = time.monotonic()
        ended = pool.client.wait(ids, timeout=60)
        took = time.monotonic() - started
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    shares = by_worker(pool)
    assert len(shares) == 4
    assert max(shares.values()) <= 6, shares
    assert took < 10, "eight batches of two seconds, by four workers"


def test_workers_join_and_leave_under_load(pool: Rig) -> None:
    pool.push("slow", max_records=8)
    with more_workers(pool, 1) as first:
        ids = pool.submit("slow", range(400), op="sleep 0.01")
        with more_workers(pool, 2):
            # On a busy machine the first may be done before they are there.
            ids += pool.submit("slow", range(400), op="sleep 0.01")
            eventually("all of them work", lambda: len(by_worker(pool).keys() - {None}) == 3)
            first[0].stop(grace=10)
            jobs_ = pool.client.wait(ids, timeout=60)
    assert {job.state for job in jobs_} == {JobState.SUCCEEDED}
    assert max(job.attempt for job in jobs_) == 1, "whoever leaves gives back what it has not begun"
    assert set(pool.committed().values()) == {1}


def test_a_million_jobs_of_one_tenant_do_not_hold_up_ten_of_another(pool: Rig) -> None:
    pool.push("slow", max_records=8)
    settings = {k: v for k, v in pool.settings.items() if k.startswith(("data", "broker", "store"))}
    records = [{"op": "sleep 0.01", "value": value} for value in range(2000)]
    with (
        more_workers(pool, 1),
        Client(tenant="many", **settings) as many,
        Client(tenant="few", **settings) as few,
    ):
        flood = many.submit_many("slow", records)
        eventually("the flood is under way", lambda: by_worker(pool) - Counter({None: 2000}))
        started = time.monotonic()
        few.wait(few.submit_many("slow", records[:10]), timeout=60)
        waited = time.monotonic() - started
        left = sum(not many.get(job).state.terminal for job in flood[::20])
        many.cancel(flood)
    # 2,000 jobs take 20 s; ten that share batches half and half take three batches of 80 ms.
    assert waited < 8, f"the ten waited {waited:.1f} s"
    assert left > 50, "most of the flood was still to come"
