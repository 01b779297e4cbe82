"""One shard on its way through the worker: read ahead, run block by block, written behind."""

from __future__ import annotations

import heapq
import itertools
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from random import Random

import numpy as np

from headrace.db.shards import ShardRow
from headrace.db.units import Unit
from headrace.errors import HeadraceError
from headrace.job import Done, Failed, JobId, Outcome, Retry
from headrace.runtimes.collated import Answer, collate
from headrace.settings import Settings
from headrace.signature import Array
from workers.ahead import ReadAhead, Source
from workers.copies import Copies
from workers.faults import reach
from workers.flow import Block, as_text
from workers.forming import formed
from workers.parts import Parts, Written
from workers.shifts import Shifts
from workers.trail import Trail
from workers.turns import Turns
from workers.window import Window

_LOOK_SECONDS = 0.1
_CODE, _MESSAGE = 64, 4000
"""Characters of what a model says of a record that are kept."""

_Result = Answer | list[Outcome | None] | HeadraceError
_Message = Window | tuple[Window | None, Array, _Result] | BaseException | None
_NO_ROWS = np.empty(0, dtype=np.int64)


class Unserved(Exception):  # a condition of this worker, not of the shard
    """The model does not run here."""


class Quarantined(Exception):  # a verdict on the shard
    """It killed worker after worker, and none of its records is known to have."""

    def __init__(self, deaths: int) -> None:
        super().__init__(
            f"{deaths} workers died while they read this shard, or loaded its model for it"
        )


