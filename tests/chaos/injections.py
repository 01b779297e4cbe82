"""What is broken while a pool works. Each mends what it broke, but for dead workers: those are
started again by whoever calls it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import redis
import sqlalchemy as sa
from kombu import Connection

from headrace.broker import queues
from headrace.db import health
from headrace.db.packs import given_up
from headrace.db.tables import jobs, packs
from headrace.settings import load_settings
from headrace.sweeper import Sweeper
from tests.chaos.load import Load
from tests.chaos.rig import LEASE, Rig
from tests.chaos.worker import alive, children, send
from tests.conformance import s3_faults

CHILD_POINTS = ("claimed", "acked", "staged", "on_device", "storing", "stored", "finished")
SUPERVISOR_POINTS = ("registered", "died")
_ZOMBIE_SECONDS = 0.3
DATASET_POINTS = (
    "planning",
    "shards_cut",
    "on_device",
    "shard_written",
    "shard_sealed",
    "shard_finished",
    "shard_published",
)


def nothing(rig: Rig, load: Load) -> None:
    """The load alone."""


def kill_workers(rig: Rig, load: Load) -> None:
    """Children, supervisors, and both at once; of the last only a sweep can free the work."""
    while rig.kills < (6 if rig.short else 24):
        time.sleep(rig.rng.uniform(0.2, 0.8))
        rig.staff()
        worker = rig.rng.choice(rig.workers)
        victims = rig.rng.choice(("child", "supervisor", "both"))
        child = worker.child()
        rig.kill(
            worker.pid if victims != "child" else None,
            child if victims != "supervisor" else None,
        )


def kill_at_each_line(rig: Rig, load: Load) -> None:
    """At each line that `workers.faults` names, with a supervisor that sees it, and without."""
    _kill_at(rig, (*CHILD_POINTS, *SUPERVISOR_POINTS))


def kill_at_each_line_of_datasets(rig: Rig, load: Load) -> None:
    """The same for the lines on the path of a plan, and of a shard."""
    _kill_at(rig, DATASET_POINTS)


def _kill_at(rig: Rig, points: Sequence[str]) -> None:
    """The first time round the supervisor frees the work; the second time it is killed too,
    before its child is.
    """
    for number in [signal.SIGSTOP] if rig.short else [signal.SIGKILL, signal.SIGSTOP]:
        for point in rig.rng.sample(points, len(points)):
            rig.staff()
            rig.arm(point, number)
            if point in SUPERVISOR_POINTS:
                # It starts a child, or mourns one.
                rig.until("a child dies", lambda: rig.kill(rig.rng.choice(rig.workers).child()))
            pid = rig.struck(point)
            if number == signal.SIGKILL:
                rig.kills += 1
            else:
                rig.kill(*(w.pid for w in rig.workers if w.child() == pid), pid)


def pause_workers(rig: Rig, load: Load) -> None:
    """A worker and its supervisor stand still past the lease, as on a machine that sleeps.

    Wherever on a job's path that was, others have the work by then.
    """
    _pause_at(rig, ["stored"] if rig.short else rig.rng.sample(CHILD_POINTS, len(CHILD_POINTS)))


def pause_at_datasets(rig: Rig, load: Load) -> None:
    """The same on the path of a plan, and of a shard."""
    _pause_at(rig, rig.rng.sample(DATASET_POINTS, len(DATASET_POINTS)))


def _pause_at(rig: Rig, points: Sequence[str]) -> None:
    for point in points:
        rig.arm(point, signal.SIGSTOP)
        pid = rig.struck(point)
        both = [pid, *(w.pid for w in rig.workers if w.child() == pid)]
        for each in both:
            send(signal.SIGSTOP, each)
        # A whole lease at least since it was renewed, a sweep, and time for others to be done.
        time.sleep(rig.rng.uniform(2, 2.5) * LEASE)
        for each in both:
            send(signal.SIGCONT, each)
            # Or its supervisor would end the worker before it can do any harm.
            time.sleep(_ZOMBIE_SECONDS)


def sweep_packs(rig: Rig, load: Load) -> None:
    """A pack of results is swept between its write and its finish."""
    for _ in range(2 if rig.short else 8):
        rig.arm("stored", signal.SIGSTOP)
        pid = rig.struck("stored")
        with rig.database.write() as connection:
            swept = connection.execute(
                sa.update(packs)
                # A producer whose inputs were swept is told to submit again.
                .where(packs.c.state == "writing", packs.c.worker_id.is_not(None))
                .values(**given_up())
                .returning(packs.c.key)
            ).scalars()
        rig.store.delete(swept)
        send(signal.SIGCONT, pid)


def wipe_broker(rig: Rig, load: Load) -> None:
    """FLUSHALL, or every queue of the pool deleted, again and again."""
    for _ in range(2 if rig.short else 6):
        time.sleep(rig.rng.uniform(0.5, 2))
        if rig.broker.url.startswith("redis"):
            with redis.Redis.from_url(rig.broker.url) as client:
                client.flushall()
        else:
            with Connection(rig.broker.url) as connection, connection.channel() as channel:
                for queue in queues(rig.pool):
                    channel.queue_delete(queue.name)


def restart_broker(rig: Rig, load: Load) -> None:
    """Stopped and started; then killed, and gone for a while."""
    for grace, seconds in ((10, 0), (0, 2 if rig.short else 6)):
        time.sleep(rig.rng.uniform(1, 2))
        rig.broker.stop(grace)
        time.sleep(seconds)
        rig.broker.start()


def restart_database(rig: Rig, load: Load) -> None:
    """PostgreSQL shut down and started, then killed; each crash forgets some lazy commits."""
    for number in [signal.SIGINT] + (1 if rig.short else 5) * [signal.SIGKILL]:
        time.sleep(rig.rng.uniform(1, 2))
        stop_postgresql(rig, number)
        rig.servers.postgresql.start()


def cut_connections(rig: Rig, load: Load) -> None:
    """Every connection to PostgreSQL is ended by the server, again and again."""
    with psycopg.connect(str(rig.settings["database_url"]), autocommit=True) as connection:
        for _ in range(4 if rig.short else 20):
            time.sleep(rig.rng.uniform(0.2, 0.8))
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


def lose_database(rig: Rig, load: Load) -> None:
    """PostgreSQL is gone for longer than a lease. That is nobody's fault, so nobody pays."""
    time.sleep(1)
    before = _children(rig)
    stop_postgresql(rig, signal.SIGINT)
    time.sleep((1.5 if rig.short else 3) * LEASE)
    # One of them sweeps before the others can renew their leases.
    others = [worker.pid for worker in rig.workers[1:]]
    for pid in others:
        send(signal.SIGSTOP, pid)
    rig.servers.postgresql.start()
    rig.until("somebody sweeps", lambda: rig.database.ask(health.unswept) < 1)
    time.sleep(0.5)
    for pid in others:
        send(signal.SIGCONT, pid)
    load.until_more(200)
    if _children(rig) != before:
        rig.problems.append("workers were killed for an outage of the database")
    with rig.database.read() as connection:
        again = connection.execute(sa.select(jobs.c.id, jobs.c.attempt).where(jobs.c.attempt > 1))
        rig.problems += [f"job {id} was run {attempt} times" for id, attempt in again]


