"""Files of every format: each row is read once, whatever is wrong with others."""

import gzip
import io
import itertools
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from headrace.datasets import jsonl, shards
from headrace.datasets.columns import choose, convert, typed
from headrace.datasets.files import find
from headrace.datasets.formats import Compression, Format, of_name
from headrace.datasets.rows import Reject, Rows
from headrace.datasets.writing import open_writer, results, schema_of, write_errors
from headrace.errors import InputChanged, InvalidInput
from headrace.job import Failed
from headrace.settings import Settings
from headrace.signature import Field, Signature

MODEL = Signature((Field("x", "float64", (2,)),), (Field("y", "float64"), Field("z", "json")))
ENDS = ["parquet", "jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "csv.zst"]


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(store_url=str(tmp_path / "store"))


def read_all(file, schema, size, folder, settings):
    """Every row and reject of a file, through its shards."""
    if shards.in_place(file):
        cut = list(shards.cut(file, size, settings))
    else:
        folder.mkdir(exist_ok=True)
        cut = list(shards.lay_down(file, schema, size, folder, settings))
    tables, numbers, rejects = [schema.empty_table()], [], []
    for shard in cut:
        found = list(shards.read(shard, schema, settings))
        assert sum(map(len, found)) == shard.rows
        assert all(shard.first <= rows.first for rows in found if len(rows))
        tables += [rows.table for rows in found]
        numbers += [int(number) for rows in found for number in rows.numbers]
        rejects += [reject for rows in found for reject in rows.rejects]
    return pa.concat_tables(tables), numbers, rejects, cut


def write(path, table, **options):
    format, compression = of_name(path.name)
    with path.open("wb") as sink:
        if options:
            pq.write_table(table, sink, **options)
        else:
            with open_writer(sink, table.schema, format, compression) as writer:
                writer.write_table(table)
    [file] = find(str(path), None)
    return file


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [7, 100, 1000])
def test_every_row_is_read_once(tmp_path, settings, end, size) -> None:
    table = pa.table(
        {
            "id": [f"row, {i}\n" for i in range(100)],
            "x": [[i, i / 3] for i in range(100)],
            "other": list(range(100)),
        }
    )
    options = {"row_group_size": 30} if end == "parquet" else {}
    file = write(tmp_path / f"in.{end}", table, **options)
    columns = choose(MODEL, shards.columns(file, settings).names, file.uri, id="id")
    format, _ = of_name(file.uri)
    schema = typed(MODEL, columns, shards.columns(file, settings), format, file.uri)
    assert schema.names == ["id", "x"]
    read, numbers, rejects, cut = read_all(file, schema, size, tmp_path / "pieces", settings)
    assert numbers == list(range(100))
    assert not rejects
    assert read["id"].to_pylist() == table["id"].to_pylist()
    rows = list(shards.read(cut[-1], schema, settings))[-1]
    records = convert(MODEL, columns, rows)
    assert records.inputs["x"][-1].tolist() == [99, 33]
    assert len(cut) in (range(1, 2) if size == 1000 else range(100 // size, 2 * 100 // size + 3))


@given(
    groups=st.lists(st.integers(0, 40), max_size=8),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    end=st.sampled_from(["parquet", "jsonl", "jsonl.gz", "csv"]),
    blank=st.integers(2, 9),
)
@settings_of_hypothesis(deadline=None, max_examples=60)
def test_a_cut_goes_on_behind_any_shard(groups, sizes, end, blank) -> None:
    """Each round with another size, until one finds nothing left."""
    with tempfile.TemporaryDirectory() as folder:
        path, settings = Path(folder, f"in.{end}"), Settings(store_url=folder)
        rows = sum(groups)
        if end == "parquet":
            with pq.ParquetWriter(path, pa.schema([("x", pa.int64())])) as writer:
                for at, group in zip(itertools.accumulate(groups, initial=0), groups, strict=False):
                    writer.write_table(pa.table({"x": pa.array(range(at, at + group), pa.int64())}))
        else:
            lines = [b"x"] * (end == "csv")
            for row in range(rows):
                lines += [b'{"x": %d}' % row if "json" in end else b"%d" % row]
                lines += [b""] * ("json" in end and row % blank == 0)
            data = b"\n".join(lines)
            path.write_bytes(gzip.compress(data) if end.endswith("gz") else data)
        [file] = find(str(path), settings)
        schema, cut = pa.schema([("x", pa.string() if end == "csv" else pa.int64())]), []
        for size in itertools.cycle(sizes):
            behind = cut[-1] if cut else None
            if shards.in_place(file):
                rest = shards.cut(file, size, settings, behind)
            else:
                pieces = Path(folder, str(len(cut)))
                pieces.mkdir()
                rest = shards.lay_down(file, schema, size, pieces, settings, behind)
            some = list(itertools.islice(rest, 1 + size % 2))
            cut += some
            if not some:
                break
        read = [rows for shard in cut for rows in shards.read(shard, schema, settings)]
        numbers = [int(number) for rows in read for number in rows.numbers]
        assert numbers == read_all(file, schema, 1000, Path(folder, "whole"), settings)[1]
        assert [int(x) for rows in read for x in rows.table["x"].to_pylist()] == list(range(rows))
        assert not any(rows.rejects for rows in read)
        assert sum(shard.rows for shard in cut) == rows
        assert all(shard.rows <= max(sizes) for shard in cut)


def test_small_row_groups_go_together_and_large_ones_apart(tmp_path, settings) -> None:
    table = pa.table({"x": [[0.0, 1.0]] * 100})
    for group, size, expected in [
        (10, 25, [20] * 5),
        (100, 30, [25] * 4),
        (60, 50, [30, 30, 40]),
        (1, 1000, [100]),
    ]:
        file = write(tmp_path / "in.parquet", table, row_group_size=group)
        cut = list(shards.cut(file, size, settings))
        assert [shard.rows for shard in cut] == expected
        assert [shard.first for shard in cut] == [0, *np.cumsum(expected)[:-1]]


LINES = [
    b'{"x": [1, 2.5], "id": 1}',
    b"",
    b'{"x": [1, 2], "id": 2',
    b'{"x": [1, "a"], "id": 3}',
    b'{"id": 4}',
    b"[5]",
    b'{"x": [1, 2], "id": "\xff"}',
    b'{"x": [1, 2], "id": 7, "new": {"a": 1}} {"x": [1, 2]}',
    b'{"x": [1], "id": 8}',
    b'  {"id": 9, "x": [3, 4]}\r',
]


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_bad_line_is_told_by_its_number(tmp_path, settings, name, size) -> None:
    data = b"\n".join(LINES)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    [file] = find(str(tmp_path / name), settings)
    found = shards.columns(file, settings)
    columns = choose(MODEL, found.names, file.uri, id="id")
    schema = typed(MODEL, columns, found, Format.JSONL, file.uri)
    table, numbers, rejects, _ = read_all(file, schema, size, tmp_path / "pieces", settings)
    assert numbers == [0, 4, 8, 9]
    assert table["x"].to_pylist() == [[1, 2.5], None, [1], [3, 4]]
    assert [reject.number for reject in rejects] == [2, 3, 5, 6, 7]
    assert all(reject.code == "invalid_input" for reject in rejects)
    assert "Column(/x/[]) changed from number to string" in rejects[1].message
    assert rejects[4].message == "record: expected one JSON object a line"


@pytest.mark.parametrize("value", [[0, 1, 2.5, 3], [[0, 1], [2.5, 3]]], ids=["flat", "nested"])
def test_json_lines_hold_a_tensor_flat_or_nested(tmp_path, settings, value) -> None:
    signature = Signature((Field("x", "float32", (2, 2)),), (Field("y", "float64"),))
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"x": x}) + "\n" for x in ([1], value, value)))
    [file] = find(str(path), settings)
    found = shards.columns(file, settings)
    columns = choose(signature, found.names, file.uri)
    schema = typed(signature, columns, found, Format.JSONL, file.uri)
    [shard] = shards.cut(file, 10, settings)
    [rows] = shards.read(shard, schema, settings)
    records = convert(signature, columns, rows)
    assert records.inputs["x"].tolist() == [[[0, 1], [2.5, 3]]] * 2
    assert [reject.number for reject in records.rejects] == [0]


