"""Deleting and retention: a job goes with its key and its result, an object with its last job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from headrace import Client, payload, sweeper
from headrace.db import packs, sweeping
from headrace.db.tables import idempotency_keys
from headrace.db.tables import packs as packs_table
from headrace.db.tables import workers as workers_table
from headrace.db.units import NewPack, Success, Unit, WrittenPack
from headrace.errors import (
    DatabaseUnavailable,
    JobNotEnded,
    JobNotFound,
    PackLost,
    StoreUnavailable,
)
from headrace.job import JobId
from headrace.service import Service
from headrace.storage import ObjectStore
from headrace.storage.packs import build_pack
from headrace.sweeper import Sweeper
from tests.conformance.job_table import JobTable, failure, new_id, new_pack

IMAGE = np.zeros((2, 2), np.float32)
LARGE = {"data": b"x" * 5000, "options": 1}
DAY = 24 * 3600.0


@pytest.fixture(autouse=True)
def sweeps_the_store(table: JobTable, store: ObjectStore) -> None:
    table.sweeper = Sweeper(table.database, store, table.settings)


@pytest.fixture
def days_later(table: JobTable, monkeypatch) -> Callable[[float], None]:
    """Sweeps as if it were so many days later."""
    begin = sweeping.begin

    def sweep(days: float) -> None:
        def begin_later(*arguments: object) -> sweeping.Turn:
            turn = begin(*arguments)
            assert turn is not None
            return replace(turn, began_at=turn.began_at + days * DAY)

        with monkeypatch.context() as patch:
            patch.setattr(sweeping, "begin", begin_later)
            table.sweep()

    return sweep


def run(table: JobTable, store: ObjectStore) -> list[Unit]:
    """One batch as a worker does it: all succeed, in one object."""
    worker = table.worker()
    units = table.claim(worker)
    result = payload.encode({"scores": np.zeros(3, np.float32)})
    data, places = build_pack([(unit.id, result) for unit in units])
    pack = new_pack(len(units))
    table.stage(worker, [unit.id for unit in units], pack)
    store.put(pack.key, data)
    outcomes = [
        Success(unit.id, unit.attempt, pack.id, *place, None)
        for unit, place in zip(units, places, strict=True)
    ]
    assert table.finish(worker, outcomes, [pack.id]) == len(units)
    return units


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def rows(table: JobTable, of: sa.Table) -> int:
    with table.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(of)).scalar_one()


def pass_time(table: JobTable, seconds: float) -> None:
    """For the packs that are not live."""
    with table.database.write() as connection:
        columns = packs_table.c
        connection.execute(
            sa.update(packs_table).values(
                created_at=columns.created_at - seconds, delete_at=columns.delete_at - seconds
            )
        )


class TestDelete:
    def test_a_job_goes_with_its_key_and_the_object_with_the_last_job(
        self, client: Client, table: JobTable, store: ObjectStore
    ) -> None:
        first, second, third = ids = client.submit_many("digits", [IMAGE] * 3, idempotency_key="k")
        run(table, store)
        assert sorted(client.delete([first, third])) == [first, third]
        table.sweep()
        with pytest.raises(JobNotFound):
            client.get(first)
        assert client.result(second)["scores"].shape == (3,)
        assert client.delete(second) == [second]
        table.sweep()
        assert keys(store) == []
        assert rows(table, packs_table) == rows(table, idempotency_keys) == 0
        again = client.submit_many("digits", [IMAGE] * 3, idempotency_key="k")
        assert not {*ids} & {*again}

    def test_one_that_has_not_ended_is_refused_and_none_goes(
        self, client: Client, table: JobTable, store: ObjectStore
    ) -> None:
        client.submit("digits", IMAGE)
        (done,) = run(table, store)
        queued = client.submit("digits", IMAGE)
        with pytest.raises(JobNotEnded, match=f"job {queued} is queued; cancel it first") as caught:
            client.delete([done.id, queued])
        assert caught.value.job_id == queued
        table.claim(table.worker())
        with pytest.raises(JobNotEnded, match="running"):
            client.delete(queued)
        assert client.result(done.id)
        client.cancel(queued)
        assert sorted(client.delete([done.id, queued])) == sorted([done.id, queued])

    def test_what_is_gone_is_left_out(self, client: Client, table, store) -> None:
        id = client.submit("digits", IMAGE)
        run(table, store)
        unknown = [JobId(new_id()), JobId("no uuid")]
        assert client.delete([*unknown, id, id]) == [id]
        assert client.delete([*unknown, id]) == []

    def test_of_a_job_that_was_cancelled_while_it_ran(self, client, table, store) -> None:
        """Its worker, which runs it still, finds nobody to give the result to."""
        id = client.submit("digits", IMAGE)
        worker = table.worker()
        (unit,) = table.claim(worker)
        pack = new_pack()
        table.stage(worker, [id], pack)
        client.cancel(id)
        client.delete(id)
        store.put(pack.key, b"result")
        outcome = Success(id, unit.attempt, pack.id, 0, 6, b"result")
        assert table.finish(worker, [outcome], [pack.id]) == 0
        table.sweep()
        assert keys(store) == []


class TestRetention:
    def test_what_ended_long_ago_goes_and_nothing_else(
        self, client: Client, table: JobTable, store: ObjectStore, days_later
    ) -> None:
        small = client.submit_many("digits", [IMAGE] * 2, idempotency_key="k")
        large = client.submit("plain", LARGE)
        assert {unit.id for unit in run(table, store)} | {
            unit.id for unit in run(table, store)
        } == {*small, large}
        cancelled, queued, running = (client.submit("digits", IMAGE) for _ in range(3))
        client.cancel(cancelled)
        table.due_in(queued, 3600)
        table.claim(table.worker())
        days_later(29)
        assert len(client.list().jobs) == 6
        days_later(31)
        assert sorted(job.id for job in client.list().jobs) == sorted([queued, running])
        assert keys(store) == []
        assert rows(table, packs_table) == rows(table, idempotency_keys) == 0

    def test_counts_from_the_end_and_not_from_the_submission(
        self, client: Client, table: JobTable, store: ObjectStore, days_later
    ) -> None:
        client.submit("digits", IMAGE)
        (unit,) = run(table, store)
        table.finished_in(unit.id, 20 * DAY)
        days_later(31)
        assert client.result(unit.id)
        days_later(51)
        assert client.list().jobs == []

    def test_walks_on_past_what_has_to_stay(self, client, table, days_later, monkeypatch) -> None:
        """In batches, and where a sweep's time is over the next one goes on from there."""
        monkeypatch.setattr(sweeper, "BATCH", 2)
        monkeypatch.setattr(table.sweeper, "_every", 0.0)
        stay = table.queue(5)
        for id in (go := table.queue(5)):
            table.cancel(id)
        left = []
        for _ in range(6):
            days_later(31)
            left.append(len(client.list().jobs))
        assert left == [10, 10, 9, 7, 5, 5]
        for id in stay:
            table.cancel(id)
        for _ in range(4):
            days_later(31)
        assert client.list().jobs == []
        assert go

    def test_0_keeps_everything(self, client, table, store, days_later) -> None:
        settings = table.settings.model_copy(update={"retention": 0.0})
        table.sweeper = Sweeper(table.database, store, settings)
        client.submit("digits", IMAGE)
        run(table, store)
        days_later(10_000)
        assert len(client.list().jobs) == 1

    def test_rows_of_workers_go_as_well(self, table, days_later) -> None:
        table.retire(table.worker())
        living = table.worker()
        days_later(31)
        with table.database.read() as connection:
            assert list(connection.execute(sa.select(workers_table.c.id)).scalars()) == [living]


