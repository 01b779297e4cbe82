"""Second station: form the next batch, and write down that it is about to run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import sqlalchemy as sa

from headrace.db import packs, work
from headrace.db.engine import Database
from headrace.db.units import NewPack
from headrace.errors import DatabaseUnavailable, LeaseLapsed
from headrace.job import JobId, WorkerId
from workers.faults import reach
from workers.flow import Batch, Item, new_pack
from workers.waiting import Waiting

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0
_T = TypeVar("_T")


class BatchUp:
    """Takes items from `waiting` as its policy says, and hands batches to `to_infer`.

    on_device: the jobs that are on the device already. naming: held while they are written
    down, so that no older list overwrites a newer one. dropped: takes the ids of jobs that
    were cancelled, or ran out of time, while they waited.
    """

    def __init__(
        self,
        *,
        database: Database,
        worker: WorkerId,
        waiting: Waiting,
        to_infer: Callable[[Batch], None],
        on_device: Callable[[], list[JobId]],
        naming: threading.Lock,
        dropped: Callable[[list[JobId]], None],
    ) -> None:
        self._database = database
        self._worker = worker
        self._waiting = waiting
        self._to_infer = to_infer
        self._on_device = on_device
        self._naming = naming
        self._dropped = dropped

    def step(self) -> bool:
        """Form one batch; False once nothing more will wait."""
        items = self._waiting.take()
        if items is None:
            return False
        ahead = [item.pack for item in items if item.pack is not None]
        if len(items) == len(ahead) == 1 and items[0].named:
            # Its claim has said all that a stage says.
            batch = Batch(items[0].version, tuple(items), tuple(ahead))
            reach("staged")
            batch.staged.set()
            self._to_infer(batch)
            return True
        batch = Batch(items[0].version, tuple(items), (*new_packs(items), *ahead))
        if all(item.named for item in items):
            # The table has it as on the device already: the packs are announced while it runs.
            self._to_infer(batch)
            with self._naming:
                self._stage(batch, self._on_device())
            reach("staged")
            batch.staged.set()
            return True
        with self._naming:
            batch = self._without(batch, self._stage(batch, self._on_device() + batch.ids))
            reach("staged")
            batch.staged.set()
            if batch.items:
                self._to_infer(batch)
        if not batch.items:
            self._waiting.dropped()
            ids = [pack.id for pack in batch.packs]
            self._insist("drop an empty batch", lambda connection: packs.drop(connection, ids))
        return True

    def still_wanted(self, batch: Batch) -> Batch:
        """A staged batch, without the jobs that were dropped since."""
        try:
            with self._database.read() as connection:
                return self._without(batch, work.gone(connection, self._worker, batch.ids))
        except DatabaseUnavailable:
            return batch  # their results will be refused

    def _without(self, batch: Batch, gone: set[JobId]) -> Batch:
        if not gone:
            return batch
        self._dropped(list(gone))
        kept = tuple(item for item in batch.items if item.unit.id not in gone)
        return replace(batch, items=kept)

    def _stage(self, batch: Batch, on_device: list[JobId]) -> set[JobId]:
        def stage(connection: sa.Connection) -> set[JobId]:
            return work.stage(connection, self._worker, batch.ids, on_device, batch.packs)

        # Nothing runs that the table does not know of.
        return self._insist("stage a batch", stage)

    def _insist(self, what: str, change: Callable[[sa.Connection], _T]) -> _T:
        """Repeat it while the table does not take it; the lease decides how long."""
        while True:
            try:
                with self._database.single() as connection:
                    return change(connection)
            except (DatabaseUnavailable, LeaseLapsed) as error:
                _log.warning("cannot %s, trying again: %s", what, error)
                time.sleep(_RETRY_SECONDS)


def new_packs(items: list[Item]) -> list[NewPack]:
    """A pack for each tenant in the batch."""
    tenants = dict.fromkeys(item.unit.tenant for item in items)
    return [new_pack(tenant, len(items)) for tenant in tenants]
