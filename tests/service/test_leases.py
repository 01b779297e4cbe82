"""Leases of real workers: who makes progress keeps its own, who is paused or hangs loses it."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from headrace.db.tables import packs
from headrace.stack.process import Process
from tests.service.rig import Rig, eventually, rig
from tests.service.stack.processes import gone

LEASE = 1.5


@pytest.fixture
def worker(tmp_path: Path, postgresql_url: str, redis_url: str) -> Iterator[Rig]:
    """On PostgreSQL: a process that is paused in a transaction would hold all of a SQLite file."""
    with rig(tmp_path, postgresql_url, redis_url, lease=LEASE) as worker:
        worker.push("echo", max_records=8)
        yield worker


def done_once(worker: Rig, ids: list, values: list[int], deaths: int) -> None:
    results = worker.client.results(ids, timeout=60)
    assert [int(result["value"]) for result in results] == [2 * value for value in values]
    assert worker.committed() == dict.fromkeys(ids, 1)
    assert {worker.client.get(id).deaths for id in ids} == {deaths}


def nothing_unaccounted_for(worker: Rig) -> bool:
    """Every object of the store is one that the job table knows of."""
    with worker.database.read() as connection:
        known = set(connection.execute(sa.select(packs.c.key)).scalars())
    return {stored.key for stored in worker.store.list("results/")} <= known


def test_a_worker_paused_past_its_lease_finishes_and_publishes_nothing(worker: Rig) -> None:
    """With its supervisor, as a suspended machine is; another one takes its work."""
    worker.start()
    ids = worker.submit("echo", [3], op=f"sleep {1.5 * LEASE}")
    eventually("it is on the device", lambda: worker.on_device() == ids)
    assert worker.process is not None
    paused, first = worker.process.pid, worker.child()
    for pid in (paused, first):
        os.kill(pid, signal.SIGSTOP)
    other = Process(
        "other",
        [sys.executable, "-m", "workers"],
        log=worker.folder / "other.log",
        cwd=Path.cwd(),
        env=os.environ | worker.environment(),
    )
    try:
        done_once(worker, ids, [3], deaths=1)
        for pid in (first, paused):
            os.kill(pid, signal.SIGCONT)
        eventually("it has left", lambda: worker.running_child() != first)
        done_once(worker, ids, [3], deaths=1)
        assert nothing_unaccounted_for(worker)
    finally:
        other.stop(grace=5)


def test_a_lapse_that_nobody_used_is_forgiven(worker: Rig) -> None:
    """Both processes are paused past the lease, and no sweeper is alive meanwhile."""
    worker.start()
    ids = worker.submit("echo", [3], op=f"sleep {1.5 * LEASE}")
    eventually("it is on the device", lambda: worker.on_device() == ids)
    assert worker.process is not None
    first = worker.child()
    for pid in (worker.process.pid, first):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2 * LEASE)
    for pid in (first, worker.process.pid):
        os.kill(pid, signal.SIGCONT)
    done_once(worker, ids, [3], deaths=0)
    assert worker.child() == first


def test_a_batch_that_holds_the_interpreter_keeps_its_lease(worker: Rig) -> None:
    worker.start()
    first = worker.child()
    ids = worker.submit("echo", [3], op=f"hold-gil {3 * LEASE}")
    done_once(worker, ids, [3], deaths=0)
    assert worker.child() == first


def test_one_that_holds_it_for_too_long_does_not(worker: Rig) -> None:
    worker.push("slow", max_records=8, time_limit=1.5 * LEASE)
    worker.start()
    first = worker.child()
    worker.submit("slow", [3], op="hold-gil 3600")
    eventually("it is killed", lambda: worker.running_child() not in (None, first))
    assert "killed because a batch has run for" in worker.log()


def test_a_worker_without_its_supervisor_leaves_when_the_lease_has_run_out(worker: Rig) -> None:
    """Nobody renews it, and there is no sweeper to tell it so."""
    worker.start()
    ids = worker.submit("echo", [3], op="sleep 3600")
    eventually("it is on the device", lambda: worker.on_device() == ids)
    assert worker.process is not None
    orphan = worker.child()
    os.kill(worker.process.pid, signal.SIGKILL)
    try:
        eventually("it has left", lambda: gone(orphan))
    finally:
        with suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
