"""The batch station when the table answers late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from headrace.db.engine import Database
from headrace.errors import DatabaseUnavailable
from tests.conformance.job_table import JobTable
from tests.unit.items import version
from workers.batch import BatchUp
from workers.flow import Batch, Item
from workers.waiting import Waiting


class Cut(Database):
    """Breaks every call before `heals_after` more have failed. failed: how many have."""

    heals_after = 0
    failed = 0

    @contextmanager
    def single(self) -> Iterator[sa.Connection]:
        if self.heals_after > self.failed:
            self.failed += 1
            raise DatabaseUnavailable("the connection was cut")
        with super().single() as connection:
            yield connection


def test_a_batch_of_which_nothing_is_left_leaves_no_pack(table: JobTable, monkeypatch) -> None:
    monkeypatch.setattr("workers.batch.time.sleep", lambda seconds: None)
    worker = table.worker()
    ids = table.queue(3)
    waiting, run = Waiting(), list[Batch]()
    waiting.put([Item(unit, version(), {}, (), 1) for unit in table.claim(worker)])
    table.cancel(*ids)
    database = Cut(table.database.engine.url.render_as_string(hide_password=False))

    def dropped(gone: list) -> None:
        assert set(gone) == set(ids)
        assert table.pack_states() == ["writing"]
        database.heals_after = 3  # from here, between the stage and what follows it

    station = BatchUp(
        database=database,
        worker=worker,
        waiting=waiting,
        to_infer=run.append,
        on_device=list,
        naming=threading.Lock(),
        dropped=dropped,
    )
    assert station.step()
    database.close()
    assert (run, database.failed, table.pack_states()) == ([], 3, [])
