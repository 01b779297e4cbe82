"""Sweeps: any number at once, in short transactions, and nobody is taken for dead in an outage."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import sqlalchemy as sa

from headrace import sweeper
from headrace.db import sweeping, workers
from headrace.db.tables import now, sweeps
from headrace.errors import StorageError
from tests.conformance.job_table import LEASE, JobTable, NoStore, again, failure

EVERY = LEASE / 3


class TestFree:
    def test_frees_the_work_of_workers_whose_lease_ran_out(self, table: JobTable) -> None:
        ids = table.queue(2)
        dead, living = table.worker(), table.worker()
        table.claim(dead)
        kept = table.queue()
        table.claim(living)
        table.lease_in(dead, -1)
        swept = table.sweep()
        assert swept is not None
        assert (swept.dead_workers, swept.given_back) == (1, 2)
        assert table.states(ids + kept) == ["queued", "queued", "running"]
        assert not table.sweep()

    def test_nobody_can_tell_what_ran_so_all_that_was_named_is_suspect(
        self, table: JobTable
    ) -> None:
        ids = table.queue(3)
        for named, deaths in ((ids[:2], [0, 0]), (ids[:1], [1, 0])):
            worker = table.worker()
            while table.claim(worker):
                pass
            table.stage(worker, named)
            table.lease_in(worker, -1)
            swept = table.sweep()
            assert swept is not None
            assert (swept.suspects, swept.given_back) == (len(named), 3 - len(named))
            assert [d for _, d in table.records(ids[:2])] == deaths

    def test_not_those_who_renew_in_time(self, table: JobTable) -> None:
        (id,) = table.queue()
        worker = table.worker()
        table.claim(worker)
        table.lease_in(worker, -1)
        table.renew(worker)
        assert not table.sweep()
        assert table.states([id]) == ["running"]

    def test_nobody_before_a_whole_lease_after_a_gap(self, table: JobTable) -> None:
        """The database was away for longer than a lease: for the workers as for the sweepers."""
        ids = table.queue(2)
        slow, dead = table.worker(), table.worker()
        table.claim(slow)
        table.lease_in(slow, -1)
        table.lease_in(dead, -1)
        table.swept_ago(2 * EVERY + 1)
        assert table.sweeper.sweep() == workers.Swept()
        for since_the_gap in (EVERY, 2 * EVERY, LEASE - 1):
            table.swept_ago(EVERY, since=since_the_gap)
            assert table.sweeper.sweep() == workers.Swept()
        assert table.renew(slow)
        table.swept_ago(EVERY, since=LEASE)
        assert table.sweeper.sweep() == workers.Swept(dead_workers=1)
        assert table.states(ids) == ["running"] * 2

    def test_a_gap_within_the_wait_begins_it_anew(self, table: JobTable) -> None:
        table.lease_in(table.worker(), -1)
        table.swept_ago(2 * EVERY + 1, since=LEASE - 1)
        assert not table.sweeper.sweep()
        table.swept_ago(EVERY, since=1)
        assert not table.sweeper.sweep()

    def test_a_long_sweep_is_no_gap(self, table: JobTable, monkeypatch) -> None:
        end = sweeping.end

        def end_long_after(connection: sa.Connection, walked_to: None) -> None:
            connection.execute(sa.update(sweeps).values(swept_at=now() - 10 * LEASE))
            end(connection, walked_to)

        monkeypatch.setattr(sweeping, "end", end_long_after)
        assert table.sweep() is not None
        table.lease_in(table.worker(), -1)
        assert table.sweeper.sweep() is None
        assert table.sweep() == workers.Swept(dead_workers=1)


class TestExpire:
    def test_expires_what_is_past_its_deadline_queued_or_running(self, table: JobTable) -> None:
        running, queued, early, done = ids = table.queue(4)
        worker = table.worker()
        units = {unit.id: unit for unit in table.claim(worker)}
        table.finish(worker, [failure(units[done])])
        (queued,) = table.queue()
        for id in (running, queued, done):
            table.deadline_in(id, -1)
        table.deadline_in(early, 60)
        swept = table.sweep()
        assert swept is not None
        assert swept.expired == 2
        assert table.states([running, queued, early, done]) == [
            "expired",
            "expired",
            "running",
            "failed",
        ]
        job = table.get(running)
        assert job.error is not None
        assert job.error.code == "deadline"
        assert job.finished_at is not None
        assert table.finish(worker, [failure(units[running])]) == 0
        assert table.get(ids[0]).state == "expired"

    def test_in_batches(self, table: JobTable, monkeypatch) -> None:
        monkeypatch.setattr(sweeper, "BATCH", 2)
        ids = table.queue(5)
        for id in ids:
            table.deadline_in(id, -1)
        with table.database.write() as connection:
            assert sweeping.expire(connection, 2) == 2
        assert table.sweep() == workers.Swept(expired=3)
        assert table.states(ids) == ["expired"] * 5


class TestTidy:
    """Writes to the store whose writers are gone."""

    def test_hourly_and_the_sooner_the_more_there_are(self, table: JobTable, monkeypatch) -> None:
        store = NoStore()
        store.abandoned = 150
        tidying = sweeper.Sweeper(table.database, store, table.settings)
        for _ in range(4):
            table.swept_ago(EVERY)
            assert tidying.sweep() is not None
        assert store.abandoned == 0
        assert len(store.tidied) == 2
        (age, _), _ = store.tidied
        assert age >= 24 * 3600
        monkeypatch.setattr(tidying, "_tidy_at", 0.0)  # an hour passes
        table.swept_ago(EVERY)
        assert tidying.sweep() is not None
        assert len(store.tidied) == 3

    def test_a_store_that_cannot_does_not_end_the_sweep(self, table: JobTable, caplog) -> None:
        class Refusing(NoStore):
            def tidy(self, age: float, limit: int) -> int:
                raise StorageError("", "denied")

        (id,) = table.queue()
        table.deadline_in(id, -1)
        table.swept_ago(EVERY)
        swept = sweeper.Sweeper(table.database, Refusing(), table.settings).sweep()
        assert swept == workers.Swept(expired=1)
        assert "cannot end abandoned uploads" in caplog.text


class TestManyAtOnce:
    def test_one_runs_per_period(self, table: JobTable) -> None:
        table.swept_ago(3600)
        assert sum(swept is not None for swept in at_once(table.sweeper.sweep, 4)) == 1
        table.swept_ago(EVERY - 1)
        assert table.sweeper.sweep() is None
        table.swept_ago(EVERY)
        assert table.sweeper.sweep() is not None

    def test_each_unit_is_freed_and_expired_once(self, table: JobTable, monkeypatch) -> None:
        """Also where sweepers overlap, as when one takes longer than a period."""
        monkeypatch.setattr(sweeping, "begin", lambda *_: sweeping.Turn(1e9, LEASE, None))
        held, late = table.queue(40), table.queue(40, pool="other")
        for _ in range(4):
            worker = table.worker()
            units = table.claim(worker)
            table.give_back(worker, [again(unit, counted=False) for unit in units[10:]])
            table.stage(worker, [units[0].id])
            table.lease_in(worker, -1)
        for id in late:
            table.deadline_in(id, -1)
        swept = sum(at_once(table.sweeper.sweep, 4), workers.Swept())
        assert (swept.dead_workers, swept.suspects, swept.given_back) == (4, 4, 36)
        assert swept.expired == 40
        assert table.states(held + late) == ["queued"] * 40 + ["expired"] * 40
        assert Counter(table.records(held)) == {(0, 0): 36, (0, 1): 4}

    def test_of_a_renewal_and_a_burial_one_wins(self, table: JobTable) -> None:
        for _ in range(10):
            (id,) = table.queue()
            worker = table.worker()
            table.claim(worker)
            table.lease_in(worker, -1)
            renewed, freed = at_once(partial(table.renew, worker), 1, table.sweep)
            assert renewed != bool(freed)
            assert table.states([id]) == ["running" if renewed else "queued"]
            table.cancel(id)


def at_once(call: Callable[[], object], times: int, *others: Callable[[], object]) -> list:
    calls = [call] * times + list(others)
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))
