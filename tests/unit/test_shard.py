"""One shard on its way, beside a device of the test's own: blocks run, results in place, files."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.dataset import DatasetId, Spec
from headrace.datasets.files import on_disk
from headrace.datasets.reading import reading_of
from headrace.datasets.shards import Shard
from headrace.db.shards import ShardRow
from headrace.db.units import Unit
from headrace.errors import StoreUnavailable
from headrace.job import JobId, ModelKey, Outcome, Priority
from headrace.registry.manifest import Batching, Manifest, ModelVersion
from headrace.runtimes.collated import Answer, Collated, collate, cut_back
from headrace.settings import Settings
from headrace.signature import Field, Record, Signature
from workers import parts
from workers.ahead import Source
from workers.infer import Infer
from workers.parts import Written
from workers.shard import Quarantined, ShardRun
from workers.shifts import Shifts
from workers.turns import Turns

TOKENS = Field("x", "float32", ("n",), 0.0)
MODEL = Signature(
    (TOKENS,), (Field("sum", "float32", (), None, True), Field("y", "float32", ("n",)))
)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class Sums:
    """Adds up each record, in padded batches. room: tokens that fit; batches: tokens of each."""

    memory = 0

    def __init__(self, room: float = float("inf")) -> None:
        self.room = room
        self.batches: list[int] = []
        self.one_by_one = 0
        self.marks: list[dict[str, Any]] = []
        self.seen: list[tuple[int, Any]] = []

    def infer_batch(self, batch: Collated) -> Answer:
        x = batch.arrays["x"]
        self.batches.append(x.size)
        self.seen += [(len(x), mark["here"]) for mark in self.marks[-1:]]
        if x.size > self.room:
            raise OutOfMemoryError
        return cut_back(MODEL.outputs, {"sum": x.sum(axis=1), "y": x + 1}, batch)

    def infer(self, records: list[Record]) -> list[Outcome]:
        self.one_by_one += 1
        return self.infer_batch(
            collate(MODEL.inputs, {"x": [record["x"] for record in records]})
        ).outcomes()

    def close(self) -> None: ...


class Ceilings:
    """Keeps what it is told."""

    tokens: int | None = None

    def ran(self, key: ModelKey, *, overflow: Any, **_: Any) -> None:
        if overflow is not None:
            self.tokens = overflow.fits


class Bench:
    def __init__(self, folder: Path, rows: list[list[float]]) -> None:
        self.folder = folder
        self.path = folder / "in.parquet"
        pq.write_table(pa.table({"x": pa.array(rows, pa.list_(pa.float32()))}), self.path)
        self.count = len(rows)
        self.ceilings = Ceilings()
        self.marks: list[dict[str, Any]] = []
        self.while_reading: list[dict[str, Any]] = []

    def run(
        self, model: Any, *, records: int = 8, trail: str | None = None, **unit: Any
    ) -> Written:
        turns = Turns()
        model.marks = self.marks
        manifest = Manifest("sums", "torch-export", MODEL, weights="w", batching=Batching(records))
        version = ModelVersion(1, "", manifest, {}, {})
        infer = Infer(
            residents=SimpleNamespace(get=lambda _: model),  # type: ignore[arg-type]
            waiting=SimpleNamespace(),  # type: ignore[arg-type]
            turns=turns,
            progress=SimpleNamespace(  # type: ignore[arg-type]
                begin=lambda _: None, end=lambda: None, device=lambda _: nullcontext()
            ),
            to_store=lambda _: None,
            ceilings=self.ceilings,  # type: ignore[arg-type]
            still_wanted=lambda batch: batch,
        )
        spec = Spec(str(self.path), str(self.folder / "out"))
        file, key, job = on_disk(self.path), ModelKey("sums", 1), JobId("job")
        reading = reading_of(MODEL, spec, pq.read_schema(self.path), file.uri)
        place = (0, self.count, 0, 0, None)
        row = ShardRow(
            DatasetId("d"), "", job, 0, 0, 1, key, spec, "", file.uri, file.size, file.tag,
            *place, trail, None,
        )  # fmt: skip
        with running(infer, turns):
            return ShardRun(
                row,
                Unit(job, "", key, Priority.BULK, 1, 0.0, 0.0, None, None, **unit),
                Source(Shard(file, 0, self.count), reading, version),
                Settings(shard_window=16),
                turns=turns,
                ceiling=lambda: self.ceilings.tokens,
                shifts={"read": Shifts(), "write": Shifts()},
                look=lambda _: None,
                mark=lambda text: self.marks.append(json.loads(text)),
                reading=self.reading,
            ).run()

    @contextmanager
    def reading(self, _: JobId) -> Iterator[None]:
        self.while_reading += self.marks[-1:]
        yield
        self.while_reading += self.marks[-1:]

    def sums(self) -> list[float]:
        """What was written last, unpublished as it is."""
        *_, part = (self.folder / "out").glob(".part-*")
        table = pq.read_table(part)
        assert table["row"].to_pylist() == sorted(table["row"].to_pylist())
        assert [sum(y) - len(y) for y in table["y"].to_pylist()] == table["sum"].to_pylist()
        return table["sum"].to_pylist()

    def errors(self) -> list[tuple[int, str]]:
        (path,) = (self.folder / "out").glob(".errors-*")
        told = map(json.loads, path.read_text().splitlines())
        return [(error["row"], error["code"]) for error in told]


@contextmanager
def running(infer: Infer, turns: Turns) -> Iterator[None]:
    def run() -> None:
        while infer.step():
            pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        turns.stop()
        thread.join()


LENGTHS = [(7 * n) % 23 for n in range(100)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A hundred records, of 0 to 22 tokens in no order."""
    return Bench(tmp_path, [[1.0] * length for length in LENGTHS])


