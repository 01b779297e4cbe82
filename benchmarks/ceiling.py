"""The bare model over tensors in memory: what nothing that runs it can be faster than.

    python -m benchmarks.ceiling INPUT.parquet --model model.pt2 --column input \
        --records 512 [--tokens 2048] [--seconds 60]

One torch thread. Rows are sorted by length beforehand, so that hardly any is padded. Prints JSON.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import torch

from headrace.signature import Array

_ROWS = 32_768
_WARM_BATCHES = 10


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), required=True)
@click.option("--column", required=True)
@click.option("--records", multiple=True, type=int, required=True, help="Per batch; repeatable.")
@click.option("--tokens", multiple=True, type=int, help="Padded, per batch; repeatable.")
@click.option("--shuffled", is_flag=True, help="Rows as they come, not sorted by length.")
@click.option("--seconds", default=60.0, help="For each size.")
def main(
    path: Path,
    model: Path,
    column: str,
    records: Sequence[int],
    tokens: Sequence[int],
    shuffled: bool,
    seconds: float,
) -> None:
    """Print the rows per second of each size, as a list of [records, tokens, rate]."""
    torch.set_num_threads(1)
    run = torch.export.load(model).module()
    rows = _rows(path, column)
    if not shuffled:
        rows.sort(key=len)
    rates = []
    bounds: Sequence[int | None] = tokens or [None]
    with torch.inference_mode():
        for size, bound in itertools.product(records, bounds):
            batches = list(_batches(rows, size, bound))
            for batch in batches[:_WARM_BATCHES]:
                run(**{column: batch})
            began, done = time.perf_counter(), 0
            # Short and long ones in turn, that a run that ends early has seen its share of both.
            order = np.random.default_rng(0).permutation(len(batches))
            for index in itertools.cycle(order):
                run(**{column: batches[index]})
                done += len(batches[index])
                if time.perf_counter() - began > seconds:
                    break
            rates.append((size, bound, done / (time.perf_counter() - began)))
    print(json.dumps(rates))


def _rows(path: Path, column: str) -> list[Array]:
    """The first rows of the file."""
    batch = next(pq.ParquetFile(path).iter_batches(_ROWS, columns=[column]))
    values = batch.column(0)
    return np.split(values.flatten().to_numpy(), values.offsets.to_numpy()[1:-1])


def _batches(rows: Sequence[Array], size: int, bound: int | None) -> Iterator[torch.Tensor]:
    """Rows in their order, as tensors [batch, length], padded with 0."""
    start = 0
    while start < len(rows):
        stop = start + 1
        longest = len(rows[start])
        while stop < min(len(rows), start + size):
            with_it = max(longest, len(rows[stop]))
            if bound is not None and (stop + 1 - start) * with_it > bound:
                break
            stop, longest = stop + 1, with_it
        padded = np.zeros((stop - start, longest), rows[start].dtype)
        for row, value in zip(padded, rows[start:stop], strict=True):
            row[: len(value)] = value
        yield torch.from_numpy(padded)
        start = stop


if __name__ == "__main__":
    main()
