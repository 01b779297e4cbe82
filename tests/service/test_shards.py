"""Shards in a worker: every row has one result or one error, whatever it does to the worker."""

import gzip
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.db import datasets
from headrace.registry import golden
from headrace.registry.manifest import Manifest
from headrace.registry.package import write_manifest
from headrace.signature import Field, Signature
from tests.service.datasets import Run
from tests.service.rig import Rig, eventually, rig


def blobs(folder: Path) -> Path:
    """A model of bytes, which it takes for text."""
    folder.mkdir()
    (folder / "handler.py").write_text(
        "class Handler:\n"
        "    def forward(self, records):\n"
        "        return [{'text': record['data'].decode()} for record in records]\n"
    )
    signature = Signature((Field("data", "bytes"),), (Field("text", "string"),))
    write_manifest(folder, Manifest("blobs", "python", signature, handler="handler.py"))
    golden.write(folder, signature, [({"data": b"a"}, {"text": "a"})])
    return folder


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path, redis_url: str
) -> Iterator[Rig]:
    """Started once: each test brings datasets of its own."""
    folder = tmp_path_factory.mktemp("shards")
    shutil.copy(migrated_database, folder / "jobs.db")
    with rig(
        folder, f"sqlite:///{folder}/jobs.db", redis_url, shard_window=32, quarantine_after=2
    ) as worker:
        worker.push("echo", max_records=16)
        worker.push_package(blobs(folder / "blobs"))
        worker.push("unmeasured", max_records=4)
        worker.start()
        yield worker


def test_results_are_in_the_inputs_order_whatever_fails(worker: Rig) -> None:
    ops = ["double"] * 200
    ops[7], ops[8], ops[150] = "raise", "fail", "garble"
    ops[60] = f"flaky {worker.folder / 'flaky'}"
    run = Run(worker, "mixed", ops, shard_rows=80)
    ended = run.wait()
    assert (ended.state, ended.total, ended.succeeded, ended.failed) == ("partial", 200, 197, 3)
    good = [n for n in range(200) if n not in (7, 8, 150)]
    assert [(row["row"], row["value"]) for row in run.results()] == [(n, 2 * n) for n in good]
    assert [(error["row"], error["code"]) for error in run.errors()] == [
        (7, "model_error"),
        (8, "unfit"),
        (150, "bad_output"),
    ]
    assert len(run.paths("part-*")) > 1
    assert (run.output / "_SUCCESS").exists()


def test_a_first_shard_tells_how_large_the_others_are(worker: Rig) -> None:
    """And a file that nobody can enter in the middle is laid down in pieces, which go again."""
    run = Run(worker, "pilot", ["double"] * 2000, model="unmeasured", end="csv.gz")
    assert run.wait().succeeded == 2000
    assert [pq.read_metadata(path).num_rows for path in run.paths("part-*")] == [256, 1744]
    assert [row["value"] for row in run.results()] == [2 * n for n in range(2000)]


def test_a_row_that_always_wants_another_run_fails_at_last(worker: Rig) -> None:
    run = Run(worker, "again", ["double", "retry 0.01", "double"])
    run.wait()
    assert [row["row"] for row in run.results()] == [0, 2]
    assert [error["code"] for error in run.errors()] == ["retries_exhausted"]


def test_urgent_jobs_run_between_the_blocks_of_a_shard(worker: Rig) -> None:
    begun = worker.folder / "between"
    ops = [f"until {begun}", *["sleep 0.02"] * 160]
    run = Run(worker, "slow", ops)
    eventually("its first block runs", begun.with_name("between.begun").exists)
    ids = worker.submit("echo", range(3))
    begun.touch()
    assert [int(result["value"]) for result in worker.client.results(ids, timeout=60)] == [0, 2, 4]
    assert not (run.output / "_manifest.json").exists()
    assert run.wait().succeeded == 161


def test_cancelling_stops_within_a_batch_and_leaves_nothing_half(worker: Rig) -> None:
    begun, notes = worker.folder / "cancelled", worker.folder / "notes"
    run = Run(worker, "cancel", [f"until {begun}", *[f"note {notes}"] * 500])
    eventually("its first block runs", begun.with_name("cancelled.begun").exists)
    shard = worker.on_device()
    with worker.database.write() as connection:
        assert datasets.cancel(connection, run.id)
    after = Run(worker, "after", ["double"])
    eventually("the worker is at the next shard", lambda: worker.on_device() != shard)
    begun.touch()
    assert after.wait().succeeded == 1
    assert len(notes.read_text().splitlines()) == 15  # those that ran with the first row
    assert not run.results()
    assert not list(run.output.glob(".*"))


