"""The thread that reads a shard ahead of the device: rows, then windows of records to run."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from headrace.datasets import columns, shards
from headrace.datasets.fetching import Fetching
from headrace.datasets.picking import picked
from headrace.datasets.reading import Reading
from headrace.registry.manifest import ModelVersion
from headrace.settings import Settings
from headrace.signature import Array
from workers.shifts import Shifts
from workers.window import Window

_WINDOW_BYTES = 32 * 1024 * 1024
"""Of inputs, in a window of records that are large."""
_AHEAD = 4
"""Windows that are read and not yet written."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is read. only: the numbers of the rows to run, where not all are; fetch: the fields
    whose column holds the path of a file.
    """

    shard: shards.Shard
    reading: Reading
    version: ModelVersion
    only: Array | None = None
    fetch: tuple[str, ...] = ()


class ReadAhead:
    """Gives windows to `take`, in order, as fast as `wrote` makes room for them.

    take: gets each window, and at last None, or what reading raised. alone: one window at a time,
    so that nothing is read while records run. around: whatever is done with rows.
    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        shifts: Shifts,
        take: Callable[[Window | BaseException | None], None],
        *,
        around: Callable[[], AbstractContextManager[None]],
        alone: bool = False,
    ) -> None:
        self._source = source
        self._settings = settings
        self._shifts = shifts
        self._take = take
        self._around = around
        self._room = threading.Semaphore(1 if alone else _AHEAD)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wrote(self) -> None:
        """A window is done with."""
        self._room.release()

    def stop(self) -> None:
        """Read no further. Does not wait for a read that is under way."""
        self._stopping = True
        self._room.release()

    def _run(self) -> None:
        try:
            windows = self._windows()
            while True:
                with self._shifts.room():
                    self._room.acquire()
                if self._stopping:
                    return
                with self._shifts.busy(), self._around():
                    window = next(windows, None)
                    self._take(window)
                if window is None:
                    return
        except BaseException as error:  # noqa: BLE001  # the shard's station judges it
            self._take(error)

    def _windows(self) -> Iterator[Window]:
        source, settings = self._source, self._settings
        signature = source.version.manifest.signature
        # What is fetched may be large.
        most = 1 if source.fetch else settings.shard_window
        size = window_size(source.version, most)
        rows = shards.read(source.shard, source.reading.schema, settings, size)
        if source.only is not None:
            rows = picked(rows, source.only)
        with Fetching(source.reading.columns, source.fetch, settings) as fetching:
            for number, some in enumerate(shards.windows(rows, size, _WINDOW_BYTES)):
                records = columns.convert(signature, fetching.columns, fetching.fetched(some))
                yield Window(number, records, signature.outputs)


def window_size(version: ModelVersion, most: int) -> int:
    """Records to read at a time: whole batches, some `most`, fewer where they are large."""
    batch = version.manifest.batching.max_records
    record = sum(
        math.prod(dim for dim in field.shape if isinstance(dim, int))
        * np.dtype(field.dtype).itemsize
        for field in version.manifest.signature.inputs
        if field.is_tensor
    )
    fitting = min(most, _WINDOW_BYTES // max(1, record))
    return max(1, fitting // batch) * batch
