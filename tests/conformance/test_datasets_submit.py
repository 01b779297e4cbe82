"""A producer's calls about datasets: what is refused, what is kept, and what a second call does."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from headrace import Client, DatasetState
from headrace.db import datasets as table_of_datasets
from headrace.db import shards
from headrace.errors import (
    DatasetExists,
    DatasetNotEnded,
    DatasetNotFound,
    InvalidInput,
    JobNotFound,
    ModelNotFound,
    StoreUnavailable,
    WaitTimeout,
)
from headrace.job import JobId, ModelKey
from tests.conformance.dataset_table import DatasetTable
from tests.conformance.job_table import JobTable, new_id
from tests.conformance.registered import IMAGE, register


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with a file to run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("{}\n")
    return tmp_path


@pytest.fixture
def sets(database, client, folder) -> DatasetTable:
    return DatasetTable(JobTable(database))


def submit(client: Client, **what):
    arguments = {"model": "digits", "input": "in.jsonl", "output": "out"} | what
    return client.submit_dataset(arguments.pop("model"), arguments.pop("input"), **arguments)


class TestSubmit:
    def test_what_was_asked_for_is_kept(self, client, folder) -> None:
        id = submit(
            client,
            input=Path("in.jsonl"),
            output="file://" + str(folder / "out/"),
            inputs={"image": ["a*", "b"]},
            id="name",
            carry="x",
            format="csv",
            compression="gzip",
            dedupe=True,
            shard_rows=10,
            priority="normal",
            deadline=timedelta(seconds=60),
        )
        found = client.dataset(id)
        spec = found.spec
        assert (spec.input, spec.output) == (str(folder / "in.jsonl"), str(folder / "out"))
        assert (spec.inputs, spec.id, spec.carry) == ({"image": ("a*", "b")}, "name", ("x",))
        assert (spec.format, spec.compression) == ("csv", "gzip")
        assert (spec.dedupe, spec.shard_rows) == (True, 10)
        assert (found.state, found.priority.queue) == ("queued", "normal")
        assert found.model == ModelKey("digits", 1)
        assert 59 < (found.deadline - found.created_at).total_seconds() < 61

    @pytest.mark.parametrize(
        ("what", "field"),
        [
            ({"input": "nowhere.jsonl"}, "input"),
            ({"input": ""}, "input"),
            ({"input": "http://here/in.jsonl"}, "input"),
            ({"input": "s3://"}, "input"),
            ({"output": "out*/"}, "output"),
            ({"output": ""}, "output"),
            ({"output": "in.jsonl/out"}, "output"),
            ({"input": ".", "output": "out"}, "output"),
            ({"output": "objects/results"}, "output"),
            ({"output": "full"}, "output"),
            ({"output": "/proc/out"}, "output"),
            ({"inputs": {"picture": "a"}}, "inputs.picture"),
            ({"inputs": {"image": [""]}}, "inputs.image"),
            ({"fetch": ["picture"]}, "fetch.picture"),
            ({"fetch": ["image"]}, "fetch.image"),
            ({"format": "xml"}, "format"),
            ({"compression": "gzip"}, "compression"),
            ({"format": "csv", "compression": "rar"}, "compression"),
            ({"shard_rows": 0}, "shard_rows"),
            ({"deadline": -1}, "deadline"),
            ({"priority": "urgent"}, "priority"),
        ],
    )
    def test_what_is_wrong_is_named_and_nothing_is_stored(
        self, client, folder, what, field
    ) -> None:
        (folder / "full").mkdir()
        (folder / "full/part-0.parquet").touch()
        with pytest.raises(InvalidInput) as refused:
            submit(client, **what)
        assert refused.value.field == field
        assert client.datasets() == []

    def test_a_folder_that_cannot_be_written_to(self, client, folder, monkeypatch) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(InvalidInput, match="cannot be written to"):
            submit(client)

    def test_a_model_that_is_not_there(self, client, folder) -> None:
        with pytest.raises(ModelNotFound):
            submit(client, model="nobody")

    def test_hidden_files_of_workers_that_died_are_no_results(self, client, folder) -> None:
        (folder / "out").mkdir()
        (folder / "out/.part-0.parquet.0123").touch()
        submit(client)

    @pytest.mark.parametrize("store_url", ["s3"], indirect=True)
    def test_a_folder_in_s3_must_be_empty_and_its_bucket_there(
        self, client, folder, store_url, s3_bucket, monkeypatch, service
    ) -> None:
        import boto3

        from headrace.settings import load_settings

        service.settings = load_settings()
        s3 = boto3.client("s3", endpoint_url=service.settings.s3_endpoint)
        output = f"s3://{s3_bucket}/{new_id()}"
        s3.put_object(Bucket=s3_bucket, Key=f"{output.rpartition('/')[2]}/part-0.parquet")
        with pytest.raises(InvalidInput, match=r"holds .*part-0\.parquet already"):
            submit(client, output=output)
        with pytest.raises(InvalidInput, match=r"output: .*no-such-bucket"):
            submit(client, output="s3://no-such-bucket/out")
        with pytest.raises(InvalidInput, match="the object store"):
            submit(client, output=f"{store_url}/out")
        assert submit(client, output=f"{output}-2/")


class TestAgain:
    def test_the_same_is_the_same_dataset(self, client, folder, sets) -> None:
        id = submit(client)
        assert submit(client, output=folder / "out") == id
        sets.plan(id, 3)
        sets.run(3)
        sets.close(id)
        assert submit(client) == id
        assert client.dataset(id).state == "succeeded"

    @pytest.mark.parametrize("what", [{"input": "in.*"}, {"shard_rows": 3}, {"model": "digits@2"}])
    def test_another_on_the_same_output_is_refused(self, client, service, folder, what) -> None:
        id = submit(client)
        register(service.database, "digits", IMAGE)
        with pytest.raises(DatasetExists, match=id):
            submit(client, **what)
        assert len(client.datasets()) == 1

    def test_another_tenant_s_output_is_refused(self, client, service, folder) -> None:
        submit(client)
        with pytest.raises(DatasetExists):
            submit(Client(transport=service, tenant="other"))

    def test_two_at_once_make_one(self, client, folder, monkeypatch) -> None:
        """The second looks before the first has it in the table."""
        first = []

        def look(connection, output):
            monkeypatch.undo()
            os.chdir(folder)
            first.append(submit(client))

        monkeypatch.setattr(table_of_datasets, "by_output", look)
        assert submit(client) == first[0]
        assert len(client.datasets()) == 1

    @pytest.mark.parametrize("how", ["cancelled", "failed", "expired"])
    def test_what_was_cut_short_goes_on(self, client, sets, how) -> None:
        id = submit(client, deadline=1000)
        sets.plan(id, 3, 4)
        sets.run(3)
        match how:
            case "cancelled":
                assert client.cancel_dataset(id)
            case "failed":
                sets.call(shards.fail, sets.shard(), "input_changed", "another file")
            case "expired":
                sets.deadline_in(id, -1)
                sets.call(table_of_datasets.expire)
        assert client.dataset(id).state == how
        assert submit(client) == id
        found = client.dataset(id)
        assert (found.state, found.succeeded) == ("running", 3)
        assert (found.deadline, found.error) == (None, None)
        assert sets.renew(id) == 1
        sets.run(4)
        assert sets.close(id).state == "succeeded"


class TestRerun:
    def test_runs_what_failed(self, client, sets, folder) -> None:
        id = submit(client)
        with pytest.raises(DatasetNotEnded):
            client.rerun_failed(id)
        sets.plan(id, 3)
        sets.run(1, 2)
        sets.close(id)
        (folder / "out/_SUCCESS").touch()
        assert client.rerun_failed(id)
        assert not (folder / "out/_SUCCESS").exists()
        with pytest.raises(DatasetNotEnded):
            client.rerun_failed(id)
        sets.renew(id)
        sets.run(2)
        sets.close(id)
        assert client.dataset(id).state == "succeeded"
        assert not client.rerun_failed(id)

    def test_not_what_was_cut_short(self, client, sets) -> None:
        id = submit(client)
        client.cancel_dataset(id)
        with pytest.raises(DatasetNotEnded, match="submit it again"):
            client.rerun_failed(id)


class TestCancel:
    def test_closes_it_at_once(self, client, sets, folder) -> None:
        id = submit(client)
        sets.plan(id, 3)
        fence = sets.shard()
        assert client.cancel_dataset(id)
        assert not client.cancel_dataset(id)
        assert sets.table.get(fence.job).state == "cancelled"
        assert (folder / "out/_manifest.json").exists()

    def test_holds_though_the_store_does_not_answer(self, client, sets, monkeypatch) -> None:
        id = submit(client)

        def broken(*arguments: object) -> None:
            raise StoreUnavailable("no answer")

        monkeypatch.setattr("headrace.datasets.outputs.open_output", broken)
        assert client.cancel_dataset(id)
        assert client.dataset(id).state == "cancelled"

    def test_of_one_that_is_not_there(self, client) -> None:
        for call in (client.cancel_dataset, client.rerun_failed, client.dataset):
            for id in (new_id(), "no uuid"):
                with pytest.raises(DatasetNotFound):
                    call(id)


class TestLook:
    def test_status_says_what_it_waits_for(self, client, sets, service) -> None:
        id = submit(client)
        assert "none serves pool 'default'" in client.status(id).detail
        sets.plan(id, 1000, 1000)
        sets.run(998, 2)
        assert client.status(id).detail == "1,000 of 2,000 records, 2 failed"
        client.pause("digits", reason="a try")
        assert "a try" in client.status(id).detail
        with pytest.raises(JobNotFound):
            client.status(new_id())

    def test_lists(self, client, sets) -> None:
        ids = [submit(client, output=f"out{n}") for n in range(3)]
        client.cancel_dataset(ids[0])
        assert [each.id for each in client.datasets()] == ids[::-1]
        assert [each.id for each in client.datasets(limit=1, after=ids[2])] == [ids[1]]
        assert [each.id for each in client.datasets(state="cancelled")] == [ids[0]]
        for wrong in ({"state": "lost"}, {"limit": 0}):
            with pytest.raises(InvalidInput):
                client.datasets(**wrong)

    def test_no_unit_of_one_is_listed_as_a_job(self, client, sets) -> None:
        id = submit(client)
        sets.plan(id, 3)
        assert client.list().jobs == []

    def test_a_wait_tells_how_it_goes(self, client, sets) -> None:
        id = submit(client)
        seen = []

        def watch(dataset) -> None:
            seen.append((str(dataset.state), dataset.done))
            if len(seen) == 1:
                sets.plan(id, 3)
            elif len(seen) == 2:
                sets.run(3)
                sets.close(id)

        ended = client.wait_dataset(id, timeout=60, progress=watch)
        assert ended.state is DatasetState.SUCCEEDED
        assert seen == [("queued", 0), ("running", 0), ("succeeded", 3)]

    def test_a_wait_that_is_too_short(self, client, sets) -> None:
        with pytest.raises(WaitTimeout, match="datasets"):
            client.wait_dataset(submit(client), timeout=0.01, progress=True)


def test_a_wait_for_jobs_does_not_take_a_dataset(client, folder) -> None:
    id = submit(client)
    with pytest.raises(JobNotFound):
        client.wait(JobId(id), timeout=1)
