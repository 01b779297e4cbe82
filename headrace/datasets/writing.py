"""Results as files: a part file with the rows that succeeded, and one with the errors."""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
from collections.abc import Iterable, Mapping
from itertools import compress
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from headrace.datasets.arrays import JSON, Values, arrow_type, to_column
from headrace.datasets.columns import Columns, Records
from headrace.datasets.formats import Compression, Format
from headrace.datasets.rows import Reject
from headrace.errors import BadOutput
from headrace.job import Failed
from headrace.signature import Signature

_GROUP_ROWS, _GROUP_BYTES = 64 * 1024, 16 * 1024 * 1024
"""Of a row group of Parquet; whichever comes first."""


def schema_of(signature: Signature, columns: Columns, read: pa.Schema) -> pa.Schema:
    """A result's columns: the id (or ``file`` and ``row``), the carried ones, the outputs.

    read: the schema the input is read with. Raises InvalidInput for what no column can hold.
    """
    kept = [read.field(name) for name in columns.kept]
    if columns.id is None:
        kept = [pa.field("file", pa.string()), pa.field("row", pa.int64()), *kept]
    outputs = [
        pa.field(field.name, arrow_type(field), metadata=JSON if field.dtype == "json" else None)
        for field in signature.outputs
    ]
    return pa.schema([*kept, *outputs])


def results(
    signature: Signature,
    columns: Columns,
    schema: pa.Schema,
    file: str,
    records: Records,
    outputs: Mapping[str, Values],
    failed: Mapping[int, Failed],
) -> tuple[pa.Table, list[Reject]]:
    """What became of `records`: the rows to write, in order, and those that failed.

    schema: of `schema_of`. file: the URI of the file they came from. outputs: by field, a row for
    each record; of the failed ones, which are told by index, it counts for nothing.
    """
    kept, numbers, rejects = records.kept, records.numbers, []
    if failed:
        bad = sorted(failed)
        ids = [None] * len(bad) if columns.id is None else kept[columns.id].take(bad).to_pylist()
        rejects = [
            Reject(int(numbers[row]), failed[row].code, failed[row].message, id)
            for row, id in zip(bad, ids, strict=True)
        ]
        good = np.ones(len(numbers), dtype=bool)
        good[bad] = False
        kept, numbers = kept.filter(pa.array(good)), numbers[good]
        outputs = {
            name: rows[good] if isinstance(rows, np.ndarray) else [*compress(rows, good)]
            for name, rows in outputs.items()
        }
    made: list[Any] = [kept.column(name) for name in columns.kept]
    if columns.id is None:
        made = [pa.repeat(file, len(numbers)), pa.array(numbers), *made]
    made += [to_column(field, outputs[field.name]) for field in signature.outputs]
    return pa.table(made, schema=schema), rejects


def unstorable(signature: Signature, outputs: Mapping[str, Values]) -> dict[int, Failed]:
    """By index, the rows whose outputs no column takes, such as text that is no Unicode."""
    failed: dict[int, Failed] = {}
    for field in signature.outputs:
        for row, value in enumerate(outputs[field.name]):
            try:
                to_column(field, [value])
            except (pa.ArrowException, ValueError, TypeError) as error:
                said = f"outputs.{field.name}: cannot be stored: {error}"
                failed[row] = Failed(BadOutput.code, said)
    return failed


class Sink(Protocol):
    """What takes bytes, such as a file or an `outputs.Output`."""

    def write(self, data: bytes, /) -> int:
        """Put bytes behind those that are there."""
        ...


class Writer(Protocol):
    """Writes a part file, which is whole when the block ends."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def write_table(self, table: pa.Table) -> None:
        """Put these rows behind those that are there."""
        ...


def open_writer(sink: Sink, schema: pa.Schema, format: Format, compression: Compression) -> Writer:
    """Writes into `sink`, which stays open. Parquet is compressed inside, with zstd."""
    if format is Format.PARQUET:
        return _Parquet(pyarrow.parquet.ParquetWriter(_Open(sink), schema, compression="zstd"))
    return _Text(sink, schema, format, compression)


def write_errors(sink: Sink, file: str, errors: Iterable[Reject]) -> None:
    """A JSON line for each: ``file``, ``row`` (from 0), ``id`` if there is one, code, message."""
    for error in errors:
        id = {} if error.id is None else {"id": error.id}
        said = {"file": file, "row": error.number, **id}
        said |= {"code": error.code, "message": error.message}
        sink.write(json.dumps(_plain(said), ensure_ascii=False).encode() + b"\n")


class _Parquet:
    """Gathers tables: each that is written becomes a row group of its own."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write_table(self, table: pa.Table) -> None:
        """Put these rows behind those that are there."""
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.concat_tables(self._tables))
        self._tables, self._rows, self._bytes = [], 0, 0


class _Text:
    """JSON lines or CSV, wrapped in a compression or not."""

    def __init__(
        self, sink: Sink, schema: pa.Schema, format: Format, compression: Compression
    ) -> None:
        self._schema = schema
        self._sink: Any = _Open(sink)
        if compression:
            self._sink = pa.CompressedOutputStream(pa.PythonFile(self._sink), compression.value)
        self._csv = None
        if format is Format.CSV:
            flat = [pa.field(field.name, _flat(field.type)) for field in schema]
            self._csv = pyarrow.csv.CSVWriter(self._sink, pa.schema(flat))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._csv is not None:
            self._csv.close()
        self._sink.close()

    def write_table(self, table: pa.Table) -> None:
        """Put these rows behind those that are there."""
        if self._csv is not None:
            made = [_flattened(table.column(field.name), field) for field in self._schema]
            self._csv.write_table(pa.table(made, names=table.column_names))
            return
        as_json = [field.name for field in self._schema if field.metadata == JSON]
        lines = []
        for row in table.to_pylist():
            row |= {name: json.loads(row[name]) for name in as_json if row[name] is not None}
            lines.append(json.dumps(_plain(row), ensure_ascii=False) + "\n")
        self._sink.write("".join(lines).encode())


class _Open(io.RawIOBase):
    """What pyarrow may close, without closing the sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._sink.write(bytes(data))


def _flat(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_nested(kind) or pa.types.is_binary(kind) else kind


def _flattened(column: pa.ChunkedArray, field: pa.Field) -> Any:
    """What CSV has no cells for, as text: lists as JSON, bytes as base64."""
    if _flat(field.type) == field.type:
        return column
    values = (None if value is None else _plain(value) for value in column.to_pylist())
    return pa.array(
        [v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string()
    )


def _plain(value: Any) -> Any:
    """`value` as JSON can say it: bytes as base64, numbers that are none as null."""
    match value:
        case dict():
            return {name: _plain(one) for name, one in value.items()}
        case list():
            return [_plain(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case bytes():
            return base64.b64encode(value).decode()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case bool() | int() | float() | str() | None:
            return value
        case _:
            return str(value)
