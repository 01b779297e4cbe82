"""Puts right what others left, and removes what is past its time.

Any number of sweepers run at once, one per supervisor and one that Celery's beat ticks. They
share the work through the job table: whoever is first in a period does it.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from headrace.broker import Bell
from headrace.db import closing, datasets, deletion, packs, publishing, sweeping, workers
from headrace.db.engine import Database
from headrace.db.sweeping import Turn
from headrace.db.workers import Swept
from headrace.errors import HeadraceError, NotInstalled, StorageError, StoreUnavailable
from headrace.job import JobId
from headrace.rings import ring_due
from headrace.settings import Settings
from headrace.storage import ObjectStore

_log = logging.getLogger(__name__)
BATCH = 1000
"""Rows that one transaction changes: some tens of milliseconds."""
_STORE_PAUSE = 60.0
"""Seconds after which objects are tried again that the store did not delete."""
_ABANDONED = 2 * 24 * 3600.0
"""Seconds after which nobody goes on with a write to the store: an upload of gigabytes is done."""
_PUBLISHED, _FORGOTTEN = 100, 10
"""Shards that one sweep publishes at most, and datasets that it removes with all of theirs."""
_TIDY_EVERY, _TIDIED = 3600.0, 100
"""Seconds between two looks for those, and how many one sweep ends: some seconds' worth."""
_TICKET_LATE = 1.0
"""Seconds that a ticket may take: a job that has just been submitted has its own on the way."""


class Sweeper:
    """Sweeps every third of a lease. Each transaction is short, and on a bounded number of rows.

    bell: rung for what is due; None for nobody's.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        settings: Settings,
        bell: Bell | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._bell = bell
        self._settings = settings
        self._every = settings.lease / 3
        self._tidy_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Sweep until `stop` is set, whatever happens."""
        while not stop.is_set():
            try:
                if swept := self.sweep():
                    _log.warning("%s", swept)
            except HeadraceError as error:
                _log.warning("cannot sweep: %s", error)
            except Exception:  # noqa: BLE001  # a fault here must not end the sweeps
                _log.exception("a sweep failed")
            # More often than it is due, so that a gap between two is one that all had.
            stop.wait(self._every / 2)

    def sweep(self) -> Swept | None:
        """One sweep, begun before the next is due; None where another has just been.

        What people wait for comes first. Raises DatabaseUnavailable.
        """
        with self._database.single() as connection:
            turn = sweeping.begin(connection, self._every)
        if turn is None:
            return None
        end = time.monotonic() + self._every
        swept = self._free() if turn.watched >= self._settings.lease else Swept()
        swept += Swept(expired=self._in_batches(sweeping.expire, end))
        self._tend_datasets(turn, end)
        self._in_batches(packs.give_up_abandoned, end)
        removed, walked_to = self._remove_old(turn, end)
        swept += Swept(removed=removed)
        self._remove_objects(end)
        self._tidy_store()
        with self._database.single() as connection:
            sweeping.end(connection, walked_to)
        if self._bell is not None:
            # Last: it may wait for a broker that does not answer.
            ring_due(self._database, self._bell, waited=_TICKET_LATE)
        return swept

    def _free(self) -> Swept:
        """Free what lapsed workers held, each in a transaction of its own."""
        with self._database.read() as connection:
            lapsed = workers.lapsed(connection)
        swept = Swept()
        for worker in lapsed:
            with self._database.write() as connection:
                swept += workers.bury(
                    connection, worker, quarantine_after=self._settings.quarantine_after
                )
        return swept

    def _tend_datasets(self, turn: Turn, end: float) -> None:
        """End, publish, close and remove what nobody else did; as far as `end` allows.

        A host without pyarrow leaves that to the others: without workers that have it, there is
        nothing to publish.
        """
        with self._database.single() as connection:
            datasets.expire(connection)
        late, cutoff = self._settings.lease, turn.began_at - self._settings.retention
        with self._database.read() as connection:
            to_close = closing.closable(connection)
            left = publishing.unpublished(connection, None, late, _PUBLISHED)
            old = closing.old(connection, cutoff, _FORGOTTEN) if self._settings.retention else []
        if not (to_close or left or old):
            return
        try:
            from headrace.datasets import closing as files
        except NotInstalled as error:
            _log.info("datasets are left to another sweeper: %s", error)
            return
        database, settings = self._database, self._settings
        steps: list[Callable[[], object]] = [
            *(functools.partial(files.publish, database, settings, shard) for shard in left),
            *(functools.partial(files.close, database, settings, id) for id in to_close),
            *(functools.partial(files.forget, database, self._store, id) for id in old),
        ]
        for step in steps:
            if time.monotonic() >= end:
                return
            try:
                step()
            except HeadraceError as error:
                _log.warning("cannot tend a dataset, trying again later: %s", error)

    def _in_batches(self, change: Callable[[sa.Connection, int], int], end: float) -> int:
        """Repeat `change` while it finds a whole batch, until `end`; returns the sum."""
        total = 0
        while True:
            with self._database.single() as connection:
                changed = change(connection, BATCH)
            total += changed
            if changed < BATCH or time.monotonic() >= end:
                return total

    def _remove_old(self, turn: Turn, end: float) -> tuple[int, JobId | None]:
        """Remove jobs that ended too long ago; returns how many, and where the walk got to."""
        if not self._settings.retention:
            return 0, None
        ended_before = turn.began_at - self._settings.retention
        with self._database.single() as connection:
            deletion.forget_workers(connection, ended_before)
        removed, after = 0, turn.walked_to
        while True:
            with self._database.read() as connection:
                ids, after = deletion.old(
                    connection, ended_before=ended_before, after=after, limit=BATCH
                )
            if ids:
                with self._database.write() as connection:
                    removed += len(deletion.remove(connection, ids))
            if after is None or time.monotonic() >= end:
                return removed, after

    def _tidy_store(self) -> None:
        """Now and then end writes to the store whose writers are long gone; some at a time."""
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + _TIDY_EVERY
        try:
            ended = self._store.tidy(_ABANDONED, _TIDIED)
        except (StoreUnavailable, StorageError) as error:
            _log.warning("cannot end abandoned uploads, trying again later: %s", error)
            return
        if ended:
            _log.info("ended %d abandoned writes to the store", ended)
        if ended == _TIDIED:
            self._tidy_at = 0.0  # there may be more

    def _remove_objects(self, end: float) -> None:
        """Remove the objects of deleted packs, then their rows."""
        while True:
            with self._database.read() as connection:
                doomed = packs.deleted(connection, BATCH)
            if not doomed:
                return
            ids = list(doomed)
            try:
                self._store.delete(doomed.values())
            except (StoreUnavailable, StorageError) as error:
                _log.warning("cannot delete objects, trying again later: %s", error)
                with self._database.single() as connection:
                    packs.postpone(connection, ids, _STORE_PAUSE)
                return
            with self._database.single() as connection:
                packs.forget(connection, ids)
            if len(doomed) < BATCH or time.monotonic() >= end:
                return
