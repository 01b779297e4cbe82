"""The end of a dataset in files: whoever does it, and however often, it comes out the same."""

import dataclasses
import json
from pathlib import Path

import boto3
import pytest

from headrace.dataset import Dataset, DatasetId
from headrace.datasets import closing, outputs
from headrace.datasets.outputs import discard, open_output
from headrace.db import datasets, shards
from headrace.db.closing import old
from headrace.db.shards import Fence
from headrace.errors import StoreUnavailable
from headrace.settings import Settings, load_settings
from headrace.sweeper import Sweeper
from tests.conformance.dataset_table import DatasetTable, new_dataset
from tests.conformance.job_table import JobTable

on_both = pytest.mark.parametrize("store_url", ["local", "s3"], indirect=True)
pytestmark = pytest.mark.usefixtures("no_pauses")


class Outputs(DatasetTable):
    """A table whose shards write files."""

    def __init__(self, table: JobTable, folder: str, settings: Settings) -> None:
        super().__init__(table)
        self.folder, self.settings = folder, settings

    def planned(self, *rows: int, output: str = "") -> DatasetId:
        return super().planned(*rows, output=output or self.folder)

    def again(self, id: DatasetId):
        return new_dataset(self.folder, id=id)

    def finish(self, fence: Fence, succeeded: int, failed: int = 0, **what) -> str:
        shard = self.call(shards.of_job, fence.job)
        run = f"-r{shard.run}" if shard.run > 1 else ""
        files = []
        for name, count in ("part", succeeded), ("errors", failed):
            if count:
                uri = f"{self.folder}/{name}-{shard.file}-{shard.number}{run}.jsonl"
                with open_output(uri, self.settings) as output:
                    output.write(b"{}\n" * count)
                    files.append(output.seal())
        sealed = json.dumps([dataclasses.asdict(file) for file in files])
        return super().finish(fence, succeeded, failed, sealed=sealed, **what)

    def publish(self) -> list[bool]:
        return [closing.publish(self.database, self.settings, one) for one in self.unpublished()]

    def close(self, id: DatasetId) -> Dataset | None:
        return closing.close(self.database, self.settings, id)

    def names(self) -> list[str]:
        if self.folder.startswith("s3://"):
            bucket, _, prefix = self.folder.removeprefix("s3://").partition("/")
            client = boto3.client("s3", endpoint_url=self.settings.s3_endpoint)
            found = client.list_objects_v2(Bucket=bucket, Prefix=prefix + "/").get("Contents", [])
            return sorted(each["Key"].removeprefix(prefix + "/") for each in found)
        return sorted(each.name for each in Path(self.folder).iterdir())

    def manifest(self) -> dict:
        if self.folder.startswith("s3://"):
            bucket, _, prefix = self.folder.removeprefix("s3://").partition("/")
            client = boto3.client("s3", endpoint_url=self.settings.s3_endpoint)
            got = client.get_object(Bucket=bucket, Key=f"{prefix}/_manifest.json")
            return json.loads(got["Body"].read())
        return json.loads(Path(self.folder, "_manifest.json").read_text())

    def listed(self, name: str) -> list[tuple[str, int]]:
        entries = self.manifest()[name]
        return [(each["uri"].removeprefix(self.folder + "/"), each["rows"]) for each in entries]


@pytest.fixture
def sets(table: JobTable, store_url: str) -> Outputs:
    return Outputs(table, store_url.removeprefix("file://") + "/out", load_settings())


