"""Plans of datasets over real files: every row in one shard, whatever the plan dies of."""

import contextlib
import gzip
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from headrace.dataset import PLANS, Spec
from headrace.datasets import files, plan, shards
from headrace.datasets.files import InputFile
from headrace.datasets.formats import of_name
from headrace.datasets.plan import Plan, Postponed
from headrace.datasets.reading import Reading
from headrace.datasets.shards import Shard
from headrace.datasets.writing import open_writer
from headrace.db import datasets, planning, speeds
from headrace.db.dataset_tables import dataset_files
from headrace.db.dataset_tables import datasets as datasets_table
from headrace.db.dataset_tables import shards as shards_table
from headrace.db.engine import Database
from headrace.errors import InputChanged, InvalidInput, UnitLost
from headrace.settings import Settings, load_settings
from headrace.signature import Field, Signature
from headrace.storage import open_store
from tests.conformance.dataset_table import DatasetTable
from tests.conformance.job_table import M1, JobTable

MODEL = Signature((Field("x", "float32"),), (Field("y", "float32"),))
ENDS = ["parquet", "jsonl", "csv", "jsonl.gz", "csv.zst"]
BATCH = 2
PILOT = plan._PILOT_BATCHES * BATCH


class Planner:
    """Datasets of the files in a folder, and whoever plans them."""

    def __init__(self, table: JobTable, where: str, settings: Settings) -> None:
        self.sets = DatasetTable(table)
        self.where = where
        self.settings = settings
        self.store = open_store(settings)
        self.stopping = threading.Event()
        self.rung = []

    def submit(self, **spec):
        spec = Spec(**{"input": self.where, "output": "/out", "id": "id"} | spec)
        return self.sets.insert(spec=spec)

    def plan(self, database=None, store=None, ring=None):
        """Claim it, and plan it to the end."""
        fence = self.sets.claim(PLANS)
        row = self.sets.call(planning.plan_of, fence.job)
        self.fence, self.rung = fence, []
        Plan(
            database or self.sets.database,
            store or self.store,
            self.settings,
            fence,
            row,
            MODEL,
            BATCH,
            ring or self.rung.append,
            self.stopping,
        ).run()

    def measured(self, rows_per_second):
        self.sets.call(speeds.measured, M1, rows_per_second)

    def shards(self, id):
        """Their file, number, and what is read of them."""
        with self.sets.database.read() as connection:
            reading = connection.execute(
                sa.select(datasets_table.c.reading).where(datasets_table.c.id == id)
            ).scalar_one()
            found = connection.execute(
                sa.select(shards_table, *dataset_files.c["uri", "size", "tag"])
                .join(
                    dataset_files,
                    sa.and_(
                        dataset_files.c.dataset_id == shards_table.c.dataset_id,
                        dataset_files.c.number == shards_table.c.file,
                    ),
                )
                .where(shards_table.c.dataset_id == id)
                .order_by(shards_table.c.file, shards_table.c.number)
            ).all()
        for row in found:
            schema = Reading.from_json(reading).schema
            piece = None if row.piece is None else InputFile(**json.loads(row.piece))
            file = InputFile(row.uri, row.size, row.tag)
            shard = Shard(file, row.first, row.rows, row.start, row.stop, piece)
            read = list(shards.read(shard, schema, self.settings))
            assert sum(map(len, read)) == row.rows
            ids = [str(id) for rows in read for id in rows.table["id"].to_pylist()]
            yield row.file, row.number, ids

    def check(self, id, rows):
        """It is planned, and has each of the rows once, in order. Returns the shards' sizes."""
        found = list(self.shards(id))
        assert [id for _, _, ids in found for id in ids] == [str(row) for row in rows]
        places = [(file, number) for file, number, _ in found]
        assert places == sorted(set(places))
        assert all(number == 0 or (file, number - 1) in places for file, number in places)
        it = self.sets.get(id)
        assert it.planned_at is not None
        assert (it.total, it.shards, it.open_shards) == (len(rows), len(found), len(found))
        return [len(ids) for _, _, ids in found]


