"""What a user would write by hand: read Parquet, run the model, write Parquet, one after the other.

    python benchmarks/hand_loop.py INPUT.parquet OUTPUT.parquet --model model.pt2 \
        --column input --batch 512

Nothing of Headrace's. One torch thread. Prints JSON: the seconds from the first read until the
results are on disk, with the model loaded before.
"""

import argparse
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import torch

_ROWS = 8192  # that are read, and written, at once


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--model", required=True)
    parser.add_argument("--column", required=True)
    parser.add_argument("--batch", type=int, required=True)
    args = parser.parse_args()

    torch.set_num_threads(1)
    model = torch.export.load(args.model).module()
    with torch.inference_mode():
        _warm_up(model, args)
        started = time.perf_counter()
        rows = _run(model, args)
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started}))


def _run(model: torch.nn.Module, args: argparse.Namespace) -> int:
    rows = 0
    schema = pa.schema({"id": pa.int64(), "output": pa.list_(pa.float32())})
    with open(args.output, "wb") as file:
        with pq.ParquetWriter(file, schema) as writer:
            for table in pq.ParquetFile(args.input).iter_batches(_ROWS):
                values = _tensor(table.column(args.column))
                parts = [model(**{args.column: part}) for part in torch.split(values, args.batch)]
                output = torch.cat(parts).numpy()
                offsets = range(0, output.size + 1, output.shape[1])
                column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), output.ravel())
                writer.write_table(pa.table([table.column("id"), column], schema=schema))
                rows += len(values)
        file.flush()
        os.fsync(file.fileno())
    return rows


def _warm_up(model: torch.nn.Module, args: argparse.Namespace) -> None:
    table = next(pq.ParquetFile(args.input).iter_batches(args.batch))
    for _ in range(10):
        model(**{args.column: _tensor(table.column(args.column))})


def _tensor(column: pa.ListArray) -> torch.Tensor:
    """[rows, values]; all rows have as many."""
    flat = column.flatten().to_numpy().copy()
    return torch.from_numpy(flat).view(len(column), -1)


if __name__ == "__main__":
    main()
