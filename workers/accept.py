"""First station: claim a batch of jobs, fetch and validate their inputs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from headrace import payload
from headrace.dataset import SHARDS
from headrace.db import packs, work
from headrace.db.engine import Database
from headrace.db.units import NewPack, Unit
from headrace.errors import (
    DatabaseUnavailable,
    HeadraceError,
    InvalidInput,
    LeaseLapsed,
    ObjectCorrupt,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
)
from headrace.job import Failed, JobId, ModelKey, Outcome, PackId, WorkerId
from headrace.registry.manifest import ModelVersion
from headrace.registry.versions import Catalog
from headrace.storage import ObjectStore
from headrace.storage.packs import read_pack
from workers.ceilings import Ceilings
from workers.faults import reach
from workers.flow import FRESH_SECONDS, Batch, GiveBack, Item, Ran, Slot, new_pack
from workers.tickets import Tickets
from workers.waiting import Waiting

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0
_STORE_RETRY_SECONDS = 10.0
_TICK_SECONDS = 1.0
_BYTES = 1024 * 1024
"""Inputs claimed ahead are in memory all at once: several batches together have no more."""
_DOUBT_SECONDS, _DOUBT_POLL = 60.0, 5.0
"""How long a claim whose connection broke may still come to the database, or be under way there,
and how often even an idle worker looks for it meanwhile."""


class Accept:
    """Turns tickets, and the passing of time, into claimed and validated items.

    unserved: the versions this worker cannot run just now. expect: told what a claim for an
    idle device has named as on it. naming: held meanwhile (see `BatchUp`).
    to_store: takes units that end before they reach the device. tick: called at least every
    few seconds while the worker is sound. slots: by line, who takes a unit of it at a time.
    in_hand: the jobs that it is at.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: ObjectStore,
        worker: WorkerId,
        pool: str,
        poll: float,
        tickets: Tickets,
        waiting: Waiting,
        ceilings: Ceilings,
        unserved: Callable[[], list[ModelKey]],
        expect: Callable[[list[JobId]], None],
        naming: threading.Lock,
        to_store: Callable[[Ran, float], bool],
        tick: Callable[[], None],
        slots: Mapping[str, Slot],
    ) -> None:
        self._database = database
        self._store = store
        self._worker = worker
        self._pool = pool
        self._poll = poll
        self._tickets = tickets
        self._waiting = waiting
        self._ceilings = ceilings
        self._unserved = unserved
        self._expect = expect
        self._naming = naming
        self._to_store = to_store
        self._tick = tick
        self._slots = slots
        self._slots_at = 0.0
        self._catalog = Catalog(database)
        self._stopping = threading.Event()
        self._look_at = 0.0
        self.in_hand: list[JobId] = []
        self._claimed_at = 0.0
        self._answered_at = 0.0
        # Claimed with the batch before; how large the inputs of that one were.
        self._ahead: list[Unit] = []
        self._batch_bytes = 1
        self._doubt_until = 0.0
        self._doubtful: set[PackId] = set()

    def stop(self) -> None:
        """Claim no more."""
        self._stopping.set()
        self._tickets.wake()

    def slot_is_free(self) -> None:
        """There is room again for a unit of a dataset: look for one at once."""
        self._slots_at = 0.0
        self._tickets.wake()

    def step(self) -> bool:
        """Wait for room and a reason to look, then claim, and what slots are free for, too.

        What was claimed ahead waits for no reason: its next batch is taken in.
        """
        if self._stopping.is_set():
            self._leave_ahead()
            return False
        self._tick()
        self._ceilings.save()
        if not self._waiting.wait_for_room(timeout=_TICK_SECONDS):
            return True
        if self._ahead:
            self._take_batch(self._version(self._ahead[0].model), None)
            return True
        look_at = min(self._look_at, self._slots_at)
        if not self._tickets.wait(timeout=look_at - time.monotonic()):
            return True
        if self._stopping.is_set():
            return False
        heard = self._tickets.heard()
        try:
            if time.monotonic() < self._doubt_until:
                self._disown()
            else:
                self._doubtful.clear()
            units, ahead = self._claim()
        except (DatabaseUnavailable, LeaseLapsed) as error:
            return self._doubt(error)
        if units:
            self._take(units, ahead)
        try:
            filled = self._fill_slots(on_ticket=heard > 0 and not units)
        except (DatabaseUnavailable, LeaseLapsed) as error:
            return self._doubt(error)
        if not units:
            doubtful = time.monotonic() < self._doubt_until
            poll = min(self._poll, _DOUBT_POLL) if doubtful else self._poll
            self._look_at = time.monotonic() + poll
            if not filled:
                self._tickets.nothing_due(heard)
        return True

    def _doubt(self, error: Exception) -> bool:
        """A claim may have come to the database, or may yet."""
        self._doubt_until = time.monotonic() + _DOUBT_SECONDS
        _log.warning("cannot claim, trying again: %s", error)
        self._stopping.wait(_RETRY_SECONDS)
        return True

    def _take(self, units: list[Unit], ahead: NewPack | None) -> None:
        """Make what was claimed ready to run: its first batch now, others as there is room."""
        self._answered_at = time.monotonic()
        self._claimed_at = max(unit.claimed_at for unit in units)
        version = self._version(units[0].model)
        self._ceilings.load(version.key)
        # After a full batch there may be more, ticket or not; after less, a ticket will say so.
        full = units[0].suspect or len(units) % version.manifest.batching.max_records == 0
        self._look_at = 0.0 if full else time.monotonic() + self._poll
        reach("claimed")
        self._ahead = units
        self._take_batch(version, ahead)

    def _take_batch(self, version: ModelVersion, ahead: NewPack | None) -> None:
        """Answer a ticket with the next batch of what was claimed, and let that wait."""
        size = version.manifest.batching.max_records
        units, self._ahead = self._ahead[:size], self._ahead[size:]
        self._batch_bytes = 1 + sum(map(_input_bytes, units))
        self.in_hand = [unit.id for unit in units]
        self._tickets.claimed(self.in_hand)
        reach("acked")
        self._prepare(units, version, ahead)
        self.in_hand = []

    def _leave_ahead(self) -> None:
        """Let it wait as it is: whoever stops this station gives back what waits."""
        self._waiting.put(
            [Item(unit, self._version(unit.model), {}, (), 0) for unit in self._ahead]
        )

    def _fill_slots(self, *, on_ticket: bool) -> bool:
        """Claim a unit for each free slot, where it is time to look; whether there was one.

        on_ticket: a ticket came, and is not for single jobs.
        """
        if not on_ticket and time.monotonic() < self._slots_at:
            return False
        self._slots_at = time.monotonic() + self._poll
        filled = False
        for line, slot in self._slots.items():
            if not slot.free():
                continue
            with self._database.single() as connection:
                units = work.claim(
                    connection,
                    self._worker,
                    self._pool,
                    line=line,
                    at_most=1,
                    # To plan, one needs no more than the version's signature.
                    excluding=self._unserved() if line == SHARDS else [],
                )
            for unit in units:
                self._claimed_at = max(self._claimed_at, unit.claimed_at)
                self._tickets.claimed([unit.id])
                slot.put(unit)
                filled = True
        return filled

    def _disown(self) -> None:
        """Give back what earlier claims took, if they went through and their answers got lost."""
        with self._database.write() as connection:
            work.disown(connection, self._worker, after=self._claimed_at)
            packs.drop(connection, list(self._doubtful))

    def _claim(self) -> tuple[list[Unit], NewPack | None]:
        """The units; and, where they were named as on the device, the pack of a single one."""
        # Not worth waiting for: the claim of a worker that is busy elsewhere can be staged later.
        at_once = self._naming.acquire(blocking=False)
        if at_once and not self._waiting.idle():
            self._naming.release()
            at_once = False
        ahead = new_pack("", 1) if at_once else None
        if ahead:
            self._doubtful.add(ahead.id)
        try:
            with self._database.single() as connection:
                units = work.claim(
                    connection,
                    self._worker,
                    self._pool,
                    several=None if at_once else self._waiting.several(_BYTES // self._batch_bytes),
                    excluding=self._unserved(),
                    at_once=ahead,
                )
            if at_once:
                self._expect([unit.id for unit in units])
        finally:
            if at_once:
                self._naming.release()
        if ahead:
            self._doubtful.discard(ahead.id)
        return units, ahead

    def _prepare(self, units: list[Unit], version: ModelVersion, ahead: NewPack | None) -> None:
        claimed = self._answered_at
        fetched = self._fetch_together(units)
        # After a slow fetch it is asked again which of them are still wanted.
        named = ahead is not None and time.monotonic() - claimed < FRESH_SECONDS
        items: list[Item] = []
        for unit in units:
            pack = replace(ahead, tenant=unit.tenant) if ahead and len(units) == 1 else None
            try:
                item = self._item(unit, version, fetched.get(unit.id), claimed)
                items.append(replace(item, named=named, pack=pack))
            except (InvalidInput, ObjectMissing, ObjectCorrupt) as error:
                self._end(unit, version, pack, Failed(error.code, str(error)))
            except (StoreUnavailable, StorageError) as error:
                # The store's fault, or its permissions': no reason to fail the job.
                _log.warning("cannot fetch the input of job %s: %s", unit.id, error)
                self._end(unit, version, pack, GiveBack(_STORE_RETRY_SECONDS))
        self._waiting.put(items)

    def _version(self, key: ModelKey) -> ModelVersion:
        while True:
            try:
                return self._catalog.get(key)
            except DatabaseUnavailable as error:
                _log.warning("cannot look %s up, trying again: %s", key, error)
                time.sleep(_RETRY_SECONDS)
                self._tick()

    def _fetch_together(self, units: list[Unit]) -> dict[JobId, bytes]:
        """Inputs that lie in one object, read at once; where that fails, each is read alone."""
        by_key: dict[str, list[tuple[JobId, int, int]]] = {}
        for unit in units:
            if unit.input_at is not None:
                key, offset, length = unit.input_at
                by_key.setdefault(key, []).append((unit.id, offset, length))
        fetched: dict[JobId, bytes] = {}
        for key, places in by_key.items():
            with suppress(StoreUnavailable, StorageError):
                data = read_pack(self._store, key, places)
                fetched |= zip((id for id, _, _ in places), data, strict=True)
        return fetched

    def _item(
        self,
        unit: Unit,
        version: ModelVersion,
        fetched: bytes | None,
        claimed: float,
    ) -> Item:
        signature = version.manifest.signature
        try:
            data = self._fetch(unit) if fetched is None else fetched
            record = signature.check(payload.decode(data))
        except ValueError as error:
            if isinstance(error, HeadraceError):
                raise
            raise InvalidInput("inputs", str(error)) from error
        left = math.inf if unit.deadline is None else unit.deadline - unit.claimed_at
        return Item(
            unit,
            version,
            record,
            signature.bucket(record),
            signature.length(record),
            deadline=claimed + left,
        )

    def _fetch(self, unit: Unit) -> bytes:
        if unit.input is not None:
            return unit.input
        if unit.input_at is None:
            raise InvalidInput("inputs", "the job has neither an input nor a place to fetch it")
        key, offset, length = unit.input_at
        return read_pack(self._store, key, [(unit.id, offset, length)])[0]

    def _end(
        self, unit: Unit, version: ModelVersion, pack: NewPack | None, outcome: Outcome | GiveBack
    ) -> None:
        item = Item(unit, version, {}, (), 0)
        ran = Ran(Batch(version, (item,), (pack,) if pack else ()), (outcome,), 0.0)
        ran.batch.staged.set()  # it announces nothing more, and never reaches the device
        while not self._to_store(ran, _TICK_SECONDS):
            self._tick()


def _input_bytes(unit: Unit) -> int:
    return len(unit.input or b"") + (unit.input_at[2] if unit.input_at else 0)
