"""The same work in Ray Data: read Parquet, `map_batches` over a model, write Parquet.

    build/peers/bin/python benchmarks/peers/ray_data.py INPUT.parquet OUTPUT --model model.pt2 \
        --column input --batch 512

On 2 cores with one torch thread: an actor holds the model, and Ray's tasks read and write on the
other core. Nothing of Headrace's. Prints JSON: the seconds from the start of Ray until the results
are written, and how many of them passed before the actor had loaded its model.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
import pyarrow as pa
import ray

_CORES = 2
_ROWS = 8192  # that the actor takes at once, of which it makes batches: as fast as any other


class Predict:
    def __init__(self, path: str, column: str, batch: int, ready: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._column = column
        self._batch = batch
        self._model = torch.export.load(path).module()
        Path(ready).touch()

    def __call__(self, block: pa.Table) -> pa.Table:
        column = block.column(self._column).combine_chunks()
        values = self._torch.from_numpy(column.flatten().to_numpy().copy()).view(len(column), -1)
        with self._torch.inference_mode():
            split = self._torch.split(values, self._batch)
            parts = [self._model(**{self._column: part}) for part in split]
        output = self._torch.cat(parts).numpy()
        offsets = pa.array(range(0, output.size + 1, output.shape[1]), pa.int32())
        made = pa.ListArray.from_arrays(offsets, output.ravel())
        return pa.table({"id": block.column("id"), "output": made})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--model", required=True)
    parser.add_argument("--column", required=True)
    parser.add_argument("--batch", type=int, required=True)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        started = time.time()
        ray.init(num_cpus=_CORES, include_dashboard=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.read_parquet(args.input).map_batches(
            Predict,
            fn_constructor_args=(args.model, args.column, args.batch, str(ready)),
            batch_format="pyarrow",
            zero_copy_batch=True,
            batch_size=_ROWS,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=1,
        ).write_parquet(args.output)
        ended = time.time()
        start = ready.stat().st_mtime - started
    print(json.dumps({"seconds": ended - started, "start_seconds": start}))


if __name__ == "__main__":
    main()
