"""The store station when the table says no: nothing is lost, doubled or left lying about."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from headrace.db import jobs
from headrace.db.engine import Database
from headrace.db.units import Unit
from headrace.errors import DatabaseUnavailable, LeaseLost, StoreUnavailable
from headrace.job import Done, WorkerId
from headrace.storage import ObjectStore
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
        table.queue(3)
        self.units: list[Unit] = table.claim(self.worker)
        items = tuple(Item(unit, version(), {}, (), 1) for unit in self.units)
        self.batch = Batch(version(), items, tuple(new_packs(list(items))))
        self.batch.staged.set()
        (pack,) = self.batch.packs
        table.stage(self.worker, self.batch.ids, pack)
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

    def run(self) -> None:
        self._station.put(Ran(self.batch, tuple(Done({"y": 1.0}) for _ in self.units), 0.1))
        assert self._station.step()

    def objects_of_results(self) -> set[str | None]:
        with self.table.database.read() as connection:
            return {result.key for result in jobs.results(connection, self.batch.ids).values()}


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
