"""Datasets that keep a pool busy, one after the other, until the producer is told to stop."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from headrace import Client
from headrace.dataset import DatasetId, DatasetState
from headrace.db.dataset_tables import datasets
from headrace.errors import DatabaseUnavailable
from tests.chaos.files import Row, files
from tests.chaos.places import Place
from tests.chaos.rig import MODEL, Late, Rig

_AHEAD = 2
"""Datasets that are not closed, at most, for the producer to go on."""
_SHARD_ROWS = 40
_PAUSE = 0.05
_TWICE_ONE_IN = 3
_CANCEL_ONE_IN, _CANCEL_AFTER = 4, 10.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Submitted:
    """A dataset. rows: by URI of their file and number in it. output: where it writes.

    cancelled: somebody thought better of it while it ran.
    """

    rows: Mapping[tuple[str, int], Row]
    output: Place
    cancelled: bool


class Datasets:
    """A producer of datasets, of three files each, in one format after the other.

    It goes on until `finish`, and until there are `least` rows. Now and then a call is made again,
    as by a producer that crashed, or a dataset is cancelled, to go on later or not. submitted: by
    id. rows: of all.
    """

    def __init__(self, rig: Rig, seed: int, least: int, poison: Mapping[str, int]) -> None:
        self._rig = rig
        self._seed = seed
        self._least = least
        self._poison = poison
        self._stopping = threading.Event()
        self._aborted = threading.Event()
        self.submitted: dict[DatasetId, Submitted] = {}
        self.rows = 0
        self.errors: list[str] = []
        self._client = Client(transport=rig.service())
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._thread.start()

    def finish(self, timeout: float) -> None:
        """Have the producer come to an end. Raises Late."""
        self._stopping.set()
        self._thread.join(timeout)
        self._rig.problems += [f"the producer of datasets failed: {said}" for said in self.errors]
        if self._thread.is_alive():
            raise Late(f"not within {timeout:g} s: the producer of datasets is done")

    def abort(self) -> None:
        """Leave everything as it is."""
        self._aborted.set()
        self._thread.join(5)

    def open(self) -> list[DatasetId]:
        """Those that are not closed."""
        with self._rig.database.read() as connection:
            found = sa.select(datasets.c.id).where(datasets.c.closed_at.is_(None))
            return [DatasetId(id) for id in connection.execute(found).scalars()]

    def _produce(self) -> None:
        try:
            while not self._aborted.is_set():
                if self._stopping.is_set() and self.rows >= self._least:
                    return
                if not self._wants_more():
                    time.sleep(_PAUSE)
                    continue
                self._submit(len(self.submitted))
        except BaseException:  # noqa: BLE001  # reported by `finish`
            self.errors.append(traceback.format_exc())

    def _wants_more(self) -> bool:
        try:
            return len(self.open()) < _AHEAD
        except DatabaseUnavailable:
            return False

    def _submit(self, number: int) -> None:
        source, output = (self._rig.place(f"{number:03d}/{name}") for name in ("in", "out"))
        rows: dict[tuple[str, int], Row] = {}
        for file in files(str(self._seed), number, self._poison):
            source.write(file.name, file.data)
            rows |= {(f"{source.uri}/{file.name}", at): row for at, row in file.rows.items()}
        id = self._call(source, output)
        if id is None:
            return
        cancelled = number % _CANCEL_ONE_IN == 1 and self._cancel(id)
        if number % (2 * _CANCEL_ONE_IN) == 1 or number % _TWICE_ONE_IN == 0:
            self._again(id, source, output)
            cancelled = False
        self.submitted[id] = Submitted(rows, output, cancelled)
        self.rows += len(rows)

    def _again(self, id: DatasetId, source: Place, output: Place) -> None:
        again = self._call(source, output)
        if again not in (id, None):
            self._rig.problems.append(f"a dataset submitted twice was made twice: {id}, {again}")

    def _cancel(self, id: DatasetId) -> bool:
        """In the middle of it, if it is not over by then; whether it was not."""
        end = time.monotonic() + _CANCEL_AFTER
        while self._tried(lambda: self._client.dataset(id).done) == 0 and time.monotonic() < end:
            time.sleep(_PAUSE)
        self._tried(lambda: self._client.cancel_dataset(id))
        return self._tried(lambda: self._client.dataset(id).state) == DatasetState.CANCELLED

    def _call(self, source: Place, output: Place) -> DatasetId | None:
        return self._tried(
            lambda: self._client.submit_dataset(
                MODEL, f"{source.uri}/*", output=output.uri, carry=["n"], shard_rows=_SHARD_ROWS
            )
        )

    def _tried(self, call: Callable[[], _T]) -> _T | None:
        """For a producer who takes no failure for an answer."""
        while not self._aborted.is_set():
            try:
                return call()
            except DatabaseUnavailable:
                time.sleep(_PAUSE)
        return None