def write(folder, name, rows, **options) -> Path:
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": pa.array(rows, pa.int64()), "x": pa.array(rows, pa.float64())})
    with path.open("wb") as sink:
        if options:
            pq.write_table(table, sink, **options)
        else:
            with open_writer(sink, table.schema, *of_name(name)) as writer:
                writer.write_table(table)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def planner(table, folder, tmp_path) -> Planner:
    return Planner(table, str(folder), Settings(store_url=str(tmp_path / "store"), io_threads=2))


@pytest.mark.parametrize("end", ENDS)
def test_every_row_is_in_one_shard(planner, folder, end) -> None:
    for number in range(3):
        write(folder, f"{number}.{end}", range(number * 100, number * 100 + 100))
    id = planner.submit(shard_rows=40)
    planner.plan()
    sizes = planner.check(id, range(300))
    assert len(sizes) == 9
    assert sum(map(len, planner.rung)) == 9
    assert planner.sets.table.states([planner.fence.job]) == ["succeeded"]
    assert planner.sets.claim("/shards")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
@pytest.mark.parametrize("end", ENDS)
def test_files_and_pieces_in_a_bucket(table, store_url, tmp_path, s3_endpoint, end) -> None:
    bucket, _, prefix = store_url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for number in range(2):
        path = write(tmp_path, f"in.{end}", range(number * 100, number * 100 + 100))
        client.upload_file(str(path), bucket, f"{prefix}/in/{number}.{end}")
    planner = Planner(table, f"{store_url}/in/*.{end}", load_settings(store_url=store_url))
    id = planner.submit(shard_rows=50)
    planner.plan()
    assert planner.check(id, range(200)) == [50] * 4
    pieces = [info.key for info in planner.store.list(f"datasets/{id}/pieces/")]
    assert len(pieces) == (0 if end in ("parquet", "jsonl") else 4)


class Died(BaseException):
    """As a process dies: nothing is tidied up."""