class TestLargeInputs:
    """One object per submission."""

    def test_the_object_stays_for_as_long_as_one_of_the_jobs(
        self, client: Client, table: JobTable, store: ObjectStore
    ) -> None:
        ids = client.submit_many("plain", [LARGE, LARGE])
        worker = table.worker()
        first, second = table.claim(worker)
        table.finish(worker, [failure(first), failure(second)])
        client.delete(first.id)
        table.sweep()
        pass_time(table, DAY)
        table.sweep()
        assert payload.decode(store.get(*second.input_at)) == LARGE
        client.delete(ids)
        table.sweep()
        assert keys(store) == []
        assert rows(table, packs_table) == 0

    @pytest.mark.parametrize("committed", [False, True])
    def test_a_submission_that_broke_off(
        self, client: Client, service: Service, table, store, monkeypatch, committed: bool
    ) -> None:
        """Whether the jobs are there its producer does not know; the job table does."""
        insert = service._insert

        def answer_lost(*arguments: object) -> None:
            if committed:
                insert(*arguments)
            raise DatabaseUnavailable("the connection broke during the commit")

        monkeypatch.setattr(service, "_insert", answer_lost)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        with pytest.raises(DatabaseUnavailable):
            client.submit("plain", LARGE)
        pass_time(table, 3500)
        table.sweep()
        assert len(keys(store)) == 1, "the producer may still be at it"
        pass_time(table, 200)
        table.sweep()
        pass_time(table, 3700)
        table.sweep()
        assert len(client.list().jobs) == len(keys(store)) == committed

    def test_a_submission_that_took_too_long_makes_no_jobs(
        self, client: Client, store: ObjectStore, table: JobTable, monkeypatch
    ) -> None:
        put = store.put

        def slow_put(key: str, data: bytes) -> None:
            put(key, data)
            pass_time(table, 3700)
            table.sweep()

        monkeypatch.setattr(store, "put", slow_put)
        with pytest.raises(PackLost, match="submit again"):
            client.submit("plain", LARGE)
        assert client.list().jobs == keys(store) == []

    def test_the_store_was_down(self, client, store, table, monkeypatch) -> None:
        """The object may be there all the same."""
        put = store.put

        def put_without_an_answer(key: str, data: bytes) -> None:
            put(key, data)
            raise StoreUnavailable("timed out")

        monkeypatch.setattr(store, "put", put_without_an_answer)
        with pytest.raises(StoreUnavailable):
            client.submit("plain", LARGE)
        for _ in range(2):
            pass_time(table, 3700)
            table.sweep()
        assert client.list().jobs == keys(store) == []


