"""Fourth station: encode the results, write them as packs, and commit the outcomes."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from random import Random
from typing import assert_never

from headrace import payload
from headrace.db import packs, work
from headrace.db.engine import Database
from headrace.db.units import Again, Failure, NewPack, Settlement, Success, WrittenPack
from headrace.errors import (
    BadOutput,
    DatabaseUnavailable,
    LeaseLapsed,
    LeaseLost,
    PackLost,
    StorageError,
    StoreUnavailable,
    Unavailable,
)
from headrace.job import Done, Failed, JobId, Outcome, Retry, WorkerId
from headrace.news import tell
from headrace.storage import ObjectStore
from headrace.storage.packs import build_pack
from workers.faults import reach
from workers.flow import Batch, GiveBack, Item, Ran, as_text, joined
from workers.line import Line

_log = logging.getLogger(__name__)
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
_STORE_PATIENCE = 60.0
"""Seconds a batch is kept for a store that takes nothing, before it is given back."""
_CODE, _MESSAGE = 64, 4000
"""Characters that the job table keeps of them."""
_LONGEST_DELAY = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """What finish needs: packs and outcomes as the job table takes them."""

    written: list[WrittenPack]
    unused: list[NewPack]
    outcomes: list[Settlement]


class Store:
    """Takes batches that ran. Several threads may `step`, so that one that hangs holds up no
    other. jobs, batches: how many it has stored.

    encoding: around what a record's result could do harm to.

    settled: told the ids that are out of our hands.
    naming: held while what is on the device is written down (see `BatchUp`).
    new_packs: fresh packs for a batch, after a sweeper took the first ones.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: ObjectStore,
        worker: WorkerId,
        inline: int,
        max_attempts: int,
        on_device: Callable[[], list[JobId]],
        naming: threading.Lock,
        new_packs: Callable[[list[Item]], list[NewPack]],
        settled: Callable[[Collection[JobId], float], None],
        encoding: Callable[[Sequence[JobId]], AbstractContextManager[None]],
    ) -> None:
        self._database = database
        self._store = store
        self._worker = worker
        self._inline = inline
        self._max_attempts = max_attempts
        self._random = Random()
        self._on_device = on_device
        self._naming = naming
        self._new_packs = new_packs
        self._settled = settled
        self._encoding = encoding
        self._line = Line()
        self._counting = threading.Lock()
        self.jobs = 0
        self.batches = 0
        self._mine = threading.local()
        self._one_encodes = threading.Lock()

    @property
    def in_hand(self) -> list[JobId]:
        """The jobs that the calling thread is at."""
        return list(getattr(self._mine, "batch", ()))

    def put(self, ran: Ran, timeout: float | None = None) -> bool:
        """Store this next; blocks while the store is behind, which holds up the device.

        Returns False where it was still behind after `timeout` seconds.
        """
        return self._line.put(ran, timeout)

    def stop(self) -> None:
        """Store what is in line, then end."""
        self._line.stop()

    def step(self) -> bool:
        """Store what is in line: one batch, or several where the store is behind."""
        rans = self._line.take()
        if not rans:
            return False
        self._mine.batch = [id for ran in rans for id in ran.batch.ids]
        for ran in rans:
            ran.batch.staged.wait()
        self._commit(joined(rans))
        self._line.stored()
        with self._counting:
            self.jobs += len(self._mine.batch)
            self.batches += len(rans)
        for ran in rans:
            self._settled(ran.batch.ids, ran.seconds)
        self._mine.batch = []
        return True

    def _commit(self, ran: Ran) -> None:
        """Write, then finish: never a finished job without its object."""
        pause = _FIRST_PAUSE
        give_up = time.monotonic() + _STORE_PATIENCE
        while True:
            try:
                reach("storing")
                encoded = self._write(ran)
                reach("stored")
                self._finish(encoded)
                reach("finished")
                return
            except LeaseLost:
                self._published_or_removed(ran.batch.packs)
                raise
            except PackLost as error:
                if self._published_or_removed(ran.batch.packs):
                    return
                _log.warning("storing a batch again: %s", error)
                ran = replace(ran, batch=self._repacked(ran.batch))
            except (StoreUnavailable, StorageError) as error:
                if time.monotonic() > give_up:
                    _log.error("the store takes nothing, giving the batch back: %s", error)
                    ran = replace(ran, outcomes=(GiveBack(_LAST_PAUSE),) * len(ran.outcomes))
                else:
                    _log.warning("cannot store a batch, trying again: %s", error)
                    time.sleep(pause)
                    pause = min(2 * pause, _LAST_PAUSE)
                # A put that seemed to fail may have succeeded: its key is not used again.
                ran = replace(ran, batch=self._repacked(ran.batch))

    def _write(self, ran: Ran) -> Encoded:
        """Put the successes of each tenant into its pack; encode every outcome."""
        written: list[WrittenPack] = []
        unused: list[NewPack] = []
        outcomes: list[Settlement] = []
        with self._one_encodes, self._encoding(ran.batch.ids):
            results = [_encoded(outcome) for outcome in ran.outcomes]
        tenants: set[str] = set()
        for pack in ran.batch.packs:
            done = [
                (item.unit, result)
                for item, result in zip(ran.batch.items, results, strict=True)
                if isinstance(result, bytes) and item.unit.tenant == pack.tenant
            ]
            if not done or pack.tenant in tenants:
                unused.append(pack)
                continue
            tenants.add(pack.tenant)
            with self._one_encodes, self._encoding(ran.batch.ids):
                data, places = build_pack([(unit.id, result) for unit, result in done])
            digest = self._store.put(pack.key, data)
            written.append(WrittenPack(pack.id, len(data), digest))
            self._line.wrote(len(data) * pack.batch_size // len(done))
            outcomes += [
                Success(
                    unit.id,
                    unit.attempt,
                    pack.id,
                    *place,
                    result if len(result) <= self._inline else None,
                )
                for (unit, result), place in zip(done, places, strict=True)
            ]
        for item, result in zip(ran.batch.items, results, strict=True):
            if not isinstance(result, bytes):
                outcomes.append(self._without_result(item, result))
        return Encoded(written, unused, outcomes)

    def _without_result(self, item: Item, outcome: Retry | Failed | GiveBack) -> Failure | Again:
        unit = item.unit
        match outcome:
            case Failed(code, message):
                return Failure(
                    unit.id, unit.attempt, as_text(code, _CODE), as_text(message, _MESSAGE)
                )
            case Retry(delay, message):
                attempts = item.version.manifest.retry.attempts or self._max_attempts
                return retried(item, delay, message, attempts, time.monotonic(), self._random)
            case GiveBack(delay):
                return Again(unit.id, unit.attempt, delay, counted=False)
            case _:
                assert_never(outcome)

    def _finish(self, encoded: Encoded) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                with self._naming, self._database.single() as connection:
                    work.finish(
                        connection,
                        self._worker,
                        self._on_device(),
                        encoded.written,
                        [pack.id for pack in encoded.unused],
                        encoded.outcomes,
                    )
                    tell(connection, [o.id for o in encoded.outcomes if not isinstance(o, Again)])
                return
            except (DatabaseUnavailable, LeaseLapsed) as error:
                # The results are safe in the store; the lease decides how long this may last.
                _log.warning("cannot finish a batch, trying again: %s", error)
                time.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE)

    def _published_or_removed(self, written: Sequence[NewPack]) -> bool:
        """After a finish was refused: whether one before it, whose answer got lost, went through.

        Where none did, the objects go: the packs were swept, and the table may know them no more.
        """
        with suppress(Unavailable, StorageError):
            with self._database.read() as connection:
                if packs.live(connection, [pack.id for pack in written]):
                    return True
            self._store.delete([pack.key for pack in written])
        return False

    def _repacked(self, batch: Batch) -> Batch:
        """The batch with fresh packs, announced; the old ones are given up."""
        ran_together = batch.packs[0].batch_size
        fresh = [
            replace(pack, batch_size=ran_together) for pack in self._new_packs(list(batch.items))
        ]
        while True:
            try:
                with self._naming, self._database.single() as connection:
                    work.stage(connection, self._worker, batch.ids, self._on_device(), fresh)
                    packs.give_up(connection, [pack.id for pack in batch.packs])
                return replace(batch, packs=tuple(fresh))
            except (DatabaseUnavailable, LeaseLapsed) as error:
                _log.warning("cannot announce a pack, trying again: %s", error)
                time.sleep(_LAST_PAUSE)


