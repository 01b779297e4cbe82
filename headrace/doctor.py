"""Examines a deployment: what is wrong with it, and how to mend that.

A check yields what it finds, or raises where it cannot look; `examine` runs them all.
"""

from __future__ import annotations

import enum
import itertools
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kombu.entity import Queue
from kombu.exceptions import OperationalError

from headrace.broker import DEAD_LETTERS, make_app, queues
from headrace.db import health, migrate, models, packs, pauses, workers
from headrace.db.engine import Database
from headrace.errors import BrokerUnavailable, HeadraceError
from headrace.job import PackId
from headrace.settings import Settings, masked
from headrace.storage import ObjectStore
from headrace.storage.rehearsal import rehearse

_LATE_SECONDS = 600.0
_SKEW_SECONDS = 1.0
_HOUR = 3600.0
_OLDEST = 1000
"""Objects of each kind that are looked at: one page of a listing."""
_LEASES = 3
"""So many leases after the last sweep, or a worker's end, something keeps the sweeps away."""


class Level(enum.StrEnum):
    """How bad it is. A warning is for a person to judge."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. mend: what to do about it."""

    check: str
    level: Level
    what: str
    mend: str = ""


def examine(settings: Settings, database: Database, store: ObjectStore) -> Iterator[Finding]:
    """Every check, as far as what it needs is there; what fails is a finding too."""
    yield from _tried("store", check_store(store))
    schema = list(_tried("database", check_schema(database)))
    yield from schema
    pools, served = {settings.pool}, set[str]()
    if all(finding.level is Level.OK for finding in schema):
        yield from _tried("clock", check_clock(database))
        yield from _tried("workers", check_workers(database))
        yield from _tried("sweeps", check_sweeps(database, settings.lease))
        yield from _tried("orphans", check_orphans(database))
        yield from _tried("objects", check_objects(database, store))
        with database.read() as connection:
            served = {worker.pool for worker in workers.alive(connection)}
            pools = served.union(models.pools(connection)) or pools
    yield from _tried("broker", check_broker(settings, pools, served))


def check_store(store: ObjectStore) -> Iterator[Finding]:
    """An object can be written, read, listed and deleted."""
    rehearse(store)
    yield Finding("store", Level.OK, f"{store.url} takes, lists, gives and deletes objects")


def check_schema(database: Database) -> Iterator[Finding]:
    """The database answers, and its schema is this release's."""
    url = database.engine.url.render_as_string(hide_password=True)
    missing, at = migrate.pending(database), migrate.current(database)
    if missing:
        what = f"{url} lacks the migrations {', '.join(missing)}"
        yield Finding("database", Level.PROBLEM, what, "run `headrace db upgrade`")
    else:
        yield Finding("database", Level.OK, f"{url} answers, at {at}")


def check_clock(database: Database) -> Iterator[Finding]:
    """The database and this host agree on the time."""
    with database.read() as connection:
        health.clock(connection)  # a new connection takes its time
        before = time.time()
        there = health.clock(connection)
        after = time.time()
    ahead = (before + after) / 2 - there
    what = f"this host's clock is {abs(ahead):.2f} s {'ahead of' if ahead > 0 else 'behind'} "
    what += "the database's"
    if abs(ahead) - (after - before) / 2 <= _SKEW_SECONDS:
        yield Finding("clock", Level.OK, what)
        return
    mend = "synchronise both; a deadline that is given here as an instant is off by as much"
    yield Finding("clock", Level.WARNING, what, mend)


def check_workers(database: Database) -> Iterator[Finding]:
    """Every pool with due jobs is served, and nothing waits too long."""
    with database.read() as connection:
        alive = workers.alive(connection)
        due = {backlog.pool: backlog for backlog in health.backlogs(connection)}
        paused = pauses.every(connection)
    for pool in sorted({worker.pool for worker in alive} | set(due)):
        serving = [worker for worker in alive if worker.pool == pool]
        ready = sum(worker.state == "ready" for worker in serving)
        backlog = due.get(pool, health.Backlog(pool))
        what = f"pool {pool}: {ready} of {len(serving)} workers ready, {backlog.due} jobs due"
        if backlog.due:
            what += f", the oldest for {backlog.waited:.0f} s"
        if backlog.units:
            what += f", {backlog.units} shards or plans of datasets due"
        level, mend = Level.OK, ""
        if pool in due and not serving:
            level, mend = Level.PROBLEM, f"start a worker: `headrace worker --pool {pool}`"
        elif pool in due and not ready:
            level, mend = Level.WARNING, "wait until they are warm, or see their logs"
        elif backlog.waited > _LATE_SECONDS:
            level, mend = Level.WARNING, "start more workers, or see in their logs what they do"
        yield Finding("workers", level, what, mend)
    for pause in paused:
        yield Finding("workers", Level.WARNING, str(pause), "`headrace resume` undoes it")
    if not alive and not due:
        yield Finding("workers", Level.OK, "there is no worker, and no job waits for one")


def check_sweeps(database: Database, lease: float) -> Iterator[Finding]:
    """Somebody sweeps, and a dead worker's jobs are freed."""
    bound = _LEASES * lease
    with database.read() as connection:
        ago = health.unswept(connection)
        lapsed = health.lapsed(connection, bound)
        alive = workers.alive(connection)
    level, what, mend = Level.OK, f"the last was {ago:.0f} s ago", ""
    if ago > bound:
        level = Level.PROBLEM if alive or lapsed else Level.WARNING
        mend = "start a worker, or beat and a worker of headrace.control; see their logs"
    if lapsed:
        level, what = Level.PROBLEM, f"{what}; {lapsed} dead workers still hold their jobs"
        mend = mend or "see in the workers' logs what keeps the sweeps from freeing them"
    yield Finding("sweeps", level, what, mend)


