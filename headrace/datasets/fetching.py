"""Values that lie in files of their own, one for each row, whose paths are in a column."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from headrace.datasets.columns import Columns
from headrace.datasets.objects import asked, client_of, split
from headrace.datasets.rows import Reject, Rows, in_order
from headrace.errors import HeadraceError, InvalidInput, StoreUnavailable
from headrace.settings import Settings


class Fetching:
    """Brings the files of `fields`, many at a time; for the length of a block.

    columns: as they are for `convert` once `fetched` has put the values into the rows.
    """

    def __init__(self, columns: Columns, fields: Sequence[str], settings: Settings) -> None:
        self._names = {field: columns.inputs[field][0] for field in fields}
        self._id = columns.id
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.io_threads, thread_name_prefix="fetch")
        own = {field: (_own(field),) for field in fields}
        self.columns = replace(columns, inputs={**columns.inputs, **own})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def fetched(self, rows: Rows) -> Rows:
        """The rows whose files are there, with one more column for each field, and the others as
        rejects. Raises StoreUnavailable.
        """
        table, numbers, rejects = rows.table, rows.numbers, list(rows.rejects)
        for field, name in self._names.items():
            values = list(self._pool.map(self._value, table.column(name).to_pylist()))
            good = np.array([isinstance(value, bytes) for value in values], dtype=bool)
            if not good.all():
                missing = table.num_rows * [None]
                ids = missing if self._id is None else table.column(self._id).to_pylist()
                rejects += [
                    Reject(int(number), error.code, f"{field}: {error}", id)
                    for number, error, id in zip(numbers, values, ids, strict=True)
                    if isinstance(error, HeadraceError)
                ]
                table, numbers = table.filter(pa.array(good)), numbers[good]
            found = [value for value in values if isinstance(value, bytes)]
            table = table.append_column(_own(field), pa.array(found, pa.large_binary()))
        return Rows(table, numbers, in_order(rejects))

    def _value(self, where: str | None) -> bytes | HeadraceError:
        try:
            return self._read(where)
        except StoreUnavailable:
            raise
        except HeadraceError as error:
            return error

    def _read(self, where: str | None) -> bytes:
        if not where:
            raise InvalidInput("path", "missing; expected a path, or s3://bucket/key")
        most = self._settings.max_input
        data: bytes
        if where.startswith("s3://"):
            with asked(where):
                answer = client_of(self._settings).get().get_object(**split(where))
                size = answer["ContentLength"]
                data = answer["Body"].read() if size <= most else b""
        else:
            try:
                path = Path(where.removeprefix("file://"))
                size = path.stat().st_size
                data = path.read_bytes() if size <= most else b""
            except (OSError, ValueError) as error:
                raise InvalidInput(where, f"cannot be read ({error})") from None
        if size > most:
            raise InvalidInput(where, f"has {size} bytes, more than HEADRACE_MAX_INPUT ({most})")
        return data


def _own(field: str) -> str:
    """A name that no column of a file has."""
    return f"\0{field}"
