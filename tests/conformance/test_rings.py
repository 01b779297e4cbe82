"""Who is rung for: what is due, where no ticket waits and somebody could take it."""

from collections.abc import Sequence

import sqlalchemy as sa

from headrace.broker import Bell
from headrace.db import due, pauses, workers
from headrace.db.tables import jobs as jobs_table
from headrace.job import JobId, ModelKey, Priority
from headrace.rings import ring_due
from headrace.settings import Settings
from headrace.sweeper import Sweeper
from tests.conformance.job_table import LEASE, JobTable, NoStore


class Recording(Bell):
    """Notes what it is rung for, as if the broker took it. full: queues in which tickets wait."""

    def __init__(self, *full: Priority) -> None:
        self.rung: list[tuple[str, str, Priority, list[JobId], int]] = []
        self.full = full

    def ring(
        self, model: ModelKey, pool: str, priority: Priority, ids: Sequence[JobId], batch: int
    ) -> bool:
        self.rung.append((str(model), pool, priority, list(ids), batch))
        return True

    def silent(self, pool: str, priority: Priority) -> bool:
        return priority not in self.full


def rung(table: JobTable, *full: Priority) -> list[tuple[str, str, Priority, list[JobId], int]]:
    bell = Recording(*full)
    assert ring_due(table.database, bell) == len(bell.rung)
    return bell.rung


def test_for_a_retry_whose_time_has_come(table: JobTable) -> None:
    table.worker()
    early, late = table.queue(2)
    table.due_in(early, -1)
    table.due_in(late, 60)
    assert rung(table) == [("m@1", "default", Priority.NORMAL, [early], 64)]


def test_for_a_dead_workers_jobs_with_the_sweep_that_frees_them(table: JobTable) -> None:
    table.worker()
    bell = Recording()
    sweeper = Sweeper(table.database, NoStore(), table.settings, bell)
    ids = table.queue(3)
    for id in ids:
        table.due_in(id, -2)
    dead = table.worker()
    table.claim(dead)
    table.stage(dead, ids[:1])
    table.lease_in(dead, -1)
    table.swept_ago(LEASE / 3)
    assert sweeper.sweep() is not None
    ((*_, found, _),) = bell.rung
    assert sorted(found) == sorted(ids), "the suspect too"


def test_each_line_by_itself_most_urgent_first(table: JobTable) -> None:
    table.worker()
    table.worker(pool="gpu")
    other = table.model("other", max_records=8, pool="gpu")
    (bulk,) = table.queue(priority=Priority.BULK)
    (high,) = table.queue(priority=Priority.HIGH)
    (gpu,) = table.queue(model=other, pool="gpu")
    assert rung(table) == [
        ("m@1", "default", Priority.HIGH, [high], 64),
        ("other@1", "gpu", Priority.NORMAL, [gpu], 8),
        ("m@1", "default", Priority.BULK, [bulk], 64),
    ]


def test_no_more_tickets_than_workers(table: JobTable) -> None:
    small = table.model("small", max_records=2)
    table.queue(9, model=small)
    table.worker()
    table.worker()
    ((*_, ids, batch),) = rung(table)
    assert (len(ids), batch) == (4, 2)


def test_not_where_tickets_wait(table: JobTable) -> None:
    table.worker()
    table.queue()
    (high,) = table.queue(priority=Priority.HIGH)
    ((*_, ids, _),) = rung(table, Priority.NORMAL)
    assert ids == [high]


def test_not_by_a_sweep_for_what_was_submitted_just_now(table: JobTable) -> None:
    """Its ticket may be on the way."""
    table.worker()
    ids = table.queue(2)
    table.due_in(ids[0], -60)
    table.due_in(ids[1], -30)
    bell = Recording()
    assert ring_due(table.database, bell, waited=45) == 1
    ((*_, found, _),) = bell.rung
    assert found == ids[:1]


def test_not_where_nobody_could_take_it(table: JobTable) -> None:
    table.queue()
    assert rung(table) == []
    table.lease_in(table.worker(), -1)
    leaving = table.worker()
    with table.database.write() as connection:
        workers.draining(connection, leaving)
    table.worker(pool="gpu")
    assert rung(table) == []
    table.worker()
    with table.database.write() as connection:
        pauses.pause(connection, "m", by="me", reason="")
    assert rung(table) == []
    with table.database.write() as connection:
        pauses.resume(connection, "m")
    assert len(rung(table)) == 1


def test_not_for_what_is_past_its_deadline_or_with_a_worker(table: JobTable) -> None:
    (id,) = table.queue()
    table.deadline_in(id, -1)
    worker = table.worker()
    assert rung(table) == []
    table.queue()
    table.claim(worker)
    assert rung(table) == []


def test_only_the_first_of_a_line_are_looked_at(table: JobTable) -> None:
    """However many wait for their time, a look at them costs little."""
    table.worker()
    *waiting, behind = table.queue(due._LOOKED_AT + 1)
    with table.database.write() as connection:
        later = jobs_table.c.due_at + 3600
        connection.execute(
            sa.update(jobs_table).where(jobs_table.c.id != behind).values(due_at=later)
        )
    assert rung(table) == []
    table.cancel(waiting[0])
    assert len(rung(table)) == 1


def test_a_broker_that_is_down_does_not_keep_the_sweep_from_its_work(
    table: JobTable, caplog
) -> None:
    table.worker()
    bell = Bell(Settings(broker_url="redis://127.0.0.1:1/0", broker_timeout=0.2))
    sweeper = Sweeper(table.database, NoStore(), table.settings, bell)
    kept, overdue = table.queue(2)
    table.due_in(kept, -60)
    table.deadline_in(overdue, -1)
    table.swept_ago(LEASE / 3)
    swept = sweeper.sweep()
    assert swept is not None
    assert swept.expired == 1
    assert table.states([kept, overdue]) == ["queued", "expired"]
    assert "broker unavailable" in caplog.text
    bell.close()