def test_padded_records_come_back_in_place_and_none_is_run_alone(bench: Bench) -> None:
    model = Sums()
    written = bench.run(model)
    assert (written.succeeded, written.failed) == (100, 0)
    assert bench.sums() == LENGTHS
    assert model.one_by_one == 0
    # Neighbours in length: little is padding.
    assert sum(model.batches) < 1.5 * sum(LENGTHS)


def test_a_row_without_a_result_fails_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [[1.0], [float("nan")], [2.0]])
    model = Sums()
    written = bench.run(model)
    assert (written.succeeded, written.failed) == (2, 1)
    assert bench.errors() == [(1, "bad_output")]
    assert model.one_by_one == 0


def test_what_does_not_fit_is_halved_and_remembered(bench: Bench) -> None:
    model = Sums(room=60)
    assert bench.run(model).succeeded == 100
    assert bench.sums() == LENGTHS
    assert bench.ceilings.tokens is not None
    assert bench.ceilings.tokens <= 60
    again = Sums(room=60)
    bench.run(again)
    assert max(again.batches) <= 60


def test_of_a_suspect_it_is_known_what_runs(bench: Bench) -> None:
    """And the rows that were on the device at a death run one by one."""
    model = Sums()
    trail = json.dumps({"here": [3, 40, 41]})
    assert bench.run(model, trail=trail, suspect=True).succeeded == 100
    assert bench.sums() == LENGTHS
    ran = [mark["here"] for mark in bench.marks if mark["here"]]
    assert sorted(row for rows in ran for row in rows) == list(range(100))
    assert all(len(rows) == 1 for rows in ran if {3, 40, 41} & set(rows))
    assert len(ran) == len(model.batches)
    assert [rows for _, rows in model.seen] == ran
    assert all(count == len(rows) for count, rows in model.seen)
    # While the model is loaded, and while rows are read, none is there.
    assert bench.marks[0]["here"] == []
    assert len(bench.while_reading) > 10
    assert not any(mark["here"] for mark in bench.while_reading)


def test_a_row_that_died_alone_too_often_does_not_run(bench: Bench) -> None:
    trail = json.dumps({"here": [3], "deaths": {"3": 2, "9": 1}})
    written = bench.run(Sums(), trail=trail, suspect=True)
    assert (written.succeeded, written.failed) == (99, 1)
    assert bench.errors() == [(3, "quarantined")]
    assert [9] in [mark["here"] for mark in bench.marks]


def test_a_shard_that_kills_without_a_row_ends(bench: Bench) -> None:
    trail = json.dumps({"here": [], "nowhere": 2})
    with pytest.raises(Quarantined, match="3 workers died"):
        bench.run(Sums(), trail=trail, suspect=True)
    assert not list((bench.folder / "out").iterdir())


class Away:
    """An output whose store answers every second time."""

    keeps = True

    def __init__(self) -> None:
        self.data, self.calls, self.kept = b"", 0, b""

    def write(self, data: bytes) -> int:
        self.kept += data
        self._answer()
        self.data, self.kept = self.data + self.kept, b""
        return len(data)

    def seal(self) -> str:
        self._answer()
        return "sealed"

    def _answer(self) -> None:
        self.calls += 1
        if self.calls % 2:
            raise StoreUnavailable("away")


def test_a_store_that_comes_back_gets_every_byte_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PAUSE", 0.0)
    away, looks = Away(), []
    patient = parts._Patient(away, lambda: looks.append(1))  # type: ignore[arg-type]
    assert [patient.write(data) for data in (b"one", b"two")] == [3, 3]
    assert patient.seal() == "sealed"
    assert away.data == b"onetwo"
    assert looks  # while it waited


def test_a_store_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PAUSE", 0.0)
    monkeypatch.setattr(parts, "_PATIENCE", 0.0)

    def away() -> None:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        parts.patiently(away, lambda: None)