def check_orphans(database: Database) -> Iterator[Finding]:
    """Nothing is left that nobody will ever come for."""
    with database.read() as connection:
        ids = health.held_by_nobody(connection)
        writing = health.half_written(connection)
        doomed = health.undeleted(connection, _HOUR)
    if ids:
        what = f"jobs run on workers that are gone: {', '.join(ids)}"
        mend = "cancel them with `headrace cancel`, and submit them again"
        yield Finding("orphans", Level.PROBLEM, what, mend)
    if writing:
        what = f"{writing} packs are half-written by workers that are gone"
        yield Finding("orphans", Level.WARNING, what, "their objects take up space in the store")
    if doomed:
        what = f"{doomed} packs should have been removed more than an hour ago"
        mend = "their objects take up space in the store; see what keeps the sweeps from it"
        yield Finding("orphans", Level.WARNING, what, mend)
    if not ids and not writing and not doomed:
        yield Finding("orphans", Level.OK, "there are none")


def check_objects(database: Database, store: ObjectStore) -> Iterator[Finding]:
    """The oldest objects, among which strays collect as retention removes the others, have rows."""
    strays: list[str] = []
    for prefix in ("inputs/", "results/"):
        keys = {
            PackId(info.key.rpartition("/")[2]): info.key
            for info in itertools.islice(store.list(prefix), _OLDEST)
        }
        with database.read() as connection:
            gone = keys.keys() - packs.known(connection, list(keys))
        # One that a sweep has removed between the two questions is none.
        strays += [keys[id] for id in sorted(gone) if any(store.list(keys[id]))]
    if not strays:
        yield Finding("objects", Level.OK, "the oldest objects in the store all have their rows")
        return
    what = f"{len(strays)} objects belong to no job, such as {strays[0]}"
    mend = "a writer was paused for more than an hour; delete them, for no sweep will"
    yield Finding("objects", Level.WARNING, what, mend)


def check_broker(
    settings: Settings, pools: Collection[str], served: Collection[str]
) -> Iterator[Finding]:
    """The broker answers, and has the queues of `pools` as a worker declares them."""
    with _connection(settings) as connection:
        yield Finding("broker", Level.OK, f"{masked(settings.broker_url)} answers")
        for pool in sorted(pools):
            yield from _check_queues(connection, pool, pool in served)
        dead = _look(connection, DEAD_LETTERS)
        if dead is not None and dead.message_count:
            what = f"{dead.message_count} tickets in {DEAD_LETTERS.name} were delivered too often"
            mend = "no job is lost by it; see what is wrong with the workers, then purge the queue"
            yield Finding("queues", Level.WARNING, what, mend)


def _check_queues(connection: Any, pool: str, served: bool) -> Iterator[Finding]:
    # Redis has no queue without a message in it, and knows of no arguments and no listeners.
    amqp = connection.transport.driver_type == "amqp"
    waiting = 0
    for queue in queues(pool):
        found = _look(connection, queue)
        waiting += found.message_count if found else 0
        if amqp and served and not (found and found.consumer_count):
            what = f"nobody listens to {queue.name}, though pool {pool} has workers"
            mend = "they find jobs by polling meanwhile; see in their logs what the broker says"
            yield Finding("queues", Level.WARNING, what, mend)
        if amqp and found and (why := _differs(connection, queue)):
            mend = f"delete {queue.name}; a worker declares it again when it starts"
            yield Finding("queues", Level.PROBLEM, why, mend)
    yield Finding("queues", Level.OK, f"pool {pool}: {waiting} tickets wait")


def _look(connection: Any, queue: Queue) -> Any:
    """Its message_count and consumer_count; None where it is not there."""
    try:
        with connection.channel() as channel:
            return queue(channel).queue_declare(passive=True)
    except connection.channel_errors:
        return None


def _differs(connection: Any, queue: Queue) -> str | None:
    """What the broker says where the queue was declared in another way than ours."""
    try:
        with connection.channel() as channel:
            queue(channel).queue_declare()
    except connection.channel_errors as error:
        return str(error)
    return None


@contextmanager
def _connection(settings: Settings) -> Iterator[Any]:
    """Raises BrokerUnavailable."""
    app = make_app(settings, socket_timeout=settings.broker_timeout)
    app.conf.broker_connection_timeout = settings.broker_timeout
    with app.connection_for_read() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0)
            connection.default_channel  # noqa: B018  # only then has Redis been spoken to
            yield connection
        except (
            OperationalError,
            *connection.connection_errors,
            *connection.channel_errors,
        ) as error:
            raise BrokerUnavailable(f"{masked(settings.broker_url)}: {error}") from error


def _tried(check: str, found: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from found
    except HeadraceError as error:
        yield Finding(check, Level.PROBLEM, str(error), _MEND.get(check, ""))


_MEND = {
    "store": "see HEADRACE_STORE_URL and its credentials; `headrace store create` makes it",
    "database": "see HEADRACE_DATABASE_URL, and whether its server runs",
    "broker": "see HEADRACE_BROKER_URL, and whether its server runs; meanwhile jobs are found late",
}
