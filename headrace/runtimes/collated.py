"""Records side by side, as a model that computes on tensors takes them and answers for them.

Nothing here costs per record where all are of one shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.errors import BadOutput, InvalidInput
from headrace.job import Done, Failed, Outcome
from headrace.signature import Array, Field, first_not_finite

Rows = Array | list[Array]
"""A field of many records: one array whose first dimension counts them, or an array for each."""


@dataclass(frozen=True, slots=True)
class Collated:
    """A batch.

    arrays: by input field, records first; fresh, so that a model may write to them. sizes: of
    each dimension that is padded, how long every record is by itself; longest: how long it is now.
    """

    arrays: Mapping[str, Array]
    sizes: Mapping[str, Array]
    longest: Mapping[str, int]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def part(self, start: int, stop: int) -> Collated:
        """Some of its records, as views."""
        return Collated(
            {name: array[start:stop] for name, array in self.arrays.items()},
            {dim: sizes[start:stop] for dim, sizes in self.sizes.items()},
            self.longest,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of a batch. outputs: by field, a row per record. failed: by row, those
    whose outputs count for nothing.
    """

    outputs: Mapping[str, Rows]
    failed: Mapping[int, Failed]

    def outcomes(self) -> list[Outcome]:
        """Record by record; arrays are views."""
        count = len(next(iter(self.outputs.values())))
        return [
            self.failed.get(row)
            or Done({name: np.asarray(rows[row]) for name, rows in self.outputs.items()})
            for row in range(count)
        ]


def collate(fields: Sequence[Field], values: Mapping[str, Rows]) -> Collated:
    """values: by field, validated, in one bucket, not empty."""
    arrays: dict[str, Array] = {}
    sizes: dict[str, Array] = {}
    for field in fields:
        rows = values[field.name]
        if field.pad is None:
            arrays[field.name] = np.array(rows) if isinstance(rows, np.ndarray) else np.stack(rows)
            continue
        for axis, dim in enumerate(field.shape):
            if isinstance(dim, str):
                sizes[dim] = lengths_of(rows, axis)
        arrays[field.name] = _padded(rows, field.pad)
    return Collated(arrays, sizes, {dim: int(of.max()) for dim, of in sizes.items()})


def lengths_of(rows: Rows, axis: int) -> Array:
    """How long each record is along one of its dimensions."""
    if isinstance(rows, np.ndarray):
        return np.full(len(rows), rows.shape[axis + 1])
    return np.fromiter((row.shape[axis] for row in rows), np.int64, len(rows))


def joined(answers: Sequence[Answer]) -> Answer:
    """Those of batches that follow each other."""
    if len(answers) == 1:
        return answers[0]
    failed: dict[int, Failed] = {}
    count = 0
    for answer in answers:
        failed |= {count + row: why for row, why in answer.failed.items()}
        count += len(next(iter(answer.outputs.values())))
    names = answers[0].outputs
    return Answer(
        {name: _one_behind_the_other([a.outputs[name] for a in answers]) for name in names}, failed
    )


def cut_back(fields: Sequence[Field], columns: Mapping[str, Array], batch: Collated) -> Answer:
    """Outputs whose padded dimensions are as long again as the records were.

    A row with a NaN where the signature takes none fails alone. columns: with a row for each
    record. Raises BadOutput where a padded dimension did not come back as long as it went in.
    """
    outputs: dict[str, Rows] = {}
    failed: dict[int, Failed] = {}
    for field in fields:
        column = columns[field.name]
        cut = [
            dim if isinstance(dim, str) and dim in batch.longest else None for dim in field.shape
        ]
        for dim, got in zip(cut, column.shape[1:], strict=True):
            if dim is not None and got != batch.longest[dim]:
                raise BadOutput(
                    f"outputs.{field.name}: dimension {dim!r} went in as {batch.longest[dim]} "
                    f"and came back as {got}"
                )
        rows: Rows = column
        if any(cut):
            ends = [batch.sizes[dim].tolist() if dim else [None] * len(column) for dim in cut]
            rows = [
                row[tuple(map(slice, stops))]
                for row, stops in zip(column, zip(*ends, strict=True), strict=True)
            ]
        outputs[field.name] = rows
        # What is padded away may hold anything: only then it pays to look at every row.
        if field.finite and first_not_finite(column) is not None:
            failed |= _not_finite(field, rows)
    return Answer(outputs, failed)


def _not_finite(field: Field, rows: Rows) -> dict[int, Failed]:
    failed = {}
    for number, row in enumerate(rows):
        try:
            field.check_finite(np.asarray(row), f"outputs.{field.name}")
        except InvalidInput as error:
            failed[number] = Failed(BadOutput.code, str(error))
    return failed


def _padded(rows: Rows, pad: float) -> Array:
    if isinstance(rows, np.ndarray):
        return np.array(rows)
    shape = np.max([row.shape for row in rows], axis=0).astype(int)
    if all(row.shape == tuple(shape) for row in rows):
        return np.stack(rows)
    array: Array = np.full((len(rows), *shape), pad, dtype=rows[0].dtype)
    for number, row in enumerate(rows):
        place: tuple[int | slice, ...] = (number, *map(slice, row.shape))
        array[place] = row
    return array


def _one_behind_the_other(parts: Sequence[Rows]) -> Rows:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [row for part in parts for row in part]