class TestPacks:
    def test_what_a_dead_worker_was_writing_goes_when_it_cannot_come_any_more(
        self, table: JobTable, store: ObjectStore
    ) -> None:
        """A paused worker writes its object when it wakes, long after its work was freed."""
        table.queue()
        worker = table.worker()
        (unit,) = table.claim(worker)
        pack = new_pack()
        table.stage(worker, [unit.id], pack)
        table.lease_in(worker, -1)
        table.sweep()
        pass_time(table, 3500)
        store.put(pack.key, b"late")
        table.sweep()
        assert rows(table, packs_table) == 1
        pass_time(table, 200)
        table.sweep()
        assert keys(store) == []
        assert rows(table, packs_table) == 0

    def test_wait_for_a_store_that_deletes_nothing_and_others_come_first(
        self, table: JobTable, store: ObjectStore, monkeypatch
    ) -> None:
        def refuse(keys: object) -> None:
            raise StoreUnavailable("down")

        with table.database.write() as connection:
            for _ in range(3):
                id = new_pack().id
                packs.announce(connection, NewPack(id, "", f"inputs/{id}", 1))
                packs.publish(connection, WrittenPack(id, 1, "sha"), 0)
        with monkeypatch.context() as patch:
            patch.setattr(store, "delete", refuse)
            table.sweep()
        table.sweep()
        assert rows(table, packs_table) == 3
        pass_time(table, 61)
        table.sweep()
        assert rows(table, packs_table) == 0
