"""Station beside the others: one shard of a dataset at a time, from its claim to its files."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from headrace.datasets import closing, outputs
from headrace.datasets.files import InputFile
from headrace.datasets.picking import failed_rows
from headrace.datasets.reading import Reading
from headrace.datasets.shards import Shard
from headrace.db import shards, work
from headrace.db.engine import Database
from headrace.db.publishing import Finished
from headrace.db.shards import Fence, ShardRow
from headrace.db.units import Again, Unit
from headrace.errors import (
    DatabaseUnavailable,
    HeadraceError,
    LeaseLapsed,
    LeaseLost,
    StorageError,
    Unavailable,
    UnitLost,
)
from headrace.job import JobId, WorkerId
from headrace.registry.versions import Catalog
from headrace.settings import Settings
from workers.ahead import Source
from workers.ceilings import Ceilings
from workers.faults import reach
from workers.flow import as_text
from workers.parts import Written
from workers.shard import Quarantined, ShardRun, Unserved
from workers.shifts import Shifts
from workers.turns import Turns

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_RETRY_SECONDS = 1.0
_AWAY_SECONDS = 10.0
_UNSERVED_SECONDS = 60.0
_NOTE_SECONDS = 1.0
_LONGEST_MESSAGE = 2000


class _Draining(Exception):  # a state of the worker
    """The worker is to leave."""


class Shards:
    """A `Slot` for shards. begins: told the job whose blocks come now, and None after the last.

    on_device, naming: see `BatchUp`. others: seconds that the device has spent on anything
    but shards, ever. settled: told of a unit that is out of the worker's hands. reading: see
    `ShardRun`. shifts: where the time of reading and of writing goes.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: Settings,
        worker: WorkerId,
        turns: Turns,
        ceilings: Ceilings,
        begins: Callable[[JobId | None], None],
        on_device: Callable[[], list[JobId]],
        naming: threading.Lock,
        others: Callable[[], float],
        settled: Callable[[JobId], None],
        reading: Callable[[JobId], AbstractContextManager[None]],
    ) -> None:
        self._database = database
        self._settings = settings
        self._worker = worker
        self._turns = turns
        self._ceilings = ceilings
        self._begins = begins
        self._on_device = on_device
        self._naming = naming
        self._others = others
        self._settled = settled
        self._reading = reading
        self._catalog = Catalog(database)
        self._stopping = threading.Event()
        self._idle = True
        self._units: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self.shifts = {"read": Shifts(), "write": Shifts()}

    def free(self) -> bool:
        """Whether it would take a shard."""
        return self._idle

    def put(self, unit: Unit) -> None:
        """Run this next; it is `free`."""
        self._idle = False
        self._units.put(unit)

    def refuse(self) -> None:
        """Give back what runs, within a batch, and what is put from now on."""
        self._stopping.set()

    def stop(self) -> None:
        """End; nothing will be put any more."""
        self._units.put(None)

    def step(self) -> bool:
        """Wait for a shard, and see it through or give it back. Raises LeaseLost."""
        unit = self._units.get()
        if unit is None:
            return False
        fence = Fence(self._worker, unit.id, unit.attempt)
        try:
            self._run(unit, fence)
        except _Draining:
            self._again(unit, 0.0)
        except UnitLost as error:
            _log.info("stopped a shard: %s", error)
        except Unserved as error:
            _log.error("cannot serve a shard: %s", error)
            self._retry(unit, fence, _UNSERVED_SECONDS, "model_unserved", error)
        except Quarantined as error:
            self._fail(fence, "quarantined", error)
        except LeaseLost:
            raise
        except (Unavailable, StorageError) as error:
            # The store's fault, or its permissions': no reason to fail the dataset.
            _log.warning("a shard cannot run now: %s", error)
            self._again(unit, _AWAY_SECONDS)
        except HeadraceError as error:
            self._fail(fence, error.code, error)
        except Exception as error:  # noqa: BLE001  # a file may be such that a reader falls over
            _log.exception("a shard broke off")
            told = f"{type(error).__name__}: {error}"
            self._retry(unit, fence, _AWAY_SECONDS, "shard_error", told)
        self._idle = True
        self._settled(unit.id)
        return True

    def _run(self, unit: Unit, fence: Fence) -> None:
        self._live()
        row = self._tried(lambda connection: shards.of_job(connection, unit.id))
        if row is None:
            # Whoever ended it ends its jobs, one by one.
            self._again(unit, _AWAY_SECONDS)
            raise UnitLost(f"the dataset of job {unit.id} has ended")
        self._ceilings.load(row.model)
        started, others = time.monotonic(), self._others()
        try:
            self._name(unit.id)
            written = self._shard_run(row, unit, fence).run()
        finally:
            self._begins(None)
        busy = time.monotonic() - started - (self._others() - others)
        reach("shard_sealed")
        finished = self._finish(row, fence, written, max(busy, 1e-3))
        reach("shard_finished")
        self._publish(finished)

    def _shard_run(self, row: ShardRow, unit: Unit, fence: Fence) -> ShardRun:
        note_at = look_at = 0.0
        rows_done = 0

        def look(done: int) -> None:
            nonlocal note_at, look_at, rows_done
            self._live()
            rows_done, now = done, time.monotonic()
            if now < look_at:
                return
            try:
                if now >= note_at:
                    note_at = now + _NOTE_SECONDS
                    with self._database.single() as connection:
                        wanted = shards.note(connection, fence, done)
                else:
                    with self._database.read() as connection:
                        wanted = shards.wanted(connection, fence)
            except DatabaseUnavailable as error:
                _log.warning("cannot look whether a shard is still wanted: %s", error)
                look_at = time.monotonic() + _RETRY_SECONDS
            else:
                _insist_on(wanted, unit.id)

        def mark(trail: str) -> None:
            noted = partial(shards.note, fence=fence, running=rows_done, trail=trail)
            _insist_on(self._tried(noted), unit.id)

        return ShardRun(
            row,
            unit,
            self._source(row),
            self._settings,
            turns=self._turns,
            ceiling=lambda: self._ceilings.of(row.model),
            shifts=self.shifts,
            look=look,
            mark=mark,
            reading=self._reading,
        )

    def _source(self, row: ShardRow) -> Source:
        file = InputFile(row.uri, row.size, row.tag)
        piece = None if row.piece is None else InputFile(**json.loads(row.piece))
        shard = Shard(file, row.first, row.rows, row.start, row.stop, piece)
        reading, version = Reading.from_json(row.reading), self._catalog.get(row.model)
        only = None if row.before is None else failed_rows(row.before, self._settings)
        return Source(shard, reading, version, only, row.spec.fetch)

    def _name(self, job: JobId) -> None:
        """Have the table name the shard as on the device, before any of it is."""
        self._begins(job)

        def name(connection: sa.Connection) -> None:
            work.name(connection, self._worker, self._on_device())

        with self._naming:
            self._tried(name)

    def _finish(self, row: ShardRow, fence: Fence, written: Written, seconds: float) -> Finished:
        sealed = json.dumps([asdict(file) for file in written.sealed])

        counts = written.succeeded, written.failed, written.duplicates

        def finish(connection: sa.Connection) -> None:
            shards.finish(connection, fence, sealed, *counts, seconds)

        try:
            self._tried(finish)
        except HeadraceError:
            for file in written.sealed:
                with suppress(HeadraceError):
                    outputs.discard(file, self._settings)
            raise
        return Finished(row.key, sealed)

    def _publish(self, finished: Finished) -> None:
        """What cannot be done now, a sweep does later."""
        try:
            closing.publish(self._database, self._settings, finished)
            reach("shard_published")
            closing.close(self._database, self._settings, finished.key.dataset)
        except HeadraceError as error:
            _log.warning("a finished shard waits to be published: %s", error)

    def _retry(self, unit: Unit, fence: Fence, delay: float, code: str, said: object) -> None:
        """It may pass, or be so whoever runs the shard: that fails, and the dataset with it."""
        if unit.attempt >= self._settings.max_attempts:
            self._fail(fence, code, said)
        else:
            self._again(unit, delay, counted=True)

    def _fail(self, fence: Fence, code: str, said: object) -> None:
        message = as_text(said, _LONGEST_MESSAGE)
        with suppress(UnitLost):
            self._tried(lambda connection: shards.fail(connection, fence, code, message))

    def _again(self, unit: Unit, delay: float, *, counted: bool = False) -> None:
        again = Again(unit.id, unit.attempt, delay, counted)
        self._tried(lambda connection: work.settle(connection, self._worker, [again]))

    def _live(self) -> None:
        if self._stopping.is_set():
            raise _Draining

    def _tried(self, change: Callable[[sa.Connection], _T]) -> _T:
        """A transaction, tried until the database answers, or until the lease is over."""
        while True:
            try:
                with self._database.write() as connection:
                    return change(connection)
            except (DatabaseUnavailable, LeaseLapsed) as error:
                _log.warning("cannot write down how a shard goes, trying again: %s", error)
                time.sleep(_RETRY_SECONDS)


def _insist_on(wanted: bool, job: JobId) -> None:
    if not wanted:
        raise UnitLost(f"unit {job} was cancelled, expired or freed while it ran")
