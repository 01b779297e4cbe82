"""Ways to run a model over the rows of a Parquet file, each in rows per second.

Every one of them has one torch thread, and batches as large as suit the bare model best.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.rig import ROOT, wait_for
from headrace import Client
from headrace.registry.manifest import Batching

PEERS = ROOT / "build" / "peers"
_JOB_SECONDS = 600.0
_PROBE_SECONDS = 4.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Work:
    """rows: of `file`. model: a ``.pt2``. column: of the file, and the model's input."""

    name: str
    file: Path
    rows: int
    model: Path
    column: str
    batching: Batching = field(default_factory=Batching)

    @property
    def arguments(self) -> list[str]:
        """What all contenders are told alike."""
        return ["--model", str(self.model), "--column", self.column]


def best_size(
    work: Work, records: Sequence[int], tokens: Sequence[int] = (), *, shuffled: bool = False
) -> Batching:
    """The batches that suit the bare model best. shuffled: where it takes rows as they come."""
    sizes = [word for size in records for word in ("--records", str(size))]
    sizes += [word for size in tokens for word in ("--tokens", str(size))]
    sizes += ["--shuffled"] * shuffled
    size, bound, _ = max(_ceiling(work, sizes, _PROBE_SECONDS), key=lambda rate: rate[2])
    return Batching(max_records=size, max_tokens=bound)


def ceiling(work: Work, seconds: float) -> float:
    """The bare model over tensors in memory."""
    size, tokens = ["--records", str(work.batching.max_records)], work.batching.max_tokens
    size += [] if tokens is None else ["--tokens", str(tokens)]
    ((_, _, rate),) = _ceiling(work, size, seconds)
    return rate


def _ceiling(work: Work, sizes: list[str], seconds: float) -> list[tuple[int, int | None, float]]:
    command = [sys.executable, "-m", "benchmarks.ceiling", str(work.file), *work.arguments]
    rates: list[tuple[int, int | None, float]]
    rates = _said([*command, *sizes, "--seconds", str(seconds)], _ONE_THREAD)
    return rates


def hand_loop(work: Work, seconds: float, scratch: Path) -> float:
    """The script a user would write, as often as `seconds` have room for."""
    script = ["benchmarks/hand_loop.py", str(work.file), str(scratch / "hand.parquet")]
    command = [sys.executable, *script, *work.arguments, "--batch", str(work.batching.max_records)]
    return _rate(work, seconds, lambda: float(_said(command)["seconds"]))


def ray_data(work: Work, scratch: Path) -> tuple[float, float]:
    """Ray Data, once: with its start, and from when its actor has loaded the model."""
    output = scratch / "ray"
    script = ["benchmarks/peers/ray_data.py", str(work.file), str(output)]
    command = [str(PEERS / "bin" / "python"), *script, *work.arguments]
    said = _said([*command, "--batch", str(work.batching.max_records)])
    _check(output, work.rows)
    return work.rows / said["seconds"], work.rows / (said["seconds"] - said["start_seconds"])


def dataset(client: Client, work: Work, seconds: float, scratch: Path) -> float:
    """Datasets of Headrace's, one after the other, each from its submit to `_SUCCESS`."""
    return _rate(work, seconds, lambda: one_dataset(client, work, scratch))


def one_dataset(client: Client, work: Work, scratch: Path) -> float:
    """Seconds from submit to `_SUCCESS`. Its files are counted, and removed."""
    output = scratch / secrets.token_hex(4)  # one folder is one dataset's for ever
    began = time.perf_counter()
    client.submit_dataset(work.name, str(work.file), output=str(output), id="id")
    wait_for((output / "_SUCCESS").exists, _JOB_SECONDS)
    taken = time.perf_counter() - began
    _check(output, work.rows)
    return taken


def _rate(work: Work, seconds: float, run: Callable[[], float]) -> float:
    runs: list[float] = []
    while sum(runs) < seconds:
        runs.append(run())
    return work.rows * len(runs) / sum(runs)


def _said(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """What a contender prints last, as JSON."""
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def _check(output: Path, rows: int) -> None:
    """Raises RuntimeError unless there are as many rows of results."""
    found = sum(pq.read_metadata(part).num_rows for part in output.glob("*.parquet"))
    shutil.rmtree(output)
    if found != rows:
        raise RuntimeError(f"{output} had {found} rows; expected {rows}")
