"""How fast datasets are, against the bare model, a loop written by hand, and Ray Data.

    python -m benchmarks.dataset [--rounds 5] [--seconds 60] [--only mlp,transformer,…]

Everybody has one torch thread, and the same rows. Runs are interleaved, round by round; medians,
with their spread. Writes build/bench/dataset.json: what `--only` leaves out stays as it was.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from benchmarks import contenders, encoder, inputs, model
from benchmarks.contenders import Work
from benchmarks.rig import ROOT, Rig, rig, stats, wait_for
from headrace import Client
from headrace.job import Priority
from headrace.registry.manifest import Batching
from headrace.service import Service

REPORT = ROOT / "build" / "bench" / "dataset.json"
_SIZES = (128, 256, 512, 1024)
_TEXT_SIZES, _TOKENS, _UNBUCKETED_SIZES = (64, 256), (1024, 2048, 4096), (8, 16, 32)
_SAMPLES = 300
_FILES, _ROWS_OF_FILE = 10_000, 10
_PATIENCE = 600.0
_BROKER, _STORE = "redis", "local"


@dataclass(frozen=True)
class Bench:
    """What a part has: servers, a folder for files, and how much it is to do.

    rows: of a dataset. seconds: of a run, at least.
    """

    on: Rig
    folder: Path
    rows: int
    rounds: int
    seconds: float

    @contextmanager
    def work(self, work: Work, package: Path, **environment: str) -> Iterator[Client]:
        """A worker that is up and has run the model, in the block."""
        with (
            self.on.headrace(_BROKER, _STORE, package) as service,
            Client(transport=service) as client,
            self.on.worker(service, 1, **environment),
        ):
            contenders.one_dataset(client, work, self.folder)
            yield client

    def images(self, name: str, rows: int) -> Path:
        """A file of them, for the MLP."""
        return inputs.write(self.folder / f"{name}.parquet", "input", inputs.images, rows)


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Interleaved runs per figure.")
@click.option("--seconds", default=60.0, show_default=True, help="A run, at least.")
@click.option("--rows", default=200_000, show_default=True, help="Of a dataset.")
@click.option("--only", default="", help="Some of: mlp,transformer,memory,growth,interactive.")
def main(rounds: int, seconds: float, rows: int, only: str) -> None:
    """Print the figures of datasets, and write them to build/bench/dataset.json."""
    logging.getLogger("headrace").setLevel(logging.ERROR)
    report = json.loads(REPORT.read_text()) if only and REPORT.exists() else {}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    for part in only.split(",") if only else PARTS:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name, rig(Path(name)) as on:
            report |= PARTS[part](Bench(on, Path(name), rows, rounds, seconds))
        REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{REPORT.relative_to(ROOT)}")


def mlp(bench: Bench) -> dict[str, Any]:
    """The MLP: the bare model, the loop by hand, Headrace and Ray Data in turn."""
    draft = model.package(bench.folder / "draft")
    file = bench.images("images", bench.rows)
    work = Work(model.NAME, file, bench.rows, draft.root / draft.weights, "input")
    work = replace(work, batching=contenders.best_size(work, _SIZES))
    print(f"batches of {work.batching.max_records}")
    package = model.package(bench.folder / "mlp", work.batching)
    runs = _Runs("mlp")
    with bench.work(work, package.root) as client:
        for _ in range(bench.rounds):
            runs.add("ceiling", contenders.ceiling(work, bench.seconds))
            with _spent() as spent:
                rate = contenders.dataset(client, work, bench.seconds, bench.folder)
            runs.add("headrace", rate)
            runs.add("infer_busy", spent.busy("infer"))
            spent.show()
            runs.add("hand_loop", contenders.hand_loop(work, bench.seconds, bench.folder))
            if contenders.PEERS.exists():
                started, warm = contenders.ray_data(work, bench.folder)
                runs.add("ray_data", started)
                runs.add("ray_data_warm", warm)
    runs.compare("headrace", "ceiling", 0.90)
    runs.compare("headrace", "hand_loop", 1.2)
    runs.compare("headrace", "ray_data", 2.0)
    runs.compare("headrace", "ray_data_warm")
    return runs.report


def transformer(bench: Bench) -> dict[str, Any]:
    """The encoder: length buckets, and rows in batches as they come."""
    draft = encoder.package(bench.folder / "draft", Batching())
    rows = bench.rows // 4
    file = inputs.write(bench.folder / "texts.parquet", "tokens", inputs.texts, rows)
    work = Work(encoder.NAME, file, rows, draft.root / draft.weights, "tokens")
    work = replace(work, batching=contenders.best_size(work, _TEXT_SIZES, _TOKENS))
    plain = replace(work, batching=contenders.best_size(work, _UNBUCKETED_SIZES, shuffled=True))
    print(f"{work.batching} with buckets, {plain.batching} without")
    runs = _Runs("transformer")
    package = encoder.package(bench.folder / "bucketed", work.batching)
    unbucketed = encoder.package(bench.folder / "unbucketed", plain.batching)
    window = {"HEADRACE_SHARD_WINDOW": str(plain.batching.max_records)}
    for _ in range(bench.rounds):
        runs.add("ceiling", contenders.ceiling(work, bench.seconds))
        with bench.work(work, package.root) as client:
            with _spent() as spent:
                rate = contenders.dataset(client, work, bench.seconds, bench.folder)
            runs.add("headrace", rate)
            spent.show()
        with bench.work(plain, unbucketed.root, **window) as client:
            rate = contenders.dataset(client, plain, bench.seconds, bench.folder)
            runs.add("headrace_unbucketed", rate)
    runs.compare("headrace", "ceiling", 0.90)
    runs.compare("headrace", "headrace_unbucketed", 1.5)
    return runs.report


def memory(bench: Bench) -> dict[str, Any]:
    """The most memory that a worker has taken, after one dataset, and after one ten times as large.

    The larger one is the same file under ten names.
    """
    file = bench.images("images", bench.rows)
    package = model.package(bench.folder / "mlp", Batching(max_records=512))
    peaks = {}
    for name, times in (("200k", 1), ("2m", 10)):
        folder = inputs.repeated(file, bench.folder / name, times)
        work = _mlp(package.root, folder, bench.rows * times)
        with (
            bench.on.headrace(_BROKER, _STORE, package.root) as service,
            Client(transport=service) as client,
            bench.on.worker(service),
        ):
            before = _peak_mb(service)
            contenders.one_dataset(client, work, bench.folder)
            peaks[name] = _peak_mb(service)
            print(f"memory  {work.rows:>9,} rows: {before:.0f} MB idle, {peaks[name]:.0f} MB peak")
    print(f"memory  2m ÷ 200k = {peaks['2m'] / peaks['200k']:.3f}  0.9 to 1.1")
    return {"memory_mb": peaks}


def growth(bench: Bench) -> dict[str, Any]:
    """Rows per second as datasets grow, and how long ten thousand files take to plan."""
    package = model.package(bench.folder / "mlp", Batching(max_records=512))
    small, large = bench.images("small", 10_000), bench.images("large", 100_000)
    sizes = {
        "10k": _mlp(package.root, small, 10_000),
        "100k": _mlp(package.root, large, 100_000),
        "1m": _mlp(package.root, inputs.repeated(large, bench.folder / "1m", 10), 1_000_000),
    }
    rates: dict[str, float] = {}
    with bench.work(sizes["10k"], package.root) as client:
        for name, work in sizes.items():
            rates[name] = work.rows / contenders.one_dataset(client, work, bench.folder)
            print(f"growth  {name:>5} rows: {rates[name]:>10,.0f} rows/s")
        tiny = bench.images("tiny", _ROWS_OF_FILE)
        many = inputs.repeated(tiny, bench.folder / "many", _FILES)
        id = client.submit_dataset(model.NAME, many, output=bench.folder / "planned", id="id")
        wait_for(lambda: client.dataset(id).planned_at is not None, _PATIENCE)
        planned = client.dataset(id)
        assert planned.planned_at is not None
        seconds = (planned.planned_at - planned.created_at).total_seconds()
        print(f"growth  {_FILES:,} files planned in {seconds:.1f} s, {planned.shards:,} shards")
        client.cancel_dataset(id)
    return {"growth": {"rows_per_s": rates, "plan_10k_files_s": seconds}}


def interactive(bench: Bench) -> dict[str, Any]:
    """Urgent single jobs, one after the other, while a worker has nothing else or a dataset."""
    package = model.package(bench.folder / "mlp", Batching(max_records=512))
    file = bench.images("images", bench.rows)
    work = _mlp(package.root, file, bench.rows)
    with bench.work(work, package.root) as client:
        alone = _latencies(client)
        over = threading.Event()
        keeping = threading.Thread(target=_keep_busy, args=(client, work, bench.folder, over))
        keeping.start()
        try:
            wait_for(lambda: any(d.running for d in client.datasets(state="running")))
            under = _latencies(client)
        finally:
            over.set()
            keeping.join()
    figures = {}
    for name, taken in (("alone", alone), ("under_dataset", under)):
        figures[name] = float(np.percentile(taken, 99))
        p50 = float(np.percentile(taken, 50))
        print(f"interactive  {name:<14} p50 {p50:6.1f} ms   p99 {figures[name]:6.1f} ms")
    return {"interactive_p99_ms": figures}


def _mlp(package: Path, file: Path, rows: int) -> Work:
    return Work(model.NAME, file, rows, package / "model.pt2", "input")


def _keep_busy(client: Client, work: Work, folder: Path, over: threading.Event) -> None:
    while not over.is_set():
        contenders.one_dataset(client, work, folder)


def _latencies(client: Client) -> list[float]:
    """Milliseconds from submit to the result in hand."""
    records, taken = model.inputs(_SAMPLES), []
    for record in records:
        began = time.perf_counter()
        client.result(client.submit(model.NAME, record, priority=Priority.HIGH))
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def _peak_mb(service: Service) -> float:
    """The most that the process which runs the model has had in memory."""
    (worker,) = [w for w in service.workers() if w.ready_at is not None]
    (child,) = psutil.Process(worker.pid).children()
    status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    (peak,) = [line for line in status if line.startswith("VmHWM:")]
    return int(peak.split()[1]) / 1024


class _Runs:
    """The runs of a part, by contender."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self._values.setdefault(name, []).append(value)
        shown = f"{value:,.3f}" if value < 10 else f"{value:,.0f} rows/s"
        print(f"{self._part}  {name:<20}{shown:>18}", flush=True)

    def compare(self, mine: str, other: str, bound: float | None = None) -> None:
        """Print the ratio of the two, pair by pair."""
        pairs = zip(self._values[mine], self._values.get(other, ()), strict=False)
        if ratios := [a / b for a, b in pairs]:
            asked = "" if bound is None else f"  ≥ {bound:g}"
            print(
                f"{self._part}  {mine} ÷ {other} = {statistics.median(ratios):.3f}{asked}"
                f"  ({min(ratios):.3f} to {max(ratios):.3f})"
            )

    @property
    def report(self) -> dict[str, Any]:
        """Medians, and every run."""
        medians = {name: statistics.median(values) for name, values in self._values.items()}
        return {self._part: medians | {"runs": self._values}}


class _Spent:
    """Where the time goes in a block, by station: shares of the block's seconds."""

    def __init__(self) -> None:
        self._before, self._began = stats()["seconds"], time.monotonic()
        self._shares: dict[str, dict[str, float]] = {}

    def end(self) -> None:
        seconds = time.monotonic() - self._began
        for station, spent in stats()["seconds"].items():
            busy, room = ((spent[w] - self._before[station][w]) / seconds for w in ("busy", "room"))
            # Not what the station says: a wait that began long before the block counts as a whole.
            self._shares[station] = {"busy": busy, "input": max(0, 1 - busy - room), "room": room}

    def busy(self, station: str) -> float:
        return self._shares[station]["busy"]

    def show(self) -> None:
        for station, shares in self._shares.items():
            shown = (f"{what} {share:6.1%}" for what, share in shares.items())
            print(f"     {station:<8}{'   '.join(shown)}", flush=True)


@contextmanager
def _spent() -> Iterator[_Spent]:
    spent = _Spent()
    yield spent
    spent.end()


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "mlp": mlp,
    "transformer": transformer,
    "memory": memory,
    "growth": growth,
    "interactive": interactive,
}

if __name__ == "__main__":
    main()