def test_text_that_is_no_utf8_is_a_bad_row(tmp_path, settings) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n{"text": "b"}\n')
    [file] = find(str(tmp_path / "in.jsonl"), settings)
    schema = pa.schema([pa.field("text", pa.string())])
    table, numbers, rejects, _ = read_all(file, schema, 10, tmp_path / "pieces", settings)
    assert table["text"].to_pylist() == ["a", "b"]
    assert (numbers, [reject.number for reject in rejects]) == ([0, 2], [1])


def test_what_a_line_holds_beside_json_values_stays_as_it_is(tmp_path, settings) -> None:
    signature = Signature((Field("any", "json"),), (Field("y", "float64"),))
    values = [{"a": 1}, [1, {"b": None}], "text", 2, None, {"c": 2}]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"any": value, "n": 1}) + "\n" for value in values))
    [file] = find(str(path), settings)
    columns = choose(signature, ["any", "n"], file.uri)
    schema = typed(signature, columns, shards.columns(file, settings), Format.JSONL, file.uri)
    [shard] = shards.cut(file, 100, settings)
    [rows] = shards.read(shard, schema, settings)
    assert [convert(signature, columns, rows).record(i)["any"] for i in range(6)] == values


@given(
    st.lists(st.sampled_from([b"", b"{}", b'{"a": 1}', b" "]), max_size=30),
    st.integers(1, 9),
    st.booleans(),
    st.integers(1, 40),
)
def test_lines_are_found_wherever_blocks_end(lines, size, ended, block) -> None:
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, block))

    data = b"\n".join(lines) + (b"\n" if ended else b"")
    found = [line for _, some in jsonl.blocks(Slow(data)) for line in some]
    wanted = data.split(b"\n")
    assert found == (wanted[:-1] if not wanted[-1] else wanted)
    firsts = [(first, len(some)) for first, some in jsonl.blocks(Slow(data))]
    assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(firsts))


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
def test_a_bad_row_of_csv_is_told_by_its_number(
    tmp_path, settings, monkeypatch, name, size
) -> None:
    monkeypatch.setattr("headrace.datasets.delimited._BLOCK", 64)
    rows = [b'007,"[1, 2]"', b'two,"line\nbreak"', b"three", b"4,5,6", b'\xff,"[1, 2]"']
    rows += [b'%d,"[%d, 0]"' % (i, i) for i in range(5, 50)] + [b"last"]
    data = b"\xef\xbb\xbfid,x\r\n" + b"\r\n".join(rows) + b"\r\n"
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    [file] = find(str(tmp_path / name), settings)
    found = shards.columns(file, settings)
    columns = choose(MODEL, found.names, file.uri, id="id")
    schema = typed(MODEL, columns, found, Format.CSV, file.uri)
    table, numbers, rejects, _ = read_all(file, schema, size, tmp_path / "pieces", settings)
    assert [(r.number, r.message) for r in rejects] == [
        (2, "record: expected 2 columns, got 1"),
        (3, "record: expected 2 columns, got 3"),
        (4, "record: not UTF-8"),
        (50, "record: expected 2 columns, got 1"),
    ]
    assert numbers == [0, 1, *range(5, 50)]
    assert table["id"].to_pylist()[:3] == ["007", "two", "5"]
    records = convert(MODEL, columns, Rows(table, np.array(numbers)))
    assert [(r.number, r.id) for r in records.rejects] == [(1, "two")]
    assert records.inputs["x"][:2].tolist() == [[1, 2], [5, 0]]


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.csv.gz", "in.jsonl.gz"])
def test_a_byte_order_mark_is_nothing(tmp_path, settings, name) -> None:
    mark = b"\xef\xbb\xbf"
    data = {"c": b'"x",y\n[1],b\n', "j": b'{"x": "[1]", "y": "b"}\n'}[name[3]]
    for said, rows in [(data, 1), (b"\n" * ("j" in name), 0)]:
        marked = mark + said
        (tmp_path / name).write_bytes(gzip.compress(marked) if "gz" in name else marked)
        [file] = find(str(tmp_path / name), settings)
        schema = shards.columns(file, settings)
        assert schema.names == ["x", "y"][: 2 * rows]
        table, *_, cut = read_all(file, schema, 10, tmp_path / f"pieces{rows}", settings)
        assert table.to_pylist() == [{"x": "[1]", "y": "b"}] * rows
        assert len(cut) == rows


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.csv.gz", "in.jsonl.gz"])
def test_a_file_without_a_line_has_no_columns_and_no_rows(tmp_path, settings, name) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    [file] = find(str(tmp_path / name), settings)
    assert shards.columns(file, settings).names == []
    schema = pa.schema([pa.field("x", pa.string())])
    assert read_all(file, schema, 10, tmp_path / "pieces", settings)[3] == []
    other = tmp_path / f"other.{name.partition('.')[2]}"
    other.write_bytes((tmp_path / name).read_bytes())
    shards.check_alike(find(str(other), settings)[0], file, schema, settings)


