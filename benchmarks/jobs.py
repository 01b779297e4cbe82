"""How fast single jobs are, against what a user would write with Celery alone.

    python -m benchmarks.jobs [--brokers redis,rabbitmq] [--rounds 3] [--only many,latency]

Every comparison is of like work: the same broker, database, store, model and events, in one
run, in turn; medians of the rounds, with the spread. Writes build/bench/jobs.json.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import sqlalchemy as sa
from celery import Celery

from benchmarks import model, naive, noop
from benchmarks.rig import ROOT, Rig, environ, rig, stats, wait_for
from headrace import Client
from headrace.db import views
from headrace.registry.package import read_package
from headrace.service import Service
from headrace.settings import load_settings

REPORT = ROOT / "build" / "bench" / "jobs.json"
_SINGLES = 20_000
_LATENCIES = 200
_CHUNK = 4096
Row = dict[str, Any]


@click.command()
@click.option("--brokers", default="redis,rabbitmq", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Interleaved pairs per figure.")
@click.option("--seconds", default=20.0, show_default=True, help="A throughput run, at least.")
@click.option("--only", default="", help="Some of: single,many,submit,latency,workers,stations.")
def main(brokers: str, rounds: int, seconds: float, only: str) -> None:
    """Print the figures of the job path, and write them to build/bench/jobs.json."""
    logging.getLogger("headrace").setLevel(logging.ERROR)
    wanted = only.split(",") if only else list(SCENARIOS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder, rig(Path(folder)) as on:
        package = Path(folder) / "mlp"
        model.package(package)
        for broker in brokers.split(","):
            for name in wanted:
                for row in SCENARIOS[name](on, broker, package, rounds, seconds):
                    rows.append({"scenario": name, "broker": broker, **row})
                    print(_line(rows[-1]), flush=True)
                    _write(rows)
    print(f"\n{REPORT.relative_to(ROOT)}")


def _write(rows: list[Row]) -> None:
    """The figures by broker and name; `rows` has their spreads."""
    figures: dict[str, Row] = {}
    for row in rows:
        figures.setdefault(row["broker"], {}).update(row["named"])
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({"broker": figures, "rows": rows}, indent=1) + "\n")


def single(on: Rig, broker: str, package: Path, rounds: int, seconds: float) -> Iterator[Row]:
    """Jobs submitted one by one, a ticket each, drained by one worker ÷ Celery no-ops."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_drain_singles(on, broker, package))
        theirs.append(_drain_noops(on, broker))
    yield _ratio(
        "drain of 20,000 singles, jobs/s ÷ no-ops/s", ours, theirs, 1.0,
        "jobs_per_s_single", "noop_tasks_per_s",
    )  # fmt: skip


def many(on: Rig, broker: str, package: Path, rounds: int, seconds: float) -> Iterator[Row]:
    """Durable jobs through submit_many, from the first submit to the last finish ÷ naive."""
    for store, bound, suffix in (("local", 15, ""), ("s3", 30, "_s3")):
        ours, theirs = [], []
        with (
            on.headrace(broker, store, package) as service,
            _naive(on, broker, store, package) as producing,
            Client(transport=service) as client,
        ):
            for _ in range(rounds):
                with on.worker(service):
                    _run_many(client, 4096)
                    pace = _run_many(client, 8192)
                    ours.append(_run_many(client, int(pace * seconds)))
                with on.celery("benchmarks.naive", {}, "-P", "prefork", "-c", "2"):
                    pace = _run_naive(producing, 200)
                    theirs.append(_run_naive(producing, int(pace * seconds)))
        yield _ratio(
            f"submit_many to {store}, jobs/s ÷ naive", ours, theirs, bound,
            f"jobs_per_s_many{suffix}", f"naive_jobs_per_s{suffix}",
        )  # fmt: skip


def submit(on: Rig, broker: str, package: Path, rounds: int, seconds: float) -> Iterator[Row]:
    """Durable submissions, with their tickets; nobody works on them."""
    with on.headrace(broker, "local", package) as service, Client(transport=service) as client:
        rows = model.inputs(_CHUNK)
        one, bulk = [], []
        for _ in range(rounds):
            one.append(_rate(lambda i: client.submit(model.NAME, rows[i % _CHUNK]), 1, seconds / 4))
            bulk.append(_rate(lambda i: client.submit_many(model.NAME, rows), _CHUNK, seconds / 4))
        yield _figure("submit, jobs/s", one, "submit_per_s_single")
        yield _figure("submit_many, jobs/s", bulk, "submit_per_s_many")