def test_a_record_that_kills_is_found_and_its_mates_succeed(worker: Rig) -> None:
    ops = ["double"] * 100
    ops[41] = "die"
    run = Run(worker, "killer", ops, shard_rows=1000)
    ended = run.wait()
    assert (ended.succeeded, ended.failed) == (99, 1)
    assert [(error["row"], error["code"]) for error in run.errors()] == [(41, "quarantined")]
    assert [row["row"] for row in run.results()] == [n for n in range(100) if n != 41]


def test_equal_records_run_once(worker: Rig) -> None:
    notes = worker.folder / "once"
    ops = [f"note {notes}"] * 120
    ops[3] = "fail"
    run = Run(worker, "twice", ops, values=[n % 7 for n in range(120)], dedupe=True, shard_rows=500)
    ended = run.wait()
    assert (ended.succeeded, ended.failed, ended.duplicates) == (119, 1, 112)
    assert len(notes.read_text().splitlines()) == 7
    assert [(row["row"], row["value"]) for row in run.results()] == [
        (n, 2 * (n % 7)) for n in range(120) if n != 3
    ]


def test_values_are_fetched_from_files_of_their_own(worker: Rig) -> None:
    blobs = [worker.folder / f"blob-{n}" for n in range(20)]
    for blob in blobs[1:]:
        blob.write_bytes(blob.name.encode())
    table = pa.table({"path": [str(blobs[0]), *(f"file://{blob}" for blob in blobs[1:])]})
    run = Run(worker, "fetch", table, model="blobs", inputs={"data": ("path",)}, fetch=("data",))
    assert run.wait().succeeded == 19
    assert [row["text"] for row in run.results()] == [blob.name for blob in blobs[1:]]
    assert [(error["row"], error["code"]) for error in run.errors()] == [(0, "invalid_input")]


def test_text_comes_in_and_goes_out_compressed(worker: Rig) -> None:
    values = ["thirty" if n == 30 else str(n) for n in range(100)]
    table = pa.table(
        {"op": ["double"] * 100, "value": values, "key": [f"r{n}" for n in range(100)]}
    )
    out = {"format": "jsonl", "compression": "gzip"}
    run = Run(worker, "text", table, end="csv.gz", id="key", shard_rows=40, **out)
    assert run.wait().succeeded == 99
    parts = run.paths("part-*.jsonl.gz")
    assert len(parts) == 3
    text = "".join(gzip.decompress(path.read_bytes()).decode() for path in parts)
    rows = list(map(json.loads, text.splitlines()))
    good = [n for n in range(100) if n != 30]
    assert [(row["key"], row["value"]) for row in rows] == [(f"r{n}", 2 * n) for n in good]
    assert [(error["row"], error["id"]) for error in run.errors()] == [(30, "r30")]


def test_failed_records_run_again_and_only_they(worker: Rig) -> None:
    flag, notes = worker.folder / "mended", worker.folder / "rerun.notes"
    ops = [f"note {notes}"] * 90
    ops[5], ops[70], ops[71] = f"needs {flag}", "fail", f"needs {flag}"
    run = Run(worker, "rerun", ops, shard_rows=1000)
    assert run.wait().failed == 3
    ran = notes.read_text()
    flag.touch()
    run.again()
    ended = run.wait()
    assert (ended.succeeded, ended.failed, ended.run) == (89, 1, 2)
    assert [(error["row"], error["code"]) for error in run.errors()] == [(70, "unfit")]
    assert sorted(row["row"] for row in run.results()) == [n for n in range(90) if n != 70]
    assert notes.read_text() == ran


def test_an_input_that_changes_fails_the_dataset_and_publishes_nothing(worker: Rig) -> None:
    begun = worker.folder / "changing"
    run = Run(worker, "changed", [f"until {begun}", *["double"] * 800], shard_rows=1000)
    eventually("its first block runs", begun.with_name("changing.begun").exists)
    os.utime(worker.folder / "changed.parquet", ns=(0, 0))
    begun.touch()
    ended = run.wait()
    assert ended.error is not None
    assert (ended.state, ended.error.code) == ("failed", "input_changed")
    assert not run.results()
    assert not list(run.output.glob(".*"))


def test_a_drain_gives_the_shard_back_within_a_batch(worker: Rig) -> None:
    begun, notes = worker.folder / "drained", worker.folder / "drained.notes"
    run = Run(worker, "drain", [f"until {begun}", *[f"note {notes}"] * 500], shard_rows=1000)
    eventually("its first block runs", begun.with_name("drained.begun").exists)
    draining = threading.Thread(target=worker.drain)
    draining.start()
    eventually("the shard is given back", lambda: run.units() == [("queued", 0)])
    begun.touch()
    draining.join()
    assert len(notes.read_text().splitlines()) == 15
    assert not list(run.output.glob(".*"))
    worker.start()
    assert run.wait().succeeded == 501
    assert run.units() == [("succeeded", 1)]
