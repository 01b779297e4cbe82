"""Third station: the one thread that owns the device."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from headrace import runtimes
from headrace.errors import HeadraceError, PackageError
from headrace.job import Failed, JobId, Outcome
from headrace.registry.manifest import ModelVersion
from headrace.runtimes.isolation import DevicePoisoned, Isolation, poisons
from headrace.signature import Record
from workers.ceilings import Ceilings
from workers.faults import reach
from workers.flow import FRESH_SECONDS, Batch, GiveBack, Ran
from workers.progress import Progress
from workers.residents import Residents
from workers.waiting import Waiting

_log = logging.getLogger(__name__)
_LOAD_SECONDS = 900.0
_UNSERVED_DELAY = 10.0
_UNSERVED_BOUND = 600.0
"""A job that no worker could serve for this many seconds fails with the reason."""


class Infer:
    """Runs batches one after the other. to_store: takes what ran. in_hand: what it is at.

    still_wanted: a batch without what was cancelled, or ran out of time, since it was put here.
    """

    def __init__(
        self,
        *,
        residents: Residents,
        waiting: Waiting,
        progress: Progress,
        to_store: Callable[[Ran], object],
        ceilings: Ceilings,
        still_wanted: Callable[[Batch], Batch],
    ) -> None:
        self._residents = residents
        self._waiting = waiting
        self._progress = progress
        self._to_store = to_store
        self._ceilings = ceilings
        self._still_wanted = still_wanted
        self._batches: queue.SimpleQueue[tuple[Batch, float] | None] = queue.SimpleQueue()
        self._inside: list[Batch] = []
        self._expected: list[JobId] = []
        self._warm_up: tuple[Sequence[ModelVersion], Callable[[], None]] | None = None
        self._lock = threading.Lock()
        self._refusing = False
        self.in_hand: list[JobId] = []

    def expect(self, ids: list[JobId]) -> None:
        """These come next: their claim has named them as on the device."""
        with self._lock:
            self._expected = ids

    def put(self, batch: Batch) -> None:
        """Run this batch next; `Waiting` bounds how many come. Called by one thread."""
        with self._lock:
            self._expected = [id for id in self._expected if id not in batch.ids]
            self._inside.append(batch)
        self._batches.put((batch, time.monotonic()))

    def on_device(self) -> list[JobId]:
        """The jobs that are on the device, or next in line for it."""
        with self._lock:
            return [id for batch in self._inside for id in batch.ids] + self._expected

    def refuse(self) -> None:
        """From now on give back what has not begun."""
        self._refusing = True

    def stop(self) -> None:
        """End after what is in line."""
        self._batches.put(None)

    def warm_up_first(self, versions: Sequence[ModelVersion], warm: Callable[[], None]) -> None:
        """Load and check models before any batch, as far as the budget goes; then call `warm`."""
        self._warm_up = (versions, warm)

    def step(self) -> bool:
        """Run one batch."""
        if self._warm_up is not None:
            self._load_first(*self._warm_up)
            self._warm_up = None
        if (put := self._batches.get()) is None:
            return False
        batch, since = put
        if time.monotonic() - since > FRESH_SECONDS:
            batch = self._still_wanted(batch)
        if self._refusing or not batch.items:
            self._leave(batch, (GiveBack(0.0),) * len(batch.items), None)
            return True
        # Also while its model is loaded, which may kill too.
        self.in_hand = batch.ids
        self._progress.begin(self.in_hand)
        try:
            model = self._model(batch.version)
        except HeadraceError as error:
            _log.error("cannot serve %s: %s", batch.version.key, error)
            self._leave(batch, _unserved(batch, error), None)
            return True
        self._waiting.started()
        started = time.monotonic()
        outcomes = self._run(model, batch)
        self._leave(batch, outcomes, time.monotonic() - started)
        return True

    def _run(self, model: runtimes.Model, batch: Batch) -> tuple[Outcome | GiveBack, ...]:
        """Raises DevicePoisoned."""
        manifest = batch.version.manifest

        def infer(records: Sequence[Record]) -> Sequence[Outcome]:
            with self._progress.device(manifest.batching.time_limit):
                reach("on_device")
                return model.infer(records)

        lengths = [item.length for item in batch.items]
        records = [item.record for item in batch.items]
        isolation = Isolation(infer, records, lengths, manifest.retry.passes)
        outcomes = isolation.run()
        self._ceilings.ran(
            batch.version.key,
            fitted=isolation.fitted,
            longest=max(lengths),
            most=manifest.batching.max_tokens or manifest.batching.max_records * max(lengths),
            overflow=isolation.overflow,
        )
        later = GiveBack(manifest.retry.delay)
        return tuple(later if outcome is None else outcome for outcome in outcomes)

    def _load_first(self, versions: Sequence[ModelVersion], warm: Callable[[], None]) -> None:
        """A version that cannot be served is logged and left: its jobs wait for a better worker."""
        for version in versions:
            if not self._residents.fits(1):
                break
            try:
                self._model(version)
            except HeadraceError as error:
                _log.error("cannot serve %s: %s", version.key, error)
        warm()

    def _model(self, version: ModelVersion) -> runtimes.Model:
        """Raises HeadraceError where it cannot be served, DevicePoisoned."""
        try:
            with self._progress.device(_LOAD_SECONDS):
                return self._residents.get(version)
        except HeadraceError:
            raise
        except Exception as error:  # a handler or a framework may raise anything
            if poisons(error):
                raise DevicePoisoned(str(error)) from error
            problem = f"does not load ({type(error).__name__}: {error})"
            raise PackageError(str(version.key), problem) from error

    def _leave(
        self, batch: Batch, outcomes: tuple[Outcome | GiveBack, ...], seconds: float | None
    ) -> None:
        self._progress.end()
        self.in_hand = []
        self._waiting.ended(seconds)
        with self._lock:
            del self._inside[0]
        self._to_store(Ran(batch, outcomes, seconds or 0.0))


def _unserved(batch: Batch, error: HeadraceError) -> tuple[Outcome | GiveBack, ...]:
    """Elsewhere, later; or, for a job that was waiting for long, failed with the reason."""
    return tuple(
        Failed("model_unserved", str(error))
        if item.unit.claimed_at - item.unit.created_at > _UNSERVED_BOUND
        else GiveBack(_UNSERVED_DELAY)
        for item in batch.items
    )
