"""Rows of Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.datasets.rows import Reject, Rows, numbered
from headrace.errors import InvalidInput

_BATCH_BYTES = 32 * 1024 * 1024
_NUMBER, _CODE, _MESSAGE = "__row__", "__code__", "__message__"


def columns(stream: BinaryIO) -> pa.Schema:
    """Raises pa.ArrowInvalid where it is no Parquet."""
    return pq.read_schema(stream)


def groups(stream: BinaryIO) -> list[int]:
    """How many rows each row group has."""
    metadata = pq.ParquetFile(stream).metadata
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def read(stream: BinaryIO, schema: pa.Schema, first: int, count: int, batch: int) -> Iterator[Rows]:
    """`count` rows from `first`, at most `batch` at a time; one row group is in memory at once."""
    for start, table in _tables(stream, schema.names, first, count, batch):
        yield numbered(table, start)


def write_piece(rows: Iterable[Rows], sink: BinaryIO, schema: pa.Schema) -> tuple[int, int]:
    """Put rows, and those that are none, where `read_piece` finds them.

    Returns how many, and the place in their file behind the last.
    """
    count = stop = 0
    extra = [(_NUMBER, pa.int64()), (_CODE, pa.string()), (_MESSAGE, pa.string())]
    whole = pa.schema([*schema, *(pa.field(*field) for field in extra)])
    with pq.ParquetWriter(sink, whole, compression="zstd") as writer:
        for some in rows:
            count, stop = count + len(some), some.stop
            none = pa.nulls(len(some.numbers), pa.string())
            good = [*some.table.columns, pa.array(some.numbers), none, none]
            writer.write_table(pa.table(good, schema=whole))
            if some.rejects:
                told = zip(*((r.number, r.code, r.message) for r in some.rejects), strict=True)
                absent = [pa.nulls(len(some.rejects), field.type) for field in schema]
                writer.write_table(pa.table([*absent, *map(pa.array, told)], schema=whole))
    return count, stop


def read_piece(stream: BinaryIO, schema: pa.Schema, batch: int) -> Iterator[Rows]:
    """What `write_piece` wrote."""
    names = [*schema.names, _NUMBER, _CODE, _MESSAGE]
    for _, table in _tables(stream, names, 0, None, batch):
        bad = table.column(_CODE).is_valid()
        told = table.filter(bad).select([_NUMBER, _CODE, _MESSAGE]).to_pylist()
        good = table.filter(table.column(_CODE).is_null())
        numbers = good.column(_NUMBER).to_numpy()
        rejects = tuple(Reject(*row.values()) for row in told)
        yield Rows(good.select(schema.names), numbers, rejects)


def _tables(
    stream: BinaryIO, names: list[str], first: int, count: int | None, batch: int
) -> Iterator[tuple[int, pa.Table]]:
    file = pq.ParquetFile(stream, pre_buffer=True)
    stop = file.metadata.num_rows if count is None else first + count
    at = 0
    for group in range(file.metadata.num_row_groups):
        about = file.metadata.row_group(group)
        end = at + about.num_rows
        if end > first and at < stop:
            fitting = max(1, _BATCH_BYTES * about.num_rows // max(1, about.total_byte_size))
            size = min(batch, fitting)
            for some in file.iter_batches(size, row_groups=[group], columns=names):
                low, high = max(first - at, 0), min(stop - at, some.num_rows)
                if low < high:
                    table = pa.Table.from_batches([some.slice(low, high - low)])
                    yield at + low, table.select(names)
                at += some.num_rows
                if at >= stop:
                    return
        at = end
    if at < stop:
        raise InvalidInput("rows", f"expected {stop}, found {at}")
