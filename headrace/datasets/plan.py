"""Planning a dataset: find its files, check them, cut them into shards, which others run meanwhile.

A plan may end anywhere, and another goes on where it was: what it has kept stays. Files are pinned
in the order of their names, shards cut in the order of their rows, so that the last of each tells
where to go on, whatever the size they were cut to.
"""

from __future__ import annotations

import json
import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from headrace.datasets import files, shards
from headrace.datasets.closing import kept_in
from headrace.datasets.files import InputFile
from headrace.datasets.reading import Reading, reading_of
from headrace.datasets.shards import Shard
from headrace.db import closing, planning, speeds
from headrace.db.engine import Database
from headrace.db.planning import NewShard, Pinned, PlanRow
from headrace.db.shards import Fence
from headrace.errors import DatabaseUnavailable, LeaseLapsed, UnitLost
from headrace.job import JobId
from headrace.settings import Settings
from headrace.signature import Signature
from headrace.storage import ObjectStore

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")

_SHARD_SECONDS = 45.0
_PILOT_BATCHES = 64
"""How many full batches the first shard has, that measures the speed: a few seconds of work."""
_PAGE = 500
"""Files, or shards, in one transaction."""
_HEAD = 2
_FLUSH_SECONDS = 0.5
"""For how long shards that are cut may wait for others, to be kept with them."""
_LOOK_SECONDS = 0.2
_PATIENCE, _DELAY = 60.0, 10.0
"""Seconds to wait for the first shard's speed, and before somebody waits for it again."""
_RETRY_SECONDS = 1.0


class Postponed(Exception):
    """The plan is not done; in `delay` seconds somebody is to go on with it."""

    def __init__(self, delay: float) -> None:
        super().__init__(f"to go on in {delay:g} s")
        self.delay = delay