def many_sweepers(rig: Rig, load: Load) -> None:
    """Eight more sweepers that hardly pause, and workers that die without a supervisor."""
    # Their period comes from their lease. That of the workers stays what it was.
    eager = load_settings(**rig.settings | {"lease": 0.3})
    sweepers = [Sweeper(rig.database, rig.store, eager) for _ in range(8)]
    over = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        try:
            for sweeper in sweepers:
                pool.submit(sweeper.run, over)
            for _ in range(2 if rig.short else 6):
                time.sleep(rig.rng.uniform(0.5, 1))
                rig.staff()
                worker = rig.rng.choice(rig.workers)
                rig.kill(worker.pid, worker.child())
            time.sleep(LEASE)
        finally:
            over.set()


def set_clocks_off(rig: Rig, load: Load) -> None:
    """A worker a minute ahead, one a minute behind, and one that is right."""
    for clock in (60, -60, 0):
        rig.hire(clock=clock)
    before = _children(rig)
    load.until_more(300 if rig.short else 2000)
    time.sleep(LEASE)
    if _children(rig) != before:
        rig.problems.append("workers were killed for the time on their clocks")


def cut_network(rig: Rig, load: Load) -> None:
    """Two workers, each behind a network of its own that breaks now here, now there."""
    networks = [rig.hire_behind_links() for _ in range(2)]
    for _ in range(3 if rig.short else 12):
        link = rig.rng.choice([link for links in networks for link in links])
        link.cut()
        time.sleep(rig.rng.uniform(0.3, 1.3 * LEASE))
        link.heal()
        time.sleep(rig.rng.uniform(0.2, 1))


