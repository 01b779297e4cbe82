"""Station beside the others: plans one dataset at a time, and holds up nobody."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import sqlalchemy as sa

from headrace.broker import Bell
from headrace.datasets.plan import Plan, Postponed
from headrace.db import planning, shards, work
from headrace.db.engine import Database
from headrace.db.planning import PlanRow
from headrace.db.shards import Fence
from headrace.db.units import Again, Unit
from headrace.errors import (
    DatabaseUnavailable,
    HeadraceError,
    LeaseLapsed,
    LeaseLost,
    Unavailable,
    UnitLost,
)
from headrace.job import JobId, WorkerId
from headrace.registry.versions import Catalog
from headrace.settings import Settings
from headrace.storage import ObjectStore
from workers.faults import reach
from workers.flow import as_text

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_RETRY_SECONDS = 1.0
_AWAY_SECONDS = 10.0
_LONGEST_MESSAGE = 2000
_TICKETS = 16
"""Enough to wake idle workers; those that are busy look again after each shard."""


class PlanStation:
    """A `Slot` for plans. settled: told of a unit that is out of the worker's hands."""

    def __init__(
        self,
        *,
        database: Database,
        store: ObjectStore,
        settings: Settings,
        worker: WorkerId,
        settled: Callable[[JobId], None],
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._worker = worker
        self._settled = settled
        self._catalog = Catalog(database)
        self._bell = Bell(settings)
        self._ring_at = 0.0
        self._stopping = threading.Event()
        self._idle = True
        self._units: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()

    def free(self) -> bool:
        """Whether it would take a plan."""
        return self._idle

    def put(self, unit: Unit) -> None:
        """Plan this next; it is `free`."""
        self._idle = False
        self._units.put(unit)

    def stop(self) -> None:
        """Give back what is being planned, at the next boundary; what is kept of it stays.

        Nothing may be put from now on.
        """
        self._stopping.set()
        self._units.put(None)

    def step(self) -> bool:
        """Wait for a plan, and see it through or give it back. Raises LeaseLost."""
        unit = self._units.get()
        if unit is None:
            self._bell.close()
            return False
        began = time.monotonic()
        fence = Fence(self._worker, unit.id, unit.attempt)
        try:
            reach("planning")
            self._plan(unit, fence)
        except Postponed as error:
            self._give_back(unit, error.delay)
        except Unavailable as error:
            _log.warning("a dataset cannot be planned now: %s", error)
            self._give_back(unit, _AWAY_SECONDS)
        except UnitLost as error:
            _log.info("stopped planning: %s", error)
        except LeaseLost:
            raise
        except HeadraceError as error:
            self._fail(fence, error.code, error)
        except Exception as error:  # noqa: BLE001  # a file may be such that a reader falls over
            _log.exception("a dataset could not be planned")
            self._fail(fence, "plan_error", f"{type(error).__name__}: {error}")
        _log.info("planned for %.1f s", time.monotonic() - began)
        self._idle = True
        self._settled(unit.id)
        return True

    def _plan(self, unit: Unit, fence: Fence) -> None:
        row = self._tried(lambda connection: planning.plan_of(connection, unit.id))
        if row is None:
            raise UnitLost(f"the dataset that job {unit.id} is the plan of has ended")
        manifest = self._catalog.get(row.model).manifest
        plan = Plan(
            self._database,
            self._store,
            self._settings,
            fence,
            row,
            manifest.signature,
            manifest.batching.max_records,
            lambda ids: self._ring(row, ids),
            self._stopping,
        )
        plan.run()

    def _ring(self, row: PlanRow, ids: Sequence[JobId]) -> None:
        """Wake idle workers, those of them that wait for a ticket."""
        reach("shards_cut")
        now = time.monotonic()
        if ids and now > self._ring_at and self._bell.silent(row.pool, row.priority):
            self._bell.ring(row.model, row.pool, row.priority, ids[:_TICKETS], 1)
            self._ring_at = now + self._settings.poll

    def _fail(self, fence: Fence, code: str, said: object) -> None:
        message = as_text(said, _LONGEST_MESSAGE)
        with suppress(UnitLost):
            self._tried(lambda connection: shards.fail(connection, fence, code, message))

    def _give_back(self, unit: Unit, delay: float) -> None:
        again = Again(unit.id, unit.attempt, delay, counted=False)
        self._tried(lambda connection: work.settle(connection, self._worker, [again]))

    def _tried(self, change: Callable[[sa.Connection], _T]) -> _T:
        """A transaction, tried until the database answers, or until the lease is over."""
        while True:
            try:
                with self._database.write() as connection:
                    return change(connection)
            except (DatabaseUnavailable, LeaseLapsed) as error:
                _log.warning("cannot settle a plan, trying again: %s", error)
                time.sleep(_RETRY_SECONDS)
