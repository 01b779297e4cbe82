"""Which records of a window run together. Pure, and nothing in it costs per record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from headrace.datasets.arrays import Values
from headrace.registry.manifest import Batching
from headrace.runtimes.collated import lengths_of
from headrace.signature import Array, Signature


def formed(
    signature: Signature,
    batching: Batching,
    inputs: Mapping[str, Values],
    rows: Array,
    ceiling: int | None = None,
) -> Iterator[tuple[Array, Array]]:
    """Batches: which rows, and how many tokens each has. Together, each of `rows` once.

    Rows of one shape follow each other as they are; rows that are padded to a common length have
    neighbours in length for batch-mates. A batch stays within `batching` and the ceiling (padded
    tokens that memory has room for), but for a record that is larger by itself, and runs alone.

    inputs: of a whole window, by field. rows: indices, ascending.
    """
    tokens = min(batching.max_tokens or math.inf, ceiling or math.inf)
    lengths, shapes = _measured(signature, inputs, rows)
    for members in _alike(shapes, len(rows)):
        order = members[np.argsort(lengths[members], kind="stable")]
        start = 0
        while start < len(order):
            sizes = lengths[order[start : start + batching.max_records]]
            padded = np.arange(1, len(sizes) + 1) * sizes
            stop = start + max(1, int(np.count_nonzero(padded <= tokens)))
            yield rows[order[start:stop]], sizes[: stop - start]
            start = stop


def _measured(
    signature: Signature, inputs: Mapping[str, Values], rows: Array
) -> tuple[Array, list[Array]]:
    """Of each row, its tokens (see `Signature.length`), and the sizes that no padding evens out."""
    padded: list[Array] = []
    fixed: list[Array] = []
    for field in signature.inputs:
        for axis, dim in enumerate(field.shape):
            if isinstance(dim, str):
                values = inputs[field.name]
                some = values if isinstance(values, np.ndarray) else [values[row] for row in rows]
                sizes = lengths_of(some, axis)[: len(rows)]
                (fixed if field.pad is None else padded).append(sizes)
    ones = np.ones(len(rows), dtype=np.int64)
    return (np.maximum.reduce(padded) if padded else ones), fixed


def _alike(shapes: list[Array], count: int) -> Iterator[Array]:
    """Indices of the rows that share all sizes; without any, all rows are alike."""
    if not shapes:
        yield np.arange(count)
        return
    _, group = np.unique(np.stack(shapes, axis=1), axis=0, return_inverse=True)
    for number in range(int(group.max(initial=-1)) + 1):
        yield np.flatnonzero(group.ravel() == number)