@on_both
def test_results_and_what_lists_them(sets) -> None:
    id = sets.planned(3, 4)
    sets.run(3)
    assert sets.close(id) is None
    sets.run(2, 2)
    assert sets.close(id).state == "partial"
    assert sets.get(id).state == "partial"
    parts = ["part-0-0.jsonl", "part-0-1.jsonl"]
    assert sets.names() == ["_SUCCESS", "_manifest.json", "errors-0-1.jsonl", *parts]
    manifest = sets.manifest()
    assert (manifest["dataset"], manifest["model"], manifest["state"]) == (id, "m@1", "partial")
    assert [manifest[name] for name in ("total", "succeeded", "failed")] == [7, 5, 2]
    assert manifest["inputs"] == [{"uri": "/in/a.parquet", "size": 10, "tag": "tag"}]
    assert sets.listed("parts") == [(parts[0], 3), (parts[1], 2)]
    assert sets.listed("errors") == [("errors-0-1.jsonl", 2)]
    assert sets.close(id) is None


def test_a_manifest_of_many_pages_is_whole(sets, monkeypatch) -> None:
    monkeypatch.setattr(closing, "_PAGE", 2)
    id = sets.planned(1, 1, 1, 1, 1)
    for _ in range(5):
        sets.run(1)
    sets.close(id)
    assert sets.listed("parts") == [(f"part-0-{n}.jsonl", 1) for n in range(5)]


@on_both
def test_what_failed_runs_again_and_replaces_what_was_said_of_it(sets) -> None:
    id = sets.planned(3, 4)
    sets.run(3)
    sets.run(1, 3)
    sets.close(id)
    closing.reopen(sets.get(id), sets.settings)
    assert "_SUCCESS" not in sets.names()
    sets.call(datasets.run_failed, sets.again(id))
    sets.renew(id)
    sets.run(2, 1)
    assert sets.close(id).state == "partial"
    parts = ["part-0-0.jsonl", "part-0-1-r2.jsonl", "part-0-1.jsonl"]
    assert sets.names() == ["_SUCCESS", "_manifest.json", "errors-0-1-r2.jsonl", *parts]
    assert sets.listed("parts") == [(parts[0], 3), (parts[2], 1), (parts[1], 2)]
    assert sets.listed("errors") == [("errors-0-1-r2.jsonl", 1)]
    assert (sets.manifest()["run"], sets.manifest()["failed"]) == (2, 1)


@pytest.mark.parametrize("how", ["cancelled", "failed", "all failed"])
def test_only_what_ran_to_its_end_is_a_success(sets, how) -> None:
    id = sets.planned(3, 4)
    sets.run(0, 3)
    fence = sets.shard()
    match how:
        case "cancelled":
            sets.call(datasets.cancel, id)
        case "failed":
            sets.call(datasets.fail, id, "model_gone", "no such model")
        case _:
            sets.finish(fence, 0, 4)
            sets.publish()
    assert sets.close(id).state == how.removeprefix("all ")
    assert "_SUCCESS" not in sets.names()
    assert sets.manifest()["state"] == how.removeprefix("all ")
    assert sets.listed("errors")[0] == ("errors-0-0.jsonl", 3)
    assert sets.table.get(fence.job).state == "cancelled" or how == "all failed"


def test_what_was_sealed_before_it_ended_is_published_after_it(sets) -> None:
    id = sets.planned(3, 4)
    sets.finish(sets.shard(), 3)
    sets.call(datasets.cancel, id)
    assert sets.close(id).succeeded == 3
    assert sets.names() == ["_manifest.json", "part-0-0.jsonl"]


def test_what_is_gone_before_it_was_published_runs_again(sets) -> None:
    id = sets.planned(3)
    sets.finish(sets.shard(), 2, 1)
    (left,) = sets.unpublished()
    part, errors = closing._files(left.sealed)
    outputs.publish(part, sets.settings)
    discard(errors, sets.settings)
    sets.publish()
    assert sets.counts(id) == ("running", 3, 0, 0)
    assert sets.names() == []
    sets.run(2, 1)
    assert sets.close(id).state == "partial"
    assert sets.names() == ["_SUCCESS", "_manifest.json", "errors-0-0.jsonl", "part-0-0.jsonl"]


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_a_name_that_another_has_taken_fails_the_dataset(sets) -> None:
    id = sets.planned(3)
    with open_output(f"{sets.folder}/part-0-0.jsonl", sets.settings) as output:
        output.write(b"theirs")
        outputs.publish(output.seal(), sets.settings)
    sets.run(3)
    assert sets.get(id).error.code == "object_exists"
    assert sets.close(id).succeeded == 0


