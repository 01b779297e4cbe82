"""Rows of JSON lines: one object a line. Lines that are blank count as lines, but hold no row."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.json

from headrace.datasets.arrays import JSON
from headrace.datasets.rows import Rows, sift, whole
from headrace.errors import InvalidInput

_BLOCK = 4 * 1024 * 1024
_SAMPLE, _SAMPLE_BYTES = 20_000, 16 * 1024 * 1024
"""Lines, and their bytes, whose values tell the types of columns."""
_LONGEST = 256 * 1024 * 1024
"""Bytes of a line; a file that has no line ends must not fill the memory."""


def columns(stream: BinaryIO) -> pa.Schema:
    """The names, and the types of the first rows; of a file without a row, none.

    Raises InvalidInput where none of the first is an object.
    """
    lines = [line for line in _sample(stream) if holds_row(line)]
    objects = list(_objects(lines))
    if lines and not objects:
        raise InvalidInput("the first rows", "none is a JSON object on a line of its own")
    names = dict.fromkeys(name for found in objects for name in found)
    return pa.schema([_typed(name, [found.get(name) for found in objects]) for name in names])


def read(
    stream: BinaryIO, schema: pa.Schema, first: int = 0, size: int | None = None
) -> Iterator[Rows]:
    """The rows of the stream's next `size` bytes, of which the first line is number `first`."""
    for number, lines in blocks(stream, first, size):
        full = [line for line in lines if holds_row(line)]
        numbers = np.array([i for i, line in enumerate(lines, number) if holds_row(line)], np.int64)
        take = partial(_table, full, schema)
        parts, good, rejects = sift(take, numbers)
        yield Rows(whole(parts, schema), numbers[good], tuple(rejects))


def holds_row(line: bytes) -> bool:
    """Whether a line is not blank; a byte order mark, with which a file may begin, is nothing."""
    return bool(line.removeprefix(codecs.BOM_UTF8).strip())


def blocks(
    stream: BinaryIO, first: int = 0, size: int | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Some lines at a time, without their ends, and the number of the first of them."""
    rest: list[bytes] = []
    left = size
    while data := stream.read(_BLOCK if left is None else min(_BLOCK, left)):
        left = None if left is None else left - len(data)
        *ended, tail = data.split(b"\n")
        if ended:
            ended[0] = b"".join([*rest, ended[0]])
            rest = []
            yield first, ended
            first += len(ended)
        rest.append(tail)
        if sum(map(len, rest)) > _LONGEST:
            raise InvalidInput(f"line {first + 1}", f"longer than {_LONGEST} bytes")
    if last := b"".join(rest):
        yield first, [last]


def _sample(stream: BinaryIO) -> Iterator[bytes]:
    size = 0
    every = (line for _, some in blocks(stream) for line in some)
    for line in islice(every, _SAMPLE):
        yield line
        size += len(line)
        if size > _SAMPLE_BYTES:
            return


def _table(every: list[bytes], schema: pa.Schema, start: int, stop: int) -> pa.Table:
    """Raises InvalidInput unless each line is an object with values of the schema's types."""
    lines = every[start:stop]
    as_json = [field.name for field in schema if field.metadata == JSON]
    plain = pa.schema([field for field in schema if field.name not in as_json])
    try:
        table = _parsed(lines, plain) if len(plain) else None
        objects = [json.loads(line) for line in lines] if as_json else []
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        said = str(error).partition(" in row ")[0].removeprefix("JSON parse error: ")
        raise InvalidInput("record", f"not a line of JSON that fits ({said})") from None
    if (table is not None and table.num_rows != len(lines)) or not all(
        isinstance(found, dict) for found in objects
    ):
        raise InvalidInput("record", "expected one JSON object a line")
    made = [
        pa.array(
            [json.dumps(found[field.name]) if field.name in found else None for found in objects]
        )
        if table is None or field.name in as_json
        else table.column(field.name)
        for field in schema
    ]
    return pa.table(made, schema=schema)


def _parsed(lines: list[bytes], schema: pa.Schema) -> pa.Table:
    data = b"\n".join(lines)
    data.decode()  # pyarrow lets text pass that is no UTF-8
    return pyarrow.json.read_json(
        pa.BufferReader(data),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _typed(name: str, values: list[Any]) -> pa.Field:
    """Text, numbers and lists of them as such; what has no type of Arrow as JSON."""
    if not any(map(_holds_objects, values)):
        try:
            kind = pa.array(values).type
            return pa.field(name, pa.string() if pa.types.is_null(kind) else kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass
    return pa.field(name, pa.string(), metadata=JSON)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_holds_objects, value)))


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found
