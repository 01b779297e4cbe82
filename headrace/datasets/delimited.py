"""Rows of CSV with a header line. Every column is text: what it means, its use decides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from headrace.datasets.rows import Reject, Rows, in_order, sift, whole
from headrace.errors import InvalidInput

_BLOCK = 4 * 1024 * 1024
_HEADER = 1


def columns(stream: BinaryIO) -> pa.Schema:
    """The names of the header; of a file without a line, none.

    Raises InvalidInput where a name comes twice.
    """
    reader = _reader(stream, [], [])
    names: list[str] = [] if reader is None else reader.schema.names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidInput("header", f"has two columns {twice[0]!r}")
    return pa.schema([pa.field(name, pa.string()) for name in names])


def read(stream: BinaryIO, schema: pa.Schema) -> Iterator[Rows]:
    """All rows; a line break within quotes belongs to its value."""
    odd: list[Reject] = []
    at = 0
    for batch in _reader(stream, schema.names, odd) or ():
        # Rows that are no rows are told of before those behind them come.
        passed = {reject.number for reject in odd}
        numbers = np.fromiter(
            islice((i for i in count(at) if i not in passed), batch.num_rows), np.int64
        )
        at = int(numbers[-1]) + 1 if len(numbers) else at
        rejects = [reject for reject in odd if reject.number < at]
        del odd[: len(rejects)]
        yield _text(pa.Table.from_batches([batch]).select(schema.names), numbers, rejects)
    if odd:
        yield Rows(schema.empty_table(), np.empty(0, np.int64), tuple(odd))


def _reader(stream: BinaryIO, names: list[str], odd: list[Reject]) -> Any:
    """odd: takes the rows with too many columns or too few. None where there is no line."""
    try:
        return pyarrow.csv.open_csv(stream, *_options(names, odd))
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            return None
        raise


def _options(names: list[str], odd: list[Reject]) -> tuple[Any, Any, Any]:

    def skip(row: Any) -> str:
        problem = f"expected {row.expected_columns} columns, got {row.actual_columns}"
        odd.append(Reject.of(row.number - 1 - _HEADER, InvalidInput("record", problem)))
        return "skip"

    # As bytes, for text that is no UTF-8 would end the reading.
    return (
        pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()), include_columns=names
        ),
    )


def _text(table: pa.Table, numbers: Any, rejects: list[Reject]) -> Rows:
    schema = pa.schema([pa.field(name, pa.string()) for name in table.column_names])

    def take(start: int, stop: int) -> pa.Table:
        try:
            return table.slice(start, stop - start).cast(schema)
        except pa.ArrowInvalid:
            raise InvalidInput("record", "not UTF-8") from None

    parts, good, others = sift(take, numbers)
    return Rows(whole(parts, schema), numbers[good], in_order(rejects, others))