def retried(
    item: Item, delay: float | None, message: str, attempts: int, now: float, random: Random
) -> Failure | Again:
    """Another run in `delay` seconds, where attempts and deadline leave room for one.

    attempts: runs in all. now: as the item's deadline.
    """
    unit = item.unit
    if unit.attempt >= attempts:
        told = f"attempt {unit.attempt} of {attempts}: {message}"
        return Failure(unit.id, unit.attempt, "retries_exhausted", as_text(told, _MESSAGE))
    backoff = item.version.manifest.retry.backoff
    pause = backoff(unit.attempt, random) if delay is None else _seconds(delay)
    if now + pause >= item.deadline:
        told = f"{message}; another attempt, in {pause:.1f} s, would miss the deadline"
        return Failure(unit.id, unit.attempt, "deadline", as_text(told, _MESSAGE))
    return Again(unit.id, unit.attempt, pause, counted=True)


def _encoded(outcome: Outcome | GiveBack) -> bytes | Retry | Failed | GiveBack:
    """A success as the bytes to store; one that cannot be stored has failed."""
    if not isinstance(outcome, Done):
        return outcome
    try:
        return payload.encode(outcome.outputs)
    except Exception as error:  # noqa: BLE001  # msgpack's: for a number or text it cannot say
        return Failed(BadOutput.code, f"the outputs cannot be stored: {error}")


def _seconds(said: object) -> float:
    if not isinstance(said, int | float) or math.isnan(said):
        return 0.0
    return float(min(max(said, 0), _LONGEST_DELAY))