def latency(on: Rig, broker: str, package: Path, rounds: int, seconds: float) -> Iterator[Row]:
    """An idle worker: one job from submit to its result in the client's hands ÷ a no-op."""
    ours, theirs, asked = [], [], 0
    with on.headrace(broker, "local", package) as service, Client(transport=service) as client:
        record = model.inputs(1)[0]
        with _noop(on, broker, on.brokers["redis"]) as producing, on.worker(service):

            def call() -> None:
                client.result(client.submit(model.NAME, record))

            def ping() -> None:
                producing.send_task(noop.NOOP).get(timeout=30)

            for _ in range(20):
                call()
                ping()
            with _counted(service) as queries:
                for _ in range(_LATENCIES):
                    before = queries[0]
                    ours.append(_seconds(call))
                    asked += queries[0] - before
                    theirs.append(_seconds(ping))
    for name, q in (("p50", 50), ("p99", 99)):
        mine, other = float(np.percentile(ours, q)), float(np.percentile(theirs, q))
        yield {
            "figure": f"idle latency {name}, ms ÷ no-op",
            "ours": mine * 1000,
            "theirs": other * 1000,
            "ratio": mine / other,
            "bound": "≤ 2.5" if q == 50 else "",
            "named": {f"latency_{name}_ms": mine * 1000, f"noop_latency_{name}_ms": other * 1000},
        }
    yield _figure("SQL statements per submit and result", [asked / _LATENCIES], "sql_per_wait")


def workers(on: Rig, broker: str, package: Path, rounds: int, seconds: float) -> Iterator[Row]:
    """One worker and two, on a model that takes its time."""
    sleeper = model.sleeper(on.directory / "sleeper")
    allowed = json.dumps(sorted(read_package(sleeper).code.values()))
    ones: list[float] = []
    twos: list[float] = []
    for _ in range(rounds):
        with on.headrace(broker, "local", sleeper) as service, Client(transport=service) as client:
            for count, rates in ((1, ones), (2, twos)):
                with on.worker(service, count, HEADRACE_ALLOW_CODE=allowed):
                    batches = int(count * seconds / model.SLEEP)
                    records = np.zeros(batches * model.SLEEPERS, np.int64)
                    started = time.monotonic()
                    client.wait(client.submit_many("sleeper", records), timeout=10 * seconds)
                    rates.append(len(records) / (time.monotonic() - started))
    row = _ratio(
        "two workers, jobs/s ÷ one", twos, ones, 1.9, "jobs_per_s_2_workers", "jobs_per_s_1_worker"
    )
    yield row | {"named": row["named"] | {"scale_2_workers": row["ratio"]}}


def stations(on: Rig, broker: str, package: Path, rounds: int, seconds: float) -> Iterator[Row]:
    """What each station costs: processor time per job, in batches of 64."""
    with on.headrace(broker, "local", package) as service, Client(transport=service) as client:
        with on.worker(service):
            _run_many(client, 4096)
            before = stats()
            _run_many(client, 16 * _CHUNK)
            after = stats()
        done = after["jobs"] - before["jobs"]
        size = done / (after["batches"] - before["batches"])
        yield _figure("records per batch", [size], "records_per_batch")
        for name, seconds_now in after["cpu_seconds"].items():
            cost = (seconds_now - before["cpu_seconds"][name]) / done * 1e6
            yield _figure(f"station {name}, µs of processor per job", [cost], f"{name}_us_per_job")


def _drain_singles(on: Rig, broker: str, package: Path) -> float:
    with on.headrace(broker, "local", package) as service, Client(transport=service) as client:
        rows = model.inputs(_CHUNK)
        for i in range(_SINGLES):
            client.submit(model.NAME, rows[i % _CHUNK])
        with on.worker(service):
            wait_for(lambda: _backlog(service) == 0, 300)
        query = "SELECT count(*) / (max(finished_at) - min(started_at)) FROM jobs"
        with service.database.read() as connection:
            return float(connection.execute(sa.text(query)).scalar_one())


def _drain_noops(on: Rig, broker: str) -> float:
    url = on.brokers[broker]
    with environ({"NOOP_BROKER": url}), noop.make(url) as producing:
        with producing.producer_or_acquire() as producer:
            for _ in range(_SINGLES):
                producing.send_task(noop.NOOP, producer=producer, ignore_result=True)
        depth = _depth(producing, url)
        with on.celery("benchmarks.noop", {}, "-P", "solo", "-Q", "noop"):
            wait_for(lambda: depth() < _SINGLES)
            started, at = time.monotonic(), depth()
            wait_for(lambda: depth() == 0, 300)
            return at / (time.monotonic() - started)


