"""A small submission wakes one idle worker, where the database can; else its ticket does."""

import math
import queue
from collections.abc import Iterator

import pytest

from headrace.db import workers
from headrace.db.listen import Listener
from headrace.db.work import stage
from headrace.job import WorkerId
from headrace.knocks import Knocks, door
from headrace.news import FEW
from tests.conformance.job_table import JobTable, new_id

LONG, SHORT = 20.0, 0.5


@pytest.fixture
def knocks(monkeypatch: pytest.MonkeyPatch) -> Knocks:
    monkeypatch.setattr("headrace.knocks._NOBODY_SECONDS", 0.0)
    return Knocks()


class Doors:
    """Workers that are ready, and who of them was knocked up."""

    def __init__(self, table: JobTable) -> None:
        self.table = table
        self.heard: queue.SimpleQueue[WorkerId] = queue.SimpleQueue()
        self.listeners: list[Listener] = []

    def worker(self, pool: str = "default") -> WorkerId:
        worker = self.table.worker(pool)
        with self.table.database.write() as connection:
            workers.ready(connection, worker)
        listener = Listener(
            self.table.database, door(worker), lambda _: self.heard.put(worker), idle=math.inf
        )
        listener.listen()
        self.listeners.append(listener)
        return worker

    def knock(self, knocks: Knocks, pool: str = "default", jobs: int = 1) -> None:
        with self.table.database.single() as connection:
            knocks.knock(connection, pool, jobs)

    def woken(self, knocks: Knocks, seconds: float = LONG, **what: object) -> WorkerId | None:
        """Who hears of it, knocking again and again while the listeners connect."""
        for _ in range(int(seconds / 0.05)):
            self.knock(knocks, **what)
            try:
                return self.heard.get(timeout=0.05)
            except queue.Empty:
                continue
        return None


@pytest.fixture
def doors(table: JobTable) -> Iterator[Doors]:
    if table.database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite tells nobody")
    doors = Doors(table)
    yield doors
    for listener in doors.listeners:
        listener.close()


def test_an_idle_worker_of_the_pool_hears_it(doors: Doors, knocks: Knocks) -> None:
    doors.worker("other")
    worker = doors.worker()
    assert doors.woken(knocks) == worker


def test_who_is_busy_leaving_cold_or_gone_does_not(doors: Doors, knocks: Knocks) -> None:
    busy, leaving, gone = doors.worker(), doors.worker(), doors.worker()
    doors.table.worker()  # which is cold
    with doors.table.database.write() as connection:
        stage(connection, busy, [], [new_id()], [])
        workers.draining(connection, leaving)
    doors.table.retire(gone)
    idle = doors.worker()
    assert doors.woken(knocks) == idle
    for _ in range(20):
        doors.knock(knocks)
        assert doors.heard.get(timeout=LONG) == idle


def test_one_of_several_is_woken(doors: Doors, knocks: Knocks) -> None:
    several = {doors.worker() for _ in range(3)}
    assert doors.woken(knocks) in several
    # Until every listener is connected a knock may find nobody; from then on each finds one.
    seen = set()
    while seen != several:
        seen.add(doors.woken(knocks))
    while not doors.heard.empty():
        doors.heard.get()
    for _ in range(10):
        doors.knock(knocks)
        doors.heard.get(timeout=LONG)
    assert doors.heard.empty()


def test_many_jobs_are_left_to_their_tickets(doors: Doors, knocks: Knocks) -> None:
    worker = doors.worker()
    assert doors.woken(knocks, jobs=FEW) == worker
    assert doors.woken(knocks, SHORT, jobs=FEW + 1) is None


def test_where_nobody_is_idle_the_next_submissions_do_not_ask(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.knocks._NOBODY_SECONDS", 3600.0)
    knocks = Knocks()
    doors.knock(knocks)
    worker = doors.worker()
    assert doors.woken(knocks, SHORT) is None
    assert doors.woken(Knocks()) == worker


def test_sqlite_has_no_doors(table: JobTable, knocks: Knocks) -> None:
    if table.database.engine.dialect.name == "postgresql":
        pytest.skip("it has")
    with table.database.single() as connection:
        knocks.knock(connection, "default", 1)
