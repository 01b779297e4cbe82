"""What runs again: of the rows of a shard, those that failed the last time."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from headrace.datasets.closing import ERRORS
from headrace.datasets.files import find, open_file
from headrace.datasets.rows import Rows
from headrace.settings import Settings
from headrace.signature import Array


def failed_rows(sealed: str, settings: Settings) -> Array:
    """The numbers of the rows in the errors file among those that a shard has sealed.

    Raises InvalidInput where it is gone, InputChanged, StoreUnavailable, StorageError.
    """
    uris = [file["uri"] for file in json.loads(sealed)]
    numbers: list[int] = []
    for uri in uris:
        if posixpath.basename(uri).startswith(ERRORS):
            (file,) = find(uri, settings)
            with open_file(file, settings) as stream:
                numbers += [json.loads(line)["row"] for line in stream]
    return np.array(numbers, dtype=np.int64)


def picked(rows: Iterator[Rows], numbers: Array) -> Iterator[Rows]:
    """Those with these numbers."""
    wanted = frozenset(numbers.tolist())
    for some in rows:
        keep = np.isin(some.numbers, numbers)
        rejects = tuple(reject for reject in some.rejects if reject.number in wanted)
        if rejects or keep.any():
            yield Rows(some.table.filter(pa.array(keep)), some.numbers[keep], rejects)