def _run_many(client: Client, count: int) -> float:
    """Jobs per second, from the first submit to the last result in store and table."""
    rows = model.inputs(_CHUNK)
    started = time.monotonic()
    ids = []
    for start in range(0, count, _CHUNK):
        ids += client.submit_many(model.NAME, rows[: min(_CHUNK, count - start)])
    client.wait(ids, timeout=120)
    return count / (time.monotonic() - started)


def _run_naive(producing: Celery, count: int) -> float:
    rows = model.inputs(_CHUNK)
    started = time.monotonic()
    for start in range(0, count, _CHUNK):
        naive.submit_all(producing, rows[: min(_CHUNK, count - start)])
    wait_for(lambda: naive.unfinished() == 0, 30 + count / 50)
    return count / (time.monotonic() - started)


@contextmanager
def _naive(on: Rig, broker: str, store: str, package: Path) -> Iterator[Celery]:
    settings = load_settings()
    values = {
        "NAIVE_BROKER": on.brokers[broker],
        "NAIVE_DATABASE": settings.database_url,
        "NAIVE_STORE": on.stores[store],
        "NAIVE_MODEL": str(package / "model.pt2"),
    }
    with environ(values):
        producing = naive.make(on.brokers[broker])
        naive.engine.cache_clear()
        naive.metadata.create_all(naive.engine())
        try:
            yield producing
        finally:
            producing.close()
            naive.engine().dispose()


@contextmanager
def _noop(on: Rig, broker: str, backend: str) -> Iterator[Celery]:
    with (
        environ({"NOOP_BROKER": on.brokers[broker], "NOOP_BACKEND": backend}),
        noop.make(on.brokers[broker], backend) as producing,
        on.celery("benchmarks.noop", {}, "-P", "solo", "-Q", "noop"),
    ):
        yield producing


@contextmanager
def _counted(service: Service) -> Iterator[list[int]]:
    """A cell that counts the statements of this process."""
    count = [0]

    def one_more(*args: object) -> None:
        count[0] += 1

    sa.event.listen(service.database.engine, "before_cursor_execute", one_more)
    try:
        yield count
    finally:
        sa.event.remove(service.database.engine, "before_cursor_execute", one_more)


def _backlog(service: Service) -> int:
    with service.database.read() as connection:
        return sum(views.backlog(connection, "default", 10**9))


def _depth(producing: Celery, broker: str) -> Callable[[], int]:
    """How many no-ops wait in the broker."""
    if broker.startswith("redis"):
        import redis

        client = redis.Redis.from_url(broker)
        return lambda: int(client.llen("noop"))
    channel = producing.connection_for_read().channel()
    return lambda: int(channel.queue_declare("noop", passive=True).message_count)


def _rate(call: Callable[[int], object], size: int, seconds: float) -> float:
    started, done = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        call(done)
        done += size
    return done / (time.monotonic() - started)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _ratio(
    figure: str, ours: list[float], theirs: list[float], at_least: float, name: str, their_name: str
) -> Row:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        "figure": figure,
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "bound": f"≥ {at_least:g}",
        "named": {name: statistics.median(ours), their_name: statistics.median(theirs)},
    }


def _figure(figure: str, values: list[float], name: str) -> Row:
    return {
        "figure": figure,
        "ours": statistics.median(values),
        "spread": [min(values), max(values)],
        "named": {name: statistics.median(values)},
    }


def _line(row: Row) -> str:
    numbers = f"{row['ours']:>10,.1f}"
    if "theirs" in row:
        numbers += f" ÷ {row['theirs']:>8,.1f} = {row['ratio']:>6.2f}  {row['bound']}"
    spread = row.get("spread")
    if spread and spread[0] != spread[1]:
        numbers += f"  ({spread[0]:,.2f} to {spread[1]:,.2f})"
    return f"{row['broker']:<9}{row['figure']:<52}{numbers}"


SCENARIOS: dict[str, Callable[[Rig, str, Path, int, float], Iterator[Row]]] = {
    "single": single,
    "many": many,
    "submit": submit,
    "latency": latency,
    "workers": workers,
    "stations": stations,
}

if __name__ == "__main__":
    main()
