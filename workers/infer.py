"""Third station: the one thread that owns the device."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from headrace import runtimes
from headrace.errors import HeadraceError, PackageError
from headrace.job import Failed, JobId, Outcome
from headrace.registry.manifest import ModelVersion
from headrace.runtimes.collated import Answer
from headrace.runtimes.isolation import DevicePoisoned, Isolation, poisons
from headrace.signature import Record
from workers.ceilings import Ceilings
from workers.faults import reach
from workers.flow import FRESH_SECONDS, Batch, Block, GiveBack, Ran
from workers.progress import Progress
from workers.residents import Residents
from workers.shifts import Shifts
from workers.turns import Turns
from workers.waiting import Waiting

_log = logging.getLogger(__name__)
_LOAD_SECONDS = 900.0
_UNSERVED_DELAY = 10.0
_UNSERVED_BOUND = 600.0
"""A job that no worker could serve for this many seconds fails with the reason."""


class Infer:
    """Runs batches, and blocks, one after the other. to_store: takes batches that ran.

    still_wanted: a batch without what was cancelled, or ran out of time, since it was put here.
    in_hand: what it is at. other_seconds: of all but blocks, ever: of batches of single jobs, and
    of the loading of models, which tells nothing of their speed.
    """

    def __init__(
        self,
        *,
        residents: Residents,
        waiting: Waiting,
        turns: Turns,
        progress: Progress,
        to_store: Callable[[Ran], object],
        ceilings: Ceilings,
        still_wanted: Callable[[Batch], Batch],
    ) -> None:
        self._residents = residents
        self._waiting = waiting
        self._turns = turns
        self._progress = progress
        self._to_store = to_store
        self._ceilings = ceilings
        self._still_wanted = still_wanted
        self._inside: list[Batch] = []
        self._expected: list[JobId] = []
        self._shard: list[JobId] = []
        self._warm_up: tuple[Sequence[ModelVersion], Callable[[], None]] | None = None
        self._lock = threading.Lock()
        self._refusing = False
        self.in_hand: list[JobId] = []
        self.other_seconds = 0.0
        self.shifts = Shifts()

    def shard(self, job: JobId | None) -> None:
        """Blocks of this shard may come from now on; None: no more."""
        with self._lock:
            self._shard = [] if job is None else [job]

    def expect(self, ids: list[JobId]) -> None:
        """These come next: their claim has named them as on the device."""
        with self._lock:
            self._expected = ids

    def put(self, batch: Batch) -> None:
        """Run this batch next; `Waiting` bounds how many come. Called by one thread."""
        with self._lock:
            self._expected = [id for id in self._expected if id not in batch.ids]
            self._inside.append(batch)
        self._turns.put(batch)

    def on_device(self) -> list[JobId]:
        """The jobs that are on the device, or next in line for it."""
        with self._lock:
            staged = [id for batch in self._inside for id in batch.ids]
            return staged + self._expected + self._shard

    def refuse(self) -> None:
        """From now on give back what has not begun."""
        self._refusing = True

    def stop(self) -> None:
        """End after what is in line."""
        self._turns.stop()

    def warm_up_first(self, versions: Sequence[ModelVersion], warm: Callable[[], None]) -> None:
        """Load and check models before any batch, as far as the budget goes; then call `warm`."""
        self._warm_up = (versions, warm)

    def step(self) -> bool:
        """Run one batch or block."""
        if self._warm_up is not None:
            self._load_first(*self._warm_up)
            self._warm_up = None
        with self.shifts.input():
            turn = self._turns.next()
        match turn:
            case None:
                return False
            case Block():
                self._run_block(turn)
            case batch, since:
                self._run_batch(batch, since)
        return True

    def _run_batch(self, batch: Batch, since: float) -> None:
        if time.monotonic() - since > FRESH_SECONDS:
            batch = self._still_wanted(batch)
        if self._refusing or not batch.items:
            self._leave(batch, (GiveBack(0.0),) * len(batch.items), None)
            return
        # Also while its model is loaded, which may kill too.
        self.in_hand = batch.ids
        self._progress.begin(self.in_hand)
        try:
            model = self._model(batch.version)
        except HeadraceError as error:
            _log.error("cannot serve %s: %s", batch.version.key, error)
            self._leave(batch, _unserved(batch, error), None)
            return
        self._waiting.started()
        started = time.monotonic()
        records = [item.record for item in batch.items]
        lengths = [item.length for item in batch.items]
        later = GiveBack(batch.version.manifest.retry.delay)
        outcomes = self._one_by_one(model, batch.version, records, lengths)
        seconds = time.monotonic() - started
        self.other_seconds += seconds
        self._leave(batch, tuple(later if o is None else o for o in outcomes), seconds)

    def _run_block(self, block: Block) -> None:
        if self._refusing:
            return  # its shard is given back
        self.in_hand = [block.job]
        self._progress.begin(self.in_hand)
        try:
            model = self._model(block.version)
        except HeadraceError as error:
            block.ran(error)
        else:
            # One without records is for the loading alone.
            lengths = block.lengths.tolist()
            answer = self._as_one(model, block) if lengths else Answer({}, {})
            block.ran(answer or self._one_by_one(model, block.version, block.records(), lengths))
        self._progress.end()
        self.in_hand = []

    def _as_one(self, model: runtimes.Model, block: Block) -> Answer | None:
        """None: its records are to be looked at one by one."""
        if block.batch is None or not isinstance(model, runtimes.TensorsModel):
            return None
        batching = block.version.manifest.batching
        try:
            with self.shifts.busy(), self._progress.device(batching.time_limit):
                reach("on_device")
                answer = model.infer_batch(block.batch)
        except Exception as error:  # noqa: BLE001  # a model may raise anything
            _log.debug("a block of %s runs record by record: %s", block.version.key, error)
            return None
        longest = int(block.lengths.max())
        self._ceilings.ran(
            block.version.key,
            fitted=len(block.lengths) * longest,
            longest=longest,
            most=batching.max_tokens or batching.max_records * longest,
            overflow=None,
        )
        return answer

    def _one_by_one(
        self,
        model: runtimes.Model,
        version: ModelVersion,
        records: Sequence[Record],
        lengths: Sequence[int],
    ) -> list[Outcome | None]:
        """An outcome for each record, None for what is left for later. Raises DevicePoisoned."""
        manifest = version.manifest

        def infer(records: Sequence[Record]) -> Sequence[Outcome]:
            with self._progress.device(manifest.batching.time_limit):
                reach("on_device")
                return model.infer(records)

        isolation = Isolation(infer, records, lengths, manifest.retry.passes)
        with self.shifts.busy():
            outcomes = isolation.run()
        self._ceilings.ran(
            version.key,
            fitted=isolation.fitted,
            longest=max(lengths),
            most=manifest.batching.max_tokens or manifest.batching.max_records * max(lengths),
            overflow=isolation.overflow,
        )
        return outcomes

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
        started = time.monotonic()
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
        finally:
            self.other_seconds += time.monotonic() - started

    def _leave(
        self, batch: Batch, outcomes: tuple[Outcome | GiveBack, ...], seconds: float | None
    ) -> None:
        self._progress.end()
        self.in_hand = []
        self._waiting.ended(seconds)
        with self._lock:
            del self._inside[0]
        with self.shifts.room():
            more = not self._waiting.idle()
            self._to_store(Ran(batch, outcomes, seconds or 0.0, more))


def _unserved(batch: Batch, error: HeadraceError) -> tuple[Outcome | GiveBack, ...]:
    """Elsewhere, later; or, for a job that was waiting for long, failed with the reason."""
    return tuple(
        Failed("model_unserved", str(error))
        if item.unit.claimed_at - item.unit.created_at > _UNSERVED_BOUND
        else GiveBack(_UNSERVED_DELAY)
        for item in batch.items
    )