def test_lines_of_which_none_is_an_object_are_told(tmp_path, settings) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\n[1]\n{\n")
    [file] = find(str(tmp_path / "in.jsonl"), settings)
    with pytest.raises(InvalidInput, match=r"in\.jsonl: the first rows: none is a JSON object"):
        shards.columns(file, settings)


def test_wrapped_files_may_come_in_several_parts(tmp_path, settings) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"x": [1, 2]}\n') + gzip.compress(b'{"x": [3, 4]}\n'))
    [file] = find(str(path), settings)
    schema = pa.schema([pa.field("x", pa.list_(pa.float64()))])
    table, *_ = read_all(file, schema, 10, tmp_path / "pieces", settings)
    assert table["x"].to_pylist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("end", ["parquet", "jsonl.gz", "csv.zst"])
def test_a_damaged_file_is_named(tmp_path, settings, end) -> None:
    file = write(tmp_path / f"in.{end}", pa.table({"x": ["[1, 2]"] * 10000, "i": range(10000)}))
    schema = shards.columns(file, settings)
    data = (tmp_path / f"in.{end}").read_bytes()
    (tmp_path / f"cut.{end}").write_bytes(data[: len(data) // 2])
    [cut] = find(str(tmp_path / f"cut.{end}"), settings)
    with pytest.raises(InvalidInput, match=rf"cut.{end}: damaged, or no {end.split('.')[0]}"):
        read_all(cut, schema, 100000, tmp_path / "pieces", settings)


@pytest.mark.parametrize("end", ["parquet", "jsonl", "csv"])
def test_a_file_that_changed_is_not_read(tmp_path, settings, end) -> None:
    table = pa.table({"x": ["[1, 2]"] * 100})
    path = tmp_path / f"in.{end}"
    file = write(path, table)
    schema = shards.columns(file, settings)
    os.utime(path, ns=(0, 0))
    with pytest.raises(InputChanged, match=f"in.{end} changed"):
        read_all(file, schema, 10, tmp_path / "pieces", settings)
    with pytest.raises(InputChanged):
        next(shards.read(shards.Shard(file, 0, 100, 0, file.size), schema, settings))
    [again] = find(str(path), settings)
    [shard] = (
        shards.cut(again, 1000, settings)
        if shards.in_place(again)
        else shards.lay_down(again, schema, 1000, tmp_path / "pieces", settings)
    )
    reading = shards.read(shard, schema, settings)
    next(reading)
    os.utime(shard.piece.uri if shard.piece else path, ns=(1, 1))
    with pytest.raises(InputChanged):
        list(reading)


def test_files_of_one_dataset_are_alike(tmp_path, settings) -> None:
    schema = pa.schema([pa.field("x", pa.int64())])
    table = pa.table({"x": [1], "y": [2]})
    first = write(tmp_path / "a.parquet", table)
    shards.check_alike(write(tmp_path / "b.parquet", table), first, schema, settings)
    for name, other, problem in [
        ("c.parquet", pa.table({"x": [1.0]}), "c.parquet: x: is double, in .*a.parquet int64"),
        ("d.parquet", pa.table({"y": [1]}), "d.parquet: has no column 'x'"),
        ("e.csv", table, "e.csv: is not parquet"),
    ]:
        with pytest.raises(InvalidInput, match=problem):
            shards.check_alike(write(tmp_path / name, other), first, schema, settings)


def test_files_are_found_by_folder_and_by_pattern(tmp_path) -> None:
    names = ["b.parquet", "a.jsonl", "deep/er/c.csv.gz", "_x.csv", ".y.csv", "_z/d.csv", "e.txt"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def found(where: str) -> list[str]:
        return [os.path.relpath(file.uri, tmp_path) for file in find(f"{tmp_path}/{where}", None)]

    assert found("") == ["a.jsonl", "b.parquet", "deep/er/c.csv.gz"]
    assert found("*.parquet") == ["b.parquet"]
    assert found("**/*.csv.gz") == ["deep/er/c.csv.gz"]
    assert found("_x.csv") == ["_x.csv"]
    with pytest.raises(InvalidInput, match="no such files"):
        found("*.orc")


def test_names_say_what_a_file_holds() -> None:
    assert of_name("s3://b/k/A.CSV.GZ") == (Format.CSV, Compression.GZIP)
    assert of_name("x.ndjson.zst") == (Format.JSONL, Compression.ZSTD)
    for name in ["x", "x.gz", "x.parquet.gz", "x.json"]:
        with pytest.raises(InvalidInput, match="expected a file name that ends in"):
            of_name(name)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("id", ["key", None])
def test_results_join_back_to_their_rows(tmp_path, settings, end, id) -> None:
    table = pa.table({"key": ["a", "b", "c"], "x": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]})
    file = write(tmp_path / "in.parquet", table)
    columns = choose(MODEL, table.column_names, file.uri, id=id)
    [shard] = shards.cut(file, 10, settings)
    [rows] = shards.read(shard, typed(MODEL, columns, table.schema, Format.PARQUET, ""), settings)
    records = convert(MODEL, columns, rows)
    outputs = {"y": np.array([1.5, 0.0, np.nan]), "z": [{"k": [1]}, None, "text"]}
    bad = {1: Failed("bad", "no")}
    schema = schema_of(MODEL, columns, table.schema)
    made, failed = results(MODEL, columns, schema, file.uri, records, outputs, bad)
    assert failed == [Reject(1, "bad", "no", "b" if id else None)]
    path = tmp_path / f"out.{end}"
    out = write(path, made)
    # As another tool would read it.
    back, *_ = read_all(out, shards.columns(out, settings), 10, tmp_path / "pieces", settings)
    places = {"key": ["a", "c"]} if id else {"file": [file.uri] * 2, "row": [0, 2]}
    for name, values in places.items():
        assert list(map(str, back[name].to_pylist())) == list(map(str, values))
    assert float(back["y"].to_pylist()[0]) == 1.5
    if end.startswith("jsonl"):
        [_, (_, lines)] = [(0, 0), *jsonl.blocks(io.BytesIO(_plain(path)))]
        assert [json.loads(line)["z"] for line in lines] == [{"k": [1]}, "text"]
        assert json.loads(lines[1])["y"] is None
    else:
        assert list(map(json.loads, back["z"].to_pylist())) == [{"k": [1]}, "text"]
    sink = io.BytesIO()
    write_errors(sink, file.uri, failed)
    told = {"file": file.uri, "row": 1, **({"id": "b"} if id else {}), "code": "bad"}
    assert json.loads(sink.getvalue()) == told | {"message": "no"}


def _plain(path) -> bytes:
    compression = of_name(path.name)[1]
    if not compression:
        return path.read_bytes()
    with pa.CompressedInputStream(str(path), compression.value) as stream:
        return stream.read()
