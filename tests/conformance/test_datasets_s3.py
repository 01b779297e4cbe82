"""Datasets in a bucket: found by prefix and pattern, read under the ETag that was found."""

import gzip
import io

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.datasets import shards
from headrace.datasets.files import find, open_file
from headrace.errors import InputChanged, InvalidInput, StorageError, StoreUnavailable
from headrace.settings import Settings, load_settings
from tests.conformance.s3_faults import refuse, truncate

pytestmark = [
    pytest.mark.parametrize("store_url", ["s3"], indirect=True),
    pytest.mark.usefixtures("no_pauses"),
]


@pytest.fixture
def settings(store_url, between) -> Settings:
    return load_settings(s3_endpoint=between.url, s3_retries=2, s3_read_timeout=10)


@pytest.fixture
def put(store_url, s3_endpoint):
    """Puts an object below the test's prefix; keys may hold what Headrace's own never do."""
    bucket, _, prefix = store_url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    return lambda key, data: client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)


def test_objects_are_found_by_prefix_and_by_pattern(store_url, settings, put) -> None:
    for key in ["b.parquet", "a b.jsonl", "deep/er/c.csv.gz", "_SUCCESS", "_x/d.csv", "b.parquet2"]:
        put(f"in/{key}", b"12345")
    put("in2/e.csv", b"")

    def found(where: str) -> list[str]:
        files = find(f"{store_url}/{where}", settings)
        assert all(file.size == 5 and file.tag for file in files)
        return [file.uri.removeprefix(f"{store_url}/in/") for file in files]

    for where in ["in", "in/"]:
        assert found(where) == ["a b.jsonl", "b.parquet", "deep/er/c.csv.gz"]
    assert found("in/*.parquet") == ["b.parquet"]
    assert found("in/**/*.c*") == ["_x/d.csv", "deep/er/c.csv.gz"]
    assert found("in/b.parquet") == ["b.parquet"]
    with pytest.raises(InvalidInput, match="there are no such files"):
        found("in/*.orc")


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl", "in.csv.gz"])
def test_shards_of_an_object_are_read(store_url, settings, put, between, tmp_path, name) -> None:
    put(name, _data(name))
    [file] = find(f"{store_url}/{name}", settings)
    schema = shards.columns(file, settings)
    between.next("GET", refuse(503, "SlowDown"), truncate, truncate)
    cut = _cut(file, schema, tmp_path, settings)
    assert sum(shard.rows for shard in cut) == 5000
    numbers = [
        int(number)
        for shard in cut
        for rows in shards.read(shard, schema, settings)
        for number in rows.numbers
    ]
    assert numbers == list(range(5000))
    ranged = [request for request in between.seen if "Range" in request.headers]
    assert ranged
    assert all(request.headers["If-Match"] == file.tag for request in ranged)


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl", "in.csv.gz"])
def test_an_object_that_changed_is_not_read(store_url, settings, put, tmp_path, name) -> None:
    put(name, _data(name))
    [file] = find(f"{store_url}/{name}", settings)
    schema = shards.columns(file, settings)
    put(name, _data(name)[:-1])
    with pytest.raises(InputChanged, match=f"{name} changed"):
        _cut(file, schema, tmp_path, settings)


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl", "in.csv.gz"])
def test_a_store_that_stays_away_is_no_bad_file(
    store_url, settings, put, between, tmp_path, name
) -> None:
    put(name, _data(name))
    [file] = find(f"{store_url}/{name}", settings)
    schema = shards.columns(file, settings)
    if shards.in_place(file):
        reading = shards.read(_cut(file, schema, tmp_path, settings)[0], schema, settings)
    else:
        reading = shards.lay_down(file, schema, 1000, tmp_path, settings)
    between.whim = lambda method: refuse(503, "SlowDown")
    with pytest.raises(StoreUnavailable):
        list(reading)
    between.whim = lambda method: None


def test_a_body_that_breaks_off_for_good_is_no_end(store_url, settings, put, between) -> None:
    put("in.jsonl", _data("in.jsonl"))
    [file] = find(f"{store_url}/in.jsonl", settings)
    between.next("GET", truncate, truncate, truncate)
    with pytest.raises(StoreUnavailable, match="broke off"), open_file(file, settings) as stream:
        stream.read()


def test_a_bucket_that_is_not_there_is_named(store_url, settings) -> None:
    with pytest.raises(StorageError, match="correct s3://no-such-bucket/in/"):
        find("s3://no-such-bucket/in/*.parquet", settings)


def _cut(file, schema, folder, settings) -> list[shards.Shard]:
    if shards.in_place(file):
        return list(shards.cut(file, 1000, settings))
    return list(shards.lay_down(file, schema, 1000, folder, settings))


def _data(name: str) -> bytes:
    numbers = range(5000)
    if name == "in.jsonl":
        return b"".join(b'{"x": %d}\n' % number for number in numbers)
    if name == "in.csv.gz":
        return gzip.compress(b"x\n" + b"".join(b"%d\n" % number for number in numbers))
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": numbers}), sink, row_group_size=2500)
    return sink.getvalue()
