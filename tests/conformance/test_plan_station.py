"""The plan station: a plan is seen through, fails its dataset, or goes back."""

import os
import socket
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.dataset import PLANS, Spec
from headrace.datasets import files, plan
from headrace.db import datasets, speeds, work
from headrace.errors import DatabaseUnavailable, LeaseLost, StoreUnavailable
from headrace.settings import Settings
from headrace.signature import Field, Signature
from headrace.storage import open_store
from tests.conformance.dataset_table import DatasetTable
from tests.conformance.job_table import JobTable
from tests.conformance.registered import register
from workers.plan import PlanStation

MODEL = Signature((Field("x", "float32"),), (Field("y", "float32"),))


class Rig:
    def __init__(self, table: JobTable, folder) -> None:
        self.sets, self.table = DatasetTable(table), table
        self.model = register(table.database, "half", MODEL)
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = Settings(store_url=f"{folder}/s", broker_url=f"redis://127.0.0.1:{port}/0")
        self.worker = table.worker()
        self.settled = []
        self.station = PlanStation(
            database=table.database,
            store=open_store(settings),
            settings=settings,
            worker=self.worker,
            settled=self.settled.append,
        )

    def submit(self, rows: int = 100, **spec):
        """A file, its dataset, and the unit that plans it."""
        pq.write_table(
            pa.table({"x": pa.array(range(rows), pa.float32())}), self.folder / "a.parquet"
        )
        spec = Spec(**{"input": str(self.folder), "output": "/out"} | spec)
        id = self.sets.insert(spec=spec, model=self.model)
        (unit,) = self.sets.call(work.claim, self.worker, "default", line=PLANS, at_most=1)
        return id, unit

    def plan(self, unit) -> None:
        assert self.station.free()
        self.station.put(unit)
        assert not self.station.free()
        assert self.station.step()
        assert self.station.free()
        assert self.settled.pop() == unit.id

    def error(self, id):
        it = self.sets.get(id)
        return it.error and (it.error.code, it.error.message)


@pytest.fixture
def rig(table, tmp_path) -> Rig:
    return Rig(table, tmp_path)


def test_a_plan_is_seen_through(rig) -> None:
    id, unit = rig.submit(shard_rows=30)
    rig.plan(unit)
    assert rig.table.states([unit.id]) == ["succeeded"]
    assert rig.sets.get(id).total == 100


def test_what_will_not_do_fails_the_dataset(rig) -> None:
    id, unit = rig.submit(inputs={"x": ("z",)})
    rig.plan(unit)
    code, message = rig.error(id)
    assert code == "invalid_input"
    assert "a.parquet: has no column 'z'" in message
    assert rig.table.states([unit.id]) == ["failed"]


def test_a_file_that_changed_fails_the_dataset(rig, monkeypatch) -> None:
    id, unit = rig.submit()
    each = files.each

    def changing(where, settings):
        yield from each(where, settings)
        os.utime(rig.folder / "a.parquet", ns=(0, 0))

    monkeypatch.setattr(files, "each", changing)
    rig.plan(unit)
    assert rig.error(id)[0] == "input_changed"


def test_a_reader_that_falls_over_fails_the_dataset_alone(rig, monkeypatch) -> None:
    id, unit = rig.submit()

    def falls(*_):
        raise TypeError("\ud800\0" * 3000)

    monkeypatch.setattr(plan, "reading_of", falls)
    rig.plan(unit)
    code, message = rig.error(id)
    assert code == "plan_error"
    assert message.startswith("TypeError: ?\ufffd?")


def test_a_name_that_no_table_keeps_is_told(rig) -> None:
    id, unit = rig.submit()
    os.rename(rig.folder / "a.parquet", os.fsencode(rig.folder) + b"/a\xff.parquet")
    rig.plan(unit)
    code, message = rig.error(id)
    assert code == "invalid_input"
    assert "a\ufffd.parquet: its name is no UTF-8" in message


@pytest.mark.parametrize("error", [StoreUnavailable("S3 is away"), DatabaseUnavailable("gone")])
def test_while_a_server_is_away_the_plan_waits(rig, monkeypatch, error) -> None:
    id, unit = rig.submit()

    def away(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(files, "each", away)
        rig.plan(unit)
    assert rig.table.states([unit.id]) == ["queued"]
    assert rig.table.attempts([unit.id]) == [0]
    assert 5 < rig.table.seconds_until_due(unit.id) < 15
    assert rig.error(id) is None


def test_one_whose_dataset_has_ended_is_dropped(rig) -> None:
    id, unit = rig.submit()
    rig.sets.call(datasets.cancel, id)
    rig.plan(unit)
    assert rig.sets.get(id).shards == 0


def test_a_worker_that_was_stopped_leaves(rig) -> None:
    _, unit = rig.submit()
    rig.table.retire(rig.worker)
    rig.station.put(unit)
    with pytest.raises(LeaseLost):
        rig.station.step()


def test_a_drain_gives_it_back_at_once(rig, monkeypatch) -> None:
    """Also while it waits for a first shard to be run."""
    id, unit = rig.submit(rows=10_000)
    waits = threading.Event()
    get = speeds.get
    monkeypatch.setattr(speeds, "get", lambda *what: (waits.set(), get(*what))[1])
    thread = threading.Thread(target=lambda: [None for _ in iter(rig.station.step, False)])
    thread.start()
    rig.station.put(unit)
    assert waits.wait(10)
    rig.station.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert rig.table.states([unit.id]) == ["queued"]
    assert rig.table.attempts([unit.id]) == [0]
    assert rig.sets.get(id).error is None
