"""Files of records for datasets, and what must come of each row: pure functions of a seed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tests.chaos.records import Record, record

_LEAST, _MOST = 30, 150
_GROUP = 40
_BAD_ONE_IN = 50
_FILES, _APART = 3, 1000

Row = Record | None
"""None: what stands there is no record."""


@dataclass(frozen=True, slots=True)
class File:
    """rows: by their numbers."""

    name: str
    data: bytes
    rows: Mapping[int, Row]


def files(seed: str, number: int, poison: Mapping[str, int]) -> list[File]:
    """Those of the dataset of this number, all in one format."""
    rng = random.Random(f"{seed} {number}")
    ending, write = _FORMATS[number % len(_FORMATS)]
    made = []
    for index, count in enumerate(rng.choices(range(_LEAST, _MOST), k=_FILES)):
        first = number * _APART + index * _MOST
        rows = [_row(rng, first + i, poison) for i in range(count)]
        made.append(File(f"{index}.{ending}", *write(rows)))
    return made


def _row(rng: random.Random, n: int, poison: Mapping[str, int]) -> Row:
    made = record(rng, n, poison)
    return None if rng.randrange(_BAD_ONE_IN) == 0 else made


def _parquet(rows: list[Row]) -> tuple[bytes, dict[int, Row]]:
    """A row that is none lacks its number."""
    table = pa.table(
        {
            "n": pa.array([row and row.n for row in rows], pa.int64()),
            "op": [row.op if row else "good" for row in rows],
            "text": [row.text if row else "" for row in rows],
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=_GROUP)
    return sink.getvalue(), dict(enumerate(rows))


def _lines(rows: list[Row]) -> tuple[bytes, dict[int, Row]]:
    """Every tenth line is blank: it has a number, and no row."""
    lines: list[str] = []
    at: dict[int, Row] = {}
    for row in rows:
        if len(lines) % 10 == 9:
            lines.append("")
        at[len(lines)] = row
        lines.append(json.dumps(row.inputs) if row else '{"n": 1, "op": ')
    return "\n".join(lines).encode(), at


def _csv(rows: list[Row]) -> tuple[bytes, dict[int, Row]]:
    """Some values have line ends."""
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(["n", "op", "text"])
    for row in rows:
        writer.writerow([row.n, row.op, row.text] if row else ["many\nmore", "good", ""])
    return gzip.compress(sink.getvalue().encode(), mtime=0), dict(enumerate(rows))


_FORMATS = (("parquet", _parquet), ("jsonl", _lines), ("csv.gz", _csv))