def test_a_closer_that_comes_late_writes_nothing(sets, monkeypatch) -> None:
    id = sets.planned(3)
    sets.run(3)

    def late(*arguments, **more):
        """Another closes it, and the failed records run again, while this one writes."""
        monkeypatch.undo()
        assert sets.close(id) is not None
        Path(sets.folder, "_SUCCESS").unlink()
        return outputs.open_output(*arguments, **more)

    monkeypatch.setattr(closing.outputs, "open_output", late)
    sets.close(id)
    assert sets.names() == ["_manifest.json", "part-0-0.jsonl"]


def test_a_store_that_does_not_answer_leaves_it_to_the_next_sweep(sets, monkeypatch) -> None:
    id = sets.planned(3)
    fence = sets.shard()
    sets.finish(fence, 3)
    sets.finished_in(fence.job, -1000)

    def broken(*arguments: object) -> None:
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "publish", broken)
        sets.table.sweep()
    assert sets.get(id).open_shards == 1
    sets.table.sweep()
    assert sets.get(id).open_shards == 0


class TestSweep:
    """What a sweep does for those who did not get to it."""

    def test_publishes_and_closes(self, sets) -> None:
        id = sets.planned(3)
        fence = sets.shard()
        sets.finish(fence, 3)
        sets.table.sweep()
        assert len(sets.unpublished(id)) == 1, "its worker may be at it"
        sets.finished_in(fence.job, -1000)
        sets.table.sweep()
        assert sets.get(id).state == "running"
        sets.table.sweep()
        assert sets.get(id).state == "succeeded"
        assert sets.names() == ["_SUCCESS", "_manifest.json", "part-0-0.jsonl"]

    def test_ends_what_is_past_its_deadline(self, sets) -> None:
        id = sets.planned(3, 4)
        sets.run(3)
        fence = sets.shard()
        sets.deadline_in(id, -1)
        sets.table.sweep()
        assert sets.get(id).state == "expired"
        assert sets.table.get(fence.job).state == "cancelled"
        assert sets.listed("parts") == [("part-0-0.jsonl", 3)]

    def test_finishes_a_cancel(self, sets) -> None:
        id = sets.planned(3)
        sets.call(datasets.cancel, id)
        sets.table.sweep()
        assert sets.names() == ["_manifest.json"]
        assert sets.call(datasets.go_on, sets.again(id)), "it is closed"

    def test_one_that_cannot_be_closed_holds_up_no_other(self, sets, tmp_path) -> None:
        blocked = tmp_path / "a file"
        blocked.write_text("")
        bad, good = sets.planned(output=f"{blocked}/out"), sets.planned()
        sets.table.sweep()
        assert sets.get(good).state == "succeeded"
        assert sets.get(bad).state == "running"

    def test_removes_what_ended_long_ago_but_for_the_results(
        self, sets, store, monkeypatch
    ) -> None:
        monkeypatch.setattr(closing, "_PAGE", 2)
        sets.table.sweeper = Sweeper(sets.database, store, sets.table.settings)
        id = sets.planned(3)
        keys = [f"{closing.kept_in(id)}pieces/{n}.parquet" for n in range(3)]
        for key in [*keys, "datasets/another"]:
            store.put(key, b"a piece")
        sets.run(3)
        sets.close(id)
        sets.table.sweep()
        assert sets.get(id).state == "succeeded"
        sets._set(datasets.datasets, datasets.datasets.c.id == id, closed_at=0.0)
        assert sets.call(old, 1.0, 10) == [id]
        sets.table.sweep()
        assert sets.call(datasets.get, id) is None
        assert "part-0-0.jsonl" in sets.names()
        assert [each.key for each in store.list("datasets/")] == ["datasets/another"]
