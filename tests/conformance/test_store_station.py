"""The store station when the table says no: nothing is lost, doubled or left lying about."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import sqlalchemy as sa

from headrace.db import views
from headrace.db.engine import Database
from headrace.db.tables import packs
from headrace.errors import DatabaseUnavailable, LeaseLost, StoreUnavailable
from headrace.job import Done, WorkerId
from headrace.storage import ObjectStore
from headrace.storage.packs import scan
from tests.conformance.job_table import JobTable
from tests.unit.items import version
from workers.batch import new_packs
from workers.flow import Batch, Item, Ran
from workers.store import Store


class Station:
    """Claims all that is due, and stores it as if it had run."""

    def __init__(self, table: JobTable, store: ObjectStore, database: Database) -> None:
        self.table = table
        self.worker: WorkerId = table.worker()
        self.batch = self.claimed(3)
        self._station = Store(
            database=database,
            store=store,
            worker=self.worker,
            inline=0,
            max_attempts=3,
            on_device=list,
            naming=threading.Lock(),
            new_packs=new_packs,
            settled=lambda ids, seconds: None,
            encoding=lambda ids: nullcontext(),
        )

    def claimed(self, count: int) -> Batch:
        """A batch that is on the device."""
        self.table.queue(count)
        units = self.table.claim(self.worker)
        items = tuple(Item(unit, version(), {}, (), 1) for unit in units)
        batch = Batch(version(), items, tuple(new_packs(list(items))))
        batch.staged.set()
        (pack,) = batch.packs
        self.table.stage(self.worker, batch.ids, pack)
        return batch

    def put(self, batch: Batch, result: object = 1.0) -> None:
        self._station.put(Ran(batch, tuple(Done({"y": result}) for _ in batch.items), 0.1))

    def step(self) -> None:
        assert self._station.step()

    def run(self) -> None:
        self.put(self.batch)
        self.step()

    def objects_of_results(self, *others: Batch) -> set[str | None]:
        ids = [id for batch in (self.batch, *others) for id in batch.ids]
        with self.table.database.read() as connection:
            return {result.key for result in views.results(connection, ids).values()}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.store.time.sleep", lambda seconds: None)


@pytest.fixture
def station(table: JobTable, store: ObjectStore) -> Station:
    return Station(table, store, table.database)


def after_put(monkeypatch: pytest.MonkeyPatch, store: ObjectStore, happens) -> None:
    """`happens` once, between the write and the finish."""
    put = store.put

    def put_and_then(key: str, data: bytes) -> None:
        put(key, data)
        monkeypatch.setattr(store, "put", put)
        happens()

    monkeypatch.setattr(store, "put", put_and_then)


def keys(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list()}


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_pack_swept_between_its_write_and_its_finish_is_stored_again(
    station: Station, table: JobTable, store: ObjectStore, monkeypatch, forgotten: bool
) -> None:
    (first,) = station.batch.packs

    def sweep() -> None:
        table.sweep_pack(first.id)
        if forgotten:
            table.sweep()

    after_put(monkeypatch, store, sweep)
    station.run()
    assert table.states(station.batch.ids) == ["succeeded"] * 3
    assert keys(store) == station.objects_of_results() != {first.key}


def test_a_worker_that_was_stopped_leaves_no_object(
    station: Station, table: JobTable, store: ObjectStore, monkeypatch
) -> None:
    after_put(monkeypatch, store, lambda: table.retire(station.worker))
    with pytest.raises(LeaseLost):
        station.run()
    assert table.states(station.batch.ids) == ["queued"] * 3
    assert keys(store) == set()


def test_a_lease_that_ran_out_is_waited_for(
    station: Station, table: JobTable, store: ObjectStore, monkeypatch
) -> None:
    after_put(monkeypatch, store, lambda: table.lease_in(station.worker, -1))
    monkeypatch.setattr("workers.store.time.sleep", lambda _: table.renew(station.worker))
    station.run()
    assert table.states(station.batch.ids) == ["succeeded"] * 3
    assert keys(store) == station.objects_of_results()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_finish_whose_answer_was_lost_keeps_its_object(
    table: JobTable, store: ObjectStore, stopped: bool
) -> None:
    class LosesAnAnswer(Database):
        lost = False

        @contextmanager
        def single(self) -> Iterator:
            with super().single() as connection:
                yield connection
            if not self.lost:
                self.lost = True
                if stopped:
                    table.retire(station.worker)
                raise DatabaseUnavailable("the connection broke after the commit")

    url = table.database.engine.url.render_as_string(hide_password=False)
    station = Station(table, store, database := LosesAnAnswer(url))
    if stopped:
        with pytest.raises(LeaseLost):
            station.run()
    else:
        station.run()
    database.close()
    assert table.states(station.batch.ids) == ["succeeded"] * 3
    assert keys(store) == station.objects_of_results() == {station.batch.packs[0].key}


def test_a_put_that_seemed_to_fail_leaves_no_object_for_good(
    station: Station, table: JobTable, store: ObjectStore, monkeypatch
) -> None:
    def time_out() -> None:
        raise StoreUnavailable("timed out")

    after_put(monkeypatch, store, time_out)
    station.run()
    assert table.states(station.batch.ids) == ["succeeded"] * 3
    assert len(keys(store)) == 2
    assert sorted(table.pack_states()) == ["deleted", "live"]


def test_batches_that_wait_share_an_object(
    station: Station, table: JobTable, store: ObjectStore
) -> None:
    second = station.claimed(3)
    station.put(station.batch)
    station.put(second)
    station.step()
    both = station.batch.ids + second.ids
    assert table.states(both) == ["succeeded"] * 6
    (key,) = keys(store)
    assert station.objects_of_results(second) == {key}
    with table.database.read() as connection:
        assert {job.batch_size for job in views.fetch(connection, both).values()} == {3}
        names = {id for id, _ in scan(store.get(key))}
        assert connection.execute(sa.select(packs.c.state, packs.c.jobs)).all() == [("live", 6)]
    assert names == set(both)


def test_a_pack_that_two_batches_share_and_a_sweep_takes_is_stored_again(
    station: Station, table: JobTable, store: ObjectStore, monkeypatch
) -> None:
    second = station.claimed(3)
    after_put(monkeypatch, store, lambda: table.sweep_pack(station.batch.packs[0].id))
    station.put(station.batch)
    station.put(second)
    station.step()
    both = station.batch.ids + second.ids
    assert table.states(both) == ["succeeded"] * 6
    assert keys(store) == station.objects_of_results(second)
    with table.database.read() as connection:
        assert {job.batch_size for job in views.fetch(connection, both).values()} == {3}


@pytest.mark.parametrize(("count", "result"), [(2, 1.0), (3, "x" * 400_000)])
def test_batches_of_another_size_or_of_large_results_do_not(
    station: Station, table: JobTable, store: ObjectStore, count: int, result: object
) -> None:
    others = [station.claimed(3), station.claimed(count)]
    station.put(station.batch, result)
    station.step()
    for batch in others:
        station.put(batch, result)
    station.step()
    assert table.states(others[0].ids) == ["succeeded"] * 3
    assert table.states(others[1].ids) == ["running"] * count
    station.step()
    assert len(keys(store)) == len(station.objects_of_results(*others)) == 3


def test_a_write_that_hangs_holds_up_no_other_batch(
    station: Station, table: JobTable, store: ObjectStore, monkeypatch
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    after_put(monkeypatch, store, lambda: (hangs.set(), goes_on.wait()))
    second = station.claimed(3)
    slow = threading.Thread(target=station.run, daemon=True)
    slow.start()
    assert hangs.wait(60)
    station.put(second)
    station.step()
    assert table.states(second.ids) == ["succeeded"] * 3
    assert table.states(station.batch.ids) == ["running"] * 3
    goes_on.set()
    slow.join()
    assert table.states(station.batch.ids) == ["succeeded"] * 3
