"""Output files, on disk and in S3: sealed by one, published by whoever is told to, once."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from headrace.datasets import shards
from headrace.datasets.files import find, open_file
from headrace.datasets.formats import of_name
from headrace.datasets.outputs import Sealed, discard, open_output, publish
from headrace.datasets.writing import open_writer
from headrace.errors import InvalidInput, ObjectExists, OutputLost, StoreUnavailable
from headrace.settings import Settings, load_settings
from headrace.storage.s3_upload import PART_BYTES
from tests.conformance.s3_faults import lost, refuse, reset

pytestmark = pytest.mark.usefixtures("no_pauses")

on_both = pytest.mark.parametrize("store_url", ["local", "s3"], indirect=True)
in_s3 = pytest.mark.parametrize("store_url", ["s3"], indirect=True)


@pytest.fixture
def settings(store_url) -> Settings:
    return load_settings()


@pytest.fixture
def uri(store_url) -> str:
    return f"{store_url}/out/part-0.jsonl"


def written(uri, settings, data=b"one") -> Sealed:
    with open_output(uri, settings) as output:
        output.write(data)
        return output.seal()


def seen(uri, settings) -> bytes | None:
    """What a reader finds there."""
    try:
        [file] = find(os.path.dirname(uri), settings)
    except InvalidInput:
        return None
    assert os.path.basename(file.uri) == os.path.basename(uri)
    with open_file(file, settings) as stream:
        return stream.read(file.size)


@on_both
def test_what_is_sealed_appears_when_it_is_published(uri, settings) -> None:
    sealed = written(uri, settings)
    assert sealed.size == 3
    assert seen(uri, settings) is None
    publish(sealed, settings)
    assert seen(uri, settings) == b"one"


@on_both
def test_a_table_can_keep_what_is_sealed(uri, settings) -> None:
    told = json.loads(json.dumps(dataclasses.asdict(written(uri, settings))))
    publish(Sealed(**told), settings)
    assert seen(uri, settings) == b"one"


_WRITES_AND_DIES = """
import dataclasses, json, os, signal, sys
from headrace.datasets.outputs import open_output
from headrace.settings import load_settings
with open_output(sys.argv[1], load_settings()) as output:
    output.write(b"one")
    if sys.argv[2] == "sealed":
        print(json.dumps(dataclasses.asdict(output.seal())), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@on_both
@pytest.mark.parametrize("when", ["sealed", "unsealed"])
def test_a_writer_that_was_killed_leaves_only_what_it_sealed(uri, settings, when) -> None:
    command = [sys.executable, "-c", _WRITES_AND_DIES, uri, when]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert seen(uri, settings) is None
    if when == "sealed":
        publish(Sealed(**json.loads(done.stdout)), settings)
        assert seen(uri, settings) == b"one"


@on_both
def test_publishing_again_changes_nothing(uri, settings) -> None:
    sealed = written(uri, settings)
    for _ in range(3):
        publish(sealed, settings)
        discard(sealed, settings)
    assert seen(uri, settings) == b"one"


@on_both
def test_what_is_discarded_never_appears(uri, settings, store_url, request) -> None:
    sealed = written(uri, settings)
    for _ in range(2):
        discard(sealed, settings)
    if store_url.startswith("s3://"):
        # What S3 says of it; moto falls over.
        between = request.getfixturevalue("between")
        between.next("POST", refuse(404, "NoSuchUpload"))
        settings = load_settings(s3_endpoint=between.url)
    with pytest.raises(OutputLost, match=r"part-0\.jsonl"):
        publish(sealed, settings)
    assert seen(uri, settings) is None


@on_both
def test_of_two_writers_the_one_that_is_published_counts(uri, settings) -> None:
    zombie, winner = written(uri, settings, b"zombie"), written(uri, settings, b"winner")
    publish(winner, settings)
    discard(zombie, settings)
    publish(winner, settings)
    assert seen(uri, settings) == b"winner"


@on_both
def test_a_block_that_ends_without_a_seal_leaves_nothing(uri, settings, store_url) -> None:
    with open_output(uri, settings) as output:
        output.write(b"half")
    if store_url.startswith("s3://"):
        assert not _uploads(store_url)
    else:
        assert os.listdir(Path(uri.removeprefix("file://")).parent) == []


@on_both
def test_an_empty_file_is_a_file(uri, settings) -> None:
    publish(written(uri, settings, b""), settings)
    assert seen(uri, settings) == b""


@on_both
@pytest.mark.parametrize("end", ["parquet", "jsonl.gz", "csv"])
def test_a_table_is_written_and_read_back(store_url, settings, tmp_path, end) -> None:
    table = pa.table({"id": ["a", "b"], "y": ["1", "2"]})
    with open_output(f"{store_url}/part.{end}", settings) as output:
        with open_writer(output, table.schema, *of_name(f"part.{end}")) as writer:
            for row in range(2):
                writer.write_table(table.slice(row, 1))
        publish(output.seal(), settings)
    [file] = find(store_url, settings)
    if shards.in_place(file):
        [shard] = shards.cut(file, 10, settings)
    else:
        [shard] = shards.lay_down(file, table.schema, 10, tmp_path, settings)
    read = [rows.table for rows in shards.read(shard, table.schema, settings)]
    assert pa.concat_tables(read).to_pydict() == table.to_pydict()


@in_s3
def test_a_large_file_goes_up_in_parts(uri, settings) -> None:
    data = os.urandom(PART_BYTES + 7)
    with open_output(uri, settings) as output:
        for start in range(0, len(data), 1_000_000):
            output.write(data[start : start + 1_000_000])
        sealed = output.seal()
    assert (len(sealed.parts), sealed.size) == (2, len(data))
    publish(sealed, settings)
    assert seen(uri, settings) == data


@in_s3
@pytest.mark.parametrize(
    "fault", [lost(reset), lost(refuse(500, "InternalError")), refuse(503, "SlowDown")]
)
def test_a_lost_answer_is_asked_for_again(uri, settings, between, fault) -> None:
    sealed = written(uri, settings)
    between.next("POST", fault)
    publish(sealed, load_settings(s3_endpoint=between.url))
    assert seen(uri, settings) == b"one"


@in_s3
def test_an_upload_that_another_has_published_is_published(uri, settings, between) -> None:
    sealed = written(uri, settings)
    publish(sealed, settings)
    between.next("POST", refuse(404, "NoSuchUpload"))
    publish(sealed, load_settings(s3_endpoint=between.url))
    assert seen(uri, settings) == b"one"


@in_s3
def test_a_store_that_stays_away_is_told_and_the_file_stays(uri, settings, between) -> None:
    sealed = written(uri, settings)
    through = load_settings(s3_endpoint=between.url, s3_retries=1)
    between.next("POST", *[refuse(503, "SlowDown")] * 2)
    with pytest.raises(StoreUnavailable):
        publish(sealed, through)
    publish(sealed, through)
    assert seen(uri, settings) == b"one"


@in_s3
def test_an_object_that_is_not_ours_stays(uri, settings) -> None:
    publish(written(uri, settings), settings)
    with pytest.raises((ObjectExists, OutputLost)):
        publish(written(uri, settings, b"two"), settings)
    assert seen(uri, settings) == b"one"


def _uploads(store_url) -> list[str]:
    bucket, _, prefix = store_url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=load_settings().s3_endpoint)
    open_ones = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [upload["Key"] for upload in open_ones if upload["Key"].startswith(prefix)]
