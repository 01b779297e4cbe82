"""What schedules look for and write, in a folder and in S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.datasets import files
from headrace.datasets.outputs import open_output, publish
from headrace.errors import StoreUnavailable
from headrace.schedules.placing import place
from headrace.schedules.sensor import Seen, folder, look
from headrace.settings import Settings, load_settings


@pytest.fixture
def settings(store_url: str) -> Settings:
    return load_settings()


def put(uri: str, settings: Settings) -> None:
    with open_output(uri, settings) as output:
        output.write(b"{}\n")
        publish(output.seal(), settings)


def read(uri: str, settings: Settings) -> bytes:
    (file,) = files.find(uri, settings)
    with files.open_file(file, settings) as stream:
        return stream.read()


@pytest.mark.parametrize("store_url", ["local", "s3"], indirect=True)
def test_a_run_waits_for_its_marker_or_for_so_many_files(store_url: str, settings) -> None:
    day = f"{store_url}/2026/02/28"
    where = f"{day}/*.jsonl"
    assert look(where, None, settings) is Seen.EMPTY
    assert look(where, "_SUCCESS", settings) is Seen.NOT_YET
    assert look(where, 2, settings) is Seen.NOT_YET
    put(f"{day}/a.jsonl", settings)
    assert look(where, None, settings) is Seen.READY
    assert look(where, 2, settings) is Seen.NOT_YET
    put(f"{day}/b.jsonl", settings)
    assert look(where, 2, settings) is Seen.READY
    assert look(where, "_SUCCESS", settings) is Seen.NOT_YET
    put(f"{day}/_SUCCESS", settings)
    assert look(where, "_SUCCESS", settings) is Seen.READY
    assert look(day, "_SUCCESS", settings) is Seen.READY
    put(f"{store_url}/empty/_SUCCESS", settings)
    assert look(f"{store_url}/empty/*.jsonl", "_SUCCESS", settings) is Seen.EMPTY


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("s3://in/2026/02/28/*.parquet", "s3://in/2026/02/28/"),
        ("s3://in/2026/**/x.csv", "s3://in/2026/"),
        ("s3://in/2026/day?/x.csv", "s3://in/2026/"),
        ("/in/2026/a.jsonl.gz", "/in/2026/"),
        ("/in/2026", "/in/2026/"),
        ("/in/2026/", "/in/2026/"),
        ("/in/2026.02.28/", "/in/2026.02.28/"),
    ],
)
def test_a_marker_lies_in_the_folder_of_the_input(where: str, expected: str) -> None:
    assert folder(where) == expected


@pytest.mark.parametrize("store_url", ["local", "s3"], indirect=True)
def test_a_small_file_takes_the_place_of_the_one_before(store_url: str, settings) -> None:
    uri = f"{store_url}/out/latest"
    for pointer in (b"run-1\n", b"run-2\n"):
        place(uri, pointer, "text/plain", settings)
        assert read(uri, settings) == pointer


def test_a_folder_that_cannot_be_written_to_is_for_later(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable):
        place(f"{tmp_path}/file/latest", b"", "text/plain", load_settings())
