"""Real kills: every job ends, with one result, and only the guilty are blamed."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from headrace.db.tables import ceilings as ceilings_table
from headrace.errors import NotInstalled
from headrace.stack.process import Process
from headrace.stack.servers import Redis, on_free_port
from tests.service.rig import Rig, eventually, rig
from tests.services import unavailable


@pytest.fixture
def worker(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Rig]:
    with rig(tmp_path, database_url, redis_url) as worker:
        worker.push("echo", max_records=8)
        yield worker


def all_done(worker: Rig, ids: list, values: list[int]) -> None:
    results = worker.client.results(ids, timeout=60)
    assert [int(result["value"]) for result in results] == [2 * value for value in values]


def all_done_once(worker: Rig, ids: list, values: list[int]) -> None:
    all_done(worker, ids, values)
    committed = worker.committed()
    assert {committed[id] for id in ids} == {1}
    assert len(committed) == len(ids)


def test_random_kills_lose_nothing_double_nothing_and_condemn_nobody(worker: Rig) -> None:
    """Each as soon as something runs: after the first one that is a suspect, alone."""
    worker.settings["quarantine_after"] = 2
    worker.start()
    ids = worker.submit("echo", range(200), op="sleep 0.01")
    for _ in range(4):
        eventually("something runs", worker.on_device)
        killed = worker.child()
        os.kill(killed, signal.SIGKILL)
        eventually(
            "the next one is there", lambda k=killed: worker.running_child() not in (None, k)
        )
    all_done_once(worker, ids, list(range(200)))
    records = [(job.attempt, job.deaths) for job in map(worker.client.get, ids)]
    assert set(records) <= {(1, 0), (1, 1)}
    assert worker.log().count("ended with -9") == 4


def test_records_that_kill_hang_or_raise_fail_alone(worker: Rig) -> None:
    worker.push("fragile", max_records=32, time_limit=1.0)
    worker.settings["quarantine_after"] = 2
    worker.start()
    ops = ["double"] * 300
    bad = {5: "segfault", 6: "raise", 10: "exit 0", 25: "sleep 3600"}
    for place, op in bad.items():
        ops[place] = op
    ids = worker.client.submit_many("fragile", [{"op": op, "value": n} for n, op in enumerate(ops)])
    jobs = worker.client.wait(ids, timeout=90)
    good = [job for n, job in enumerate(jobs) if n not in bad]
    assert {(job.state, job.attempt, job.deaths) for job in good} == {("succeeded", 1, 0)}
    all_done_once(worker, [job.id for job in good], [n for n in range(300) if n not in bad])
    for place, (code, said) in {
        5: ("quarantined", "was killed by SIGSEGV"),
        6: ("model_error", "ValueError: no 6"),
        10: ("quarantined", "exited with code 0"),
        25: ("quarantined", "was killed because a batch has run for 1 s, over its limit of 1 s"),
    }.items():
        job = jobs[place]
        assert (job.state, job.attempt) == ("failed", 1)
        assert job.error is not None
        assert (job.error.code, job.deaths) == (code, 2 * (code == "quarantined"))
        assert said in job.error.message


def test_a_device_that_is_poisoned_is_left_at_once(worker: Rig) -> None:
    worker.settings["quarantine_after"] = 1
    worker.start()
    ops = ["double"] * 7 + ["poison"]
    ids = worker.client.submit_many("echo", [{"op": op, "value": n} for n, op in enumerate(ops)])
    *good, bad = worker.client.wait(ids, timeout=60)
    assert {(job.state, job.attempt, job.deaths) for job in good} == {("succeeded", 1, 0)}
    assert (bad.state, bad.deaths) == ("failed", 1)
    assert bad.error is not None
    assert bad.error.code == "quarantined"
    assert "crashed (DevicePoisoned: CUDA error: device-side assert" in bad.error.message


def test_what_does_not_fit_is_split_and_the_next_worker_knows(worker: Rig) -> None:
    worker.push("fat", max_records=16)
    notes = worker.folder / "sizes"
    for tried in ({16, 8, 4}, {4}):
        notes.write_text("")
        worker.start()
        ids = worker.submit("fat", range(48), op=f"fits 5 {notes}")
        all_done(worker, ids, list(range(48)))
        assert {int(size) for size in notes.read_text().split()} == tried
        eventually("it is written down", lambda: ceilings(worker) == [("fat", 1, "cpu", 4)])
        assert worker.drain() == 0
    worker.start()
    (id,) = worker.submit("fat", [1], op=f"fits 0 {notes}")
    job = worker.client.wait(id, timeout=60)
    assert job.error is not None
    assert (job.error.code, job.deaths) == ("out_of_memory", 0)
    assert "CUDA out of memory. Tried to allocate 2.00 GiB" in job.error.message


def ceilings(worker: Rig) -> list[tuple[str, int, str, int]]:
    table = ceilings_table.c
    with worker.database.read() as connection:
        found = connection.execute(sa.select(table.name, table.version, table.device, table.tokens))
        return [tuple(row) for row in found]


def test_tickets_flow_again_after_the_broker_died_or_was_wiped(
    tmp_path: Path, database_url: str
) -> None:
    try:
        server = Redis()
    except NotInstalled as error:
        unavailable("Redis", error)

    def start(port: int) -> Process:
        return Process(
            "redis",
            [server.program, "-"],
            log=tmp_path / "redis.log",
            cwd=tmp_path,
            stdin=server.config(port),
        )

    process, port = on_free_port(start, server.ready, 10)
    try:
        with rig(
            tmp_path,
            database_url,
            server.url(port),
            poll=3600.0,
            lease=3600.0,
            broker_timeout=0.5,
            broker_pause=0.1,
        ) as worker:
            worker.push("echo", max_records=8)
            worker.start()
            # Poll and sweep are far away: only a ticket can bring these so soon.
            worker.client.results(worker.submit("echo", range(8)), timeout=60)
            process.stop(grace=0)
            down = worker.submit("echo", range(8))
            process = start(port)
            process.wait_until(partial(server.ready, port), 10)
            eventually("the worker is back", lambda: consumers(server.url(port)))
            time.sleep(0.2)  # the broker_pause after the failure
            up = worker.submit("echo", range(8))
            worker.client.results(up + down, timeout=60)
            wipe(server.url(port))
            worker.client.results(worker.submit("echo", range(8)), timeout=60)
            assert worker.committed().keys() >= set(up + down)
            assert "ended with" not in worker.log()
    finally:
        process.stop(grace=0)


def test_without_a_broker_jobs_are_found_by_polling(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url, "redis://127.0.0.1:1/0", broker_timeout=0.5) as worker:
        worker.push("echo", max_records=8)
        worker.start()
        ids = worker.submit("echo", range(30))
        all_done_once(worker, ids, list(range(30)))


def wipe(url: str) -> None:
    client = redis.Redis.from_url(url)
    client.flushall()
    client.close()


def consumers(url: str) -> int:
    """How many connections wait for tickets."""
    client = redis.Redis.from_url(url)
    try:
        return sum("brpop" in str(info["cmd"]) for info in client.client_list())
    finally:
        client.close()
