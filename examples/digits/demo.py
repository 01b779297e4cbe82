"""The whole road, checked: ``make demo``, or ``python -m examples.digits.demo``.

Trains a digits model, packages it, starts the embedded stack, submits every held-out image as
a job, and compares every result with a direct run of the model. Exits with 1, naming the jobs,
when a result differs, is missing, or is there twice. The stack is gone at the end; the jobs
and results stay.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import headrace
from examples.digits.check import Record, find_faults
from examples.digits.train import Digits, load_data, package, train
from headrace import payload
from headrace.db.engine import Database
from headrace.job import Done, Job, JobId, JobState, ModelKey
from headrace.registry import versions
from headrace.registry.package import Package
from headrace.stack import Stack
from headrace.storage import open_store
from headrace.storage.packs import scan

_WAIT_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a digits model and check every answer.")
    parser.add_argument("--directory", type=Path, default=Path(".headrace/demo"))
    directory: Path = parser.parse_args().directory.absolute()
    try:
        faults = run(directory)
    except KeyboardInterrupt:
        sys.exit(130)
    except headrace.errors.HeadraceError as error:
        sys.exit(f"demo: {error}")
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        sys.exit(f"demo: {len(faults)} faults, each named above")


def run(directory: Path) -> list[str]:
    """The demo in `directory`; what `find_faults` found."""
    print("Training a small network on scikit-learn's handwritten digits …", flush=True)
    digits = load_data()
    network = train(digits)
    print("Starting Redis, a worker and Flower …", flush=True)
    with Stack(directory) as stack:
        folder = directory / "package"
        if folder.exists():  # an earlier demo's; this one holds the directory's lock
            shutil.rmtree(folder)
        model = package(network, digits, folder)
        key = push(stack, model)
        print(f"Registered {key}. Flower shows its tasks at {stack.flower_url}", flush=True)
        with headrace.Client(**stack.settings) as client:
            begun = time.perf_counter()
            ids = client.submit_many(str(key), digits.test_images[:1])
            client.wait(ids, timeout=_WAIT_SECONDS)
            warm = time.perf_counter()
            ids += client.submit_many(str(key), digits.test_images[1:])
            jobs = client.wait(ids, timeout=_WAIT_SECONDS, progress=True)
            ended = time.perf_counter()
            done = [job for job in jobs if job.state is JobState.SUCCEEDED]
            results = dict(zip(ids_of(done), client.results(ids_of(done)), strict=True))
        stored = list(stored_results(stack.settings["store_url"], set(ids)))
    labels = dict(zip(ids, digits.test_labels, strict=True))
    right = sum(int(results[id]["logits"].argmax() == labels[id]) for id in results)
    batches = len({job.result_uri for job in done})
    print(f"  jobs done        {len(done)} of {len(jobs)}")
    print(f"  accuracy         {right / len(jobs):.1%} of the true labels")
    print(f"  first result     {warm - begun:.1f} s after its submit (a new model is loaded first)")
    rate = (len(jobs) - 1) / (ended - warm)
    print(f"  throughput       {rate:,.0f} jobs/s for the others, from submit to the last result")
    print(f"  mean batch size  {len(done) / max(1, batches):.1f} ({batches} batches)")
    print(f"  results          {directory / 'store' / 'results'}")
    print(f"  job table        {directory / 'jobs.db'}")
    print(f"  Flower           {stack.flower_url} until now; `make up` starts one that stays")
    for job in jobs:
        if job.error is not None:
            print(f"job {job.id} {job.state}: {job.error.code}: {job.error.message}")
    expected = direct_run(model, digits)
    faults = find_faults(ids, expected, results, stored, model.manifest.tolerance)
    if not faults:
        print(f"All {len(ids)} results equal those of a direct run; each is stored exactly once.")
    return faults


def push(stack: Stack, model: Package) -> ModelKey:
    """Register the package with the stack, as ``headrace models push`` does."""
    database = Database(stack.settings["database_url"])
    try:
        return versions.push(database, open_store(stack.settings["store_url"]), model).key
    finally:
        database.close()


def ids_of(jobs: list[Job]) -> list[JobId]:
    return [job.id for job in jobs]


def stored_results(store_url: str, ids: set[JobId]) -> Iterator[tuple[JobId, Record]]:
    """Every result of these jobs that the store holds, read from the objects alone."""
    store = open_store(store_url)
    for info in store.list("results/"):
        for id, data in scan(store.get(info.key), info.key):
            if id in ids:
                yield id, payload.decode(data)


def direct_run(model: Package, digits: Digits) -> list[Record]:
    """What the package answers in this process, without queue or store."""
    with headrace.load(model.root) as network:
        outcomes = network.many({"image": digits.test_images})
    failed = [outcome for outcome in outcomes if not isinstance(outcome, Done)]
    if failed:
        raise headrace.errors.GoldenMismatch(str(model.root), f"a direct run failed: {failed[0]}")
    return [outcome.outputs for outcome in outcomes if isinstance(outcome, Done)]


if __name__ == "__main__":
    main()
