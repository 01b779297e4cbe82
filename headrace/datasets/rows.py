"""What readers give: rows of one file, and those that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.signature import Array

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class Reject:
    """A row without a result. number: its place in the file, from 0. code, message: why.

    id: what its id column says, where there is one and it can be read.
    """

    number: int
    code: str
    message: str
    id: object = None

    @classmethod
    def of(cls, number: int, error: InvalidInput) -> Reject:
        """The row that `error` was raised for."""
        return cls(number, error.code, str(error))


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one file, in its order.

    table: the columns that were asked for. numbers: the place in the file of each row, from 0
    (int64), ascending. rejects: rows that lie among or after these and cannot be read.
    """

    table: pa.Table
    numbers: Array
    rejects: tuple[Reject, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers) + len(self.rejects)

    @property
    def first(self) -> int:
        """The lowest number."""
        return min([int(number) for number in self.numbers[:1]] + [r.number for r in self.rejects])

    @property
    def stop(self) -> int:
        """What is above the highest number."""
        return 1 + max(
            [int(number) for number in self.numbers[-1:]] + [r.number for r in self.rejects]
        )

    def split(self, size: int) -> tuple[Rows, Rows]:
        """The first `size`, rejects among them, and the rest."""
        if len(self) <= size:
            return self, Rows(self.table.slice(0, 0), self.numbers[:0])
        numbers = [*self.numbers.tolist(), *(reject.number for reject in self.rejects)]
        return self.split_at(sorted(numbers)[size])

    def split_at(self, bound: int) -> tuple[Rows, Rows]:
        """Those below the number `bound`, and the rest."""
        at = int(np.searchsorted(self.numbers, bound))
        early = tuple(reject for reject in self.rejects if reject.number < bound)
        late = tuple(reject for reject in self.rejects if reject.number >= bound)
        return (
            Rows(self.table.slice(0, at), self.numbers[:at], early),
            Rows(self.table.slice(at), self.numbers[at:], late),
        )


def joined(parts: Sequence[Rows]) -> Rows:
    """Parts that follow each other, as one; at least one."""
    if len(parts) == 1:
        return parts[0]
    return Rows(
        pa.concat_tables([part.table for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        tuple(chain.from_iterable(part.rejects for part in parts)),
    )


def numbered(table: pa.Table, first: int) -> Rows:
    """Rows that follow each other without a gap."""
    return Rows(table, np.arange(first, first + table.num_rows, dtype=np.int64))


def sift(
    take: Callable[[int, int], _Part], numbers: Array
) -> tuple[list[_Part], Array, list[Reject]]:
    """Take all rows that can be taken, in as few parts as that needs.

    take: makes a part of the rows from one index up to another, or raises InvalidInput. Where
    it does, it is asked for both halves, until a bad row stands alone. numbers: of the rows.
    Returns the parts in order, a mask of the rows that are in them, and the others.
    """
    parts: list[_Part] = []
    rejects: list[Reject] = []
    good = np.ones(len(numbers), dtype=bool)
    ranges = [(0, len(numbers))]
    while ranges:
        start, stop = ranges.pop()
        try:
            parts.append(take(start, stop))
        except InvalidInput as error:
            if stop - start <= 1:
                good[start:stop] = False
                rejects += [Reject.of(int(number), error) for number in numbers[start:stop]]
            else:
                middle = (start + stop) // 2
                ranges += [(middle, stop), (start, middle)]
    return parts, good, rejects


def whole(parts: list[pa.Table], schema: pa.Schema) -> pa.Table:
    """The parts, one after the other."""
    return pa.concat_tables(parts) if parts else schema.empty_table()


def in_order(*rejects: Iterable[Reject]) -> tuple[Reject, ...]:
    """All of them, by their numbers."""
    return tuple(sorted(chain(*rejects), key=lambda reject: reject.number))
