"""How long a sweep's statements take, and the doctor's, where the job table has a million rows.

    python -m benchmarks.sweep [--rows 1000000] [--rounds 5]

Twice: over a history (nearly all jobs have ended), and over a flood (all are queued). Every
statement runs against PostgreSQL as the sweeper runs it, and is rolled back. Its plan must read
`jobs` by an index: the exit code is 1 where one scans the table. Writes build/bench/sweep.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import sqlalchemy as sa

from benchmarks.rig import ROOT
from headrace.db import deletion, due, health, models, packs, sweeping, views, workers
from headrace.db.engine import Database
from headrace.job import JobState, ModelKey, Priority
from headrace.sweeper import BATCH
from tests.postgresql import fresh_database, make_template, postgresql_server

REPORT = ROOT / "build" / "bench" / "sweep.json"
_DAY = 24 * 3600.0
_DAYS = 30
_MODELS = 50
_OF_ALL = {"doctor: backlogs", "status: backlog of a pool"}
"""What counts queued jobs, and may read the table where they are most of it."""
Call = Callable[[sa.Connection], object]
Row = dict[str, Any]


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Jobs in the table.")
@click.option("--rounds", default=5, show_default=True, help="Runs of each statement.")
def main(rows: int, rounds: int) -> None:
    """Print milliseconds per statement, and write them to build/bench/sweep.json."""
    report: dict[str, list[Row]] = {}
    with postgresql_server() as server:
        make_template(server)
        for name, ended in (("history", 0.99), ("flood", 0.0)):
            with fresh_database(server) as url:
                database = Database(url, patience=300)
                began = time.monotonic()
                _fill(database, rows, ended)
                seconds = time.monotonic() - began
                print(f"\n{name}: {rows:,} jobs, {ended:.0%} ended; filled in {seconds:.0f} s")
                report[name] = [_measure(database, *each, rounds) for each in _calls(database)]
                database.close()
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({"rows": rows, "milliseconds": report}, indent=1) + "\n")
    print(f"\n{REPORT.relative_to(ROOT)}")
    scans = {row["call"] for of in report.values() for row in of if row["scans"]} - _OF_ALL
    if scans:
        sys.exit(f"the table is scanned: {', '.join(sorted(scans))}")


def _fill(database: Database, rows: int, ended: float) -> None:
    """`rows` jobs of the last thirty days, of which the oldest part has ended."""
    given = {"rows": rows, "ended": int(rows * ended), "days": _DAYS}
    with database.write() as connection:
        for number in range(_MODELS):
            models.add(
                connection,
                name=f"m{number}",
                digest=str(number),
                pool="default",
                max_records=64,
                manifest="{}",
                files="{}",
                code="{}",
            )
        for statement in _FILL:
            connection.execute(sa.text(statement), given)
    with database.read() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _calls(database: Database) -> Iterator[tuple[str, Call]]:
    """What a sweep does, what the doctor asks, and the lists that people look at."""
    now = database.ask(health.clock)
    long_ago = now - (_DAYS - 1) * _DAY
    dead = database.ask(workers.lapsed)[0]
    old, _ = database.ask(lambda c: deletion.old(c, ended_before=long_ago, after=None, limit=BATCH))
    gone = list(database.ask(lambda c: packs.deleted(c, BATCH)))
    line = due.Line(ModelKey("m0", 1), "default", Priority.NORMAL, 64, 100)
    yield "sweep: take the turn", lambda c: sweeping.begin(c, 0.0)
    yield "sweep: find lapsed workers", workers.lapsed
    yield "sweep: free a dead worker", lambda c: workers.bury(c, dead, quarantine_after=3)
    yield "sweep: expire a batch", lambda c: sweeping.expire(c, BATCH)
    yield "sweep: give abandoned packs up", lambda c: packs.give_up_abandoned(c, BATCH)
    yield "sweep: forget old workers", lambda c: deletion.forget_workers(c, long_ago)
    yield (
        "sweep: walk over old jobs",
        lambda c: deletion.old(c, ended_before=long_ago, after=None, limit=BATCH),
    )
    yield "sweep: remove a batch of jobs", lambda c: deletion.remove(c, old)
    yield "sweep: find deleted packs", lambda c: packs.deleted(c, BATCH)
    yield "sweep: forget deleted packs", lambda c: packs.forget(c, gone)
    yield "sweep: find lines to ring for", due.lines
    yield "sweep: find jobs to ring for", lambda c: due.ids(c, line, 0.0, limit=BATCH)
    yield "doctor: backlogs", health.backlogs
    yield "doctor: workers that lapsed", lambda c: health.lapsed(c, 45.0)
    yield "doctor: jobs held by nobody", health.held_by_nobody
    yield "doctor: half-written packs", health.half_written
    yield "doctor: undeleted packs", lambda c: health.undeleted(c, 3600.0)
    yield "status: backlog of a pool", lambda c: views.backlog(c, "default", 10_000)
    for state in (JobState.FAILED, JobState.QUEUED, JobState.RUNNING):
        yield f"list: {state}", lambda c, state=state: views.page(c, tenant="", states=[state])  # type: ignore[misc]  # mypy infers no default
    yield (
        "list: failed with a code that none has",
        lambda c: views.page(c, tenant="", states=[JobState.FAILED], code="none"),
    )


def _measure(database: Database, call: str, run: Call, rounds: int) -> Row:
    """Median and worst of the rounds, and what of the table the plans scan."""
    taken = []
    with _statements(database) as said:
        for _ in range(rounds):
            with _undone(database) as connection:
                began = time.perf_counter()
                run(connection)
                taken.append(1000 * (time.perf_counter() - began))
    scans = [statement for statement, given in said.items() if _scans(database, statement, given)]
    row = {"call": call, "median": statistics.median(taken), "worst": max(taken), "scans": scans}
    print(
        f"{call:<42}{row['median']:>10.2f} ms{row['worst']:>10.2f} ms"
        + "   scans jobs" * bool(scans),
        flush=True,
    )
    return row


@contextmanager
def _undone(database: Database) -> Iterator[sa.Connection]:
    """A transaction that is rolled back."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin() as transaction:
            yield connection
            transaction.rollback()


