"""Parquet files for the models that are measured, written a row group at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import encoder, model

_GROUP = 10_000
Column = Callable[[np.random.Generator, int], pa.Array]
"""So many rows of a model's input."""


def images(rng: np.random.Generator, count: int) -> pa.Array:
    """Rows of 784 values, for the MLP."""
    flat = rng.random(count * model.INPUT, dtype=np.float32)
    offsets = np.arange(count + 1, dtype=np.int32) * model.INPUT
    return pa.ListArray.from_arrays(offsets, flat)


def texts(rng: np.random.Generator, count: int) -> pa.Array:
    """Rows of tokens, for the encoder."""
    return pa.array(encoder.texts(rng, count), pa.list_(pa.int64()))


def write(path: Path, name: str, column: Column, rows: int) -> Path:
    """A file with the columns ``id`` and `name`."""
    schema = pa.schema({"id": pa.int64(), name: column(np.random.default_rng(0), 1).type})
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, _GROUP):
            ids = np.arange(first, min(first + _GROUP, rows))
            writer.write_table(pa.table([ids, column(rng, len(ids))], schema=schema))
    return path


def repeated(file: Path, folder: Path, times: int) -> Path:
    """A folder in which the file has so many names, and takes up the room of one."""
    folder.mkdir()
    for number in range(times):
        os.link(file, folder / f"{number:06d}.parquet")
    return folder