class ShardRun:
    """Runs a shard, in the thread that calls `run`, beside another that reads.

    ceiling: see `forming.formed`. look: called every tenth of a second with the records that are
    done; what it raises ends the run. mark: of a suspect, keeps which rows go onto the device.
    reading: around what the thread that reads does with rows, which may be what kills.

    A shard that is no suspect has its blocks formed by the reader, for a device that never waits.
    A suspect has one row, or block, at a time on the device, and nothing is read meanwhile: if the
    worker dies it is known of what.
    """

    def __init__(
        self,
        row: ShardRow,
        unit: Unit,
        source: Source,
        settings: Settings,
        *,
        turns: Turns,
        ceiling: Callable[[], int | None],
        shifts: dict[str, Shifts],
        look: Callable[[int], None],
        mark: Callable[[str], None],
        reading: Callable[[JobId], AbstractContextManager[None]],
    ) -> None:
        self._row = row
        self._unit = unit
        self._source = source
        self._manifest = source.version.manifest
        self._settings = settings
        self._turns = turns
        self._ceiling = ceiling
        self._shifts = shifts["write"]
        self._look_at = 0.0
        self._looked = look
        self._mark = mark
        self._trail = Trail(row.trail) if unit.suspect else None
        self._copies = Copies() if row.spec.dedupe else None
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._ahead = ReadAhead(
            source,
            settings,
            shifts["read"],
            self._read,
            around=lambda: reading(unit.id),
            alone=unit.suspect,
        )
        self._windows: deque[Window] = deque()
        self._all_read = False
        self._done = 0
        # Of a suspect: what is to run, block by block, and whether one does.
        self._blocks: deque[tuple[Window, Array, Array]] = deque()
        self._one_runs = False
        # Rows to run again: when, and of which window.
        self._later: list[tuple[float, int, Window, int]] = []
        self._order = itertools.count()
        self._tries: Counter[tuple[int, int]] = Counter()
        self._random = Random()

    def run(self) -> Written:
        """Raises Unserved, Quarantined, and what reading, writing, `look` and `mark` raise."""
        row, source = self._row, self._source
        signature = self._manifest.signature
        parts = Parts(row, signature, source.reading, self._settings, self._look)
        self._turns.admit(self._unit.id)
        try:
            with parts, self._copies or nullcontext():
                if self._trail is not None:
                    if self._trail.nowhere >= self._settings.quarantine_after:
                        raise Quarantined(self._trail.nowhere)
                    self._load_alone(self._trail)
                self._ahead.start()
                while not (self._all_read and not self._windows):
                    self._step(parts)
                reach("shard_written")
                return parts.seal(duplicates=self._copies.count if self._copies else 0)
        finally:
            self._ahead.stop()
            self._turns.revoke(self._unit.id)

    def _step(self, parts: Parts) -> None:
        self._look()
        self._run_again()
        if self._trail is not None and self._blocks and not self._one_runs:
            self._run_one(self._trail, *self._blocks.popleft())
        due = self._later[0][0] - time.monotonic() if self._later else _LOOK_SECONDS
        try:
            with self._shifts.input():
                message = self._inbox.get(timeout=min(max(due, 0.0), _LOOK_SECONDS))
        except queue.Empty:
            return
        with self._shifts.busy():
            self._take(message)
            while self._windows and not self._windows[0].left:
                window = self._windows.popleft()
                if self._copies is not None:
                    self._copies.fill(window)
                parts.write(window)
                self._done += len(window.records) + len(window.records.rejects)
                if self._trail is not None:
                    self._mark(self._trail.text(()))
                self._ahead.wrote()

    def _take(self, message: _Message) -> None:
        match message:
            case None:
                self._all_read = True
            case Window():
                self._windows.append(message)
                if self._trail is not None:
                    self._apart(self._trail, message)
            case BaseException():
                raise message
            case window, rows, result:
                self._one_runs = False
                self._put_in_place(window, rows, result)

    def _look(self) -> None:
        if time.monotonic() >= self._look_at:
            self._looked(self._done)
            self._look_at = time.monotonic() + _LOOK_SECONDS

    def _read(self, message: Window | BaseException | None) -> None:
        """By the thread that reads."""
        if isinstance(message, Window) and self._trail is None:
            rows = self._to_run(message)
            self._inbox.put(message)
            self._feed(message, rows)
        else:
            self._inbox.put(message)

    def _to_run(self, window: Window) -> Array:
        if self._copies is not None:
            return self._copies.originals(window)
        return np.arange(len(window.records))

    def _feed(self, window: Window, rows: Array) -> None:
        for some, lengths in self._formed(window, rows):
            self._turns.put_blocks([self._block(window, some, lengths)])

    def _formed(self, window: Window, rows: Array) -> Iterable[tuple[Array, Array]]:
        signature, batching = self._manifest.signature, self._manifest.batching
        return formed(signature, batching, window.records.inputs, rows, self._ceiling())

    def _block(self, window: Window, rows: Array, lengths: Array) -> Block:
        inputs, by_record = self._manifest.signature.inputs, self._manifest.format == "python"
        return Block(
            self._unit.id,
            self._source.version,
            self._unit.priority,
            lengths,
            None if by_record else collate(inputs, window.inputs(rows)),
            lambda: [window.records.record(row) for row in rows],
            lambda result: self._inbox.put((window, rows, result)),
        )

    def _put_in_place(self, window: Window | None, rows: Array, result: _Result) -> None:
        match result:
            case HeadraceError():
                raise Unserved(str(result)) from result
            case Answer() if window is not None:
                window.place(rows, result)
            case list() if window is not None:
                done = [row for row, o in zip(rows, result, strict=True) if isinstance(o, Done)]
                window.done(np.array(done, np.int64), [o for o in result if isinstance(o, Done)])
                for row, outcome in zip(rows, result, strict=True):
                    if not isinstance(outcome, Done):
                        self._without_result(window, int(row), outcome)

    def _without_result(self, window: Window, row: int, outcome: Failed | Retry | None) -> None:
        retry, delay = self._manifest.retry, self._manifest.retry.delay
        if isinstance(outcome, Retry):
            place, attempts = (window.number, row), retry.attempts or self._settings.max_attempts
            self._tries[place] += 1
            tried = self._tries[place]
            if tried >= attempts:
                told = f"attempt {tried} of {attempts}: {outcome.message}"
                outcome = Failed("retries_exhausted", told)
            elif outcome.delay is None:
                delay = retry.backoff(tried, self._random)
            else:
                delay = min(max(outcome.delay, 0.0), retry.max_delay)
        if isinstance(outcome, Failed):
            code, message = as_text(outcome.code, _CODE), as_text(outcome.message, _MESSAGE)
            window.fail(row, Failed(code, message))
        else:
            due = time.monotonic() + delay
            heapq.heappush(self._later, (due, next(self._order), window, row))

    def _run_again(self) -> None:
        due: dict[Window, list[int]] = {}
        while self._later and self._later[0][0] <= time.monotonic():
            *_, window, row = heapq.heappop(self._later)
            due.setdefault(window, []).append(row)
        for window, rows in due.items():
            if self._trail is None:
                self._feed(window, np.array(sorted(rows)))
            else:
                self._blocks.extend(
                    (window, *some) for some in self._formed(window, np.array(rows))
                )

    # A suspect

    def _load_alone(self, trail: Trail) -> None:
        """Have the model loaded while no row is on the device."""
        self._mark(trail.text(()))
        self._turns.put_blocks(
            [
                Block(
                    self._unit.id,
                    self._source.version,
                    self._unit.priority,
                    _NO_ROWS,
                    None,
                    list,
                    lambda result: self._inbox.put((None, _NO_ROWS, result)),
                )
            ]
        )
        self._one_runs = True

    def _apart(self, trail: Trail, window: Window) -> None:
        """Rows under suspicion run one by one, and not at all where they killed too often."""
        rows, numbers = self._to_run(window), window.records.numbers
        apart = np.isin(numbers[rows], list(trail.apart))
        for row in rows[apart]:
            deaths = trail.deaths(int(numbers[row]))
            if deaths >= self._settings.quarantine_after:
                told = f"{deaths} workers died with this record alone on the device"
                window.fail(int(row), Failed("quarantined", told))
            else:
                one = np.array([row])
                self._blocks.extend((window, *some) for some in self._formed(window, one))
        rest = self._formed(window, rows[~apart]) if not apart.all() else ()
        self._blocks.extend((window, *some) for some in rest)

    def _run_one(self, trail: Trail, window: Window, rows: Array, lengths: Array) -> None:
        self._mark(trail.text(window.records.numbers[rows].tolist()))
        self._one_runs = True
        self._turns.put_blocks([self._block(window, rows, lengths)])