@contextmanager
def _statements(database: Database) -> Iterator[dict[str, Any]]:
    """The statements that are executed meanwhile, each with its last parameters."""
    said: dict[str, Any] = {}

    def note(connection: object, cursor: Any, statement: str, given: Any, *rest: object) -> None:
        said[statement] = given

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)


def _scans(database: Database, statement: str, given: Any) -> bool:
    """Whether the plan reads `jobs` from one end to the other."""
    with _undone(database) as connection:
        explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", given)
        (plan,) = explained.scalar_one()
    return any(
        node.get("Relation Name") == "jobs" and node["Node Type"] == "Seq Scan"
        for node in _nodes(plan["Plan"])
    )


def _nodes(node: Row) -> Iterator[Row]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)


# Workers 0 to 99 are alive, 100 to 109 dead, and 20,000 stopped long ago.
_FILL = (
    """
    INSERT INTO workers (id, pool, device, host, pid, started_at, lease_until, ready_at, stopped_at)
    SELECT md5('w' || n)::uuid, 'default', 'cpu', 'host', n, at, at + CASE WHEN n < 100
      THEN 3600 ELSE -60 END, at, CASE WHEN n >= 110 THEN at - 86400.0 * n / 1000 END
    FROM generate_series(0, 20109) n, extract(epoch FROM now()) AS at
    """,
    """
    INSERT INTO jobs (id, tenant, pool, model, version, priority, state, attempt, turn, due_at,
      deadline, created_at, started_at, finished_at, worker_id, pack_id, error_code,
      error_message, input)
    SELECT
      (substr(hex, 1, 8) || '-' || substr(hex, 9) || '-7000-8000-'
        || lpad(to_hex(n), 12, '0'))::uuid,
      CASE WHEN n % 10 = 0 THEN 't' || n % 7 ELSE '' END, 'default', 'm' || n % 5, 1, 1, state,
      CASE WHEN state = 'queued' THEN 0 ELSE 1 END, n,
      CASE WHEN state = 'queued' AND n % 10 = 1 THEN at + 3600 ELSE created END,
      CASE WHEN n % 500 = 3 THEN at - 1 WHEN n % 10 = 3 THEN at + 86400 END,
      created, CASE WHEN state <> 'queued' THEN created END,
      CASE WHEN state NOT IN ('queued', 'running') THEN created + 60 END,
      CASE WHEN state <> 'queued' THEN md5('w' || n % 110)::uuid END,
      CASE WHEN state = 'succeeded' THEN md5('p' || n / 64)::uuid END,
      CASE WHEN state = 'failed' THEN 'model_error' END,
      CASE WHEN state = 'failed' THEN 'ValueError: no good' END,
      convert_to(repeat('x', 100), 'UTF8')
    FROM generate_series(1, :rows) n,
      extract(epoch FROM now()) AS at,
      LATERAL (SELECT at - 86400.0 * :days * (1 - n::float8 / :rows) AS created) c,
      LATERAL (SELECT lpad(to_hex((1000 * created)::bigint), 12, '0') AS hex) h,
      LATERAL (SELECT CASE
        WHEN n > :rows - 5000 AND n % 2 = 0 THEN 'running'
        WHEN n > :ended THEN 'queued'
        WHEN n % 50 = 0 THEN 'failed'
        WHEN n % 200 = 1 THEN 'cancelled'
        WHEN n % 200 = 3 THEN 'expired'
        ELSE 'succeeded' END AS state) s
    """,
    """
    INSERT INTO packs (id, tenant, key, state, worker_id, batch_size, jobs, size, created_at)
    SELECT pack_id, '', 'results/' || pack_id, 'live', (array_agg(worker_id))[1], 64, count(*),
      6400, min(created_at)
    FROM jobs WHERE pack_id IS NOT NULL GROUP BY pack_id
    """,
    """
    INSERT INTO packs (id, tenant, key, state, worker_id, batch_size, created_at, delete_at)
    SELECT md5('x' || n)::uuid, '', 'results/x' || n,
      CASE WHEN n % 10 < 8 THEN 'deleted' ELSE 'writing' END,
      CASE WHEN n % 10 < 9 THEN md5('w' || n % 110)::uuid END, 64, at - 7200,
      CASE WHEN n % 10 < 8 THEN at - 60 END
    FROM generate_series(1, 10000) n, extract(epoch FROM now()) AS at
    """,
    """
    INSERT INTO idempotency_keys (tenant, key, payload_hash, job_id, created_at)
    SELECT tenant, id::text, md5(id::text), id, created_at FROM jobs WHERE turn % 10 = 0
    """,
    "UPDATE sweeps SET swept_at = extract(epoch FROM now()) - 5",
)

if __name__ == "__main__":
    main()
