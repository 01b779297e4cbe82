"""Schedules with real processes: beats and tickers that are killed, workers that are killed."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from headrace.db.dataset_tables import datasets
from headrace.db.engine import Database
from headrace.db.schedule_tables import schedule_runs as runs
from headrace.db.schedule_tables import schedule_versions, schedules
from headrace.errors import DatabaseUnavailable
from headrace.schedule import Run
from headrace.stack.process import Process
from tests.conformance.schedule_table import Site
from tests.service.cuts import cuts
from tests.service.rig import Rig, eventually

FIRST, DAYS = date(2026, 1, 1), int(os.environ.get("HEADRACE_TEST_DATES", "6"))
ROWS = 30


@pytest.fixture
def rig(tmp_path: Path, postgresql_url: str, redis_url: str) -> Iterator[Rig]:
    rig = Rig(tmp_path, postgresql_url, redis_url, lease=2.0, scheduled_runs=200)
    rig.push("echo", max_records=8)
    for number in range(DAYS):
        path = tmp_path / "in" / f"{FIRST + timedelta(days=number)}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(
                json.dumps({"id": f"{number}-{row}", "op": "double", "value": row}) + "\n"
                for row in range(ROWS)
            )
        )
    yield rig
    rig.stop()


def add(rig: Rig, hour: int, **fields: object) -> None:
    rig.client.schedules.add(
        "nightly",
        cron=f"0 {hour} * * *",
        model="echo",
        input=f"{rig.folder}/in/{{date}}.jsonl",
        output=f"{rig.folder}/out/{{date}}",
        dataset={"id": "id", "format": "jsonl"},
        **fields,
    )


def states(rig: Rig) -> Counter[str]:
    with rig.database.read() as connection:
        return Counter(connection.execute(sa.select(runs.c.state)).scalars())


def results(rig: Rig) -> list[tuple[str, str]]:
    """(date, id) of every row of every part file."""
    found = []
    for part in sorted(Path(rig.folder, "out").glob("*/run-1/part-*")):
        rows = (json.loads(line) for line in part.read_text().splitlines())
        found += [(part.parent.parent.name, row["id"]) for row in rows]
    return found


def test_a_backfill_under_worker_kills_ends_with_every_row_once(rig: Rig) -> None:
    add(rig, hour=2)
    last = FIRST + timedelta(days=DAYS - 1)
    rig.client.schedules.backfill("nightly", FIRST, last, at_a_time=4)
    rig.start()
    kills = 0
    seed = random.Random(1)
    end = time.monotonic() + 20 * DAYS
    while states(rig)["succeeded"] < DAYS:
        assert time.monotonic() < end, (states(rig), rig.client.schedules.history("nightly"))
        time.sleep(seed.uniform(0.5, 1.5))
        if kills < max(3, DAYS // 6) and (child := rig.running_child()):
            os.kill(child, 9)
            kills += 1
    assert kills >= 3
    expected = [
        (str(FIRST + timedelta(days=number)), f"{number}-{row}")
        for number, row in itertools.product(range(DAYS), range(ROWS))
    ]
    assert Counter(results(rig)) == Counter(expected)
    for number in range(DAYS):
        folder = Path(rig.folder, "out", str(FIRST + timedelta(days=number)))
        assert (folder / "run-1" / "_SUCCESS").exists()
        eventually("its report is there", (folder / "run-1" / "_report.html").exists)
        eventually("the pointer is there", (folder / "latest").exists)


def test_two_beats_and_tickers_that_are_killed_run_each_date_once(rig: Rig) -> None:
    """Without a worker: what the control workers tick, and are killed at, is all that happens."""
    days = 40
    # Not due while the test runs.
    add(rig, hour=(datetime.now(UTC).hour + 12) % 24, catch_up="all", at_a_time=200)
    with rig.database.write() as connection:
        ago = days * 86400.0
        decided = schedules.c.decided_until - ago
        connection.execute(sa.update(schedules).values(decided_until=decided, next_at=0.0))
        since = schedule_versions.c.since - ago
        connection.execute(sa.update(schedule_versions).values(since=since))
    for run in rig.client.schedules.next("nightly", 1):
        folder = Path(run.input).parent
    for number in range(-1, days + 1):
        path = folder / f"{date.today() - timedelta(days=number)}.jsonl"
        path.write_text('{"id": "0", "op": "double", "value": 1}\n')
    celery = [sys.executable, "-m", "celery", "-A", "tasks.app"]
    processes = [
        launch(rig, f"beat-{n}", [*celery, "beat", "-s", str(rig.folder / f"beat-{n}")])
        for n in range(2)
    ]
    control = [*celery, "worker", "-Q", "headrace.control", "-P", "solo", "--without-mingle"]
    try:
        ticker = launch(rig, "first", [*control, "-n", "first@%h"])
        processes.append(ticker)
        eventually("it ticks", lambda: states(rig)["running"] >= days // 4)
        os.kill(ticker.pid, 9)
        os.kill(processes[0].pid, 9)
        processes.append(launch(rig, "control", [*control, "-n", "last@%h"]))
        eventually("all are started", lambda: states(rig)["running"] == days)
        with rig.database.read() as connection:
            dates = connection.execute(sa.select(runs.c.date, runs.c.number)).all()
            made = connection.execute(sa.select(datasets.c.id)).scalars().all()
            held = connection.execute(sa.select(runs.c.dataset_id)).scalars().all()
    finally:
        for process in processes:
            process.stop(grace=0)
    assert len(dates) == len({row.date for row in dates}) == days
    assert {row.number for row in dates} == {1}
    assert sorted(made) == sorted(held)


def test_what_failed_is_tried_again_and_only_that(rig: Rig, tmp_path: Path) -> None:
    there = tmp_path / "there"
    rows = [{"id": str(n), "op": f"needs {there}" if n % 3 == 0 else "double", "value": n}
            for n in range(9)]  # fmt: skip
    (tmp_path / "in" / "2026-01-01.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    add(rig, hour=2, retries=1, retry_after="1s", notify=["ops@example.org"])
    rig.client.schedules.run("nightly", "2026-01-01")
    rig.start()

    def last() -> Run:
        return rig.client.schedules.history("nightly")[0]

    eventually("some failed", lambda: last().failed == 3)
    there.touch()
    eventually("it is over", lambda: last().state.ended)
    assert (last().state, last().attempt, last().succeeded) == ("succeeded", 1, 9)
    found = Counter(id for _, id in results(rig))
    assert found == Counter(str(n) for n in range(9))
    report = Path(last().folder, "_report.json")
    eventually("its report is there", report.exists)
    assert json.loads(report.read_text())["errors"] == {}


def test_a_run_is_reported_with_its_errors_and_one_is_cancelled(rig: Rig, tmp_path: Path) -> None:
    release = tmp_path / "release"
    for day, ops in (("01", ["double", "fail", "raise", "fail"]), ("02", [f"until {release}"])):
        lines = [json.dumps({"id": str(n), "op": op, "value": n}) for n, op in enumerate(ops)]
        (tmp_path / "in" / f"2026-01-{day}.jsonl").write_text("\n".join(lines))
    add(rig, hour=2, at_a_time=2)
    rig.client.schedules.run("nightly", "2026-01-01")
    rig.start()
    eventually("it is over", lambda: states(rig)["partial"] == 1)
    (run,) = rig.client.schedules.history("nightly")
    eventually("its report is there", Path(run.folder, "_report.html").exists)
    told = json.loads(Path(run.folder, "_report.json").read_text())
    assert told["records"] == {"total": 4, "succeeded": 1, "failed": 3}
    assert told["errors"]["unfit"] == 2
    assert len(told["errors"]) == 2
    rig.client.schedules.run("nightly", "2026-01-02")
    eventually("it runs", Path(f"{release}.begun").exists)
    assert rig.client.schedules.cancel("nightly", "2026-01-02")
    eventually("it is cancelled", lambda: states(rig)["cancelled"] == 1)
    release.touch()


def test_a_database_that_breaks_at_any_statement_of_a_tick_halves_nothing(
    tmp_path: Path, postgresql_url: str
) -> None:
    url = sa.make_url(postgresql_url)

    def connect() -> socket.socket:
        if url.host:
            return socket.create_connection((url.host, url.port or 5432))
        server = socket.socket(socket.AF_UNIX)
        server.connect(os.path.join(str(url.query["host"]), ".s.PGSQL.5432"))
        return server

    days, broken = 8, 0
    beside = Site(Database(postgresql_url), tmp_path)
    beside.files("2026-02-27", days + 2)
    id = beside.add(catch_up="all", at_a_time=3, retries=1, retry_after="30s")
    with cuts(connect) as between:
        through = url.set(host="127.0.0.1", port=between.port, query={})
        site = Site(Database(through.render_as_string(hide_password=False)), tmp_path)
        site.now += timedelta(days=days, hours=-21)
        between.on = True
        for _ in range(2000):
            try:
                site.tick(timedelta(seconds=31))
            except DatabaseUnavailable:
                broken += 1
            for run in beside.history(id):
                if run.state == "running":
                    state = "partial" if run.attempt == 0 and run.date.day % 5 == 0 else "succeeded"
                    beside.finish(run, state, failed=2 * (state == "partial"))
            if sum(run.state == "succeeded" for run in beside.history(id)) == days:
                break
        between.on = False
        site.database.close()
    history = beside.history(id)
    assert broken > 2
    assert [run.number for run in history] == [1] * days
    assert len({run.date for run in history}) == days
    assert beside.datasets() == sorted(run.folder for run in history)
    beside.database.close()


def launch(rig: Rig, name: str, command: list[str]) -> Process:
    return Process(
        name,
        command,
        log=rig.folder / f"{name}.log",
        cwd=Path.cwd(),
        env=os.environ | rig.environment(),
    )