class Plan:
    """One dataset's plan. row: as `planning.plan_of` has it. batch: records in a full batch.

    ring: told of new shards. stopping: set where the plan is to end between two transactions.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        settings: Settings,
        fence: Fence,
        row: PlanRow,
        signature: Signature,
        batch: int,
        ring: Callable[[Sequence[JobId]], None],
        stopping: threading.Event,
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._fence = fence
        self._row = row
        self._signature = signature
        self._pilot = _PILOT_BATCHES * batch
        self._ring = ring
        self._stopping = stopping
        self._cut: list[NewShard] = []
        self._done: list[int] = []
        self._flush_at = 0.0
        self._rows: int | None = None
        self._look_at = 0.0

    def run(self) -> None:
        """From wherever the plan before this one got to, to the end.

        Raises Postponed; InvalidInput, InputChanged, StorageError where the dataset is to fail;
        StoreUnavailable; UnitLost, LeaseLost. It waits for a database that does not answer.
        """
        self._renew()
        # Of a later run that is all: it reads what the first has cut.
        if self._row.run == 1 and (reading := self._reading()) is not None:
            with tempfile.TemporaryDirectory(prefix="headrace-pieces-") as folder:
                for pinned, head in self._heads():
                    self._cut_file(pinned, head, reading, Path(folder))
            self._flush()
        self._write(planning.planned)

    def _renew(self) -> None:
        """Queue again what was stopped, or failed in the run before."""
        after: closing.Place | None = closing.START
        while after is not None:
            ids, after = self._write(planning.renew, self._row, after)
            self._ring(ids)

    def _reading(self) -> Reading | None:
        """How the files are read, once all are pinned and checked; None where all are empty."""
        if self._row.reading is not None:
            return Reading.from_json(self._row.reading)
        self._pin()
        for pinned in self._unplanned():
            found = shards.columns(first := _file(pinned), self._settings)
            if found.names:
                break
        else:
            return None
        reading = reading_of(self._signature, self._row.spec, found, first.uri)
        self._check_alike(first, reading)
        self._write(planning.set_reading, reading.to_json())
        return reading

    def _pin(self) -> None:
        """Keep the files that there are, but for those that a plan before this one has kept."""
        pinned = self._row.files
        found = files.each(self._row.spec.input, self._settings)
        if pinned:
            [last] = self._read(planning.unplanned, self._row.dataset, pinned - 2, 1)
            found = (file for file in found if file.uri > last.uri)
        while page := list(islice(found, _PAGE)):
            rows = [(n, file.uri, file.size, file.tag) for n, file in enumerate(page, pinned)]
            self._write(planning.add_files, rows)
            pinned += len(page)

    def _check_alike(self, first: InputFile, reading: Reading) -> None:
        """Before anything runs. Raises InvalidInput, of the first file that is not."""

        def check(pinned: Pinned) -> None:
            if not self._stopping.is_set():
                shards.check_alike(_file(pinned), first, reading.schema, self._settings)

        with ThreadPoolExecutor(self._settings.io_threads) as pool:
            every = self._unplanned()
            while page := list(islice(every, _PAGE)):
                list(pool.map(check, page))
                self._pause(0.0)

    def _heads(self) -> Iterator[tuple[Pinned, list[Shard]]]:
        """The files with shards still to cut, and at most the first `_HEAD` of each.

        Those are cut several files at once: of many small ones it is where the time goes.
        """

        def head(pinned: Pinned) -> list[Shard]:
            if pinned.last is not None or not shards.in_place(_file(pinned)):
                return []
            cut = shards.cut(_file(pinned), size or self._pilot, self._settings)
            found = list(islice(cut, _HEAD))
            return [] if size is None and len(found) == _HEAD else found

        with ThreadPoolExecutor(self._settings.io_threads) as pool:
            every = self._unplanned()
            while page := list(islice(every, 4 * self._settings.io_threads)):
                size = self._shard_rows()
                yield from zip(page, pool.map(head, page), strict=True)

    def _cut_file(self, pinned: Pinned, head: list[Shard], reading: Reading, folder: Path) -> None:
        """Cut what is not cut of a file; head: its first shards."""
        file, first, behind = _file(pinned), 0, None
        if (last := pinned.last) is not None:
            first = last.number + 1
            behind = Shard(file, last.first, last.rows, last.start, last.stop)
        elif head:
            behind = head[-1]
        rest = () if 0 < len(head) < _HEAD else self._shards(file, behind, reading, folder)
        for number, shard in enumerate(chain(head, rest), first):
            self._keep(pinned.number, number, shard)
        self._done.append(pinned.number)
        self._flush_if_due()

    def _shards(
        self, file: InputFile, behind: Shard | None, reading: Reading, folder: Path
    ) -> Iterator[Shard]:
        """Those of a file; where nobody knows the speed, first one that is run to measure it."""

        def cut(size: int) -> Iterator[Shard]:
            if shards.in_place(file):
                return shards.cut(file, size, self._settings, behind)
            return shards.lay_down(file, reading.schema, size, folder, self._settings, behind)

        size = self._shard_rows()
        if size is None and behind is None:
            pilot = list(islice(cut(self._pilot), 2))
            yield from pilot[:1]
            if len(pilot) < 2:
                return
            behind = pilot[0]
        yield from cut(size or self._measured())

    def _shard_rows(self) -> int | None:
        """How many rows take some 45 s, as far as is known; or as many as was asked for."""
        if self._row.spec.shard_rows is not None:
            return self._row.spec.shard_rows
        if time.monotonic() > self._look_at:
            speed = self._read(speeds.get, self._row.model)
            self._rows = None if speed is None else max(1, round(_SHARD_SECONDS * speed))
            self._look_at = time.monotonic() + _LOOK_SECONDS
        return self._rows

    def _measured(self) -> int:
        """The same, once a shard has run; nobody plans far ahead of what nobody runs."""
        self._flush()
        give_up = time.monotonic() + _PATIENCE
        while (rows := self._shard_rows()) is None:
            if time.monotonic() > give_up:
                raise Postponed(_DELAY)
            if self._read(planning.plan_of, self._fence.job) is None:
                raise UnitLost(f"the dataset that job {self._fence.job} is the plan of has ended")
            self._pause(_LOOK_SECONDS)
        return rows

    def _keep(self, file: int, number: int, shard: Shard) -> None:
        piece = None
        if shard.piece is not None:
            piece = json.dumps(asdict(self._stored(file, number, Path(shard.piece.uri))))
        self._cut.append(
            NewShard(file, number, shard.first, shard.rows, shard.start, shard.stop, piece)
        )
        self._flush_if_due()

    def _stored(self, file: int, number: int, piece: Path) -> InputFile:
        """A piece where every worker finds it, at a key that no plan before this one has used."""
        name = f"{file:05d}-{number:05d}-{secrets.token_hex(8)}.parquet"
        key = f"{kept_in(self._row.dataset)}pieces/{name}"
        self._store.put_file(key, piece)
        piece.unlink()
        [stored] = files.find(f"{self._store.url}/{key}", self._settings)
        return stored

    def _flush_if_due(self) -> None:
        if len(self._cut) + len(self._done) >= _PAGE or time.monotonic() > self._flush_at:
            self._flush()

    def _flush(self) -> None:
        """Keep what is cut, and have it run."""
        if self._cut or self._done:
            self._ring(self._write(planning.add, self._row, self._cut, self._done))
            self._cut, self._done = [], []
        self._flush_at = time.monotonic() + _FLUSH_SECONDS

    def _unplanned(self) -> Iterator[Pinned]:
        """The files with shards still to cut, which are never all in memory."""
        after = -1
        while page := self._read(planning.unplanned, self._row.dataset, after, _PAGE):
            yield from page
            after = page[-1].number

    def _write(
        self,
        change: Callable[Concatenate[sa.Connection, Fence, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """A transaction, tried until the database answers."""
        while True:
            self._pause(0.0)
            try:
                with self._database.write() as connection:
                    return change(connection, self._fence, *args, **kwargs)
            except (DatabaseUnavailable, LeaseLapsed) as error:
                _log.warning("cannot go on planning, trying again: %s", error)
                self._pause(_RETRY_SECONDS)

    def _read(
        self,
        question: Callable[Concatenate[sa.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        while True:
            self._pause(0.0)
            try:
                return self._database.ask(lambda connection: question(connection, *args, **kwargs))
            except DatabaseUnavailable as error:
                _log.warning("cannot go on planning, trying again: %s", error)
                self._pause(_RETRY_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Raises Postponed once the plan is to stop."""
        if self._stopping.wait(seconds):
            raise Postponed(0.0)


def _file(pinned: Pinned) -> InputFile:
    return InputFile(pinned.uri, pinned.size, pinned.tag)
