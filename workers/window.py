"""Some rows of a shard on their way: read, run in batches, and put in place again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.datasets.arrays import Values
from headrace.datasets.columns import Records
from headrace.job import Done, Failed
from headrace.runtimes.collated import Answer
from headrace.signature import Array, Field


class Window:
    """Records that were read together, and what is known of their results so far.

    fields: the model's outputs. left: records without a result or an error. outputs: by field, a
    row for each record; of those in `failed` it counts for nothing.
    """

    def __init__(self, number: int, records: Records, fields: Sequence[Field]) -> None:
        self.number = number
        self.records = records
        self.left = len(records)
        self.outputs: dict[str, Values] = {field.name: _room(field, self.left) for field in fields}
        self.failed: dict[int, Failed] = {}

    def place(self, rows: Array, answer: Answer) -> None:
        """Put the results of a batch in place. rows: the records that it was made of."""
        at = as_slice(rows)
        for name, got in answer.outputs.items():
            column: Any = self.outputs[name]
            if isinstance(column, np.ndarray):
                column[at] = got if isinstance(got, np.ndarray) else np.stack(got)
            else:
                for row, value in zip(rows, got, strict=True):
                    column[row] = value
        self.failed |= {int(rows[index]): why for index, why in answer.failed.items()}
        self.left -= len(rows)

    def done(self, rows: Array, done: Sequence[Done]) -> None:
        """Put results in place that came one by one."""
        if done:
            names = self.outputs
            made = {name: [one.outputs[name] for one in done] for name in names}
            self.place(rows, Answer(made, {}))

    def fail(self, row: int, why: Failed) -> None:
        """A record has failed."""
        self.failed[row] = why
        self.left -= 1

    def inputs(self, rows: Array) -> dict[str, Any]:
        """By field, the values of these records; views where they follow each other."""
        at = as_slice(rows)
        return {
            name: values[at] if isinstance(values, np.ndarray) else [values[row] for row in rows]
            for name, values in self.records.inputs.items()
        }


def as_slice(rows: Array) -> slice | Array:
    """The same rows, without a list of them where they follow each other."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _room(field: Field, count: int) -> Values:
    if field.is_tensor and all(isinstance(dim, int) for dim in field.shape):
        return np.empty((count, *(int(dim) for dim in field.shape)), dtype=field.dtype)
    return [None] * count