class Dying:
    """A database or store whose caller dies at the last of so many calls, before it or after."""

    def __init__(self, real, calls, before) -> None:
        self._real = real
        self._left = calls
        self._before = before

    def __getattr__(self, name):
        return getattr(self._real, name)

    @contextlib.contextmanager
    def _dying(self):
        self._left -= 1
        if self._left == 0 and self._before:
            raise Died
        yield
        if self._left == 0:
            raise Died

    @contextlib.contextmanager
    def write(self):
        with self._dying(), self._real.write() as connection:
            yield connection

    def put_file(self, key, path) -> None:
        with self._dying():
            self._real.put_file(key, path)


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    end=st.sampled_from(ENDS),
    deaths=st.lists(
        st.tuples(st.booleans(), st.integers(1, 12), st.booleans(), st.integers(1, 30)),
        max_size=5,
    ),
)
@settings_of_hypothesis(deadline=None, max_examples=25)
def test_a_plan_that_dies_anywhere_goes_on(migrated_database, sizes, end, deaths) -> None:
    """Each time with shards of another size."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_PAGE", 2)
        patch.setattr(plan, "_FLUSH_SECONDS", 60.0)
        shutil.copy(migrated_database, f"{folder}/jobs.db")
        database = Database(f"sqlite:///{folder}/jobs.db")
        table = JobTable(database)
        table.model("m")
        settings = Settings(store_url=f"{folder}/store", io_threads=1)
        planner = Planner(table, f"{folder}/in", settings)
        first = 0
        for number, rows in enumerate(sizes):
            options = {"row_group_size": 7} if end == "parquet" else {}
            write(f"{folder}/in", f"{number}.{end}", range(first, first + rows), **options)
            first += rows
        id = planner.submit(input=f"{folder}/in/*.{end}")
        for in_store, calls, before, rows in deaths:
            if planner.sets.get(id).planned_at is not None:
                break
            # Older measurements fade slowly; the newest is all that matters here.
            patch.setattr(speeds, "get", lambda *_, rows=rows: rows / plan._SHARD_SECONDS)
            dying = Dying(planner.store if in_store else database, calls, before)
            with contextlib.suppress(Died):
                planner.plan(**{"store" if in_store else "database": dying})
            table.retire(planner.fence.worker)
            if planner.sets.get(id).planned_at is not None:
                break  # it died of the answer
        if planner.sets.get(id).planned_at is None:
            patch.setattr(speeds, "get", lambda *_: 10 / plan._SHARD_SECONDS)
            planner.plan()
        planner.check(id, range(first))
        database.close()


class TestWithoutASpeed:
    def test_one_shard_is_run_first_to_measure_it(self, planner, folder) -> None:
        write(folder, "a.jsonl", range(3 * PILOT))
        write(folder, "b.jsonl", range(3 * PILOT, 5 * PILOT))
        id, seen = planner.submit(), []

        def ring(ids) -> None:
            seen.append(len(ids))
            if len(seen) == 1:
                planner.measured(PILOT * 2 / 45)

        planner.plan(ring=lambda ids: ids and ring(ids))
        assert planner.check(id, range(5 * PILOT)) == [PILOT, 2 * PILOT, 2 * PILOT]
        assert seen[0] == 1

    def test_little_is_not_worth_waiting_for(self, planner, folder) -> None:
        for number in range(3):
            write(folder, f"{number}.csv", range(number * PILOT, number * PILOT + PILOT))
        id = planner.submit()
        planner.plan()
        assert planner.check(id, range(3 * PILOT)) == [PILOT] * 3

    @pytest.mark.parametrize("end", ["parquet", "csv"])
    def test_nobody_plans_on_while_nobody_runs_it(self, planner, folder, end, monkeypatch) -> None:
        monkeypatch.setattr(plan, "_PATIENCE", -1.0)
        write(
            folder,
            f"a.{end}",
            range(3 * PILOT),
            **({"row_group_size": 10} if end[0] == "p" else {}),
        )
        id = planner.submit()
        for _ in range(2):
            with pytest.raises(Postponed) as postponed:
                planner.plan()
            assert postponed.value.delay > 0
            planner.sets.table.retire(planner.fence.worker)
            assert planner.sets.get(id).shards == 1, "one is enough to measure"
        planner.measured(100)
        planner.plan()
        planner.check(id, range(3 * PILOT))

    def test_who_waits_hears_that_it_is_cancelled(self, planner, folder) -> None:
        write(folder, "a.jsonl", range(3 * PILOT))
        id = planner.submit()
        with pytest.raises(UnitLost):
            planner.plan(ring=lambda ids: planner.sets.call(datasets.cancel, id))


def test_it_stops_between_two_transactions_and_goes_on(planner, folder, monkeypatch) -> None:
    monkeypatch.setattr(plan, "_PAGE", 2)
    write(folder, "a.parquet", range(100), row_group_size=10)
    id = planner.submit(shard_rows=10)
    with pytest.raises(Postponed) as postponed:
        planner.plan(ring=lambda ids: ids and planner.stopping.set())
    assert postponed.value.delay == 0
    assert 0 < planner.sets.get(id).shards < 10
    planner.sets.table.retire(planner.fence.worker)
    planner.stopping.clear()
    planner.plan()
    assert planner.check(id, range(100)) == [10] * 10


def test_shards_are_kept_some_at_a_time(planner, folder, monkeypatch) -> None:
    added, add = [], planning.add

    def adding(connection, fence, row, cut, done):
        added.append(len(cut) + len(done))
        return add(connection, fence, row, cut, done)

    monkeypatch.setattr(planning, "add", adding)
    monkeypatch.setattr(plan, "_FLUSH_SECONDS", 60.0)
    monkeypatch.setattr(plan, "_PAGE", 20)
    write(folder, "a.jsonl", range(50))
    for number in range(50):
        write(folder, f"b{number:02d}.jsonl", [])
    id = planner.submit(shard_rows=1)
    planner.plan()
    planner.check(id, range(50))
    assert max(added) == plan._PAGE
    assert len(added) < 8


class TestFilesThatWillNotDo:
    def fails(self, planner, error, match, **spec):
        id = planner.submit(**spec)
        with pytest.raises(error, match=match):
            planner.plan()
        assert planner.sets.get(id).shards == 0
        return id

    def test_there_is_none(self, planner, folder) -> None:
        pattern = f"{folder}/*.csv"
        self.fails(planner, InvalidInput, r"in/\*\.csv: there are no such files", input=pattern)

    def test_a_column_is_missing(self, planner, folder) -> None:
        write(folder, "a.csv", range(3))
        self.fails(planner, InvalidInput, r"a\.csv: has no column 'z' for x", inputs={"x": ("z",)})

    def test_a_later_file_is_of_another_kind(self, planner, folder) -> None:
        for number in range(5):
            write(folder, f"{number}.parquet", range(3))
        table = pa.table({"id": [1], "x": ["1"]})
        pq.write_table(table, folder / "3.parquet")
        self.fails(planner, InvalidInput, r"3\.parquet: x: is string, in .*0\.parquet double")

    def test_one_changes_under_way(self, planner, folder, monkeypatch) -> None:
        monkeypatch.setattr(plan, "_PAGE", 2)
        write(folder, "a.jsonl", range(10))
        late = write(folder, "b.jsonl", range(10))
        planner.submit(shard_rows=1)
        with pytest.raises(InputChanged, match=r"b\.jsonl changed"):
            planner.plan(ring=lambda ids: ids and os.utime(late, ns=(0, 0)))


class TestFilesWithoutRows:
    @pytest.mark.parametrize("end", ENDS)
    def test_a_dataset_of_no_rows_has_no_shards(self, planner, folder, end) -> None:
        write(folder, f"a.{end}", [])
        id = planner.submit()
        planner.plan()
        assert planner.check(id, []) == []
        assert planner.sets.close(id).state == "succeeded"

    @pytest.mark.parametrize("end", ["csv", "jsonl", "csv.gz"])
    def test_empty_ones_among_others_are_nothing(self, planner, folder, end) -> None:
        for name in ("a", "c"):
            (folder / f"{name}.{end}").write_bytes(gzip.compress(b"") if "gz" in end else b"")
        id = planner.submit(shard_rows=10)
        write(folder, f"b.{end}", range(10))
        planner.plan()
        assert planner.check(id, range(10)) == [10]
        assert planner.sets.get(id).files == 3


def test_pieces_of_a_plan_before_are_not_laid_down_again(planner, folder, monkeypatch) -> None:
    monkeypatch.setattr(plan, "_FLUSH_SECONDS", 0.0)
    write(folder, "a.csv", range(100))
    id = planner.submit(shard_rows=10)
    dying = Dying(planner.store, 6, True)
    with pytest.raises(Died):
        planner.plan(store=dying)
    planner.sets.table.retire(planner.fence.worker)
    planner.plan()
    planner.check(id, range(100))
    assert len(list(planner.store.list(f"datasets/{id}/pieces/"))) == 10


def test_what_was_cut_short_goes_on(planner, folder) -> None:
    write(folder, "a.parquet", range(100), row_group_size=10)
    id = planner.submit(shard_rows=10)
    planner.plan()
    planner.sets.run(10)
    planner.sets.ended(id)
    assert planner.sets.call(datasets.go_on, planner.sets.again(id))
    planner.plan()
    assert planner.sets.get(id).shards == 10
    for _ in range(9):
        planner.sets.run(10)
    assert planner.sets.close(id).state == "succeeded"


def test_files_are_found_in_the_order_of_their_names(tmp_path) -> None:
    for name in ["b/c.csv", "b.csv", "a.csv"]:
        write(tmp_path, name, [])
    found = [file.uri for file in files.each(str(tmp_path), Settings())]
    assert found == sorted(found)
    assert len(found) == 3
