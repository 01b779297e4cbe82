"""Schedules with real processes: beats and tickers that are killed, workers that are killed."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from headrace.db.dataset_tables import datasets
from headrace.db.schedule_tables import schedule_runs as runs
from headrace.db.schedule_tables import schedule_versions, schedules
from headrace.stack.process import Process
from tests.service.rig import Rig, eventually

FIRST, DAYS = date(2026, 1, 1), int(os.environ.get("HEADRACE_TEST_DATES", "10"))
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
        for kill in range(2):
            ticker = launch(rig, f"control-{kill}", [*control, "-n", f"c{kill}@%h"])
            processes.append(ticker)
            before = states(rig)["running"]
            more = min(days, before + 8)
            eventually("it ticks", lambda more=more: states(rig)["running"] >= more)
            os.kill(ticker.pid, 9)
            if kill == 0:
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


def launch(rig: Rig, name: str, command: list[str]) -> Process:
    return Process(
        name,
        command,
        log=rig.folder / f"{name}.log",
        cwd=Path.cwd(),
        env=os.environ | rig.environment(),
    )