def hold_network(rig: Rig, load: Load) -> None:
    """Half-open connections: nothing comes through, nobody hangs up; then all of it, or a reset."""
    networks = [rig.hire_behind_links() for _ in range(2)]
    for _ in range(3 if rig.short else 12):
        link = rig.rng.choice([link for links in networks for link in links])
        link.hold()
        time.sleep(rig.rng.uniform(0.5, 1.7 * LEASE))
        if rig.rng.random() < 0.5:
            link.reset()
        link.heal()
        time.sleep(rig.rng.uniform(0.2, 1))


def break_s3(rig: Rig, load: Load) -> None:
    """500, 503 SlowDown, timeouts, resets, answers lost or cut short; then an outage."""
    faults = (
        s3_faults.refuse(500, "InternalError"),
        s3_faults.refuse(503, "SlowDown"),
        s3_faults.lost(s3_faults.refuse(500, "InternalError")),
        s3_faults.lost(s3_faults.reset),
        s3_faults.hang(1.5),
        s3_faults.reset,
        s3_faults.truncate,
    )
    out = s3_faults.refuse(503, "ServiceUnavailable")
    proxy = rig.enter(s3_faults.proxy(rig.servers.s3))
    rig.hire(2, s3_endpoint=proxy.url)
    proxy.whim = lambda method: rig.rng.choice(faults) if rig.rng.random() < 0.2 else None
    load.until_more(200 if rig.short else 1000)
    proxy.whim = lambda method: out
    time.sleep(2 if rig.short else 6)
    proxy.whim = lambda method: None


def break_datasets(rig: Rig, load: Load) -> None:
    """S3 that fails now and then, a broker that is wiped, and workers that die in their shards."""
    proxy = rig.enter(s3_faults.proxy(rig.servers.s3))
    rig.hire(2, s3_endpoint=proxy.url)
    fault = s3_faults.lost(s3_faults.refuse(500, "InternalError"))
    proxy.whim = lambda method: fault if rig.rng.random() < 0.1 else None
    for point in ("on_device", "shard_sealed", "shard_finished"):
        _kill_at(rig, [point])
        wipe_broker(rig, load)
    proxy.whim = lambda method: None


def stop_postgresql(rig: Rig, number: signal.Signals) -> None:
    """SIGINT ends it in good order; SIGKILL is a crash."""
    server = rig.servers.postgresql
    # It does not start before the last of those is gone that it started.
    all_of_it = [server.process.pid, *children(server.process.pid)]
    os.kill(server.process.pid, number)
    rig.until("PostgreSQL is down", lambda: not any(map(alive, all_of_it)))
    server.stop()


def _children(rig: Rig) -> set[int | None]:
    return {worker.child() for worker in rig.workers}
